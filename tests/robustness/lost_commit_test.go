package robustness

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// lookUp is part of each look-up of the outcome of a commit, and of nothing else.
const lookUp = "pg_is_in_recovery"

func TestL6_CommitWithoutAnAnswerIsLookedUp(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Wire.Reset(testkit.Once(testkit.CutAfter, "insert into"))
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	_, sent := f.Wire.Count()
	require.Contains(t, sent, lookUp)
	require.Equal(t, 1, strings.Count(sent, "insert into \"public\".ai_providers"), "it was not done again")
	require.Equal(t, []string{"2 2 4"}, f.Rows(`select count(*), (select count(*) from ai_provider_keys), (select count(*) from ai_provider_audits) from ai_providers`))
	require.Len(t, f.Audits.Entries(), 4, "and went on as if it had been told")
	require.Contains(t, f.Logs.String(), "INFO created AI provider provider=openai")
}

func TestL6_LooksItUpOverTheOneConnectionThatThePoolHas(t *testing.T) {
	t.Parallel()
	f := setup(t, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
	f.Wire.Reset(testkit.Once(testkit.CutAfter, "insert into"))
	f.Seeded("OPENAI_KEY=key")
	_, sent := f.Wire.Count()
	require.Contains(t, sent, lookUp)
	require.Len(t, f.Audits.Entries(), 2)
}

// Whatever makes a look-up fail, the caller is told that the outcome is unknown, and why.
func TestL6_UnknownWhereItCannotBeLookedUp(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before func(f *fixture) // before the look-up is sent
		act    testkit.Action   // what happens to it
		reason func(t *testing.T, err error)
	}{
		"no server": {func(*fixture) {}, testkit.CutBefore, func(t *testing.T, err error) {
			require.ErrorIs(t, err, aiseed.ErrDatabase)
			require.ErrorContains(t, err, "the connection was lost")
		}},
		"the lock is not granted": {func(f *fixture) { f.Hold("public") }, testkit.Pass, func(t *testing.T, err error) {
			require.ErrorIs(t, err, aiseed.ErrLockTimeout)
			require.ErrorContains(t, err, "pid")
		}},
		"it is refused": {func(f *fixture) { f.Exec(`alter table ai_provider_audits rename to elsewhere`) }, testkit.Pass, func(t *testing.T, err error) {
			require.ErrorIs(t, err, aiseed.ErrDatabase)
			require.ErrorContains(t, err, "SQLSTATE 42P01")
		}},
		"a standby that lacks it": {func(f *fixture) {
			f.Exec(`create function nolock.pg_is_in_recovery() returns boolean language sql as 'select true'`)
			f.Exec(`delete from ai_provider_audits`)
		}, testkit.Pass, func(t *testing.T, err error) {
			require.ErrorIs(t, err, aiseed.ErrDatabase)
			require.ErrorContains(t, err, "the server is a standby")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := lookedUp(t, func(timeout time.Duration) (*fixture, bool, error) {
				f := setup(t)
				f.Exec(`create schema nolock`) // its functions go before the server's own
				store, w := f.Open(storetest.LockTimeout(timeout), storetest.WithoutLock)
				once := sync.OnceFunc(func() { tt.before(f) })
				var cut, reached atomic.Bool // a pool can still be making a connection for which nobody waits
				w.Reset(func(sent []byte) testkit.Action {
					switch {
					case strings.Contains(string(sent), lookUp) || tt.act != testkit.Pass && cut.Load():
						reached.Store(true)
						once()
						return tt.act
					case strings.Contains(string(sent), "insert into"):
						cut.Store(true)
						return testkit.CutAfter
					}
					return testkit.Pass
				})
				err := aiseed.SeedAIProvidersFromEnv(context.Background(), store, f.Parse("OPENAI_KEY=key"), f.Audits, f.Logs.Logger())
				return f, reached.Load(), err
			})
			require.ErrorIs(t, err, aiseed.ErrCommitUnknown)
			require.ErrorContains(t, err, "either everything was written or nothing was")
			require.NotContains(t, err.Error(), "nothing was changed")
			var timeout *aiseed.LockTimeoutError
			if errors.As(err, &timeout) {
				require.NotContains(t, timeout.Error(), "nothing was changed")
			}
			require.Regexp(t, `select from "public"\.ai_provider_audits where id in \('[0-9a-f-]{36}'\)`, err.Error())
			tt.reason(t, err)
			require.Empty(t, f.Audits.Entries())
		})
	}
}

// lookedUp calls try with more and more time until a look-up was reached in it: a timeout that is
// short enough for a test can be too short for a busy machine.
func lookedUp(t *testing.T, try func(timeout time.Duration) (*fixture, bool, error)) (*fixture, error) {
	t.Helper()
	for timeout := 200 * time.Millisecond; ; timeout *= 2 {
		f, reached, err := try(timeout)
		if reached || timeout > testkit.Patience {
			return f, err
		}
	}
}

// Who is cancelled is told what is known, and that it was cancelled.
func TestL6_UnknownToWhoWasCancelled(t *testing.T) {
	t.Parallel()
	f, err := lookedUp(t, func(timeout time.Duration) (*fixture, bool, error) {
		f := setup(t, storetest.LockTimeout(timeout))
		var reached atomic.Bool
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		cut := false
		f.Wire.Reset(func(sent []byte) testkit.Action {
			switch {
			case cut:
				reached.Store(true)
				cancel()
				return testkit.CutBefore
			case strings.Contains(string(sent), "insert into"):
				cut = true
				return testkit.CutAfter
			}
			return testkit.Pass
		})
		err := aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
		return f, reached.Load(), err
	})
	require.ErrorIs(t, err, aiseed.ErrCommitUnknown)
	require.ErrorIs(t, err, context.Canceled)

	f.Wire.Reset(nil)
	f.RequireIdle() // the session whose connection was cut holds the lock of the delivery until it notices
	require.NoError(t, f.Seed(f.Parse("OPENAI_KEY=key")), "the next start finds out")
	require.Len(t, f.Rows(`select id from ai_providers`), 1)
	require.Len(t, f.Audits.Entries(), 2)
}

func TestL6_CommitAnsweredWithARollback(t *testing.T) {
	t.Parallel()
	f := setup(t)
	// A constraint that is checked at the commit fails at the commit.
	f.Exec(`create sequence failures`)
	f.Exec(`create function fail() returns trigger language plpgsql as $$ begin
		if nextval('failures') <= 1 then raise exception 'injected' using errcode = '40001'; end if; return null; end $$`)
	f.Exec(`create constraint trigger fail after insert on ai_providers deferrable initially deferred for each row execute function fail()`)
	f.Seeded("OPENAI_KEY=key")
	require.Equal(t, []string{"1 2"}, f.Rows(`select count(*), (select count(*) from ai_provider_audits) from ai_providers`))
}

// The look-up waits for the end of the lost transaction, because that one holds the lock.
func TestL6_TransactionStillInProgressIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, cancelled := range []bool{false, true} {
		t.Run(fmt.Sprintf("cancelled %t", cancelled), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			gate := f.gate()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var asked atomic.Int64
			f.Wire.Reset(func(sent []byte) testkit.Action {
				switch {
				case strings.Contains(string(sent), "insert into"):
					if cancelled {
						f.Wire.WhenWritten(cancel) // a caller that gives up is still told the truth
					}
					return testkit.CutUnheard
				case isCancelRequest(sent):
					return testkit.CutBefore
				case strings.Contains(string(sent), lookUp):
					if asked.Add(1) == 1 {
						go func() {
							f.WaitForWaiters(2) // the commit waits for the gate, and the look-up for the commit
							assert.NoError(t, gate.Close(context.Background()))
						}()
					}
				}
				return testkit.Pass
			})
			require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{}))
			require.Equal(t, int64(1), asked.Load())
			require.Len(t, f.Rows(`select id from ai_providers`), 1)
			require.Len(t, f.Audits.Entries(), 2)
		})
	}
}

// A4: a session whose connection was lost can still hold the lock of the delivery, for nobody. It is waited for.
func TestA4_L6_TheDeliveryOfALostSessionIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, cancelled := range []bool{false, true} {
		t.Run(fmt.Sprintf("cancelled %t", cancelled), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			lost := f.Hold("public\x00audits")
			f.Wire.Reset(testkit.Once(testkit.CutAfter, "insert into", func() {
				if cancelled {
					f.Wire.WhenWritten(cancel)
				}
			}))
			seeded := make(chan error, 1)
			go func() {
				seeded <- aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{})
			}()
			f.WaitForWaiters(1)
			require.Empty(t, f.Audits.Entries())
			require.NoError(t, lost.Close(context.Background()))
			require.NoError(t, testkit.Awaited(t, seeded))
			require.Len(t, f.Audits.Entries(), 2)
		})
	}
}

// A lostWrite is a call whose answer to the commit is lost.
type lostWrite struct {
	deleted bool // p is a deleted provider
	do      func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (made string, err error)
	made    string // what the caller is told that it made
	audits  int    // the number of audits that it leaves
}

var lostWrites = map[string]lostWrite{
	"a seed": {made: "create=1", audits: 2, do: func(ctx context.Context, f *fixture, store *aiseed.Store, _ aiseed.Provider) (string, error) {
		return planned(store.Seed(ctx, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{}))
	}},
	"an adoption": {made: "adopt=1", audits: 1, do: func(ctx context.Context, f *fixture, store *aiseed.Store, _ aiseed.Provider) (string, error) {
		lines := []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x", "PROVIDER_0_BASE_URL=https://moved", "PROVIDER_0_KEY=the-first-key"}
		var drift *aiseed.DriftError
		require.ErrorAs(f.T, f.Seed(f.Parse(lines...)), &drift)
		return planned(store.Seed(ctx, f.Parse(append(lines, storetest.WordsFor(f.T, drift, "DRIFT_ADOPT"))...), f.Audits, slog.Logger{}))
	}},
	"creating": {made: "new with 1 keys", audits: 2, do: func(ctx context.Context, f *fixture, store *aiseed.Store, _ aiseed.Provider) (string, error) {
		return provided(store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "new", Keys: []aiseed.Secret{aiseed.NewSecret("key")}}))
	}},
	"updating": {made: "X with 1 keys", audits: 1, do: func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (string, error) {
		return provided(store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("X"), BaseURL: new("https://other")}))
	}},
	"renaming": {made: "X with 1 keys", audits: 1, do: func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (string, error) {
		return provided(store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("X")}))
	}},
	"restoring": {deleted: true, made: "x with 1 keys", audits: 1, do: func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (string, error) {
		return provided(store.RestoreProvider(ctx, "a", p.ID))
	}},
	"disabling": {audits: 1, do: func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (string, error) {
		return "", store.SetProviderEnabled(ctx, "a", p.ID, false)
	}},
	"deleting": {audits: 1, do: func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (string, error) {
		return "", store.DeleteProvider(ctx, "a", p.ID)
	}},
	"adding a key": {made: "the-other-key", audits: 1, do: func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (string, error) {
		key, err := store.AddProviderKey(ctx, "a", p.ID, aiseed.NewSecret("the-other-key"))
		return key.APIKey.Reveal(), err
	}},
	// Were the decision made again, the revision would be a conflict.
	"replacing keys": {made: "x with 2 keys", audits: 2, do: func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (string, error) {
		keys := []aiseed.Secret{aiseed.NewSecret("the-other-key"), p.Keys[0].APIKey}
		return provided(store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{Revision: p.Revision, Keys: keys}))
	}},
	"removing a key": {audits: 1, do: func(ctx context.Context, f *fixture, store *aiseed.Store, p aiseed.Provider) (string, error) {
		return "", store.RemoveProviderKey(ctx, "a", p.ID, p.Keys[0].ID)
	}},
}

func planned(plan *aiseed.Plan, err error) (string, error) {
	if err != nil {
		return "", err
	}
	counts := map[aiseed.Action]int{}
	for _, step := range plan.Steps {
		counts[step.Action]++
	}
	var out []string
	for action, n := range counts {
		out = append(out, fmt.Sprintf("%s=%d", action, n))
	}
	return strings.Join(out, " "), nil
}

func provided(p aiseed.Provider, err error) (string, error) {
	return fmt.Sprintf("%s with %d keys", p.DisplayName, len(p.Keys)), err
}

// prepare makes the provider that a lost write is about, and deletes its audits.
func (f *fixture) prepare(tt lostWrite) aiseed.Provider {
	f.T.Helper()
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("the-first-key")}})
	if tt.deleted {
		require.NoError(f.T, f.Store.DeleteProvider(context.Background(), "a", p.ID))
	}
	f.Exec(`delete from ai_provider_audits`)
	return p
}

// The answer to each commit is lost, and others change everything before it is looked up. The
// caller is told what it made.
func TestL6_WhatWasCommittedCountsWhateverOthersDoSince(t *testing.T) {
	t.Parallel()
	for name, tt := range lostWrites {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			p := f.prepare(tt)
			store, w := f.Open()
			lost, looked := false, false
			w.Reset(func(sent []byte) testkit.Action {
				switch {
				case !lost && strings.Contains(string(sent), "\x00commit\x00"):
					lost = true
					return testkit.CutAfter
				case lost && strings.Contains(string(sent), lookUp):
					looked = true
					f.Exec(`delete from ai_providers`)
				}
				return testkit.Pass
			})
			made, err := tt.do(context.Background(), f, store, p)
			require.NoError(t, err)
			require.Equal(t, tt.made, made)
			require.True(t, looked)
			require.Len(t, f.Rows(`select id from ai_provider_audits`), tt.audits)
			require.Empty(t, f.Rows(`select id from ai_providers`), "it was not made again")
			f.RequireIdle()
		})
	}
}

// If the lock locks nothing, the write that was lost can still be under way at the look-up. Then
// the next attempt collides with it, and looks again.
func TestL6_WriteThatIsUnderWayIsLookedForAgain(t *testing.T) {
	t.Parallel()
	for name, tt := range lostWrites {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			p := f.prepare(tt)
			f.CreateNoLock()
			store, w := f.Open(storetest.WithoutLock)
			gate := f.gate()
			lost, looked := false, 0
			w.Reset(func(sent []byte) testkit.Action {
				switch {
				case isCancelRequest(sent):
					return testkit.CutBefore
				case !lost && strings.Contains(string(sent), "\x00commit\x00"):
					lost = true
					w.WhenWritten(func() {
						f.WaitForWaiters(1) // the commit waits for the gate; the next write must not overtake it
						go func() {
							f.WaitForWaiters(2) // the next write waits for the first one
							assert.NoError(t, gate.Close(context.Background()))
						}()
					})
					return testkit.CutUnheard
				case strings.Contains(string(sent), lookUp):
					looked++
				}
				return testkit.Pass
			})
			made, err := tt.do(context.Background(), f, store, p)
			require.NoError(t, err)
			require.Equal(t, tt.made, made)
			require.Equal(t, 2, looked)
			require.Len(t, f.Rows(`select id from ai_provider_audits`), tt.audits, "once")
			f.RequireIdle()
		})
	}
}

// gate makes each commit of a change wait until the returned connection is closed.
func (f *fixture) gate() *pgx.Conn {
	f.T.Helper()
	conn := f.Hold("gate")
	f.Exec(fmt.Sprintf(`create function pass_the_gate() returns trigger language plpgsql as $$ begin perform pg_catalog.pg_advisory_xact_lock_shared(%d); return null; end $$`, aiseed.LockKey("gate")))
	f.Exec(`create constraint trigger gate after insert on ai_provider_audits deferrable initially deferred for each row execute function pass_the_gate()`)
	return conn
}

// isCancelRequest recognises what pgx sends for a connection that it closed.
func isCancelRequest(sent []byte) bool {
	return strings.HasPrefix(string(sent), "\x00\x00\x00\x10\x04\xd2\x16\x2e")
}
