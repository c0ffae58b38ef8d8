package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func testKey(t *testing.T, b byte) Key {
	t.Helper()
	key, err := NewKey(bytes.Repeat([]byte{b}, KeySize))
	require.NoError(t, err)
	return key
}

func testCell() Cell {
	return Cell{
		Table: "ai_provider_keys", Column: "api_key",
		Row: "11111111-1111-4111-8111-111111111111", Provider: uuid.MustParse("22222222-2222-4222-8222-222222222222"),
	}
}

// The id is public: it must not change, or rows lose their key, and it must not
// be the key or a plain hash of it.
func TestS3_KeyIDIsFrozenAndDerived(t *testing.T) {
	t.Parallel()
	id := testKey(t, 1).ID
	require.Regexp(t, regexp.MustCompile(`^[0-9a-f]{32}$`), id)
	require.Equal(t, "f92c06e2ddc4f8ac640475ed7bf40fa2", id)
	require.NotContains(t, id, hex.EncodeToString(bytes.Repeat([]byte{1}, KeySize))[:8])
}

func TestS2_SealedValueOpensInItsPlaceOnly(t *testing.T) {
	t.Parallel()
	key := testKey(t, 1)
	home := testCell()
	sealed := key.Seal(home, "secret")
	plaintext, ok := key.Open(home, sealed)
	require.True(t, ok)
	require.Equal(t, "secret", plaintext)

	elsewhere := map[string]Cell{}
	for name, change := range map[string]func(*Cell){
		"another table":    func(c *Cell) { c.Table = "ai_providers" },
		"another column":   func(c *Cell) { c.Column = "settings" },
		"another row":      func(c *Cell) { c.Row = uuid.NewString() },
		"another provider": func(c *Cell) { c.Provider = uuid.New() },
		// The same bytes, split at another place.
		"table and column shifted": func(c *Cell) { c.Table, c.Column = c.Table+c.Column[:1], c.Column[1:] },
	} {
		c := home
		change(&c)
		elsewhere[name] = c
	}
	for name, c := range elsewhere {
		_, ok := key.Open(c, sealed)
		require.False(t, ok, name)
	}

	renamed := key
	renamed.ID = strings.Repeat("0", 32)
	_, ok = renamed.Open(home, sealed)
	require.False(t, ok, "another key id")
	_, ok = testKey(t, 2).Open(home, sealed)
	require.False(t, ok, "another key")
	_, ok = key.Open(home, "aiseed:v2:"+strings.TrimPrefix(sealed, prefix))
	require.False(t, ok, "another version")
}

func TestS2_SealIsRandomAndHasItsFormat(t *testing.T) {
	t.Parallel()
	key := testKey(t, 1)
	seen := map[string]bool{}
	for range 100 {
		sealed := key.Seal(testCell(), "secret")
		require.False(t, seen[sealed])
		seen[sealed] = true
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sealed, "aiseed:v1:"))
		require.NoError(t, err)
		require.Len(t, raw, 12+len("secret")+16)
	}
}

// A value that version 1 sealed must always be decryptable.
func TestS2_FrozenSealedValueStillOpens(t *testing.T) {
	t.Parallel()
	plaintext, ok := testKey(t, 1).Open(testCell(), "aiseed:v1:jJ8HlZvAAfCP7zdzEKJGRCdFHLqUuBp+uZstSlRZHMp9lw==")
	require.True(t, ok)
	require.Equal(t, "frozen", plaintext)
}

// A base64 decoder can ignore bits of the last digit, and line breaks anywhere.
func TestS2_OneValueHasOneText(t *testing.T) {
	t.Parallel()
	for _, stored := range []string{
		"aiseed:v1:jJ8HlZvAAfCP7zdzEKJGRCdFHLqUuBp+uZstSlRZHMp9lx==",
		"aiseed:v1:jJ8HlZvAAfCP7zdzEKJGRCdFHLqUuBp+uZstSlRZHMp9lw==\n",
		"aiseed:v1:jJ8HlZvAAfCP7zdz\r\nEKJGRCdFHLqUuBp+uZstSlRZHMp9lw==",
	} {
		_, ok := testKey(t, 1).Open(testCell(), stored)
		require.False(t, ok, "%q", stored)
	}
}

func TestS2_AnyChangedByteDoesNotOpen(t *testing.T) {
	t.Parallel()
	key := testKey(t, 1)
	sealed := key.Seal(testCell(), "secret")
	for i := range sealed {
		for _, c := range []byte{'A', 'b', '9', '=', ' ', '\n', 0} {
			if sealed[i] == c {
				continue
			}
			_, ok := key.Open(testCell(), sealed[:i]+string(c)+sealed[i+1:])
			require.False(t, ok, "byte %d as %q", i, c)
		}
		_, ok := key.Open(testCell(), sealed[:i])
		require.False(t, ok, "cut at %d", i)
	}
}

func TestS4_CanaryTellsTheKey(t *testing.T) {
	t.Parallel()
	one, two := testKey(t, 1), testKey(t, 2)
	require.True(t, one.OpensCanary(one.SealCanary()))
	require.False(t, two.OpensCanary(one.SealCanary()))
	require.False(t, one.OpensCanary(canary))
	require.False(t, one.OpensCanary(one.Seal(canaryCell(one.ID), "another text")))
}
