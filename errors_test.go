package aiseed

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

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
		"cannot be decrypted with key k. Either the keyring lacks this key, or the value was damaged or copied from another row":                                                                         {KeyID: "k"},
	} {
		e.Table, e.Column, e.RowID = "ai_providers", "settings", id
		require.EqualError(t, &e, where+want)
	}
}

func TestStatesOfTheServerHaveARemedy(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]string{
		"25006": "connect to the primary", "55P03": "find it in pg_stat_activity", "23505": "another process keeps writing the same rows",
		"53300": "raise max_connections", "53100": "disk is full", "53200": "out of memory", "42501": "grant it",
		"28P01": "check user, password and pg_hba.conf", "28000": "check user, password and pg_hba.conf", "3D000": "the database does not exist",
		"57014": "check statement_timeout", "57P01": "start again when it is there", "57P02": "start again when it is there", "57P03": "start again when it is there",
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
		"aiseed: ai_providers.settings "+row+"(provider a) cannot be decrypted with key k. Either the keyring lacks this key, or the value was damaged or copied from another row")
	both := &ProvidersError{[]ProviderError{one, two}}
	require.ErrorContains(t, both, "aiseed: 2 providers cannot be used\n   1. ai_providers.settings "+row+"(provider a) cannot be decrypted")
	require.ErrorContains(t, both, "\n   2. ai_provider_keys.api_key "+row+"(provider b) is not sealed")
	require.ErrorIs(t, both, ErrUndecryptable)
	require.ErrorIs(t, both, ErrPlaintext)
}
