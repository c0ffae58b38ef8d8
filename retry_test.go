package aiseed_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// failing makes the first n inserts of providers fail, with each SQLSTATE in turn.
func (f *fixture) failing(n int, states ...string) {
	f.Exec(`create sequence failures minvalue 0`)
	f.Exec(fmt.Sprintf(`create function fail() returns trigger language plpgsql as $$ declare n int = nextval('failures'); begin
		if n < %d then raise exception 'injected' using errcode = ('{%s}'::text[])[n %% %d + 1], constraint = 'ai_providers_live_name_key'; end if;
		return new; end $$`, n, strings.Join(states, ","), len(states)))
	f.Exec(`create trigger fail before insert on ai_providers for each statement execute function fail()`)
}

func TestL5_TransientFailuresAreRetried(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.failing(3, "40001", "40P01", "23505") // the last one as if another process took the name
	f.Seeded("OPENAI_KEY=key")
	require.Equal(t, []string{"1"}, f.Rows(`select count(*) from ai_providers`))
	require.Equal(t, []string{"2"}, f.Rows(`select count(*) from ai_provider_audits`))
	f.RequireIdle()
}

func TestL5_RetriesAreBounded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.failing(1000, "40001")
	err := f.Seed(f.Parse("OPENAI_KEY=key"))
	var db *aiseed.DatabaseError
	require.ErrorAs(t, err, &db)
	require.Equal(t, "40001", db.SQLState)
	require.Equal(t, []string{"8"}, f.Rows(`select last_value + 1 from failures`))

	ctx, cancel := context.WithCancel(context.Background())
	f.Wire.Reset(f.Wire.OnceWritten(testkit.Pass, "insert into", cancel))
	err = aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
	require.Error(t, err)
	require.Equal(t, []string{"9"}, f.Rows(`select greatest(last_value + 1, 9) from failures`), "and by the context")
}

// L6: what the server told of is not looked up either, here by the only connection.
func TestL5_A2_OtherFailuresAreNotRetried(t *testing.T) {
	t.Parallel()
	f := setup(t, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
	f.failing(1, "53100")
	f.Wire.Reset(nil)
	err := f.Seed(f.Parse("OPENAI_KEY=key"))
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	require.ErrorContains(t, err, "SQLSTATE 53100, constraint ai_providers_live_name_key: the server's disk is full")
	require.NotContains(t, err.Error(), "injected")
	_, sent := f.Wire.Count()
	require.NotContains(t, sent, "pg_is_in_recovery")
	require.Empty(t, f.Rows(`select id from ai_providers union all select id from ai_provider_audits`))
	require.Empty(t, f.Audits.Entries())
}

func TestL5_ConnectionLostBeforeTheCommitWasSent(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tt := range map[string]struct {
		act  testkit.Action
		text string
	}{
		"before the first read":  {testkit.CutBefore, "json_array_elements_text"},
		"after the first read":   {testkit.CutAfter, "json_array_elements_text"},
		"before the lock":        {testkit.CutBefore, "pg_advisory_xact_lock"},
		"after the lock":         {testkit.CutAfter, "pg_advisory_xact_lock"},
		"instead of the inserts": {testkit.CutBefore, "insert into"},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Wire.Reset(testkit.Once(tt.act, tt.text))
			f.Seeded("OPENAI_KEY=key")
			require.Equal(t, []string{"1 1 2"}, f.Rows(`select count(*), (select count(*) from ai_provider_keys), (select count(*) from ai_provider_audits where delivered_at is not null) from ai_providers`))
			require.Len(t, f.Audits.Entries(), 2)
			f.RequireIdle()
		})
	}
}

func TestL5_ReadsSurviveALostConnection(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	cfg := f.Seeded("OPENAI_KEY=key")
	drifted := f.Parse("OPENAI_KEY=key", "OPENAI_BASE_URL=https://elsewhere")
	for name, read := range map[string]func() error{
		"Providers":     func() error { _, err := f.Store.Providers(ctx); return err },
		"ListProviders": func() error { _, err := f.Store.ListProviders(ctx); return err },
		"Provider":      func() error { _, err := f.Store.ProviderByName(ctx, "openai"); return err },
		"a plan":        func() error { _, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, cfg, slog.Logger{}); return err },
		"Rotate":        func() error { _, err := f.Store.Rotate(ctx); return err },
		"Open":          func() error { _, err := aiseed.Open(ctx, f.Own, f.Options); return err },
		"a drift":       func() error { require.ErrorIs(t, f.Seed(drifted), aiseed.ErrDrift); return nil },
	} {
		for _, act := range []testkit.Action{testkit.CutBefore, testkit.CutAfter} {
			f.Wire.Reset(testkit.Once(act, "select"))
			require.NoError(t, read(), name)
		}
	}
}

func TestL5_AnotherUniqueViolationIsNotRetried(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Exec(`create unique index of_the_operator on ai_providers (enabled)`)
	f.Exec(`insert into ai_providers (id, type, name) values (gen_random_uuid(), 'openai', 'other')`)
	f.Wire.Reset(nil)
	err := f.Seed(f.Parse("OPENAI_KEY=key"))
	var db *aiseed.DatabaseError
	require.ErrorAs(t, err, &db)
	require.Equal(t, "23505", db.SQLState)
	require.Equal(t, "of_the_operator", db.Constraint)
	_, sent := f.Wire.Count()
	require.Equal(t, 1, strings.Count(sent, `insert into "public".ai_providers `))
}

// refusing is an option that makes the server unreachable while n is above 0, and
// counts how often it was dialled.
func refusing(n, dials *atomic.Int64) storetest.Option {
	return func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			if n.Add(-1) >= 0 {
				return nil, syscall.ECONNREFUSED
			}
			return dial(ctx, network, address)
		}
	}
}

func TestL5_ServerThatIsAwayForAWhileIsWaitedFor(t *testing.T) {
	t.Parallel()
	var n, dials atomic.Int64
	f := setup(t, refusing(&n, &dials))
	// Later in a start, the look-up of the commit waits: see L6.
	f.Wire.Reset(testkit.Once(testkit.CutBefore, "json_array_elements_text", func() { n.Store(4) }))
	f.Seeded("OPENAI_KEY=key")
	require.Len(t, f.Rows(`select id from ai_providers`), 1)
}

func TestL5_ServerThatWasNeverThereIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	var n, dials atomic.Int64
	f := setup(t, refusing(&n, &dials), func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		// Idle connections are not used again then, so that each call has to dial.
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return n.Load() <= 0, nil }
	})
	n.Store(1000)
	dials.Store(0)
	_, err := f.Store.Providers(context.Background())
	require.ErrorContains(t, err, "connection refused; check that the server runs there")
	attempt := dials.Swap(0)
	require.NotZero(t, attempt)
	err = f.Seed(f.Parse("OPENAI_KEY=key"))
	require.ErrorContains(t, err, "connection refused; check that the server runs there")
	require.Equal(t, attempt, dials.Load())
}

func TestL5_PauseIsGoodForAnyAttempt(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, attempt := range []int{1, 10, 63, 64, 1 << 20} {
		require.ErrorIs(t, aiseed.Pause(ctx, attempt), context.Canceled)
	}
}

// A cancellation that comes after the commit was sent does not change what is committed,
// and the call reports the true outcome.
func TestL7_CancelledAfterTheCommitWasSent(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for range 2 {
		f := f.emptied(t)
		ctx, cancel := context.WithCancel(context.Background())
		f.Wire.Reset(f.Wire.OnceWritten(testkit.Pass, "insert into", cancel))
		err := aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
		committed := len(f.Rows(`select id from ai_providers`)) == 1
		require.Equal(t, committed, err == nil, "%v", err)
		if committed {
			require.Len(t, f.Audits.Entries(), 2, "A5: the delivery is not cancelled")
		} else {
			require.ErrorIs(t, err, context.Canceled)
		}
		f.RequireIdle()
	}
}

// Here the server has committed before the cancellation comes, and the call may not
// have read the answer yet.
func TestL7_CancelledAfterTheServerCommitted(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for range 2 {
		f := f.emptied(t)
		ctx, cancel := context.WithCancel(context.Background())
		f.Wire.Reset(f.Wire.OnceWritten(testkit.Pass, "insert into", func() {
			f.waitForProvider()
			cancel()
		}))
		require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{}))
		require.Len(t, f.Rows(`select id from ai_providers`), 1)
		require.Len(t, f.Audits.Entries(), 2, "A5: the delivery is not cancelled")
		f.RequireIdle()
	}
}

// waitForProvider returns when a provider was committed.
func (f *fixture) waitForProvider() {
	f.T.Helper()
	assert.Eventually(f.T, func() bool { return len(f.Rows(`select id from ai_providers`)) > 0 }, testkit.Patience, time.Millisecond)
}

// pgx closes a connection on its own goroutine, which dials the server to cancel the
// statement that runs there. The call waits for this goroutine.
func TestL7_NoGoroutineOfAConnectionThatWasCutOutlivesTheCall(t *testing.T) {
	t.Parallel()
	for _, during := range []string{"json_array_elements_text", "pg_advisory_xact_lock"} {
		t.Run(during, func(t *testing.T) {
			t.Parallel()
			var cancelled, early atomic.Bool
			returned, dialled := make(chan struct{}), make(chan struct{})
			f := setup(t, func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
				dial := c.ConnConfig.DialFunc
				c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
					if cancelled.Swap(false) {
						defer close(dialled)
						select {
						case <-returned: // the call did not wait
							early.Store(true)
						case <-time.After(100 * time.Millisecond): // the call can wait for longer
						}
					}
					return dial(ctx, network, address)
				}
			})
			// No answer comes before the call sees that it is cancelled.
			holder := f.Hold("public")
			ctx, cancel := context.WithCancel(context.Background())
			f.Wire.Reset(testkit.Once(testkit.Pass, during, func() {
				_, err := holder.Exec(context.Background(), `lock table ai_providers`)
				assert.NoError(t, err)
				f.Wire.WhenWritten(func() {
					cancelled.Store(true)
					cancel()
				})
			}))
			err := aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
			close(returned)
			require.ErrorIs(t, err, context.Canceled)
			testkit.Awaited(t, dialled)
			require.False(t, early.Load())
		})
	}
}

// R4, Q3: of the providers of one name, the server reads one: the live one, or else that which was deleted last. The plan
// is that of a start.
func TestR4_Q3_OfManyTombstonesOneIsRead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Exec(`insert into ai_providers (id, type, name, deleted, updated_at)
		select gen_random_uuid(), 'openai', 'x', true, timestamptz '2020-01-01' + n * interval '1 hour' from generate_series(1, 10000) n`)
	latest := f.Rows(`select id::text from ai_providers order by updated_at desc limit 1`)[0]
	for range 2 {
		_, err := f.Store.ProviderByName(ctx, "x")
		require.ErrorContains(t, err, latest)
		require.Equal(t, []string{oneLook}, f.scansOfProviders(aiseed.LoadSQL(f.Store), `["x"]`))
		f.Exec("analyze")
	}
	f.Wire.Reset(nil)
	require.NoError(t, f.Seed(f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x")))
	n, sent := f.Wire.Count()
	require.Equal(t, 1, n)
	require.Contains(t, sent, pg.UseOrderOfIndexes.SQL)

	live := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	found, err := f.Store.ProviderByName(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, live.ID, found.ID)
}

// Q3: each name costs the server one look into an index, however many are asked for.
func TestQ3_ANameIsOneLookIntoAnIndex(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Exec(`insert into ai_providers (id, type, name) select gen_random_uuid(), 'openai', 'x' || n from generate_series(1, 1000) n`)
	names := f.Rows(`select json_agg(name)::text from ai_providers`)[0]
	for range 2 {
		for _, sql := range []string{aiseed.LoadSQL(f.Store), aiseed.OriginsSQL(f.Store)} {
			require.Equal(t, []string{oneLook}, f.scansOfProviders(sql, names))
		}
		f.Exec("analyze")
	}
}

const oneLook = "Index Scan using ai_providers_latest_idx on ai_providers (actual rows=1"

// scansOfProviders returns how a query of a start, which sorts nothing, goes through the table of the
// providers.
func (f *fixture) scansOfProviders(sql, names string) (scans []string) {
	f.T.Helper()
	ctx := context.Background()
	tx, err := f.Pool.Begin(ctx)
	require.NoError(f.T, err)
	_, err = tx.Exec(ctx, pg.UseOrderOfIndexes.SQL)
	require.NoError(f.T, err)
	rows, err := tx.Query(ctx, "explain (analyze, costs off, timing off) "+sql, names)
	require.NoError(f.T, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(f.T, err)
	require.NoError(f.T, tx.Rollback(ctx))
	require.NotContains(f.T, strings.Join(plan, "\n"), "Sort")
	for _, line := range plan {
		line = strings.NewReplacer(`"`, "", "Only ", "").Replace(line) // quotation marks come with some settings
		if strings.Contains(line, " on ai_providers ") {
			scan, _, _ := strings.Cut(strings.TrimLeft(line, "-> "), " loops=")
			scans = append(scans, strings.TrimSuffix(scan, ".00")) // from version 18 on
		}
	}
	return scans
}

// The server itself checks that each row is written, before it commits.
func TestA1_F1_RowsThatAreNotInsertedAreAnError(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Exec(`create function ignore() returns trigger language plpgsql as 'begin return null; end'`)
	spec := aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("k"), aiseed.NewSecret("l")}}
	for table, rows := range map[string]string{"ai_providers": "1 row", "ai_provider_keys": "2 rows", "ai_provider_audits": "3 rows"} {
		for how, want := range map[string]string{
			`create trigger ignore before insert on ` + table + ` for each row execute function ignore()`: "want " + rows + " of " + table + " written",
			`create rule ignore as on insert to ` + table + ` do instead nothing`:                         "SQLSTATE 0A000: a rule on " + table + " hides",
			`create rule ignore as on insert to ` + table + ` do also notify x`:                           "SQLSTATE 0A000: a rule on " + table + " hides",
		} {
			f.Exec(how)
			before := f.State()
			_, err := f.Store.CreateProvider(context.Background(), "a", spec)
			seeding := aiseed.SeedAIProvidersFromEnv(context.Background(), f.Store, f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=a,b"), f.Audits, slog.Logger{})
			for _, err := range []error{err, seeding} {
				require.ErrorIs(t, err, aiseed.ErrDatabase, how)
				require.ErrorContains(t, err, want)
			}
			require.Equal(t, before, f.State())
			require.Empty(t, f.Audits.Entries())
			f.Exec(`drop ` + strings.Fields(how)[1] + ` ignore on ` + table)
		}
	}
}

// A trigger that undoes an update counts it as written.
func TestO5_ARotationThatIsUndoneEnds(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Keyring = storetest.Keyring(t, 1)
	f.Store, _ = f.Open()
	f.Seeded("OPENAI_KEY=key")
	f.Exec(`create function undo() returns trigger language plpgsql as 'begin return old; end'`)
	f.Exec(`create trigger undo before update on ai_provider_keys for each row execute function undo()`)
	f.Keyring = storetest.Keyring(t, 2, 1)
	f.Store, _ = f.Open()
	before := f.Rows(`select api_key from ai_provider_keys`)
	report, err := f.Store.Rotate(context.Background())
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	require.ErrorContains(t, err, "a trigger undoes it, or servers still seal with an earlier keyring")
	require.Empty(t, report.Revoked)
	require.Equal(t, before, f.Rows(`select api_key from ai_provider_keys`))
}

// The revision is counted in each statement; the trigger is there for whoever writes in SQL.
func TestO4_RevisionsCountWithoutTheTrigger(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	f.Exec(`alter table ai_providers disable trigger user`)
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", p.ID))
	restored, err := f.Store.RestoreProvider(ctx, "a", p.ID)
	require.NoError(t, err)
	require.Equal(t, p.Revision+2, restored.Revision)
	stored, err := f.Store.Provider(ctx, p.ID)
	require.NoError(t, err)
	require.Equal(t, restored.Revision, stored.Revision)
}

func TestA5_TheTimeOfADeliveryIsNotTheCallers(t *testing.T) {
	t.Parallel()
	f := setup(t)
	pool, options, _ := f.Connect(storetest.AuditTimeout(20*time.Millisecond), func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
	store, err := aiseed.Open(context.Background(), pool, options)
	require.NoError(t, err)
	held, err := pool.Acquire(context.Background())
	require.NoError(t, err)
	_, err = store.DeliverAudits(context.Background(), f.Audits)
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "neither the pool nor the server answered within StoreOptions.AuditTimeout, which is 20ms")

	held.Release()
	f.Seeded("OPENAI_KEY=key")
	tx, err := f.Pool.Begin(context.Background())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(context.Background())) }()
	_, err = tx.Exec(context.Background(), `lock table ai_provider_audits`)
	require.NoError(t, err)
	_, err = store.DeliverAudits(context.Background(), f.Audits)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "neither the pool nor the server answered within StoreOptions.AuditTimeout")
}

// What a trigger raises is the trigger's own, also if it has a SQLSTATE by which we know something.
func TestL5_ErrorsOfTriggersAreNotTriedAgain(t *testing.T) {
	t.Parallel()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	f.Exec(`create sequence calls`)
	for i, state := range []string{"22012", "0A000", "P0001"} {
		f.Exec(`create or replace function fail() returns trigger language plpgsql as $$ begin perform nextval('calls'); raise exception 'no' using errcode = '` + state + `'; end $$`)
		f.Exec(`create or replace trigger fail before update on ai_providers for each row execute function fail()`)
		err := f.Store.SetProviderEnabled(context.Background(), "a", p.ID, false)
		var db *aiseed.DatabaseError
		require.ErrorAs(t, err, &db)
		require.Equal(t, state, db.SQLState)
		require.Equal(t, []string{fmt.Sprint(i + 1)}, f.Rows(`select last_value from calls`))
	}
}
