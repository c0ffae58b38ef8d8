package aiseed

import (
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"

	"example.com/aiseed/internal/seal"
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
// `openssl rand -base64 32` prints them. The first key seals. Space around a key is
// ignored. Errors match [ErrKeyring].
func ParseKeyring(list string) (*Keyring, error) {
	if strings.TrimSpace(list) == "" {
		return nil, keyringErrorf("there is no key in the list; make one with: openssl rand -base64 32")
	}
	var raws [][]byte
	for i, item := range strings.Split(list, ",") {
		// The decoder's own error is left out: it quotes only an offset in its
		// input, which the reader does not need.
		raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(item))
		if err != nil {
			return nil, keyringErrorf("key %d is not standard base64; make one with: openssl rand -base64 32", i+1)
		}
		raws = append(raws, raw)
	}
	return NewKeyring(raws[0], raws[1:]...)
}

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
