package aiseed

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/seal"
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
	require.Equal(t, testKeyring(t, 1, 2).keys[0].ID, ring.keys[0].ID)
	require.Equal(t, testKeyring(t, 2).keys[0].ID, ring.keys[1].ID)
	ring, err = ParseKeyring("\r\n" + one + "\r\n,\n" + two + "\r\n")
	require.NoError(t, err, "a line break around a key is no matter")
	require.Len(t, ring.keys, 2)
}

func TestS3_BadKeyringsAreErrorsThatNameThePlaceOnly(t *testing.T) {
	t.Parallel()
	good, other := base64.StdEncoding.EncodeToString(testKey(1)), base64.StdEncoding.EncodeToString(testKey(2))
	inHex := hex.EncodeToString(testKey(0xab))
	urlSafe := base64.URLEncoding.EncodeToString(testKey(0xfb))
	for name, tt := range map[string]struct{ list, want string }{
		"an empty list":            {"", "there is no key"},
		"only space":               {" \n", "there is no key"},
		"only commas":              {" ,,", "there is no key"},
		"a comma at the end":       {good + ",", "key 2 is missing: the list ends with a comma; remove it"},
		"a comma and a line break": {good + ",\n", "key 2 is missing: the list ends with a comma; remove it"},
		"a comma at the begin":     {", " + good, "key 1 is missing: the list begins with a comma; remove it"},
		"two commas":               {good + ", ," + other, "key 2 is missing: there are two commas in a row; remove one"},
		"quotes around the list":   {`"` + good + "," + other + `"`, "key 1 is in quotes, or the list is"},
		"quotes around a key":      {good + ",'" + other + "'", "key 2 is in quotes, or the list is"},
		"half a quote":             {good + "\u201d", "key 1 is in quotes, or the list is"},
		"hex":                      {inHex, "key 1 is in hex; want standard base64"},
		"hex in capitals":          {good + "," + strings.ToUpper(inHex), "key 2 is in hex; want standard base64"},
		"base64url":                {urlSafe, "key 1 is in base64url"},
		"base64url, not padded":    {strings.TrimRight(urlSafe, "="), "key 1 is in base64url"},
		"a line break in a key":    {good[:20] + "\n" + good[20:], "key 1 has a line break or a space in it; want one line of 44 characters"},
		"a Windows line end in it": {good[:20] + "\r\n" + good[20:], "key 1 has a line break or a space in it"},
		"a carriage return in it":  {good[:20] + "\r" + good[20:], "key 1 has a line break or a space in it"},
		"a line for each key":      {good + "\n" + other, "key 1 has a line break or a space in it; want one line of 44 characters, and a comma between two keys"},
		"cut off":                  {good[:41], "key 1 is cut off: it has 41 characters, want 44"},
		"cut off at a whole byte":  {good[:40], "key 1 is 30 bytes long, want 32; it is cut off"},
		"without its padding":      {other + "," + good[:43], "key 2 lacks the = at its end"},
		"not base64":               {"c2VjcmV0LXNlY3JldC1zZWNyZXQ!", "key 1 is not standard base64"},
		"an invisible character":   {good[:8] + "\u200b" + good[8:], "key 1 is not standard base64"},
		"a short key":              {good + "," + base64.StdEncoding.EncodeToString([]byte("sixteen-bytes-16")), "key 2 is 16 bytes long, want 32"},
		"a long key":               {base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 33)), "key 1 is 33 bytes long, want 32"},
		"the same key twice":       {good + ", " + good, "key 2 is the same as key 1"},
		"trailing bits not zero":   {good[:42] + "F=", "key 1 is not standard base64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, err := ParseKeyring(tt.list)
			require.Nil(t, ring)
			require.ErrorIs(t, err, ErrKeyring)
			require.ErrorContains(t, err, tt.want)
			for i := 0; i+4 <= len(tt.list); i++ {
				require.NotContains(t, err.Error(), tt.list[i:i+4])
			}
		})
	}
}

func TestS3_KeyringPrintsItsIDsOnly(t *testing.T) {
	t.Parallel()
	ring := testKeyring(t, 1, 2)
	derived, err := hkdf.Key(sha256.New, testKey(1), nil, "aiseed v1 fingerprint", sha256.Size)
	require.NoError(t, err)
	for _, v := range []any{ring, *ring, StoreOptions{Keyring: ring}, &Store{vault: newVault(ring)}, []*Keyring{ring}, newVault(nil), newVault(ring).ring, *newVault(ring), struct{ k *Keyring }{ring}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			out := fmt.Sprintf(verb, v)
			require.NotContains(t, out, strings.Trim(fmt.Sprint(testKey(1)), "[]")[:11])
			require.NotContains(t, out, strings.Trim(fmt.Sprint(derived), "[]")[:15])
			require.NotContains(t, out, hex.EncodeToString(derived)[:8])
		}
	}
	require.Equal(t, "keyring("+ring.keys[0].ID+", "+ring.keys[1].ID+")", fmt.Sprint(ring))
	out, err := json.Marshal(ring)
	require.NoError(t, err)
	require.JSONEq(t, `{}`, string(out))
}

func testCell() seal.Cell {
	return apiKeyCell(uuid.MustParse("11111111-1111-4111-8111-111111111111"), uuid.MustParse("22222222-2222-4222-8222-222222222222"))
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
			secret, err := tt.vault.open(c, storedText{text: tt.stored, keyID: tt.keyID})
			require.True(t, secret.IsZero())
			require.ErrorIs(t, err, tt.class)
			var decrypt *DecryptError
			require.ErrorAs(t, err, &decrypt)
			require.Equal(t, "ai_provider_keys", decrypt.Table)
			require.Equal(t, "api_key", decrypt.Column)
			require.Equal(t, c.Row, decrypt.RowID.String())
			if tt.keyID != nil {
				require.Equal(t, *keyID, decrypt.KeyID)
				require.ErrorContains(t, err, *keyID)
			}
			require.ErrorContains(t, err, "ai_provider_keys.api_key of row "+c.Row)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestS3_TheFirstKeySeals(t *testing.T) {
	t.Parallel()
	sealed, keyID := newVault(testKeyring(t, 2, 1)).seal(testCell(), NewSecret("secret"))
	opened, err := newVault(testKeyring(t, 2)).open(testCell(), storedText{text: sealed, keyID: keyID})
	require.NoError(t, err)
	require.Equal(t, "secret", opened.Reveal())
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
	require.NotEqual(t, ofSecret(seal.NewFingerprint(make([]byte, 32)))(a), newVault(nil).fingerprint(a), "and random")
	require.Equal(t, "none", one.fingerprint(Secret{}))
}

func TestL3_TextOfALockTimeout(t *testing.T) {
	t.Parallel()
	gone := &LockTimeoutError{Key: 7, waited: 30 * time.Second}
	require.EqualError(t, gone, "aiseed: waited 30s for advisory lock 7, which another process holds while it writes AI providers; nothing was changed. No holder is to be found any more: start again")
	remote := &LockTimeoutError{Key: 7, waited: time.Second, Holder: &LockHolder{
		PID: 42, ApplicationName: "coderd\n", ClientAddr: "10.0.0.1", Since: time.Date(2001, 2, 3, 4, 5, 6, 0, time.FixedZone("", 3600)),
	}}
	require.EqualError(t, remote, `aiseed: waited 1s for advisory lock 7, which another process holds while it writes AI providers; nothing was changed. `+
		`Holder: pid 42, application "coderd\n", from 10.0.0.1, since 2001-02-03T03:05:06Z. Start again; if it is still there, end it with: select pg_terminate_backend(42)`)
	hidden := &LockTimeoutError{Key: 7, waited: time.Second, Holder: &LockHolder{PID: 42}}
	require.ErrorContains(t, hidden, "Holder: pid 42. Start again;")
}

// Each of these errors has another remedy.
func TestS5_TextsOfValuesThatCannotBeHandedOut(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("11111111-1111-4111-8111-111111111111")
	const where = "aiseed: ai_providers.settings of row 11111111-1111-4111-8111-111111111111 "
	for want, e := range map[string]DecryptError{
		"is not sealed, but a keyring is in use. If these rows were written before there was a keyring, seal them with Store.SealPlaintext; if not, someone wrote to the table behind the server's back": {plaintext: true},
		"can be decrypted, but this version of the library did not write its content: a later one did, or something else":                                                                                {malformed: true, KeyID: "k"},
		"is sealed, but the id of its key is missing next to it; restore the row from a backup":                                                                                                          {},
		"cannot be decrypted: the keyring lacks its key, k. Append that to the keyring, after the key that seals":                                                                                        {KeyID: "k"},
		"cannot be decrypted with key k, which the keyring has: the value was damaged, or copied from another row. Replace the provider's keys or settings, or restore the row from a backup":            {KeyID: "k", known: true},
	} {
		e.Table, e.Column, e.RowID = "ai_providers", "settings", id
		require.EqualError(t, &e, where+want)
	}
}

func TestStatesOfTheServerHaveARemedy(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]string{
		"25006": "connect to the primary", "55P03": "find it in pg_stat_activity", "23505": "another process keeps writing the same rows",
		"53100": "disk is full", "53200": "out of memory", "42501": "grant it",
		"57014": "check statement_timeout", "57P01": "start again when it is there", "57P02": "start again when it is there",
	} {
		require.ErrorContains(t, &DatabaseError{Operation: "reading", SQLState: state}, "aiseed: reading: SQLSTATE "+state+": ")
		require.Contains(t, sqlStateHint(state), want)
	}
	require.EqualError(t, &DatabaseError{Operation: "reading", SQLState: "XX000", Table: "t", Constraint: "c"}, "aiseed: reading: SQLSTATE XX000, table t, constraint c")
}

func TestS7_TextOfProvidersThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	one := ProviderError{Name: "a", Err: &DecryptError{Provider: "a", Table: "ai_providers", Column: "settings", KeyID: "k"}}
	two := ProviderError{Name: "b", Err: &DecryptError{Provider: "b", Table: "ai_provider_keys", Column: "api_key", plaintext: true}}
	const row = "of row 00000000-0000-0000-0000-000000000000 "
	require.EqualError(t, &ProvidersError{[]ProviderError{one}},
		"aiseed: ai_providers.settings "+row+"(provider a) cannot be decrypted: the keyring lacks its key, k. Append that to the keyring, after the key that seals")
	both := &ProvidersError{[]ProviderError{one, two}}
	require.ErrorContains(t, both, "aiseed: 2 providers cannot be used\n   1. ai_providers.settings "+row+"(provider a) cannot be decrypted")
	require.ErrorContains(t, both, "\n   2. ai_provider_keys.api_key "+row+"(provider b) is not sealed")
	require.ErrorIs(t, both, ErrUndecryptable)
	require.ErrorIs(t, both, ErrPlaintext)
}

// A5: a delivery whose time is up is not tried again, as one is whose connection was lost.
func TestA5_TimeThatIsUpIsNoLostConnection(t *testing.T) {
	t.Parallel()
	err := withoutOurDeadline(&DatabaseError{Operation: delivering, cause: pg.Error{Context: context.DeadlineExceeded, Lost: true}}, "1s")
	require.EqualError(t, err, "aiseed: delivering audits: neither the pool nor the server answered within 1s")
	require.False(t, isLost(err))
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}
