package aiseedcli

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
)

// Each class of error that the library documents is a class of a document.
func TestO7_EachErrorHasAClass(t *testing.T) {
	t.Parallel()
	a := &app{Options: Options{}.withDefaults()}
	for class, err := range map[string]error{
		"interrupted": errInterrupted, "commit_unknown": aiseed.ErrCommitUnknown, "configuration": aiseed.ErrInvalidConfig, "drift": aiseed.ErrDrift,
		"lock_timeout": aiseed.ErrLockTimeout, "schema_missing": aiseed.ErrSchemaMissing, "schema_outdated": aiseed.ErrSchemaOutdated, "schema": aiseed.ErrSchema,
		"keyring": aiseed.ErrKeyring, "undecryptable": aiseed.ErrUndecryptable, "plaintext": aiseed.ErrPlaintext, "not_found": aiseed.ErrNotFound,
		"name_taken": aiseed.ErrNameTaken, "conflict": aiseed.ErrConflict, "database": aiseed.ErrDatabase, "usage": &usageError{}, "other": fmt.Errorf("another"),
	} {
		require.Equal(t, class, a.failureOf(fmt.Errorf("why: %w", err)).Class)
	}
	require.Nil(t, a.failureOf(nil))
}

// What nobody can make in a script: a lock that is not granted in time, and a violated constraint.
func TestO7_FailuresHaveTheDataOfTheirErrors(t *testing.T) {
	t.Parallel()
	a := &app{Options: Options{}.withDefaults()}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	lock := a.failureOf(&aiseed.LockTimeoutError{Holder: &aiseed.LockHolder{PID: 7, ApplicationName: "psql", ClientAddr: "10.0.0.1", Since: since}})
	require.Equal(t, &holder{7, "psql", "10.0.0.1", &since}, lock.Holder)
	require.Nil(t, a.failureOf(&aiseed.LockTimeoutError{Holder: &aiseed.LockHolder{PID: 7}}).Holder.Since)
	database := a.failureOf(&aiseed.DatabaseError{SQLState: "23505", Table: "ai_providers", Constraint: "ai_providers_pkey"})
	require.Equal(t, []string{"23505", "ai_providers", "ai_providers_pkey"}, []string{database.SQLState, database.Table, database.Constraint})
}

// O7: a server that ships the command tells its operators what to run.
func TestO7_AServerExplainsItsErrors(t *testing.T) {
	t.Parallel()
	opts := Options{Name: "acme ai", Schema: "acme"}
	require.Empty(t, Explain(nil, opts))
	require.Equal(t, "another error", Explain(errors.New("another error"), opts))
	pool := aiseedtest.NewPool(t)
	for _, tt := range []struct {
		do   func() error
		want string
	}{
		{func() error {
			_, err := aiseed.Open(t.Context(), pool, aiseed.StoreOptions{Schema: "acme", AllowPlaintext: true})
			return err
		}, "with: acme ai schema -apply"},
		{func() error {
			sealed, err := aiseed.Open(t.Context(), pool, aiseed.StoreOptions{Keyring: aiseedtest.NewKeyring(t)})
			require.NoError(t, err)
			_, err = sealed.CreateProvider(t.Context(), "a", aiseed.ProviderSpec{Type: "openai", Name: "openai", Keys: []aiseed.Secret{aiseed.NewSecret("key")}})
			require.NoError(t, err)
			_, err = aiseed.Open(t.Context(), pool, aiseed.StoreOptions{Keyring: aiseedtest.NewKeyring(t)})
			return err
		}, "If it is lost for good: acme ai forget "},
	} {
		err := tt.do()
		require.Error(t, err)
		text := Explain(err, opts)
		require.Contains(t, text, tt.want)
		require.NotContains(t, text, "aiseed: ")
		require.NotContains(t, text, "\ufdd0")
	}
}
