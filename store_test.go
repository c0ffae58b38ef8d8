package aiseed_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

func TestS1_NoStoreWithoutAKeyringUnlessPlaintextIsAccepted(t *testing.T) {
	t.Parallel()
	pool := aiseedtest.NewPool(t)
	ctx := context.Background()
	for name, options := range map[string]aiseed.StoreOptions{
		"no keyring":       {},
		"an empty keyring": {Keyring: &aiseed.Keyring{}, AllowPlaintext: true},
	} {
		store, err := aiseed.Open(ctx, pool, options)
		require.Nil(t, store, name)
		require.ErrorIs(t, err, aiseed.ErrKeyring, name)
	}
	_, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{})
	require.ErrorContains(t, err, "give StoreOptions.Keyring, or set AllowPlaintext")
	_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true})
	require.NoError(t, err)
}

func TestS1_WhatIsStoredIsSealedFromTheFirstWrite(t *testing.T) {
	t.Parallel()
	f := setup(t)
	environ := testkit.Environ(t, "testdata/gateway.env")
	require.NoError(t, f.Seed(f.ParseEnviron(environ)))
	testkit.RequireNoSecret(t, environ, f.State())
	require.Empty(t, f.Rows(`select api_key from ai_provider_keys where api_key not like 'aiseed:v1:%' or api_key_key_id is null
		union all select settings from ai_providers where settings not like 'aiseed:v1:%' or (settings is not null and settings_key_id is null)`))
	require.Equal(t, []string{"1"}, f.Rows(`select count(*) from ai_encryption_keys where revoked_at is null`))
}

func TestS4_KeyringIsCheckedBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Rekey(1)
	f.Seeded("OPENAI_KEY=key", "BEDROCK_REGION=r")
	id := f.Rows(`select id from ai_encryption_keys`)[0]
	before := f.State()

	_, err := aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: storetest.Keyring(t, 2)})
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	require.ErrorContains(t, err, "it lacks "+id+" (for ai_providers.settings and ai_provider_keys.api_key)")
	require.ErrorContains(t, err, "append it to the keyring")
	var keyring *aiseed.KeyringError
	require.ErrorAs(t, err, &keyring)
	require.Equal(t, []string{id}, keyring.Missing)
	require.Empty(t, keyring.Revoked)
	_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{AllowPlaintext: true})
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	require.ErrorContains(t, err, "there is none, and the tables hold values that are sealed with "+id)
	require.ErrorAs(t, err, &keyring)
	require.Equal(t, []string{id}, keyring.Missing)
	require.Equal(t, before, f.State())

	// A new key in front is fine if the old key is behind it.
	store, err := aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: storetest.Keyring(t, 2, 1)})
	require.NoError(t, err)
	providers, err := store.Providers(ctx)
	require.NoError(t, err)
	require.Len(t, providers, 2)
	require.Equal(t, before, f.State(), "opening writes nothing")

	// A key that no row needs may be missing.
	f.Exec(`delete from ai_provider_keys; delete from ai_providers`)
	_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: storetest.Keyring(t, 2)})
	require.NoError(t, err)
	_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{AllowPlaintext: true})
	require.NoError(t, err)

	f.Exec(`update ai_encryption_keys set canary = left(canary, -8)`)
	_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: storetest.Keyring(t, 1)})
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	require.ErrorContains(t, err, id+" cannot decrypt its own canary")
}

func TestS4_RevokedKeyThatSealsAgainIsInUseAgain(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	f.Exec(`update ai_encryption_keys set revoked_at = now()`)
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	require.Equal(t, []string{"1"}, f.Rows(`select count(*) from ai_encryption_keys where revoked_at is null`))
}

func TestS5_SettingsThatOpenAndAreNotOursNameTheirKey(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("BEDROCK_REGION=r")
	f.Exec(`update ai_providers set settings = '{}'`)
	sealing := f.With(1)
	_, err := sealing.SealPlaintext(context.Background())
	require.NoError(t, err)
	_, err = sealing.Providers(context.Background())
	var decrypt *aiseed.DecryptError
	require.ErrorAs(t, err, &decrypt)
	require.Equal(t, f.Rows(`select settings_key_id from ai_providers`)[0], decrypt.KeyID)
	require.ErrorContains(t, err, "can be decrypted, but this version of the library did not write its content")
}

func TestS11_AnswerThatIsNotUnderstoodIsNotQuoted(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	changed := func(table, want string) {
		t.Helper()
		f.Exec(`alter table ` + table + ` alter column created_at drop default, alter column created_at type text using 'hunter2hunter2'`)
		_, err := f.Store.Providers(context.Background())
		require.ErrorIs(t, err, aiseed.ErrDatabase)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	}
	changed("ai_provider_keys", "SQLSTATE 42804: the tables are not those of aiseed's schema; compare them")
	changed("ai_providers", "the server's answer was not understood; are the tables those of aiseed's schema?")
}

func TestOpenNeedsAPoolAndGoodTimeouts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	_, err := aiseed.Open(ctx, nil, aiseed.StoreOptions{AllowPlaintext: true})
	require.ErrorContains(t, err, "needs a pool")
	require.ErrorContains(t, aiseed.Migrate(ctx, nil, ""), "needs a pool")
	pool := aiseedtest.NewPool(t)
	_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, LockTimeout: -1})
	require.ErrorContains(t, err, "AuditTimeout or PollInterval is negative or longer than 24 hours")
	_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, AuditTimeout: -1})
	require.ErrorContains(t, err, "AuditTimeout or PollInterval is negative or longer than 24 hours")
	_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, PollInterval: 25 * time.Hour})
	require.ErrorContains(t, err, "AuditTimeout or PollInterval is negative or longer than 24 hours")
	_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, LockTimeout: 24 * time.Hour, AuditTimeout: 24 * time.Hour})
	require.NoError(t, err)
	_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, LockTimeout: 24*time.Hour + 1})
	require.ErrorContains(t, err, "longer than 24 hours")
}

// Each of them gives a clear typed error, and nothing is changed.
func TestDatabasesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	databaseError := func(t *testing.T, err error, state, hint string) {
		t.Helper()
		require.ErrorIs(t, err, aiseed.ErrDatabase)
		var db *aiseed.DatabaseError
		require.ErrorAs(t, err, &db)
		require.Equal(t, state, db.SQLState)
		require.ErrorContains(t, err, hint)
		require.NotContains(t, err.Error(), "hunter2")
	}

	t.Run("read-only", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		before := f.State()
		f.Exec(`do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
		store, _ := f.Open()
		err := aiseed.SeedAIProvidersFromEnv(ctx, store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
		databaseError(t, err, "25006", "the database is read-only; connect to the primary")
		require.Equal(t, before, f.State())
		f.RequireIdle()
	})
	t.Run("a connection string that was badly encoded", func(t *testing.T) {
		t.Parallel()
		for _, dsn := range []string{"postgres://u:s3cr3tp@ss@127.0.0.1:1/app", "postgres://u:1/s3cr3tp@127.0.0.1:1/db?host=/nowhere", "host=u:s3cr3tp@127.0.0.1 port=1"} {
			pool, err := pgxpool.New(ctx, dsn)
			if err != nil {
				continue // not ours to report
			}
			_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true})
			pool.Close()
			databaseError(t, err, "", "cannot connect to ")
			require.NotContains(t, err.Error(), "s3cr3t")
			require.NotContains(t, err.Error(), "ss@")
		}
	})
	t.Run("a cancelled context, and no privileges", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		ended, cancel := context.WithTimeout(ctx, -time.Second)
		defer cancel()
		_, err := f.Store.Providers(ended)
		databaseError(t, err, "", "reading the providers: context deadline exceeded")
		require.ErrorIs(t, err, context.DeadlineExceeded)

		role := f.Role("nobody_of_")
		pool, options, _ := f.Connect(func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.ConnConfig.User = role })
		_, err = aiseed.Open(ctx, pool, options)
		databaseError(t, err, "42501", "the role lacks a privilege")
	})
}

// L8, F9: a role, a database or a connection string can set these, and none of them matters.
// make matrix runs all tests on a server with such settings.
func TestL8_SettingsOfTheSession(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]string{
		"where nothing of ours is on the path": {"search_path": "pg_temp"},
		"all the others": {
			"datestyle": "German", "timezone": "Asia/Kolkata", "intervalstyle": "iso_8601", "bytea_output": "escape", "standard_conforming_strings": "off",
			"extra_float_digits": "-3", "lc_messages": "C", "statement_timeout": "10min", "default_transaction_deferrable": "on",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { maps.Copy(c.ConnConfig.RuntimeParams, settings) })
			cfg := f.ParseEnviron(testkit.Environ(t, "testdata/gateway.env"))
			var start, end time.Time // by the server's clock
			f.Scan(`select clock_timestamp()`, &start)
			require.NoError(t, f.Seed(cfg))
			f.Scan(`select clock_timestamp()`, &end)
			require.NoError(t, f.Seed(cfg))
			require.Len(t, f.Audits.Entries(), 11)
			providers, err := f.Store.Providers(context.Background())
			require.NoError(t, err)
			require.Len(t, providers, 7)
			require.WithinRange(t, providers[0].CreatedAt, start, end)
		})
	}
	t.Run("but the encoding of the client", func(t *testing.T) {
		t.Parallel()
		config := aiseedtest.NewPool(t).Config().Copy()
		config.ConnConfig.RuntimeParams["client_encoding"] = "LATIN1"
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		require.NoError(t, err)
		defer pool.Close()
		_, err = aiseed.Open(context.Background(), pool, aiseed.StoreOptions{AllowPlaintext: true})
		require.ErrorIs(t, err, aiseed.ErrDatabase)
		require.ErrorContains(t, err, "the client_encoding of the connection is LATIN1; it has to be UTF8")
	})
}
