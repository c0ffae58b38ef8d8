package aiseed

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, KeySize) }

func testKeyring(t *testing.T, keys ...byte) *Keyring {
	t.Helper()
	var older [][]byte
	for _, k := range keys[1:] {
		older = append(older, testKey(k))
	}
	ring, err := NewKeyring(testKey(keys[0]), older...)
	require.NoError(t, err)
	return ring
}

func TestS3_KeyringParsesWhatOpensslPrints(t *testing.T) {
	t.Parallel()
	one, two := base64.StdEncoding.EncodeToString(testKey(1)), base64.StdEncoding.EncodeToString(testKey(2))
	ring, err := ParseKeyring(" " + one + " ,\t" + two + "\n")
	require.NoError(t, err)
	require.Equal(t, testKeyring(t, 1, 2).keys[0].id, ring.primary().id)
	require.Equal(t, testKeyring(t, 2).primary().id, ring.keys[1].id)
}

func TestS3_BadKeyringsAreErrorsThatNameThePlaceOnly(t *testing.T) {
	t.Parallel()
	good := base64.StdEncoding.EncodeToString(testKey(1))
	for name, tt := range map[string]struct{ list, want string }{
		"an empty list":          {"", "there is no key"},
		"only space":             {" \n", "there is no key"},
		"an empty element":       {good + ",", "key 2 is 0 bytes long, want 32"},
		"not base64":             {"c2VjcmV0LXNlY3JldC1zZWNyZXQ!", "key 1 is not standard base64"},
		"URL-safe base64":        {strings.Repeat("-_", 21) + "-=", "key 1 is not standard base64"},
		"a short key":            {good + "," + base64.StdEncoding.EncodeToString([]byte("sixteen-bytes-16")), "key 2 is 16 bytes long, want 32"},
		"a long key":             {base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 33)), "key 1 is 33 bytes long, want 32"},
		"the same key twice":     {good + ", " + good, "key 2 is the same as key 1"},
		"trailing bits not zero": {good[:42] + "F=", "key 1 is not standard base64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, err := ParseKeyring(tt.list)
			require.Nil(t, ring)
			require.ErrorIs(t, err, ErrKeyring)
			require.ErrorContains(t, err, tt.want)
			for _, part := range strings.Split(tt.list, ",") {
				if len(part) >= 8 {
					require.NotContains(t, err.Error(), part[:8])
				}
			}
		})
	}
}

// The id is public: it must not change, or rows lose their key, and it must not
// be the key or a plain hash of it.
func TestS3_KeyIDIsFrozenAndDerived(t *testing.T) {
	t.Parallel()
	id := testKeyring(t, 1).primary().id
	require.Regexp(t, regexp.MustCompile(`^[0-9a-f]{32}$`), id)
	require.Equal(t, "f92c06e2ddc4f8ac640475ed7bf40fa2", id)
	require.NotContains(t, id, hex.EncodeToString(testKey(1))[:8])
}

func TestS3_KeyringPrintsItsIDsOnly(t *testing.T) {
	t.Parallel()
	ring := testKeyring(t, 1, 2)
	derived, err := hkdf.Key(sha256.New, testKey(1), nil, "aiseed v1 fingerprint", sha256.Size)
	require.NoError(t, err)
	for _, v := range []any{ring, *ring, StoreOptions{Keyring: ring}, &Store{vault: newVault(ring)}, []*Keyring{ring}, newVault(nil), *newVault(ring).keyring, *newVault(ring), struct{ k *Keyring }{ring}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			out := fmt.Sprintf(verb, v)
			require.NotContains(t, out, strings.Trim(fmt.Sprint(testKey(1)), "[]")[:11])
			require.NotContains(t, out, strings.Trim(fmt.Sprint(derived), "[]")[:15])
			require.NotContains(t, out, hex.EncodeToString(derived)[:8])
		}
	}
	require.Equal(t, "keyring("+ring.keys[0].id+", "+ring.keys[1].id+")", fmt.Sprint(ring))
	out, err := json.Marshal(ring)
	require.NoError(t, err)
	require.JSONEq(t, `{}`, string(out))
}

func testCell() cell {
	return apiKeyCell(uuid.MustParse("11111111-1111-4111-8111-111111111111"), uuid.MustParse("22222222-2222-4222-8222-222222222222"))
}

func TestS2_SealedValueOpensInItsPlaceOnly(t *testing.T) {
	t.Parallel()
	key := testKeyring(t, 1).primary()
	home := testCell()
	sealed := key.seal(home, "secret")
	plaintext, ok := key.open(home, sealed)
	require.True(t, ok)
	require.Equal(t, "secret", plaintext)

	elsewhere := map[string]cell{}
	for name, change := range map[string]func(*cell){
		"another table":    func(c *cell) { c.table = "ai_providers" },
		"another column":   func(c *cell) { c.column = "settings" },
		"another row":      func(c *cell) { c.row = uuid.NewString() },
		"another provider": func(c *cell) { c.provider = uuid.New() },
		// The same bytes, divided otherwise.
		"table and column shifted": func(c *cell) { c.table, c.column = c.table+c.column[:1], c.column[1:] },
	} {
		c := home
		change(&c)
		elsewhere[name] = c
	}
	for name, c := range elsewhere {
		_, ok := key.open(c, sealed)
		require.False(t, ok, name)
	}

	renamed := key
	renamed.id = strings.Repeat("0", 32)
	_, ok = renamed.open(home, sealed)
	require.False(t, ok, "another key id")
	_, ok = testKeyring(t, 2).primary().open(home, sealed)
	require.False(t, ok, "another key")
	_, ok = key.open(home, "aiseed:v2:"+strings.TrimPrefix(sealed, sealedPrefix))
	require.False(t, ok, "another version")
}

func TestS2_SealIsRandomAndHasItsFormat(t *testing.T) {
	t.Parallel()
	key := testKeyring(t, 1).primary()
	seen := map[string]bool{}
	for range 100 {
		sealed := key.seal(testCell(), "secret")
		require.False(t, seen[sealed])
		seen[sealed] = true
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sealed, "aiseed:v1:"))
		require.NoError(t, err)
		require.Len(t, raw, 12+len("secret")+16)
	}
}

// What version 1 sealed has to open for ever.
func TestS2_FrozenSealedValueStillOpens(t *testing.T) {
	t.Parallel()
	plaintext, ok := testKeyring(t, 1).primary().open(testCell(), "aiseed:v1:jJ8HlZvAAfCP7zdzEKJGRCdFHLqUuBp+uZstSlRZHMp9lw==")
	require.True(t, ok)
	require.Equal(t, "frozen", plaintext)
}

// A decoder can ignore bits of the last digit, and line breaks anywhere.
func TestS2_OneValueHasOneText(t *testing.T) {
	t.Parallel()
	for _, stored := range []string{
		"aiseed:v1:jJ8HlZvAAfCP7zdzEKJGRCdFHLqUuBp+uZstSlRZHMp9lx==",
		"aiseed:v1:jJ8HlZvAAfCP7zdzEKJGRCdFHLqUuBp+uZstSlRZHMp9lw==\n",
		"aiseed:v1:jJ8HlZvAAfCP7zdz\r\nEKJGRCdFHLqUuBp+uZstSlRZHMp9lw==",
	} {
		_, ok := testKeyring(t, 1).primary().open(testCell(), stored)
		require.False(t, ok, "%q", stored)
	}
}

func TestS2_AnyChangedByteDoesNotOpen(t *testing.T) {
	t.Parallel()
	key := testKeyring(t, 1).primary()
	sealed := key.seal(testCell(), "secret")
	for i := range sealed {
		for _, c := range []byte{'A', 'b', '9', '=', ' ', '\n', 0} {
			if sealed[i] == c {
				continue
			}
			_, ok := key.open(testCell(), sealed[:i]+string(c)+sealed[i+1:])
			require.False(t, ok, "byte %d as %q", i, c)
		}
		_, ok := key.open(testCell(), sealed[:i])
		require.False(t, ok, "cut at %d", i)
	}
}

func TestS5_WhatDoesNotOpenIsATypedError(t *testing.T) {
	t.Parallel()
	c := testCell()
	sealed, keyID := newVault(testKeyring(t, 1)).seal(c, NewSecret("secret"))
	for name, tt := range map[string]struct {
		vault  *vault
		stored string
		keyID  *string
		class  error
	}{
		"a key that the keyring lacks":   {newVault(testKeyring(t, 2)), sealed, keyID, ErrUndecryptable},
		"a damaged value":                {newVault(testKeyring(t, 1)), sealed[:len(sealed)-4], keyID, ErrUndecryptable},
		"plaintext that claims a key":    {newVault(testKeyring(t, 1)), "secret", keyID, ErrUndecryptable},
		"a sealed value without keyring": {newVault(nil), sealed, keyID, ErrUndecryptable},
		"plaintext with a keyring (S6)":  {newVault(testKeyring(t, 1)), "secret", nil, ErrPlaintext},
		"sealed text without a key id":   {newVault(testKeyring(t, 1)), sealed, nil, ErrUndecryptable},
		"and without a keyring":          {newVault(nil), sealed, nil, ErrUndecryptable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret, err := tt.vault.open(c, tt.stored, tt.keyID)
			require.True(t, secret.IsZero())
			require.ErrorIs(t, err, tt.class)
			var decrypt *DecryptError
			require.ErrorAs(t, err, &decrypt)
			require.Equal(t, "ai_provider_keys", decrypt.Table)
			require.Equal(t, "api_key", decrypt.Column)
			require.Equal(t, c.row, decrypt.RowID.String())
			if tt.keyID != nil {
				require.Equal(t, *keyID, decrypt.KeyID)
				require.ErrorContains(t, err, *keyID)
			}
			require.ErrorContains(t, err, "ai_provider_keys.api_key of row "+c.row)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestS9_FingerprintIsEqualForEqualSecretsAndNeedsTheKey(t *testing.T) {
	t.Parallel()
	a, b := NewSecret("a"), NewSecret("b")
	one, same, other := newVault(testKeyring(t, 1)), newVault(testKeyring(t, 1, 2)), newVault(testKeyring(t, 2))
	require.Regexp(t, `^[0-9a-f]{8}$`, one.fingerprint(a))
	require.Equal(t, one.fingerprint(a), same.fingerprint(a))
	require.NotEqual(t, one.fingerprint(a), one.fingerprint(b))
	require.NotEqual(t, one.fingerprint(a), other.fingerprint(a))
	require.Equal(t, newVault(nil).fingerprint(a), newVault(nil).fingerprint(a), "one per process in plaintext mode")
	require.NotEqual(t, newFingerprint(nil)(a), newVault(nil).fingerprint(a), "and random")
	require.Equal(t, "none", one.fingerprint(Secret{}))
	require.Equal(t, "7bd08fbd", one.fingerprint(a), "frozen, or the warnings of two versions cannot be compared")
}

func TestS4_CanaryTellsTheKey(t *testing.T) {
	t.Parallel()
	one, two := testKeyring(t, 1).primary(), testKeyring(t, 2).primary()
	require.True(t, one.opensCanary(one.sealCanary()))
	require.False(t, two.opensCanary(one.sealCanary()))
	require.False(t, one.opensCanary(canary))
	require.False(t, one.opensCanary(one.seal(canaryCell(one.id), "another text")))
}
