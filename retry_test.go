package aiseed_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
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
)

// failing makes the first n inserts of providers fail with a SQLSTATE.
func (f *fixture) failing(n int, state string) {
	f.exec(`create sequence failures`)
	f.exec(fmt.Sprintf(`create function fail() returns trigger language plpgsql as $$ begin
		if nextval('failures') <= %d then raise exception 'injected' using errcode = '%s', constraint = 'ai_providers_live_name_key'; end if;
		return new; end $$`, n, state))
	f.exec(`create trigger fail before insert on ai_providers for each statement execute function fail()`)
}

func TestL5_TransientFailuresAreRetried(t *testing.T) {
	t.Parallel()
	for name, state := range map[string]string{"serialization failure": "40001", "deadlock": "40P01", "unique violation of the name": "23505"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.failing(3, state)
			f.seeded("OPENAI_KEY=key")
			require.Equal(t, []string{"1"}, f.rows(`select count(*) from ai_providers`))
			require.Equal(t, []string{"2"}, f.rows(`select count(*) from ai_provider_audits`))
			f.requireIdle()
		})
	}
}

func TestL5_RetriesAreBounded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.failing(1000, "40001")
	err := f.seed(f.parse("OPENAI_KEY=key"))
	var db *aiseed.DatabaseError
	require.ErrorAs(t, err, &db)
	require.Equal(t, "40001", db.SQLState)
	require.Equal(t, []string{"8"}, f.rows(`select last_value from failures`))

	ctx, cancel := context.WithCancel(context.Background())
	f.wire.reset(f.wire.onceWritten(pass, "insert into", cancel))
	err = aiseed.SeedAIProvidersFromEnv(ctx, f.store, f.parse("OPENAI_KEY=key"), f.audits, slog.Logger{})
	require.Error(t, err)
	require.Equal(t, []string{"9"}, f.rows(`select greatest(last_value, 9) from failures`), "and by the context")
}

func TestL5_OtherFailuresAreNotRetried(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.failing(1, "53100")
	err := f.seed(f.parse("OPENAI_KEY=key"))
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	require.ErrorContains(t, err, "SQLSTATE 53100, constraint ai_providers_live_name_key: the server's disk is full")
	require.NotContains(t, err.Error(), "injected")
	require.Empty(t, f.rows(`select id from ai_providers`))
}

func TestL5_ConnectionLostBeforeTheCommitWasSent(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		act  action
		text string
	}{
		"before the first read":  {cutBefore, "json_array_elements_text"},
		"after the first read":   {cutAfter, "json_array_elements_text"},
		"before the lock":        {cutBefore, "pg_advisory_xact_lock"},
		"after the lock":         {cutAfter, "pg_advisory_xact_lock"},
		"instead of the inserts": {cutBefore, "insert into"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.wire.reset(once(tt.act, tt.text))
			f.seeded("OPENAI_KEY=key")
			require.Equal(t, []string{"1 1 2"}, f.rows(`select count(*), (select count(*) from ai_provider_keys), (select count(*) from ai_provider_audits where delivered_at is not null) from ai_providers`))
			require.Len(t, f.audits.Entries(), 2)
			f.requireIdle()
		})
	}
}

func TestL5_ReadsSurviveALostConnection(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	cfg := f.seeded("OPENAI_KEY=key")
	drifted := f.parse("OPENAI_KEY=key", "OPENAI_BASE_URL=https://elsewhere")
	for name, read := range map[string]func() error{
		"Providers":     func() error { _, err := f.store.Providers(ctx); return err },
		"ListProviders": func() error { _, err := f.store.ListProviders(ctx); return err },
		"a plan":        func() error { _, err := aiseed.PlanAIProvidersFromEnv(ctx, f.store, cfg, slog.Logger{}); return err },
		"Rotate":        func() error { _, err := f.store.Rotate(ctx); return err },
		"a drift":       func() error { require.ErrorIs(t, f.seed(drifted), aiseed.ErrDrift); return nil },
	} {
		for _, act := range []action{cutBefore, cutAfter} {
			f.wire.reset(once(act, "select"))
			require.NoError(t, read(), name)
		}
	}
	// A connection of the pool can be lost while nobody looks.
	_, w := f.open()
	config := f.pool.Config().Copy()
	config.ConnConfig.DialFunc = w.dial
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pool.Ping(ctx))
	w.reset(once(cutBefore, "select"))
	_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: f.keyring})
	require.NoError(t, err, "Open")
}

func TestL5_AnotherUniqueViolationIsNotRetried(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create unique index of_the_operator on ai_providers (enabled)`)
	f.exec(`insert into ai_providers (id, type, name) values (gen_random_uuid(), 'openai', 'other')`)
	f.wire.reset(nil)
	err := f.seed(f.parse("OPENAI_KEY=key"))
	var db *aiseed.DatabaseError
	require.ErrorAs(t, err, &db)
	require.Equal(t, "23505", db.SQLState)
	require.Equal(t, "of_the_operator", db.Constraint)
	_, sent := f.wire.count()
	require.Equal(t, 1, strings.Count(sent, `insert into "public".ai_providers `))
}

// refusing is an option that makes the server unreachable while n is above 0, and
// counts how often it was dialled.
func refusing(n, dials *atomic.Int64) option {
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
	// Later in a start it is the question about the commit that waits: see L6.
	f.wire.reset(once(cutBefore, "json_array_elements_text", func() { n.Store(4) }))
	f.seeded("OPENAI_KEY=key")
	require.Len(t, f.rows(`select id from ai_providers`), 1)
}

func TestL5_ServerThatWasNeverThereIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	var n, dials atomic.Int64
	f := setup(t, refusing(&n, &dials), func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		// What is idle is not used again then, so that each call has to dial.
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return n.Load() <= 0, nil }
	})
	n.Store(1000)
	dials.Store(0)
	_, err := f.store.Providers(context.Background())
	require.ErrorContains(t, err, "connection refused; check that the server runs there")
	attempt := dials.Swap(0)
	require.NotZero(t, attempt)
	err = f.seed(f.parse("OPENAI_KEY=key"))
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

func TestL5_TerminatedBackend(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.wire.reset(once(pass, "insert into", func() {
		f.exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`)
	}))
	f.seeded("OPENAI_KEY=key")
	require.Len(t, f.rows(`select id from ai_providers`), 1)
}

func TestL6_CommitWithoutAnAnswerIsLookedUp(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.wire.reset(once(cutAfter, "insert into"))
	f.seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	_, sent := f.wire.count()
	require.Contains(t, sent, "pg_xact_status")
	require.Equal(t, 1, strings.Count(sent, "insert into \"public\".ai_providers"), "it was not done again")
	require.Equal(t, []string{"2 2 4"}, f.rows(`select count(*), (select count(*) from ai_provider_keys), (select count(*) from ai_provider_audits) from ai_providers`))
	require.Len(t, f.audits.Entries(), 4, "and went on as if it had been told")
	require.Contains(t, f.logs.String(), "INFO created AI provider provider=openai")
}

func TestL6_FailureThatTheServerToldOfIsNotLookedUp(t *testing.T) {
	t.Parallel()
	f := setup(t, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
	f.failing(1, "53100")
	f.wire.reset(nil)
	err := f.seed(f.parse("OPENAI_KEY=key"))
	require.ErrorContains(t, err, "SQLSTATE 53100")
	_, sent := f.wire.count()
	require.NotContains(t, sent, "pg_xact_status")
}

func TestL6_LooksItUpOverTheOneConnectionThatThePoolHas(t *testing.T) {
	t.Parallel()
	f := setup(t, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
	f.wire.reset(once(cutAfter, "insert into"))
	f.seeded("OPENAI_KEY=key")
	_, sent := f.wire.count()
	require.Contains(t, sent, "pg_xact_status")
	require.Len(t, f.audits.Entries(), 2)
}

func TestL6_UnknownOnlyWhereTheServerCannotBeAsked(t *testing.T) {
	t.Parallel()
	f := setup(t, lockTimeout(200*time.Millisecond))
	cut := false
	f.wire.reset(func(sent []byte) action {
		switch {
		case cut:
			return cutBefore
		case strings.Contains(string(sent), "insert into"):
			cut = true
			return cutAfter
		}
		return pass
	})
	err := f.seed(f.parse("OPENAI_KEY=key"))
	require.ErrorIs(t, err, aiseed.ErrCommitUnknown)
	require.ErrorContains(t, err, "either everything was written or nothing was")
	require.Regexp(t, `select pg_xact_status\('\d+'\)`, err.Error())
	require.Empty(t, f.audits.Entries())

	f.wire.reset(nil)
	require.NoError(t, f.seed(f.parse("OPENAI_KEY=key")), "the next start finds out")
	require.Len(t, f.rows(`select id from ai_providers`), 1)
	require.Len(t, f.audits.Entries(), 2)
}

func TestL6_CommitAnsweredWithARollback(t *testing.T) {
	t.Parallel()
	f := setup(t)
	// A constraint that is checked at the commit fails there.
	f.exec(`create sequence failures`)
	f.exec(`create function fail() returns trigger language plpgsql as $$ begin
		if nextval('failures') <= 1 then raise exception 'injected' using errcode = '40001'; end if; return null; end $$`)
	f.exec(`create constraint trigger fail after insert on ai_providers deferrable initially deferred for each row execute function fail()`)
	f.seeded("OPENAI_KEY=key")
	require.Equal(t, []string{"1 2"}, f.rows(`select count(*), (select count(*) from ai_provider_audits) from ai_providers`))
}

// A server that crashed does not know the last transactions that it had not written
// down: their ids are still to come.
func TestL6_TransactionThatACrashLostIsNotCommitted(t *testing.T) {
	t.Parallel()
	f := setup(t)
	next, err := strconv.Atoi(f.rows(`select pg_snapshot_xmax(pg_current_snapshot())::text`)[0])
	require.NoError(t, err)
	committed, err := aiseed.AskCommitted(context.Background(), f.store, fmt.Sprint(next+1_000_000))
	require.NoError(t, err)
	require.False(t, committed)
}

func TestL6_TransactionStillInProgressIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, cancelled := range []bool{false, true} {
		t.Run(fmt.Sprintf("cancelled %t", cancelled), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			// The commit waits for a trigger while the connection is lost, so that the
			// first answer is "in progress".
			gate := f.hold("gate")
			f.exec(fmt.Sprintf(`create function wait() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(%d); return null; end $$`, aiseed.LockKey("gate")))
			f.exec(`create constraint trigger wait after insert on ai_providers deferrable initially deferred for each row execute function wait()`)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var asked atomic.Int64
			f.wire.reset(func(sent []byte) action {
				switch {
				case strings.Contains(string(sent), "insert into"):
					if cancelled {
						f.wire.written = cancel // who gives up is still told the truth
					}
					return cutUnheard
				case strings.HasPrefix(string(sent), "\x00\x00\x00\x10\x04\xd2\x16\x2e"):
					return cutBefore // a CancelRequest, which pgx sends for a lost connection
				case strings.Contains(string(sent), "pg_xact_status"):
					if asked.Add(1) == 2 { // who was cancelled has no time for many
						assert.NoError(t, gate.Close(context.Background()))
						f.waitForProvider()
					}
				}
				return pass
			})
			require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, f.store, f.parse("OPENAI_KEY=key"), f.audits, slog.Logger{}))
			require.GreaterOrEqual(t, asked.Load(), int64(2))
			require.Len(t, f.rows(`select id from ai_providers`), 1)
			require.Len(t, f.audits.Entries(), 2)
		})
	}
}
