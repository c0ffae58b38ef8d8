// Package seal encrypts a text for one place in the database.
//
// A sealed text can only be decrypted with its key and in its place: the table, column, row
// and provider are authenticated with it. The package does not know where keys come from or
// where texts are stored.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
)

// KeySize is the length of a key in bytes: AES-256.
const KeySize = 32

// A Key holds what is derived from a raw key with HKDF-SHA-256 (RFC 5869), with a separate
// label for each purpose. Key material is in functions and interfaces, so that fmt prints
// only addresses.
type Key struct {
	ID string // 128 bits in hex; public

	aead        cipher.AEAD
	fingerprint func(string) string
}

// NewKey makes a Key from [KeySize] raw bytes.
func NewKey(raw []byte) (Key, error) {
	derive := func(purpose string, size int) []byte {
		out, err := hkdf.Key(sha256.New, raw, nil, "aiseed v1 "+purpose, size)
		if err != nil {
			panic(err) // fails only for a size above 255 hashes
		}
		return out
	}
	block, err := aes.NewCipher(derive("seal", KeySize))
	if err != nil {
		return Key{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return Key{}, err
	}
	return Key{
		ID:          hex.EncodeToString(derive("id", 16)),
		aead:        aead,
		fingerprint: NewFingerprint(derive("fingerprint", sha256.Size)),
	}, nil
}

// IsID reports whether a text has the form of the id of a key.
func IsID(s string) bool { return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == "" }

// A Cell is the one place in the database that a sealed text belongs to.
type Cell struct {
	Table, Column string
	Row           string // the row's primary key
	Provider      uuid.UUID
}

// prefix starts every sealed text. The standard base64 of nonce (12 bytes), ciphertext and
// tag (16 bytes) follows it:
//
//	aiseed:v1:9vQ6X1…
//
// The version covers the cipher, the derivation of keys and the associated data.
const prefix = "aiseed:v1:"

// IsSealed reports whether a stored text has the form of a sealed one.
func IsSealed(stored string) bool { return strings.HasPrefix(stored, prefix) }

func (c Cell) appendAssociatedData(b []byte, keyID string) []byte {
	return AppendFields(b, prefix, c.Table, c.Column, c.Row, c.Provider.String(), keyID)
}

// Seal encrypts a text for a cell, with a random nonce.
func (k Key) Seal(c Cell, plaintext string) string {
	sealed := k.aead.Seal(nil, nil, []byte(plaintext), c.appendAssociatedData(nil, k.ID))
	return prefix + base64.StdEncoding.EncodeToString(sealed)
}

// Open decrypts what Seal made for the same cell. It does not say why it fails: the reason
// could help an attacker and does not help an operator.
func (k Key) Open(c Cell, stored string) (plaintext string, ok bool) {
	encoded, ok := strings.CutPrefix(stored, prefix)
	if !ok {
		return "", false
	}
	// The decoder skips line breaks even in strict mode. Refuse them, so that one value has
	// only one text.
	if strings.ContainsAny(encoded, "\r\n") {
		return "", false
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	data := c.appendAssociatedData((*buffer)[:0], k.ID)
	all := append(data, encoded...)
	text := all[len(data):]
	all, err := strictBase64.AppendDecode(all, text)
	if err != nil {
		return "", false
	}
	sealed := all[len(data)+len(text):]
	all = slices.Grow(all, len(sealed))
	opened, err := k.aead.Open(all[len(all):], nil, sealed, data)
	plaintext = string(opened)
	clear(opened)
	*buffer = all
	return plaintext, err == nil
}

var strictBase64 = base64.StdEncoding.Strict()

// buffers are for what Open needs beside the plaintext that it returns. A start decrypts many values.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// A Ring holds keys: the first one seals, and each one can decrypt what it sealed. If the
// ring is empty, nothing is sealed and plaintext is stored.
type Ring []Key

// The errors of [Ring.Open].
var (
	ErrPlaintext = errors.New("not sealed")    // although the ring has keys
	ErrUnopened  = errors.New("does not open") // no key of the ring can decrypt it
)

// Seal returns the text to store in a cell and the id of its key, which is nil for plaintext.
func (r Ring) Seal(c Cell, plaintext string) (stored string, keyID *string) {
	if len(r) == 0 {
		return plaintext, nil
	}
	id := r[0].ID // a copy: the ring stays as it is
	return r[0].Seal(c, plaintext), &id
}

// Open returns the plaintext of what Seal stored in a cell. Its errors are [ErrPlaintext] and
// [ErrUnopened].
func (r Ring) Open(c Cell, stored string, keyID *string) (plaintext string, err error) {
	switch {
	case keyID == nil && IsSealed(stored):
		return "", ErrUnopened
	case keyID == nil && len(r) == 0:
		return stored, nil
	case keyID == nil:
		return "", ErrPlaintext
	}
	if key, ok := r.ByID(*keyID); ok {
		if plaintext, ok := key.Open(c, stored); ok {
			return plaintext, nil
		}
	}
	return "", ErrUnopened
}

// ByID finds a key.
func (r Ring) ByID(id string) (Key, bool) {
	i := slices.IndexFunc(r, func(key Key) bool { return key.ID == id })
	if i < 0 {
		return Key{}, false
	}
	return r[i], true
}

// canary is sealed into a key's row in ai_encryption_keys. It shows whether a keyring's key
// with that id is the same key.
const canary = "aiseed canary"

func canaryCell(keyID string) Cell {
	return Cell{Table: "ai_encryption_keys", Column: "canary", Row: keyID}
}

// SealCanary returns the sealed canary, which is stored next to the key's id.
func (k Key) SealCanary() string { return k.Seal(canaryCell(k.ID), canary) }

// OpensCanary reports whether stored is a canary of this key.
func (k Key) OpensCanary(stored string) bool {
	plaintext, ok := k.Open(canaryCell(k.ID), stored)
	return ok && plaintext == canary
}

// Fingerprint distinguishes secrets without showing them. See [NewFingerprint].
func (k Key) Fingerprint(secret string) string { return k.fingerprint(secret) }

// NewFingerprint returns a function that distinguishes secrets without showing them. It
// returns 8 hex digits of HMAC-SHA-256 (RFC 2104), or "none" for an empty secret.
func NewFingerprint(key []byte) func(secret string) string {
	return func(secret string) string {
		if secret == "" {
			return "none"
		}
		mac := hmac.New(sha256.New, key)
		_, _ = io.WriteString(mac, secret)
		return hex.EncodeToString(mac.Sum(nil)[:4])
	}
}

// AppendFields appends the length of each field and then the field, so that different lists
// have different encodings.
func AppendFields(b []byte, fields ...string) []byte {
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
