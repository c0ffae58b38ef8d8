package robustness

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

const undelivered = `select count(*) from ai_provider_audits where delivered_at is null`

// leftBehind writes n undelivered entries with the names of providers "1" to n.
func (f *fixture) leftBehind(n int) {
	f.T.Helper()
	f.Exec(`insert into ai_provider_audits (actor, action, resource, id, resource_id, provider_id, provider_name)
		select 'alice', 'create', 'ai_provider', gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), i::text from generate_series(1, $1) g (i) order by g.i`, n)
}

// untilThereIsTime runs try with longer and longer audit timeouts until it reports that there was
// time for what the test is about. How much that needs depends on the machine.
func untilThereIsTime(t *testing.T, try func(timeout time.Duration) bool) {
	t.Helper()
	for timeout := 500 * time.Millisecond; timeout < testkit.Patience; timeout *= 2 {
		if try(timeout) {
			return
		}
	}
	require.FailNow(t, "there was never enough time")
}

func TestA8_BacklogIsDeliveredInBatches(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const left = 20_000
	f.leftBehind(left)
	offered := 0
	f.Wire.Reset(nil)
	n, err := f.Store.DeliverAudits(context.Background(), aiseed.AuditorFunc(func(_ context.Context, e aiseed.AuditEntry) error {
		if assert.Equal(t, fmt.Sprint(offered+1), e.ProviderName); offered%1000 == 0 {
			assert.Equal(t, []string{fmt.Sprint(left - offered)}, f.Rows(undelivered), "the batches before are marked and committed")
		}
		offered++
		return nil
	}))
	require.NoError(t, err)
	require.Equal(t, left, n)
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
	trips, sent := f.Wire.Count()
	require.LessOrEqual(t, trips, 1+left/1000, "one for each batch, and one to begin")
	require.Equal(t, left/1000, strings.Count(sent, "savepoint marked"))
}

func TestA8_StartLeavesWhatThereIsNoTimeFor(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const left, slow = 3000, 1501
	untilThereIsTime(t, func(timeout time.Duration) bool {
		f.Exec(`truncate ai_provider_audits`)
		f.leftBehind(left)
		f.Store, _ = f.Open(storetest.AuditTimeout(timeout))
		f.Logs = &testkit.LogRecorder{}
		reached := false
		require.NoError(t, aiseed.SeedAIProvidersFromEnv(context.Background(), f.Store, aiseed.Config{}, aiseed.AuditorFunc(func(ctx context.Context, e aiseed.AuditEntry) error {
			if reached = e.ProviderName == fmt.Sprint(slow); reached {
				<-ctx.Done()
			}
			return ctx.Err()
		}), f.Logs.Logger()))
		return reached && !strings.Contains(f.Logs.String(), "marking audits") && !strings.Contains(f.Logs.String(), "there was time to mark")
	})
	require.Equal(t, []string{fmt.Sprint(left - slow + 1)}, f.Rows(undelivered))
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], fmt.Sprintf("not all audit entries of AI providers were delivered; the next start tries again delivered=%d", slow-1))
	require.Contains(t, f.Logs.Warnings()[0], "the auditor has half of StoreOptions.AuditTimeout")

	f.Store, _ = f.Open()
	require.NoError(t, f.Seed(aiseed.Config{}))
	require.Equal(t, fmt.Sprint(slow), f.Audits.Entries()[0].ProviderName, "it goes on from there")
	require.Len(t, f.Audits.Entries(), left-slow+1)
}

// Somebody holds a lock on one of the entries, so that no statement can mark them all.
func TestA8_SlowMarkingMakesProgress(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const left, locked = 1000, 333
	f.leftBehind(left)
	blocking, err := f.Pool.Begin(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { _ = blocking.Rollback(context.Background()) })
	_, err = blocking.Exec(context.Background(), `select from ai_provider_audits where provider_name = $1 for update`, fmt.Sprint(locked))
	require.NoError(t, err)

	var n int
	untilThereIsTime(t, func(timeout time.Duration) bool {
		f.Exec(`update ai_provider_audits set delivered_at = null where delivered_at is not null`)
		store, _ := f.Open(storetest.AuditTimeout(timeout))
		n, err = store.DeliverAudits(context.Background(), aiseed.DiscardAudits)
		require.Error(t, err)
		return n > 0 && !strings.Contains(err.Error(), "was not accepted")
	})
	require.Less(t, n, locked)
	require.ErrorContains(t, err, fmt.Sprintf("there was time to mark %d of 1000 accepted audit entries", n))
	marked := `select count(*), max(provider_name::int) from ai_provider_audits where delivered_at is not null`
	require.Equal(t, []string{fmt.Sprint(n, n)}, f.Rows(marked), "the first ones, and only they are counted")

	require.NoError(t, blocking.Rollback(context.Background()))
	require.NoError(t, f.Seed(aiseed.Config{}))
	require.Len(t, f.Audits.Entries(), left-n, "what was marked is not offered again")
	require.Equal(t, fmt.Sprint(n+1), f.Audits.Entries()[0].ProviderName)
}

func TestA8_WhatCannotBeMarkedIsNotCounted(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.leftBehind(3000)
	// The last entry of the second batch cannot be marked.
	f.Exec(`create function keep() returns trigger language plpgsql as 'begin return null; end'`)
	f.Exec(`create trigger keep before update on ai_provider_audits for each row when (old.provider_name = '2000') execute function keep()`)
	n, err := f.Store.DeliverAudits(context.Background(), f.Audits)
	require.Equal(t, 1999, n)
	require.ErrorContains(t, err, "1 of 1000 accepted audit entries could not be marked as delivered")
	require.Len(t, f.Audits.Entries(), 2000)
	require.Equal(t, []string{"1001"}, f.Rows(undelivered))
}

// withAuditor sets the auditor and the logger of the store.
func (f *fixture) withAuditor(a aiseed.Auditor) storetest.Option {
	return func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Auditor, o.Logger = a, f.Logs.Logger() }
}

// Q1, A7: its writes, the commit and the first read of the delivery are one round trip.
func TestA7_OperationsAreDeliveredLikeASeed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := context.Background()
	f.leftBehind(1)
	f.Store, f.Wire = f.Open(f.withAuditor(f.Audits))
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("key")}})
	require.Len(t, f.Audits.Entries(), 3, "what was left before comes first")
	require.Equal(t, "1", f.Audits.Entries()[0].ProviderName)
	f.Wire.Reset(nil)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "alice", p.ID, false))
	trips, _ := f.Wire.Count()
	require.Equal(t, 3, trips, "lock and read; write, commit, and begin the delivery; mark")
	require.Len(t, f.Audits.Entries(), 4)

	f.Wire.Reset(nil)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "alice", p.ID, false))
	_, sent := f.Wire.Count()
	require.NotContains(t, sent, "ai_provider_audits", "what changes nothing delivers nothing")

	require.NoError(t, f.Store.DeleteProvider(ctx, "alice", p.ID))
	_, err := f.Store.RestoreProvider(ctx, "alice", p.ID)
	require.NoError(t, err)
	require.Len(t, f.Audits.Entries(), 6)
	require.Equal(t, []string{"0"}, f.Rows(undelivered))

	for _, tt := range []struct {
		auditor aiseed.Auditor
		left    string
	}{{aiseed.DiscardAudits, "0"}, {aiseed.LeaveAudits, "1"}, {nil, "2"}} {
		f.Store, _ = f.Open(f.withAuditor(tt.auditor))
		_, err := f.Store.AddProviderKey(ctx, "alice", p.ID, aiseed.NewSecret("key-"+tt.left))
		require.NoError(t, err)
		require.Equal(t, []string{tt.left}, f.Rows(undelivered))
	}
	require.Len(t, f.Audits.Entries(), 6)
	require.Empty(t, f.Logs.Warnings())
}

func TestA7_NoAuditorFailsAnOperation(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		auditor aiseed.AuditorFunc
		timeout time.Duration
		reason  string
	}{
		"one that fails":  {func(context.Context, aiseed.AuditEntry) error { return assert.AnError }, testkit.Patience, assert.AnError.Error()},
		"one that panics": {func(context.Context, aiseed.AuditEntry) error { panic("boom") }, testkit.Patience, "the auditor panicked: boom"},
		"one that blocks until its time is up": {
			func(ctx context.Context, _ aiseed.AuditEntry) error { <-ctx.Done(); return ctx.Err() },
			200 * time.Millisecond, "the auditor has half of StoreOptions.AuditTimeout",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.Store, _ = f.Open(f.withAuditor(tt.auditor), storetest.AuditTimeout(tt.timeout))
			p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
			require.Len(t, f.Logs.Warnings(), 1)
			require.Contains(t, f.Logs.Warnings()[0], "not all audit entries of AI providers were delivered")
			require.Contains(t, f.Logs.Warnings()[0], tt.reason)
			require.Equal(t, []string{"1"}, f.Rows(undelivered))
			f.RequireIdle()

			f.Store, _ = f.Open(f.withAuditor(f.Audits))
			require.NoError(t, f.Store.DeleteProvider(context.Background(), "alice", p.ID))
			require.Len(t, f.Audits.Entries(), 2, "the next operation delivers them too")
		})
	}
}

func TestA7_DeliveryFollowsACommitThatWasLookedUp(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Store, f.Wire = f.Open(f.withAuditor(f.Audits))
	f.Wire.Reset(testkit.Once(testkit.CutAfter, "commit\x00"))
	f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	require.Len(t, f.Audits.Entries(), 1)
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
	require.Empty(t, f.Logs.Warnings())
}

func TestA7_LostMarksDoNotFailAnOperation(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Store, f.Wire = f.Open(f.withAuditor(f.Audits))
	f.Wire.Reset(testkit.Once(testkit.CutBefore, "delivered_at = clock_timestamp()"))
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	require.Equal(t, []string{p.ID.String()}, f.Rows(`select id::text from ai_providers`))
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "delivered=0")
	require.Equal(t, []string{"1"}, f.Rows(undelivered))

	f.RequireIdle() // the session whose connection was cut holds the lock of the delivery until it notices
	require.NoError(t, f.Store.DeleteProvider(context.Background(), "alice", p.ID))
	require.Len(t, f.Audits.Entries(), 3, "at least once")
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
}

func TestA7_AuditorMayCallTheStore(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := context.Background()
	f.Store, _ = f.Open(f.withAuditor(aiseed.AuditorFunc(func(ctx context.Context, e aiseed.AuditEntry) error {
		if e.Action == aiseed.AuditCreate {
			assert.NoError(t, f.Store.SetProviderEnabled(ctx, "the auditor", e.ProviderID, false))
			n, err := f.Store.DeliverAudits(ctx, f.Audits)
			assert.NoError(t, err)
			assert.Zero(t, n, "somebody delivers")
		}
		return f.Audits.Audit(ctx, e)
	})))
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	require.Empty(t, providers, "it is disabled")
	entries := f.Audits.Entries()
	require.Len(t, entries, 2, "the delivery looks once more")
	require.Equal(t, []string{"alice", "the auditor"}, []string{entries[0].Actor, entries[1].Actor})
	require.Equal(t, p.ID, entries[1].ProviderID)
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
	require.Empty(t, f.Logs.Warnings())
}

func TestA5_A7_PoolOfOneConnectionThatTheAuditorNeeds(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]func(context.Context) context.Context{
		"with the context of the delivery": func(ctx context.Context) context.Context { return ctx },
		"with another context":             context.WithoutCancel,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			ended := make(chan error, 10)
			f.Store, _ = f.Open(f.withAuditor(aiseed.AuditorFunc(func(ctx context.Context, e aiseed.AuditEntry) error {
				err := f.Store.SetProviderEnabled(own(ctx), "the auditor", e.ProviderID, false)
				ended <- err
				return err
			})), storetest.AuditTimeout(200*time.Millisecond), func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
			f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
			// What the auditor did with the connection that came back can have its own warning by now.
			require.Contains(t, strings.Join(f.Logs.Warnings(), "\n"), "all 1 connections of the pool were in use, one of them by the delivery: if the auditor uses this pool, raise MaxConns")
			require.NotEmpty(t, f.Rows(undelivered))
			_ = testkit.Awaited(t, ended) // it gets the connection that the delivery gave back
		})
	}
}

// delivered writes n delivered entries of an age.
func (f *fixture) delivered(n int, age string) {
	f.T.Helper()
	f.Exec(`insert into ai_provider_audits (actor, action, resource, id, resource_id, provider_id, provider_name, created_at, delivered_at)
		select 'alice', 'create', 'ai_provider', gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), $2::text, now() - $2::text::interval, now() from generate_series(1, $1)`, n, age)
}

// left are the entries that are there, by actor, action, resource and provider.
func (f *fixture) left() []string {
	f.T.Helper()
	return f.Rows(`select actor, action, resource, provider_name from ai_provider_audits order by seq`)
}

func TestA7_O2_PruningKeepsWhatTellsWhichSideMoved(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := context.Background()
	const anthropicKey = "ANTHROPIC_KEY=long-enough-to-show-its-tail" // or its mask could hide a change
	cfg := f.Seeded("OPENAI_KEY=key", anthropicKey, "PROVIDER_0_TYPE=copilot", "PROVIDER_0_NAME=gone", "PROVIDER_1_TYPE=copilot", "PROVIDER_1_NAME=deleted")
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	anthropic, deleted, gone := providers[0], providers[1], providers[2]
	url := "https://h/v1"
	_, err = f.Store.UpdateProvider(ctx, "alice", anthropic.ID, aiseed.ProviderUpdate{BaseURL: &url})
	require.NoError(t, err)
	require.NoError(t, f.Store.DeleteProvider(ctx, "alice", deleted.ID))
	f.Exec(`delete from ai_providers where id = $1`, gone.ID)
	lines := []string{"OPENAI_KEY=key", "OPENAI_BASE_URL=https://i/v1"}
	f.Seeded(append(lines, f.AdoptWords(f.Parse(lines...)))...)
	f.Created(aiseed.ProviderSpec{Type: "copilot", Name: "made-by-alice"})
	f.Exec(`update ai_provider_audits set created_at = now() - interval '1 year', delivered_at = now()`)

	n, err := f.Store.PruneAudits(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, []string{
		"system create ai_provider anthropic",
		"system create ai_provider deleted", // it can be restored
		"system update ai_provider openai",  // its adoption replaced its creation
	}, f.left())
	require.Equal(t, 7, n, "three creations, two keys, an update and a deletion")

	drift := f.DriftOf(cfg)
	require.Equal(t, aiseed.SideDatabase, drift.Providers[0].Moved, "anthropic")
}

func TestA7_PruningKeepsWhatIsYoungOrUndelivered(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := context.Background()
	for _, age := range []string{"30 minutes", "90 minutes", "3 hours", "5 hours", "2 days"} {
		f.delivered(1, age)
	}
	f.delivered(1, "3 days")
	f.Exec(`update ai_provider_audits set delivered_at = null where provider_name = '3 days'`)
	names := func() []string { return f.Rows(`select provider_name from ai_provider_audits order by seq`) }

	_, err := f.Store.PruneAudits(ctx, -1)
	require.ErrorContains(t, err, "want a positive duration, or 0 for as many as possible")
	n, err := f.Store.PruneAudits(ctx, 24*time.Hour)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{"30 minutes", "90 minutes", "3 hours", "5 hours", "3 days"}, names())

	// L6: an operation of this store may look for its entry for more than two hours.
	patient, _ := f.Open(storetest.LockTimeout(time.Hour))
	n, err = patient.PruneAudits(ctx, time.Minute)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{"30 minutes", "90 minutes", "3 hours", "3 days"}, names())

	n, err = f.Store.PruneAudits(ctx, time.Minute)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, []string{"30 minutes", "3 days"}, names(), "an hour at least")
}

func TestA7_PruningWorksInBatches(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := context.Background()
	f.delivered(2500, "2 days") // all of one time, as of one transaction
	f.delivered(2500, "1 day")
	f.Wire.Reset(nil)
	n, err := f.Store.PruneAudits(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, 5000, n)
	require.Empty(t, f.left())
	trips, _ := f.Wire.Count()
	require.Equal(t, 6, trips, "1,000 in a round trip, and the last one finds none")

	t.Run("a lost connection is repeated, and the count is then lower", func(t *testing.T) {
		f.delivered(1500, "2 days")
		f.Wire.Reset(testkit.Once(testkit.CutAfter, "commit\x00"))
		n, err := f.Store.PruneAudits(ctx, 0)
		require.NoError(t, err)
		require.Contains(t, []int{500, 1500}, n, "the server may have seen the end of the connection before the commit")
		require.Empty(t, f.left())
	})
	t.Run("two do not wait for each other", func(t *testing.T) {
		f.delivered(1500, "2 days")
		blocking, err := f.Pool.Begin(ctx)
		require.NoError(t, err)
		t.Cleanup(func() { _ = blocking.Rollback(ctx) })
		_, err = blocking.Exec(ctx, `delete from ai_provider_audits where id in (select id from ai_provider_audits limit 600)`)
		require.NoError(t, err)
		n, err := f.Store.PruneAudits(ctx, 0)
		require.NoError(t, err)
		require.Equal(t, 900, n)
		require.NoError(t, blocking.Commit(ctx))
		require.Empty(t, f.left())
	})
	t.Run("what a trigger keeps is an error", func(t *testing.T) {
		f.delivered(3, "2 days")
		f.Exec(`create function keep() returns trigger language plpgsql as 'begin return null; end'`)
		f.Exec(`create trigger keep before delete on ai_provider_audits for each row execute function keep()`)
		_, err := f.Store.PruneAudits(ctx, 0)
		require.ErrorIs(t, err, aiseed.ErrDatabase)
		require.ErrorContains(t, err, "3 of 3 rows of ai_provider_audits could not be deleted, because a trigger forbids it")
	})
}
