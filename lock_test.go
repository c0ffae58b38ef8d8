package aiseed_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

func TestL1_AnotherSchemaDoesNotBlock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Hold("other")
	f.Seeded("OPENAI_KEY=key")
}

func TestL1_AllWritesHoldTheLockInOneTransaction(t *testing.T) {
	t.Parallel()
	f := setup(t)
	// The trigger sees what the transaction of each insert holds.
	f.Exec(`create table witness (transaction xid8, locked bool)`)
	f.Exec(`create function witness() returns trigger language plpgsql as $$ begin
		insert into witness select pg_current_xact_id(), exists (select from pg_locks where locktype = 'advisory' and granted and mode = 'ExclusiveLock'
			and pid = pg_backend_pid() and (classid::bigint << 32 | objid::bigint) = ` + fmt.Sprint(aiseed.LockKey("public")) + `);
		return new; end $$`)
	for _, table := range []string{"ai_providers", "ai_provider_keys", "ai_encryption_keys"} {
		f.Exec(`create trigger witness before insert on ` + table + ` for each row execute function witness()`)
	}
	f.Exec(`create trigger witness before insert on ai_provider_audits for each row execute function witness()`)
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	require.Equal(t, []string{"1 true 9"}, f.Rows(`select count(distinct transaction), bool_and(locked), count(*) from witness`))
}

func TestL2_ReadCommittedWhateverTheDefault(t *testing.T) {
	t.Parallel()
	f := setup(t, func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	})
	holder := f.Hold("public")

	// By now the waiter has read without the lock, and waits for it.
	done := make(chan error, 1)
	f.Wire.Reset(nil)
	cfg := f.Parse("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	go func() { done <- f.Seed(cfg) }()
	f.WaitForWaiters(1)
	_, err := holder.Exec(context.Background(), `insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://api.openai.com/v1/')`)
	require.NoError(t, err)
	_, err = holder.Exec(context.Background(), "commit")
	require.NoError(t, err)

	require.NoError(t, testkit.Awaited(t, done))
	require.Equal(t, []string{"anthropic 1", "openai 0"}, f.Rows(`select name, (select count(*) from ai_provider_keys where provider_id = p.id) from ai_providers p order by name`))
	n, _ := f.Wire.Count()
	require.LessOrEqual(t, n, 5, "what the holder committed is seen at once, without a failed attempt")
}

func TestL3_LockTimeoutNamesKeyAndHolder(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.LockTimeout(50*time.Millisecond))
	before := f.State()
	holder := f.Hold("public")
	err := f.Seed(f.Parse("OPENAI_KEY=key"))
	require.ErrorIs(t, err, aiseed.ErrLockTimeout)
	var timeout *aiseed.LockTimeoutError
	require.ErrorAs(t, err, &timeout)
	require.Equal(t, aiseed.LockKey("public"), timeout.Key)
	require.NotNil(t, timeout.Holder)
	require.EqualValues(t, holder.PgConn().PID(), timeout.Holder.PID)
	require.Equal(t, "the holder", timeout.Holder.ApplicationName)
	var since time.Time
	var address string // empty over a Unix socket
	f.Scan(fmt.Sprintf(`select xact_start, coalesce(host(client_addr), '') from pg_stat_activity where pid = %d`, timeout.Holder.PID), &since, &address)
	require.True(t, since.Equal(timeout.Holder.Since))
	require.Equal(t, address, timeout.Holder.ClientAddr)
	from := ""
	if address != "" {
		from = "from " + address + ", "
	}
	require.ErrorContains(t, err, fmt.Sprintf("waited 50ms for advisory lock %d", timeout.Key))
	require.ErrorContains(t, err, fmt.Sprintf(`Holder: pid %d, application "the holder", %ssince `, timeout.Holder.PID, from))
	require.ErrorContains(t, err, "select pg_terminate_backend(")
	require.Equal(t, before, f.State())
	require.NoError(t, holder.Close(context.Background()))
	f.RequireIdle()
	storetest.SetLockTimeout(f.Store, testkit.Patience) // a commit can wait for those of other tests, which notify too
	require.NoError(t, f.Seed(f.Parse("OPENAI_KEY=key")), "the same store goes on")
}

func TestL3_WaiterIsNotTakenForTheHolder(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.LockTimeout(50*time.Millisecond))
	holder := f.Hold("public")
	ctx, cancel := context.WithCancel(context.Background())
	var waiters sync.WaitGroup
	for range 8 { // so many that one of them would probably be named by mistake
		conn, err := pgx.ConnectConfig(ctx, f.Pool.Config().ConnConfig)
		require.NoError(t, err)
		waiters.Go(func() {
			_, _ = conn.Exec(ctx, "select pg_advisory_xact_lock($1)", aiseed.LockKey("public"))
			_ = conn.Close(context.Background())
			<-conn.PgConn().CleanupDone()
		})
	}
	defer waiters.Wait()
	defer cancel()
	f.WaitForWaiters(8)
	var timeout *aiseed.LockTimeoutError
	require.ErrorAs(t, f.Seed(f.Parse("OPENAI_KEY=key")), &timeout)
	require.NotNil(t, timeout.Holder)
	require.EqualValues(t, holder.PgConn().PID(), timeout.Holder.PID)
}

// We held the advisory lock by then. We could not get a lock on the table, so the error
// must not ask to end a holder of the advisory lock.
func TestL3_AnotherLockIsNotTakenForTheAdvisoryOne(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.LockTimeout(50*time.Millisecond))
	tx, err := f.Pool.Begin(context.Background())
	require.NoError(t, err)
	f.Wire.Reset(testkit.Once(testkit.Pass, "pg_advisory_xact_lock", func() {
		_, err := tx.Exec(context.Background(), `lock table ai_providers`)
		require.NoError(t, err)
	}))
	err = f.Seed(f.Parse("OPENAI_KEY=key"))
	require.NoError(t, tx.Rollback(context.Background()))
	require.NotErrorIs(t, err, aiseed.ErrLockTimeout)
	require.ErrorContains(t, err, "SQLSTATE 55P03: another transaction holds a lock on these rows")
}

// For the server, a timeout of 0 means no timeout.
func TestL3_TinyLockTimeoutIsNotForEver(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.LockTimeout(time.Microsecond))
	f.Hold("public")
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	err := aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
	require.ErrorIs(t, err, aiseed.ErrLockTimeout)
}

func TestL3_TimeoutsAsTheServerIsToldThem(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.AuditTimeout(0))
	for name, tt := range map[string]struct {
		lockTimeout time.Duration
		lock, idle  string // in milliseconds
	}{
		"the defaults":                          {0, "30000", "15000"},
		"a silent holder has a second at least": {10 * time.Millisecond, "10", "1000"},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Options.LockTimeout = tt.lockTimeout
			f.Store = f.Opened(f.Options)
			f.Wire.Reset(nil)
			// Only what the server is told matters: on a busy machine a second can be too
			// short for the rest of a seed.
			_ = f.Seed(f.Parse("OPENAI_KEY=key"))
			_, _ = f.Store.DeliverAudits(context.Background(), f.Audits)
			_, sent := f.Wire.Count()
			parameters := func(lock, idle string) string { // as in a Bind message: each after its length
				return fmt.Sprintf("\x00\x02\x00\x00\x00%c%s\x00\x00\x00%c%s", len(lock), lock, len(idle), idle)
			}
			require.Contains(t, sent, parameters(tt.lock, tt.idle), "of the seed")
			deliver := fmt.Sprint((10*time.Second + 2*storetest.CleanupTimeout).Milliseconds())
			require.Contains(t, sent, parameters(tt.lock, deliver), "of the delivery of audits")
		})
	}
}

func TestL3_HolderOfAnotherRoleShowsWhatTheServerShows(t *testing.T) {
	t.Parallel()
	f := setup(t)
	role := f.Role("role_of_")
	f.Exec(fmt.Sprintf(storetest.GrantTables, role))
	store, _ := f.Open(storetest.LockTimeout(50*time.Millisecond), func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.ConnConfig.User = role })
	f.Hold("public")
	err := aiseed.SeedAIProvidersFromEnv(context.Background(), store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
	var timeout *aiseed.LockTimeoutError
	require.ErrorAs(t, err, &timeout)
	require.NotNil(t, timeout.Holder)
	require.NotZero(t, timeout.Holder.PID)
}

func TestL3_SilentHolderIsEndedByTheServer(t *testing.T) {
	t.Parallel()
	f := setup(t)
	// This store takes the lock as a seed does, and then sends nothing: the wire stops
	// there, like a stopped process.
	silent, w := f.Open(storetest.LockTimeout(time.Second))
	stop, stopped := make(chan struct{}), make(chan struct{})
	w.Reset(testkit.Once(testkit.Pass, "insert into", func() { close(stopped); <-stop }))
	wakeUp := sync.OnceFunc(func() { close(stop) })
	defer wakeUp()
	done := make(chan error, 1)
	cfg := f.Parse("OPENAI_KEY=key")
	go func() {
		done <- aiseed.SeedAIProvidersFromEnv(context.Background(), silent, cfg, f.Audits, slog.Logger{})
	}()
	testkit.Awaited(t, stopped)
	require.NoError(t, f.Seed(cfg), "gets through once the server ended the silent one")
	wakeUp()
	if err := testkit.Awaited(t, done); err != nil {
		// Its time of one second ends before it can ask. The next test gives it enough time.
		require.ErrorIs(t, err, aiseed.ErrCommitUnknown)
	}
	require.Len(t, f.Rows(`select id from ai_providers`), 1)
	require.Len(t, f.Audits.Entries(), 2)
}

func TestL3_HolderThatWasEndedFindsItsWorkDone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	silent, w := f.Open()
	cfg := f.Parse("OPENAI_KEY=key")
	w.Reset(testkit.Once(testkit.Pass, "insert into", func() {
		f.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`)
		assert.NoError(t, f.Seed(cfg))
	}))
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(context.Background(), silent, cfg, f.Audits, slog.Logger{}))
	require.Len(t, f.Rows(`select id from ai_providers`), 1)
	require.Len(t, f.Audits.Entries(), 2)
}

func TestL4_CorrectWithoutTheLock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.CreateNoLock()
	cfg := f.ParseEnviron(testkit.Environ(t, "testdata/gateway.env"))
	stores := make([]*aiseed.Store, 8)
	for i := range stores {
		stores[i], _ = f.Open(storetest.WithoutLock)
	}
	var all sync.WaitGroup
	for _, store := range stores {
		all.Go(func() {
			assert.NoError(t, aiseed.SeedAIProvidersFromEnv(context.Background(), store, cfg, f.Audits, slog.Logger{}))
		})
	}
	all.Wait()
	require.Equal(t, []string{"7 7 4"}, f.Rows(`select count(*), count(distinct name), (select count(*) from ai_provider_keys) from ai_providers`))
	require.Equal(t, []string{"11"}, f.Rows(`select count(*) from ai_provider_audits`))
}

func TestL4_RowThatAppearsBetweenReadAndInsertIsReadAgain(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Parse("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	f.Wire.Reset(testkit.Once(testkit.Pass, "insert into", func() {
		f.Exec(`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://api.openai.com/v1/')`)
	}))
	require.NoError(t, f.Seed(cfg))
	require.Equal(t, []string{"anthropic", "openai"}, f.Rows(`select name from ai_providers order by name`))
	require.Equal(t, []string{"anthropic", "anthropic"}, f.Rows(`select provider_name from ai_provider_audits`), "what was rolled back left no audit")

	f = f.emptied(t)
	f.Wire.Reset(testkit.Once(testkit.Pass, "insert into", func() {
		f.Exec(`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://other/')`)
	}))
	require.ErrorIs(t, f.Seed(cfg), aiseed.ErrDrift, "and decided again")
	require.Equal(t, []string{"openai"}, f.Rows(`select name from ai_providers order by name`))
}

func TestL7_CancelledContextLeavesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, text := range map[string]string{
		"while it reads":   "json_array_elements_text",
		"while it locks":   "pg_advisory_xact_lock",
		"before it begins": "",
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			before := f.State()
			ctx, cancel := context.WithCancel(context.Background())
			if text == "" {
				cancel()
			}
			f.Wire.Reset(f.Wire.OnceWritten(testkit.Pass, text, cancel))
			err := aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, before, f.State())
			f.RequireIdle()
		})
	}
}

func TestL7_CancelledWaiterReturnsAndLeavesTheQueue(t *testing.T) {
	t.Parallel()
	f := setup(t)
	holder := f.Hold("public")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cfg := f.Parse("OPENAI_KEY=key")
	go func() { done <- aiseed.SeedAIProvidersFromEnv(ctx, f.Store, cfg, f.Audits, slog.Logger{}) }()
	f.WaitForWaiters(1)
	cancel()
	require.ErrorIs(t, testkit.Awaited(t, done), context.Canceled, "although the lock is still held")
	require.NoError(t, holder.Close(context.Background()))
	f.RequireIdle()
	require.Empty(t, f.Rows(`select id from ai_providers`))
}

// The test reads the setting in place of waiting: a timeout that is short enough to end
// the wait soon could end an earlier statement on a busy machine.
func TestL3_TimeoutsOfTheRoleDoNotEndTheWait(t *testing.T) {
	t.Parallel()
	f := setup(t)
	timeouts := f.Rows(`select name from pg_settings where name in ('statement_timeout', 'transaction_timeout') order by name`)
	f.Exec(`create schema nolock; create table seen (name text, value text)`)
	f.Exec(`create function nolock.pg_advisory_xact_lock(bigint) returns void language sql as $$
		insert into public.seen select name, setting from pg_settings where name in ('statement_timeout', 'transaction_timeout') order by name;
		select pg_catalog.pg_advisory_xact_lock($1) $$`)
	store, w := f.Open(storetest.WithoutLock, func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		for _, name := range timeouts {
			c.ConnConfig.RuntimeParams[name] = "10min"
		}
	})
	w.Reset(nil)
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(context.Background(), store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{}))
	require.NotEmpty(t, timeouts)
	for i, name := range timeouts {
		timeouts[i] = name + " 0"
	}
	require.Equal(t, timeouts, f.Rows(`select name, value from seen`))
	_, sent := w.Count()
	require.Contains(t, sent, "\x00select pg_advisory_xact_lock($1)\x00", "a statement of its own: one that has begun keeps its timeout")
}

// Behind a proxy the next client gets the same session.
func TestL8_NoSettingStaysOnTheConnection(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	config := aiseedtest.NewPool(t).Config().Copy()
	config.MaxConns = 1
	config.ConnConfig.RuntimeParams["statement_timeout"] = "10min" // another value than a transaction sets
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	defer pool.Close()
	settings := func() (s string) {
		require.NoError(t, pool.QueryRow(ctx, `select string_agg(name || '=' || setting, E'\n' order by name) from pg_settings where source = 'session'
			or name in ('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout', 'search_path')`).Scan(&s))
		return s
	}
	before := settings()
	require.Contains(t, before, "lock_timeout")
	cfg, err := aiseed.ParseEnviron(ctx, testkit.Environ(t, "testdata/gateway.env"), slog.Logger{})
	require.NoError(t, err)
	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, Schema: "fresh", Migrate: true})
	require.NoError(t, err)
	require.Equal(t, before, settings(), "after a migration")
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, aiseed.DiscardAudits, slog.Logger{}))
	require.Equal(t, before, settings(), "after a seed")
	store, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: aiseedtest.NewKeyring(t), Schema: "fresh"})
	require.NoError(t, err)
	_, err = store.SealPlaintext(ctx)
	require.NoError(t, err)
	require.Equal(t, before, settings(), "after sealing")
}

func TestL7_NothingIsLeftAtTheMomentOfReturn(t *testing.T) {
	t.Parallel()
	var n, dials atomic.Int64
	f := setup(t, refusing(&n, &dials))
	f.Wire.Reset(testkit.Once(testkit.Pass, "pg_advisory_xact_lock", func() {
		f.Exec(`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://other/')`)
		dials.Store(0)
	}))
	require.ErrorIs(t, f.Seed(f.Parse("OPENAI_KEY=key")), aiseed.ErrDrift)
	require.Empty(t, f.Rows(storetest.LeftOver), "asked once, not until it is true")
	_, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	require.Zero(t, dials.Load(), "the connection was good, and is used again")
}
