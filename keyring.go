package aiseed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// KeySize is the length of a keyring's keys in bytes: AES-256.
const KeySize = 32

// A Keyring holds the keys that seal secrets at rest. The first seals, all open.
//
// Sealing is AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce, so one
// key may seal about 2^32 values before it should be rotated. What a key is used
// for is derived from it with HKDF-SHA-256 (RFC 5869), under a label of its own
// for each purpose: sealing, fingerprints, and the key's public id.
//
// There is no useful zero Keyring; make one with [NewKeyring] or [ParseKeyring].
// It prints as its key ids only, is immutable, and is safe for concurrent use.
type Keyring struct {
	keys []sealingKey
}

// NewKeyring makes a keyring of raw keys of [KeySize] bytes each. primary seals;
// primary and older open. A key of another length and a key given twice are
// errors that match [ErrKeyring]; they name the key's place, never its value.
func NewKeyring(primary []byte, older ...[]byte) (*Keyring, error) {
	ring := &Keyring{}
	for i, raw := range append([][]byte{primary}, older...) {
		if len(raw) != KeySize {
			return nil, keyringErrorf("key %d is %d bytes long, want %d", i+1, len(raw), KeySize)
		}
		key, err := newSealingKey(raw)
		if err != nil {
			return nil, keyringErrorf("key %d cannot be used", i+1)
		}
		if j := slices.IndexFunc(ring.keys, func(k sealingKey) bool { return k.id == key.id }); j >= 0 {
			return nil, keyringErrorf("key %d is the same as key %d; remove one", i+1, j+1)
		}
		ring.keys = append(ring.keys, key)
	}
	return ring, nil
}

// ParseKeyring reads a comma-separated list of keys in standard base64, as
// `openssl rand -base64 32` prints them. The first seals. Space around a key is
// ignored. Errors match [ErrKeyring].
func ParseKeyring(list string) (*Keyring, error) {
	if strings.TrimSpace(list) == "" {
		return nil, keyringErrorf("there is no key in the list; make one with: openssl rand -base64 32")
	}
	var raws [][]byte
	for i, item := range strings.Split(list, ",") {
		// The decoder's own error quotes its input's offset only, but says
		// nothing that the reader of this one needs.
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

// IDs returns the ids of the keys, as they stand in the tables and in errors. The
// first seals. They are public and reveal nothing of the keys.
func (k *Keyring) IDs() []string {
	if k == nil {
		return nil
	}
	ids := make([]string, len(k.keys))
	for i, key := range k.keys {
		ids[i] = key.id
	}
	return ids
}

func (k *Keyring) primary() sealingKey { return k.keys[0] }

func (k *Keyring) byID(id string) (sealingKey, bool) {
	i := slices.IndexFunc(k.keys, func(key sealingKey) bool { return key.id == id })
	if i < 0 {
		return sealingKey{}, false
	}
	return k.keys[i], true
}

// sealingKey is one key of a keyring, spread out over its purposes. Key material
// is behind functions and interfaces, where fmt prints addresses only.
type sealingKey struct {
	id          string // 128 bits in hex; public
	aead        cipher.AEAD
	fingerprint func(Secret) string
}

func newSealingKey(raw []byte) (sealingKey, error) {
	derive := func(purpose string, size int) []byte {
		out, err := hkdf.Key(sha256.New, raw, nil, "aiseed v1 "+purpose, size)
		if err != nil {
			panic(err) // only for a size above 255 hashes
		}
		return out
	}
	block, err := aes.NewCipher(derive("seal", KeySize))
	if err != nil {
		return sealingKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealingKey{}, err
	}
	return sealingKey{
		id:          hex.EncodeToString(derive("id", 16)),
		aead:        aead,
		fingerprint: newFingerprint(derive("fingerprint", sha256.Size)),
	}, nil
}

// A cell is the one place in the database that a sealed value belongs to. It is
// authenticated with the value, so that a value copied elsewhere does not open.
type cell struct {
	table, column string
	row           string // the row's primary key
	provider      uuid.UUID
}

// sealedPrefix starts every sealed value; what follows is standard base64 of
// nonce (12 bytes), ciphertext and tag (16 bytes):
//
//	aiseed:v1:9vQ6X1…
//
// The version covers the cipher, the derivation of keys and the associated data.
const sealedPrefix = "aiseed:v1:"

func (c cell) associatedData(keyID string) []byte {
	return appendFields(nil, sealedPrefix, c.table, c.column, c.row, c.provider.String(), keyID)
}

func (k sealingKey) seal(c cell, plaintext string) string {
	sealed := k.aead.Seal(nil, nil, []byte(plaintext), c.associatedData(k.id))
	return sealedPrefix + base64.StdEncoding.EncodeToString(sealed)
}

// open is silent about why it fails: the reason could tell an attacker something
// and tells an operator nothing.
func (k sealingKey) open(c cell, stored string) (string, bool) {
	encoded, ok := strings.CutPrefix(stored, sealedPrefix)
	if !ok {
		return "", false
	}
	// The decoder skips line breaks, and not only in its lenient mode: one value has
	// one text.
	if strings.ContainsAny(encoded, "\r\n") {
		return "", false
	}
	sealed, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return "", false
	}
	plaintext, err := k.aead.Open(nil, nil, sealed, c.associatedData(k.id))
	return string(plaintext), err == nil
}

// canary is sealed into a key's row in ai_encryption_keys, to tell whether a
// keyring's key of that id is that key.
const canary = "aiseed canary"

func canaryCell(keyID string) cell {
	return cell{table: "ai_encryption_keys", column: "canary", row: keyID}
}

func (k sealingKey) sealCanary() string { return k.seal(canaryCell(k.id), canary) }

func (k sealingKey) opensCanary(stored string) bool {
	plaintext, ok := k.open(canaryCell(k.id), stored)
	return ok && plaintext == canary
}

func (c cell) rowID() uuid.UUID {
	id, _ := uuid.Parse(c.row) // every table with a sealed column but the canary's
	return id
}

// newFingerprint returns a function that tells two secrets apart without showing
// either: 8 hex digits of HMAC-SHA-256 (RFC 2104), "none" for no secret.
func newFingerprint(key []byte) func(Secret) string {
	return func(s Secret) string {
		if s.IsZero() {
			return "none"
		}
		mac := hmac.New(sha256.New, key)
		_, _ = io.WriteString(mac, s.Reveal())
		return hex.EncodeToString(mac.Sum(nil)[:4])
	}
}

// appendFields appends each field with its length before it, so that different
// lists never encode alike.
func appendFields(b []byte, fields ...string) []byte {
	size := 0
	for _, field := range fields {
		size += len(field) + 2
	}
	b = slices.Grow(b, size)
	for _, field := range fields {
		b = binary.AppendUvarint(b, uint64(len(field)))
		b = append(b, field...)
	}
	return b
}
