package aiseed

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log/slog"

	"example.com/aiseed/internal/baseurl"
	"example.com/aiseed/internal/text"
)

// A Secret is a credential that only [Secret.Reveal] shows.
//
// It prints as its mask under every fmt verb, in JSON, in text and in both slogs. The mask is
// four asterisks, and the last four characters of a secret of at least 20 bytes. This also
// holds inside maps, pointers and unexported fields: there fmt cannot call methods and prints
// the fields, which are the mask and an address.
//
// The zero Secret means no secret and prints as the empty string. A Secret is immutable and
// safe for concurrent use. Compare secrets with [Secret.Equal]: == compares addresses.
type Secret struct {
	mask  string
	value *string
}

// NewSecret wraps value. NewSecret("") is the zero Secret.
func NewSecret(value string) Secret {
	return secretAt(&value)
}

// secretAt avoids a copy; *value must not change afterwards.
func secretAt(value *string) Secret {
	if *value == "" {
		return Secret{}
	}
	return Secret{mask: text.Mask(*value), value: value}
}

// Reveal returns the secret itself. The caller is responsible for what happens to it.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.value == nil }

// Equal reports whether both are the same secret, in time that depends only on their lengths.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String returns the mask.
func (s Secret) String() string { return s.mask }

// Format writes the mask for every verb. With String alone, %d, %x and %#v would print the
// bytes.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.mask)) }

// MarshalJSON encodes the mask. There is deliberately no decoder.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.mask) }

// MarshalText encodes the mask.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.mask), nil }

// LogValue returns the mask for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.mask) }

// MaskURL returns a base URL with the values of its query masked, because they can be
// credentials. It returns four asterisks for a text that [ParseEnviron] would reject as a
// base URL and that can contain a credential elsewhere. It escapes control characters.
func MaskURL(raw string) string { return baseurl.Mask(raw) }

// A maskable value has base URLs. Its masked method returns a copy to show, of a type without
// methods, with the base URLs masked.
type maskable interface{ masked() any }

// formatMasked prints v as fmt would print it without a Format method, with base URLs masked.
func formatMasked(f fmt.State, verb rune, v maskable) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), v.masked())
}

func nonZero(s Secret) []Secret {
	if s.IsZero() {
		return nil
	}
	return []Secret{s}
}
