package aiseed

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/aiseed/internal/seal"
	"example.com/aiseed/internal/text"
)

// KeySize is the length of a keyring's keys in bytes: AES-256.
const KeySize = 32

var _ [KeySize]byte = [seal.KeySize]byte{}

// A Keyring holds the keys that seal secrets at rest. The first key seals, all keys
// decrypt.
//
// Sealing is AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce, so one
// key may seal about 2^32 values before it should be rotated. HKDF-SHA-256 (RFC
// 5869) derives from a key what each purpose needs, under its own label: sealing,
// fingerprints, and the key's public id.
//
// The zero Keyring is not useful; make one with [NewKeyring] or [ParseKeyring]. A
// Keyring prints only its key ids. It is immutable and safe for concurrent use.
type Keyring struct {
	keys seal.Ring
}

// NewKeyring makes a keyring of raw keys of [KeySize] bytes each. primary seals;
// primary and older decrypt. It returns an error that matches [ErrKeyring] if a key
// has another length or is given twice. The error names the key's place, never its
// value.
func NewKeyring(primary []byte, older ...[]byte) (*Keyring, error) {
	ring := &Keyring{}
	for i, raw := range append([][]byte{primary}, older...) {
		if len(raw) != KeySize {
			return nil, keyringErrorf("key %d is %d bytes long, want %d", i+1, len(raw), KeySize)
		}
		key, err := seal.NewKey(raw)
		if err != nil {
			return nil, keyringErrorf("key %d cannot be used", i+1)
		}
		if j := slices.Index(ring.IDs(), key.ID); j >= 0 {
			return nil, keyringErrorf("key %d is the same as key %d; remove one", i+1, j+1)
		}
		ring.keys = append(ring.keys, key)
	}
	return ring, nil
}

// ParseKeyring reads a comma-separated list of keys in standard base64, as
// `openssl rand -base64 32` prints them. The first key seals. Space and line breaks around
// a key are ignored. Errors match [ErrKeyring]; they say what the list looks like, and
// never quote it.
func ParseKeyring(list string) (*Keyring, error) {
	items := strings.Split(list, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	if strings.Join(items, "") == "" {
		return nil, keyringErrorf("there is no key in the list; " + makeKey)
	}
	raws := make([][]byte, len(items))
	for i, item := range items {
		problem := ""
		if item == "" {
			problem = strayComma(i, len(items))
		} else {
			raws[i], problem = parseKey(item)
		}
		if problem != "" {
			return nil, keyringErrorf("key %d %s", i+1, problem)
		}
	}
	return NewKeyring(raws[0], raws[1:]...)
}

const makeKey = "make one with: openssl rand -base64 32"

// strayComma is the problem of an empty place in a list of n.
func strayComma(place, n int) string {
	switch place {
	case 0:
		return "is missing: the list begins with a comma; remove it"
	case n - 1:
		return "is missing: the list ends with a comma; remove it"
	}
	return "is missing: there are two commas in a row; remove one, or put the key back between them"
}

// keyChars is the length of a key in base64, with its padding.
var keyChars = base64.StdEncoding.EncodedLen(KeySize)

// parseKey returns a raw key, or what the item is in its place. The decoder's own error is left
// out: it quotes only an offset in its input, which the reader does not need.
func parseKey(item string) (raw []byte, problem string) {
	first, _ := utf8.DecodeRuneInString(item)
	last, _ := utf8.DecodeLastRuneInString(item)
	_, notHex := hex.DecodeString(item)
	switch {
	case text.IsQuote(first) || text.IsQuote(last):
		return nil, "is in quotes, or the list is; docker --env-file and some other readers keep them: remove them"
	case strings.ContainsFunc(item, unicode.IsSpace):
		return nil, fmt.Sprintf("has a line break or a space in it; want one line of %d characters, and a comma between two keys", keyChars)
	case notHex == nil && len(item) == hex.EncodedLen(KeySize):
		return nil, "is in hex; want standard base64: xxd -r -p | base64 converts it, and openssl rand -base64 32 makes a new one"
	case strings.ContainsAny(item, "-_") && strings.Trim(item, base64URLChars) == "":
		return nil, "is in base64url, which has - and _; want standard base64, which has + and / in their places, and = at the end"
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(item)
	switch chars := len(item); {
	case err == nil && len(raw) < KeySize:
		return nil, fmt.Sprintf("is %d bytes long, want %d; it is cut off, or was made in another way: copy it again, or "+makeKey, len(raw), KeySize)
	case err == nil:
		return raw, ""
	case chars == keyChars-1 && !strings.Contains(item, "="):
		return nil, "lacks the = at its end, or another character; copy it again"
	case chars < keyChars && strings.Trim(item, base64Chars) == "":
		return nil, fmt.Sprintf("is cut off: it has %d characters, want %d; copy it again", chars, keyChars)
	}
	return nil, "is not standard base64; copy it again, or " + makeKey
}

const (
	alphanumeric   = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	base64Chars    = alphanumeric + "+/="
	base64URLChars = alphanumeric + "-_="
)

// Format prints the ids of the keys, whatever the verb.
func (k Keyring) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "keyring("+strings.Join(k.IDs(), ", ")+")")
}

// IDs returns the ids of the keys, as they appear in the tables and in errors. The
// first is that of the key that seals. The ids are public and reveal nothing about
// the keys.
func (k *Keyring) IDs() []string {
	if k == nil {
		return nil
	}
	ids := make([]string, len(k.keys))
	for i, key := range k.keys {
		ids[i] = key.ID
	}
	return ids
}
