package aiseed_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// seedMany seeds a tombstone, and providers with keys and settings: more than fit into one
// transaction of a rotation.
func (f *fixture) seedMany(n int) aiseed.Config {
	f.T.Helper()
	lines := []string{"BEDROCK_REGION=r", "BEDROCK_ACCESS_KEY=access", "BEDROCK_ACCESS_KEY_SECRET=secret"}
	for i := range n {
		lines = append(lines, fmt.Sprintf("PROVIDER_%d_TYPE=openai", i), fmt.Sprintf("PROVIDER_%d_NAME=p%03d", i, i), fmt.Sprintf("PROVIDER_%d_KEYS=secret-a-%d,secret-b-%d", i, i, i))
	}
	cfg := f.Seeded(lines...)
	f.Exec(`update ai_providers set deleted = true where name = 'p001'`)
	return cfg
}

func (f *fixture) keyIDs() []string {
	f.T.Helper()
	return f.Rows(`select distinct key_id from (select api_key_key_id from ai_provider_keys union all select settings_key_id from ai_providers where settings is not null) k (key_id) order by 1`)
}

func TestO5_RotationIsCompleteAndRevokesTheOldKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Keyring = storetest.Keyring(t, 1)
	f.Store, _ = f.Open()
	cfg := f.seedMany(120)
	plain, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	old := f.keyIDs()

	f.Keyring = storetest.Keyring(t, 2, 1)
	f.Store, _ = f.Open()
	report, err := f.Store.Rotate(ctx)
	require.NoError(t, err)
	require.Equal(t, 241, report.Changed)
	require.Equal(t, old, report.Revoked)
	require.Empty(t, report.Left)
	require.NotEqual(t, old, f.keyIDs())
	require.Equal(t, []string{old[0]}, f.Rows(`select id from ai_encryption_keys where revoked_at is not null`))

	f.Keyring = storetest.Keyring(t, 2)
	f.Store, _ = f.Open()
	rotated, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	require.Equal(t, plain, rotated, "and nothing else changed")
	require.NoError(t, f.Seed(cfg))
	before := f.State()
	report, err = f.Store.Rotate(ctx)
	require.NoError(t, err)
	require.Equal(t, aiseed.RotateResult{}, report)
	require.Equal(t, before, f.State(), "a second time there is nothing to do")
}

// A rotation is cut at each round trip, and run again. The keyring of the servers can
// decrypt every value at every moment.
func TestO5_RotationThatIsCutConverges(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Keyring = storetest.Keyring(t, 1)
	f.Store, _ = f.Open()
	f.seedMany(60)
	shared, options, _ := f.Connect()
	open := func(keys ...byte) *aiseed.Store {
		options.Keyring = storetest.Keyring(t, keys...)
		store, err := aiseed.Open(ctx, shared, options)
		require.NoError(t, err)
		return store
	}
	for n := 1; ; n++ {
		old, current := byte(n), byte(n+1)
		server := open(old, current) // the keyring of the running servers
		f.Keyring = storetest.Keyring(t, current, old)
		rotating, w := f.Open()
		sent := 0
		cutContext, cancel := context.WithCancel(ctx)
		w.Reset(func([]byte) testkit.Action {
			if sent++; sent == n {
				cancel() // so that it is not retried, as if the process had ended
				return testkit.CutUnheard
			}
			return testkit.Pass
		})
		_, err := rotating.Rotate(cutContext)
		cancel()

		providers, readErr := server.Providers(ctx)
		require.NoError(t, readErr, "after a cut at %d", n)
		require.Len(t, providers, 60)

		_, againErr := open(current, old).Rotate(ctx)
		require.NoError(t, againErr)
		require.Len(t, f.keyIDs(), 1)
		if err == nil {
			require.Greater(t, n, 5)
			return
		}
	}
}

func TestO5_ReadersAndWritersGoOnMeanwhile(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f := setup(t)
	f.Keyring = storetest.Keyring(t, 1)
	f.Store, _ = f.Open()
	f.seedMany(150)
	f.Keyring = storetest.Keyring(t, 1, 2)
	reading, _ := f.Open()
	writing, _ := f.Open() // the writers that wait for the lock take every connection of their pool
	f.Keyring = storetest.Keyring(t, 2, 1)
	rotating, w := f.Open()

	var all sync.WaitGroup
	reads := make(chan struct{})
	all.Go(func() {
		for ctx.Err() == nil {
			providers, err := reading.Providers(context.Background())
			assert.NoError(t, err)
			assert.GreaterOrEqual(t, len(providers), 150)
			select {
			case reads <- struct{}{}:
			default:
			}
		}
	})
	var meanwhile atomic.Bool
	w.Reset(testkit.Once(testkit.Pass, `set "api_key"`, func() {
		for range 2 { // the first one may have begun before
			select {
			case <-reads:
			case <-time.After(testkit.Patience):
				return
			}
		}
		meanwhile.Store(true)
	}))
	for i := range 10 { // servers that still seal with the old key
		cfg := f.Parse("PROVIDER_0_TYPE=openai", fmt.Sprintf("PROVIDER_0_NAME=new-%d", i), "PROVIDER_0_KEY=key")
		all.Go(func() {
			err := aiseed.SeedAIProvidersFromEnv(context.Background(), writing, cfg, aiseed.DiscardAudits, f.Logs.Logger())
			if err != nil { // the rotation is over
				assert.ErrorIs(t, err, aiseed.ErrKeyring)
			}
		})
	}
	_, err := rotating.Rotate(context.Background())
	require.NoError(t, err)
	cancel()
	all.Wait()
	require.True(t, meanwhile.Load(), "a read from beginning to end while the rotation has its locks")
	_, err = rotating.Rotate(context.Background())
	require.NoError(t, err)
	require.Len(t, f.keyIDs(), 1)
	require.Len(t, f.Rows(`select id from ai_encryption_keys where revoked_at is null`), 1)
}

func TestO5_ValuesThatDoNotOpenAreReportedAndLeft(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Keyring = storetest.Keyring(t, 1)
	f.Store, _ = f.Open()
	f.seedMany(3)
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4) where id = (select id from ai_provider_keys order by id limit 1)`)
	damaged := f.Rows(`select id::text from ai_provider_keys order by id limit 1`)[0]
	f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 9, 'plain' from ai_providers limit 1`)
	f.Keyring = storetest.Keyring(t, 2, 1)
	f.Store, _ = f.Open()
	report, err := f.Store.Rotate(ctx)
	require.ErrorIs(t, err, aiseed.ErrUndecryptable)
	require.Len(t, report.Left, 1)
	require.Equal(t, damaged, report.Left[0].RowID.String())
	require.Equal(t, 6, report.Changed, "the others are done")
	require.Equal(t, 1, report.Plaintext, "and counted, though one is left")
	require.Empty(t, report.Revoked, "a row still needs the key")
}

func TestO5_ColumnsAreFoundByTheirForeignKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Keyring = storetest.Keyring(t, 1)
	f.Store, _ = f.Open()
	f.seedMany(1)

	// A column of a later migration, which the code does not know.
	f.Exec(`create table ai_provider_webhooks (id uuid primary key, provider_id uuid not null references ai_providers (id), token text not null,
		token_key_id text references ai_encryption_keys (id))`)
	f.Exec(`insert into ai_provider_webhooks (id, provider_id, token, token_key_id)
		select '11111111-1111-4111-8111-111111111111', id, $1, $2 from ai_providers where name = 'p000'`,
		aiseed.SealFor(t, f.Keyring, "ai_provider_webhooks", "token", "11111111-1111-4111-8111-111111111111", f.Rows(`select id::text from ai_providers where name = 'p000'`)[0], "webhook-token"), f.keyIDs()[0])
	f.Keyring = storetest.Keyring(t, 2, 1)
	f.Store, _ = f.Open()
	report, err := f.Store.Rotate(ctx)
	require.NoError(t, err)
	require.Equal(t, 4, report.Changed)
	require.Len(t, report.Revoked, 1)
	require.Equal(t, f.keyIDs(), f.Rows(`select token_key_id from ai_provider_webhooks`))

	// A column that it cannot handle is named in the error, and nothing is changed.
	for name, tt := range map[string]struct{ column, problem string }{
		"another name":       {"sealed_by text references ai_encryption_keys (id)", "its name does not end in _key_id"},
		"no value beside it": {"secret_key_id text references ai_encryption_keys (id)", "there is no column secret beside it"},
	} {
		t.Run(name, func(t *testing.T) {
			f.Exec(`create table odd (id uuid primary key, provider_id uuid, ` + tt.column + `)`)
			defer f.Exec(`drop table odd`)
			before := f.State()
			_, err := f.Store.Rotate(ctx)
			require.ErrorIs(t, err, aiseed.ErrKeyring)
			require.ErrorContains(t, err, "odd."+strings.Fields(tt.column)[0])
			require.ErrorContains(t, err, tt.problem)
			require.Equal(t, before, f.State())
		})
	}
	for name, tt := range map[string]struct{ table, problem string }{
		"no id":       {"key text primary key, provider_id uuid, secret text", "its table has no column id of type uuid"},
		"no provider": {"id uuid primary key, secret text", "its table has no column provider_id of type uuid"},
	} {
		t.Run(name, func(t *testing.T) {
			f.Exec(`create table odd (` + tt.table + `, secret_key_id text references ai_encryption_keys (id))`)
			defer f.Exec(`drop table odd`)
			_, err := f.Store.Rotate(ctx)
			require.ErrorContains(t, err, tt.problem)
		})
	}
}

func TestS4_O5_O6_SealAndUnsealEndWithNothingLeft(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, storetest.Plaintext)
	cfg := f.seedMany(120)
	plain, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	for name, reseal := range map[string]func(context.Context) (aiseed.RotateResult, error){"Rotate": f.Store.Rotate, "SealPlaintext": f.Store.SealPlaintext, "Unseal": f.Store.Unseal} {
		_, err = reseal(ctx)
		require.ErrorIs(t, err, aiseed.ErrKeyring, name)
	}

	sealing, _ := f.Open()
	_, err = sealing.Providers(ctx)
	require.ErrorIs(t, err, aiseed.ErrPlaintext)
	report, err := sealing.Rotate(ctx)
	require.NoError(t, err)
	require.Equal(t, aiseed.RotateResult{Plaintext: 241}, report, "rotation does not touch plaintext")
	require.Len(t, f.Rows(`select id from ai_encryption_keys where revoked_at is null`), 1, "and registers its key, though it sealed nothing")
	report, err = sealing.SealPlaintext(ctx)
	require.NoError(t, err)
	require.Equal(t, aiseed.RotateResult{Changed: 241}, report)
	require.NotContains(t, f.State(), "secret-")
	sealed, err := sealing.Providers(ctx)
	require.NoError(t, err)
	require.Equal(t, plain, sealed)

	report, err = sealing.Unseal(ctx)
	require.NoError(t, err)
	require.Equal(t, 241, report.Changed)
	require.Equal(t, 241, report.Plaintext)
	require.Len(t, report.Revoked, 1)
	require.Equal(t, []string{"0"}, f.Rows(`select (select count(*) from ai_provider_keys where api_key_key_id is not null) + (select count(*) from ai_providers where settings_key_id is not null)`))
	again, _ := f.Open(storetest.Plaintext)
	unsealed, err := again.Providers(ctx)
	require.NoError(t, err)
	require.Equal(t, plain, unsealed)
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, again, cfg, f.Audits, f.Logs.Logger()))
}

func TestO6_SealingIsInterruptedAndGoesOn(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, storetest.Plaintext)
	f.seedMany(120)
	sealing, w := f.Open()
	interrupted, cancel := context.WithCancel(ctx)
	seen := 0
	w.Reset(func(sent []byte) testkit.Action {
		if bytes.Contains(sent, []byte(`set "api_key"`)) {
			if seen++; seen == 2 {
				cancel()
				return testkit.CutBefore
			}
		}
		return testkit.Pass
	})
	report, err := sealing.SealPlaintext(interrupted)
	w.Reset(nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 100, report.Changed)
	rest, err := sealing.SealPlaintext(ctx)
	require.NoError(t, err)
	require.Equal(t, 141, rest.Changed)
}

func TestO5_AmbiguousRowsAndForeignSchemasAreRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.seedMany(1)
	f.Exec(`create schema other`)
	for table, tt := range map[string]struct{ columns, problem string }{
		"history":     {"id uuid, version int, provider_id uuid, token text, token_key_id text references ai_encryption_keys (id), primary key (id, version)", "its table has no unique index on id alone"},
		"other.hooks": {"id uuid primary key, provider_id uuid, token text, token_key_id text references ai_encryption_keys (id)", "its table is in another schema"},
	} {
		f.Exec(`create table ` + table + ` (` + tt.columns + `)`)
		before := f.State()
		_, err := f.Store.Rotate(ctx)
		require.ErrorIs(t, err, aiseed.ErrKeyring, table)
		require.ErrorContains(t, err, tt.problem)
		require.Equal(t, before, f.State())
		f.Exec(`drop table ` + table)
	}
}

func TestO5_RowsThatAPolicyHidesAreAnError(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Keyring = storetest.Keyring(t, 1)
	f.Store, _ = f.Open()
	f.seedMany(2)
	role := f.Role("rls_of_")
	f.Exec(fmt.Sprintf(storetest.GrantTables, role))
	f.Keyring = storetest.Keyring(t, 2, 1)
	store, _ := f.Open(func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.ConnConfig.User = role })
	f.Exec(`alter table ai_provider_keys enable row level security`)
	f.Exec(`create policy partial on ai_provider_keys using (position = 0)`)
	report, err := store.Rotate(ctx)
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	require.Empty(t, report.Revoked)
}

func TestO6_PlaintextBehindTheCursorIsSealedToo(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, storetest.Plaintext)
	f.seedMany(1)
	sealing, w := f.Open()
	late := testkit.Once(testkit.Pass, `"ai_providers"`, func() { // after the keys were read
		f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select '00000000-0000-4000-8000-000000000000', id, 9, 'late' from ai_providers limit 1`)
	})
	w.Reset(late)
	_, err := sealing.SealPlaintext(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"0"}, f.Rows(`select count(*) from ai_provider_keys where api_key_key_id is null`))
}

// O5, F9: also where a string means something else.
func TestO5_WhatOnlyLooksLikeASealedColumnIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.seedMany(1)
	// Where a backslash in a string escapes.
	escaping, _ := f.Open(func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["standard_conforming_strings"] = "off"
	})
	f.Exec(`alter table ai_encryption_keys add unique (id, canary)`)
	const key = "secret_key_id text references ai_encryption_keys (id)"
	for name, tt := range map[string]struct{ columns, index, problem string }{
		"a key of two columns":       {"id uuid primary key, provider_id uuid, secret text, secret_key_id text, canary text, foreign key (secret_key_id, canary) references ai_encryption_keys (id, canary)", "", "its foreign key has several columns"},
		"other characters than _":    {"id uuid primary key, provider_id uuid, secret text, secretxkeyxid text references ai_encryption_keys (id)", "", "its name does not end in _key_id"},
		"a value of another type":    {"id uuid primary key, provider_id uuid, secret bytea, " + key, "", "there is no column secret beside it"},
		"an id of another type":      {"id text primary key, provider_id uuid, secret text, " + key, "", "its table has no column id of type uuid"},
		"a provider of another type": {"id uuid primary key, provider_id text, secret text, " + key, "", "its table has no column provider_id of type uuid"},
		"an index of some rows":      {"id uuid, provider_id uuid, secret text, " + key, "create unique index on odd (id) where provider_id is not null", "its table has no unique index on id alone"},
		"an index of more columns":   {"id uuid, provider_id uuid, secret text, " + key, "create unique index on odd (id, provider_id)", "its table has no unique index on id alone"},
		"an index that is not one":   {"id uuid, provider_id uuid, secret text, " + key, "create index on odd (id)", "its table has no unique index on id alone"},
	} {
		f.Exec(`create table odd (` + tt.columns + `)`)
		if tt.index != "" {
			f.Exec(tt.index)
		}
		before := f.State()
		for _, store := range []*aiseed.Store{f.Store, escaping} {
			_, err := store.Rotate(ctx)
			require.ErrorIs(t, err, aiseed.ErrKeyring, name)
			require.ErrorContains(t, err, tt.problem, name)
			require.Equal(t, before, f.State(), name)
		}
		f.Exec(`drop table odd`)
	}
}

// A key is needed for as long as any column of any table has a value of it.
func TestO5_AKeyThatOneColumnNeedsIsNotRevoked(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, damage := range map[string]string{
		"a key":    `update ai_provider_keys set api_key = left(api_key, -4) where position = 0`,
		"settings": `update ai_providers set settings = left(settings, -4) where settings is not null`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.Keyring = storetest.Keyring(t, 1)
			f.Store, _ = f.Open()
			f.Seeded("OPENAI_KEY=key", "BEDROCK_REGION=r")
			f.Exec(damage)
			f.Keyring = storetest.Keyring(t, 2, 1)
			f.Store, _ = f.Open()
			for range 2 {
				report, err := f.Store.Rotate(ctx)
				require.ErrorIs(t, err, aiseed.ErrUndecryptable)
				require.Len(t, report.Left, 1, "once, however often it was looked at")
				require.Empty(t, report.Revoked)
			}
			require.Len(t, f.Rows(`select id from ai_encryption_keys where revoked_at is null`), 2)
		})
	}
}

func TestO5_LostConnectionsAreAsInASeed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, at := range map[string]string{"a value": `for update`, "its rewriting": `set "api_key"`, "the revocation": "set revoked_at = now()"} {
		f := setup(t)
		f.Keyring = storetest.Keyring(t, 1)
		f.Store, _ = f.Open()
		f.Seeded("OPENAI_KEY=key")
		old := f.keyIDs()
		f.Keyring = storetest.Keyring(t, 2, 1)
		rotating, w := f.Open()
		w.Reset(testkit.Once(testkit.CutBefore, at))
		report, err := rotating.Rotate(ctx)
		require.NoError(t, err, name)
		require.Equal(t, aiseed.RotateResult{Changed: 1, Revoked: old}, report, name)
	}
}
