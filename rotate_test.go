package aiseed_test

import (
	"bytes"
	"context"
	"fmt"
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
	f.Rekey(1)
	cfg := f.seedMany(120)
	plain, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	old := f.keyIDs()

	f.Rekey(2, 1)
	report, err := f.Store.Rotate(ctx)
	require.NoError(t, err)
	require.Equal(t, 241, report.Changed)
	require.Equal(t, old, report.Revoked)
	require.Empty(t, report.Left)
	require.NotEqual(t, old, f.keyIDs())
	require.Equal(t, []string{old[0]}, f.Rows(`select id from ai_encryption_keys where revoked_at is not null`))

	f.Rekey(2)
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
	f.Rekey(1)
	f.seedMany(60)
	for n := 1; ; n++ {
		old, current := byte(n), byte(n+1)
		server := f.With(old, current) // the keyring of the running servers
		rotating := f.With(current, old)
		sent := 0
		cutContext, cancel := context.WithCancel(ctx)
		f.Wire.Reset(func([]byte) testkit.Action {
			if sent++; sent == n {
				cancel() // so that it is not retried, as if the process had ended
				return testkit.CutUnheard
			}
			return testkit.Pass
		})
		_, err := rotating.Rotate(cutContext)
		cancel()
		f.Wire.Reset(nil)

		providers, readErr := server.Providers(ctx)
		require.NoError(t, readErr, "after a cut at %d", n)
		require.Len(t, providers, 60)

		_, againErr := f.With(current, old).Rotate(ctx)
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
	f.Rekey(1)
	f.seedMany(150)
	reading := f.With(1, 2)
	f.Keyring = storetest.Keyring(t, 1, 2)
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
	f.Rekey(1)
	f.seedMany(3)
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4) where id = (select id from ai_provider_keys order by id limit 1)`)
	damaged := f.Rows(`select id::text from ai_provider_keys order by id limit 1`)[0]
	f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 9, 'plain' from ai_providers limit 1`)
	f.Rekey(2, 1)
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
	f.Rekey(1)
	f.seedMany(1)

	// A column of a later migration, which the code does not know.
	f.Exec(`create table ai_provider_webhooks (id uuid primary key, provider_id uuid not null references ai_providers (id), token text not null,
		token_key_id text references ai_encryption_keys (id))`)
	f.Exec(`insert into ai_provider_webhooks (id, provider_id, token, token_key_id)
		select '11111111-1111-4111-8111-111111111111', id, $1, $2 from ai_providers where name = 'p000'`,
		aiseed.SealFor(t, f.Keyring, "ai_provider_webhooks", "token", "11111111-1111-4111-8111-111111111111", f.Rows(`select id::text from ai_providers where name = 'p000'`)[0], "webhook-token"), f.keyIDs()[0])
	f.Rekey(2, 1)
	report, err := f.Store.Rotate(ctx)
	require.NoError(t, err)
	require.Equal(t, 4, report.Changed)
	require.Len(t, report.Revoked, 1)
	require.Equal(t, f.keyIDs(), f.Rows(`select token_key_id from ai_provider_webhooks`))
}

func TestS4_S6_O5_O6_SealAndUnsealEndWithNothingLeft(t *testing.T) {
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

	sealing := f.With(1)
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
	require.Equal(t, []string{"0 0"}, f.Rows(`select (select count(*) from ai_provider_keys where api_key_key_id is null), (select count(*) from ai_providers where settings is not null and settings_key_id is null)`))
	sealed, err := sealing.Providers(ctx)
	require.NoError(t, err)
	require.Equal(t, plain, sealed, "and nothing else changed")
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, sealing, cfg, f.Audits, f.Logs.Logger()))
	report, err = sealing.SealPlaintext(ctx)
	require.NoError(t, err)
	require.Zero(t, report.Changed, "a second time there is nothing to do")

	report, err = sealing.Unseal(ctx)
	require.NoError(t, err)
	require.Equal(t, 241, report.Changed)
	require.Equal(t, 241, report.Plaintext)
	require.Len(t, report.Revoked, 1)
	require.Equal(t, []string{"0"}, f.Rows(`select (select count(*) from ai_provider_keys where api_key_key_id is not null) + (select count(*) from ai_providers where settings_key_id is not null)`))
	again := f.Opened(f.Options)
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
	sealing := f.With(1)
	interrupted, cancel := context.WithCancel(ctx)
	seen := 0
	f.Wire.Reset(func(sent []byte) testkit.Action {
		if bytes.Contains(sent, []byte(`set "api_key"`)) {
			if seen++; seen == 2 {
				cancel()
				return testkit.CutBefore
			}
		}
		return testkit.Pass
	})
	report, err := sealing.SealPlaintext(interrupted)
	f.Wire.Reset(nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 100, report.Changed)
	rest, err := sealing.SealPlaintext(ctx)
	require.NoError(t, err)
	require.Equal(t, 141, rest.Changed)
}

func TestO5_RowsThatAPolicyHidesAreAnError(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Rekey(1)
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
	sealing := f.With(1)
	late := testkit.Once(testkit.Pass, `"ai_providers"`, func() { // after the keys were read
		f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select '00000000-0000-4000-8000-000000000000', id, 9, 'late' from ai_providers limit 1`)
	})
	f.Wire.Reset(late)
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
	f.Exec(`create schema other`)
	const key = "secret_key_id text references ai_encryption_keys (id)"
	for name, tt := range map[string]struct{ columns, index, problem string }{
		"a key of two columns":       {"id uuid primary key, provider_id uuid, secret text, secret_key_id text, canary text, foreign key (secret_key_id, canary) references ai_encryption_keys (id, canary)", "", "its foreign key has several columns"},
		"other characters than _":    {"id uuid primary key, provider_id uuid, secret text, secretxkeyxid text references ai_encryption_keys (id)", "", "its name does not end in _key_id"},
		"no value":                   {"id uuid primary key, provider_id uuid, " + key, "", "there is no column secret beside it"},
		"a value of another type":    {"id uuid primary key, provider_id uuid, secret bytea, " + key, "", "there is no column secret beside it"},
		"no id":                      {"key text primary key, provider_id uuid, secret text, " + key, "", "its table has no column id of type uuid"},
		"an id of another type":      {"id text primary key, provider_id uuid, secret text, " + key, "", "its table has no column id of type uuid"},
		"no provider":                {"id uuid primary key, secret text, " + key, "", "its table has no column provider_id of type uuid"},
		"a provider of another type": {"id uuid primary key, provider_id text, secret text, " + key, "", "its table has no column provider_id of type uuid"},
		"an index of some rows":      {"id uuid, provider_id uuid, secret text, " + key, "create unique index on odd (id) where provider_id is not null", "its table has no unique index on id alone"},
		"an index of more columns":   {"id uuid, provider_id uuid, secret text, " + key, "create unique index on odd (id, provider_id)", "its table has no unique index on id alone"},
		"an index that is not one":   {"id uuid, provider_id uuid, secret text, " + key, "create index on odd (id)", "its table has no unique index on id alone"},
		"another schema":             {"id uuid primary key, provider_id uuid, secret text, " + key, "alter table odd set schema other", "its table is in another schema"},
	} {
		f.Exec(`create table odd (` + tt.columns + `)`)
		if tt.index != "" {
			f.Exec(tt.index)
		}
		before := f.State()
		for _, store := range []*aiseed.Store{f.Store, escaping} {
			_, err := store.Rotate(ctx)
			require.ErrorIs(t, err, aiseed.ErrKeyring, name)
			require.ErrorContains(t, err, "odd.secret", name)
			require.ErrorContains(t, err, tt.problem, name)
			require.Equal(t, before, f.State(), name)
		}
		f.Exec(`drop table if exists odd, other.odd`)
	}
}

// A key is needed for as long as any column of any table has a value of it.
func TestO5_AKeyThatOneColumnNeedsIsNotRevoked(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Rekey(1)
	f.Seeded("OPENAI_KEY=key", "BEDROCK_REGION=r")
	f.Exec(`update ai_providers set settings = left(settings, -4) where settings is not null`)
	f.Rekey(2, 1)
	for range 2 {
		report, err := f.Store.Rotate(ctx)
		require.ErrorIs(t, err, aiseed.ErrUndecryptable)
		require.Len(t, report.Left, 1, "once, however often it was looked at")
		require.Empty(t, report.Revoked)
	}
	require.Len(t, f.Rows(`select id from ai_encryption_keys where revoked_at is null`), 2)
}

func TestO5_LostConnectionsAreAsInASeed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Rekey(0)
	f.Seeded("OPENAI_KEY=key")
	for i, at := range []string{`for update`, `set "api_key"`, "set revoked_at = now()"} {
		old := f.keyIDs()
		rotating := f.With(byte(i+1), byte(i))
		f.Wire.Reset(testkit.Once(testkit.CutBefore, at))
		report, err := rotating.Rotate(ctx)
		require.NoError(t, err, at)
		require.Equal(t, aiseed.RotateResult{Changed: 1, Revoked: old}, report, at)
	}
}
