package aiseed

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log/slog"

	"example.com/aiseed/internal/text"
)

// A Secret is a credential that shows itself only to [Secret.Reveal].
//
// Under every fmt verb, in JSON, in text and in both slogs it prints as its
// mask: four asterisks and, of a secret of at least 20 bytes, its last four
// characters. That holds inside maps, pointers and unexported fields too, where
// fmt cannot call methods and prints the fields instead: those are the mask and
// an address.
//
// The zero Secret is no secret at all and prints as the empty string. A Secret
// is immutable and safe for concurrent use.
type Secret struct {
	mask  string
	value *string
}

// NewSecret wraps value. NewSecret("") is the zero Secret.
func NewSecret(value string) Secret {
	return secretAt(&value)
}

// secretAt is NewSecret of a string that nobody changes any more.
func secretAt(value *string) Secret {
	if *value == "" {
		return Secret{}
	}
	return Secret{mask: text.Mask(*value), value: value}
}

// Reveal returns the secret itself. What is done with it from here on is the
// caller's responsibility.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.value == nil }

// Equal reports whether both are the same secret, in time that depends on their
// lengths only.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String returns the mask.
func (s Secret) String() string { return s.mask }

// Format writes the mask, whatever the verb: %d, %x and %#v would print the
// bytes of a plain Stringer.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.mask)) }

// MarshalJSON encodes the mask. There is deliberately no way back.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.mask) }

// MarshalText encodes the mask.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.mask), nil }

// LogValue is the mask for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.mask) }
