package aiseed_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

const undelivered = `select count(*) from ai_provider_audits where delivered_at is null`

var errRefused = errors.New("refused")

func refuse(context.Context, aiseed.AuditEntry) error { return errRefused }

func (f *fixture) seedWith(auditor aiseed.Auditor, cfg aiseed.Config) {
	f.T.Helper()
	require.NoError(f.T, aiseed.SeedAIProvidersFromEnv(context.Background(), f.Store, cfg, auditor, f.Logs.Logger()))
}

func TestA1_OneEntryPerProviderAndKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var start time.Time // by the server's clock
	f.Scan(`select clock_timestamp()`, &start)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=b", "PROVIDER_0_KEYS=key-0123456789-0123456789-tail,short",
		"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=a", "PROVIDER_1_BASE_URL=https://h/?token=hunter2hunter2")
	entries := f.Audits.Entries()
	require.Len(t, entries, 4)
	providers, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	a, b := providers[0], providers[1]
	for i, want := range []struct {
		resource string
		id       uuid.UUID
		provider aiseed.Provider
		new      string
	}{
		{"ai_provider", a.ID, a, `{"type":"openai","name":"a","display_name":"a","enabled":true,"base_url":"https://h/?token=****","bedrock":null,"keys":[]}`},
		{"ai_provider", b.ID, b, `{"type":"openai","name":"b","display_name":"b","enabled":true,"base_url":"","bedrock":null,"keys":["****tail","****"]}`},
		{"ai_provider_key", b.Keys[0].ID, b, `{"position":0,"api_key":"****tail"}`},
		{"ai_provider_key", b.Keys[1].ID, b, `{"position":1,"api_key":"****"}`},
	} {
		got := entries[i]
		require.NotEqual(t, uuid.Nil, got.ID)
		require.False(t, got.Time.Before(start))
		require.Equal(t, "system", got.Actor)
		require.Equal(t, aiseed.AuditCreate, got.Action)
		require.Equal(t, want.resource, got.Resource)
		require.Equal(t, want.id, got.ResourceID)
		require.Equal(t, want.provider.ID, got.ProviderID)
		require.Equal(t, want.provider.Name, got.ProviderName)
		require.Nil(t, got.Old)
		require.JSONEq(t, want.new, string(got.New))
	}
}

func TestA2_HandedOverOnlyAfterTheCommit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	calls := 0
	f.seedWith(aiseed.AuditorFunc(func(_ context.Context, e aiseed.AuditEntry) error {
		calls++
		// Another connection sees the row that the entry is about.
		require.Len(t, f.Rows(`select id from ai_providers where id = $1`, e.ProviderID), 1)
		require.Len(t, f.Rows(`select id from ai_provider_audits where id = $1 and delivered_at is null`, e.ID), 1, "A3: not marked before it was accepted")
		return nil
	}), f.Parse("OPENAI_KEY=key"))
	require.Equal(t, 2, calls)
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
}

func TestA3_A4_WhatWasNotAcceptedIsOfferedAgainInOrderUnderTheSameID(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Parse("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	var seen []aiseed.AuditEntry
	f.seedWith(aiseed.AuditorFunc(func(_ context.Context, e aiseed.AuditEntry) error {
		if seen = append(seen, e); len(seen) == 2 {
			return errRefused
		}
		return nil
	}), cfg)
	require.Len(t, seen, 2, "in order: what follows a refused entry has to wait")
	require.Equal(t, []string{"3"}, f.Rows(undelivered))
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "not all audit entries of AI providers were delivered; the next start tries again delivered=1")
	require.Contains(t, f.Logs.Warnings()[0], " was not accepted; it and all after it stay for the next delivery: refused")

	f.Wire.Reset(nil)
	require.NoError(t, f.Seed(cfg), "a start that changes nothing delivers them")
	n, _ := f.Wire.Count()
	require.LessOrEqual(t, n, 3)
	entries := f.Audits.Entries()
	require.Len(t, entries, 3)
	require.Equal(t, seen[1], entries[0])
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
}

func TestA3_OrderIsThatOfTheSequence(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seedWith(aiseed.AuditorFunc(refuse), f.Parse("OPENAI_KEY=key"))
	// The update moves the rows within the table, and no index gives the order.
	f.Exec(`update ai_provider_audits set actor = actor where resource = 'ai_provider'`)
	f.Exec(`drop index ai_provider_audits_undelivered_idx`)
	require.NoError(t, f.Seed(aiseed.Config{}))
	require.Equal(t, aiseed.ResourceProvider, f.Audits.Entries()[0].Resource)
	require.Equal(t, aiseed.ResourceProviderKey, f.Audits.Entries()[1].Resource)
}

// Another process committed rows and audits between our read and our lock, and
// died before it delivered them.
func TestA4_AuditsThatAreFirstSeenUnderTheLockAreDelivered(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Wire.Reset(testkit.Once(testkit.Pass, "pg_advisory_xact_lock", func() {
		f.Exec(`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://api.openai.com/v1/')`)
		f.Exec(`insert into ai_provider_audits (id, actor, action, resource, resource_id, provider_id, provider_name)
			select gen_random_uuid(), 'system', 'create', 'ai_provider', id, id, name from ai_providers`)
	}))
	f.Seeded("OPENAI_KEY=key")
	require.Len(t, f.Audits.Entries(), 1)
}

func TestA4_AnEmptyConfigDeliversToo(t *testing.T) { // R9
	t.Parallel()
	f := setup(t)
	f.seedWith(aiseed.AuditorFunc(refuse), f.Parse("OPENAI_KEY=key"))
	require.NoError(t, f.Seed(aiseed.Config{}))
	require.Len(t, f.Audits.Entries(), 2)
}

func TestA4_TwoProcessesDoNotDeliverTheSame(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seedWith(aiseed.AuditorFunc(refuse), f.Parse("OPENAI_KEY=key"))

	other, _ := f.Open()
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	slow := &aiseedtest.AuditRecorder{}
	var all sync.WaitGroup
	all.Go(func() {
		n, err := other.DeliverAudits(context.Background(), aiseed.AuditorFunc(func(ctx context.Context, e aiseed.AuditEntry) error {
			entered <- struct{}{}
			<-leave // or the end of the delivery, if the test fails before
			return slow.Audit(ctx, e)
		}))
		assert.NoError(t, err)
		assert.Equal(t, 4, n, "those that were written meanwhile too")
	})
	testkit.Awaited(t, entered)
	// Another process delivers: this one leaves the delivery to it, also that of its own entries.
	n, err := f.Store.DeliverAudits(context.Background(), f.Audits)
	require.NoError(t, err)
	require.Zero(t, n)
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	require.Empty(t, f.Audits.Entries())
	close(leave)
	all.Wait()
	require.Len(t, slow.Entries(), 4)
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
}

func TestA4_DelivererWithNothingToDoLooksOnceMore(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other, w := f.Open()
	late := &aiseedtest.AuditRecorder{}
	// Entries are written while the other process holds the lock and has nothing to deliver.
	w.Reset(testkit.Once(testkit.Pass, "commit\x00", func() { f.Seeded("OPENAI_KEY=key") }))
	n, err := other.DeliverAudits(context.Background(), late)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Len(t, late.Entries(), 2)
	require.Empty(t, f.Audits.Entries())
}

func TestA4_DelivererThatDiesLeavesItToTheNext(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Wire.Reset(testkit.Once(testkit.CutBefore, "delivered_at = clock_timestamp()"))
	cfg := f.Seeded("OPENAI_KEY=key")
	require.Len(t, f.Audits.Entries(), 2)
	require.Equal(t, []string{"2"}, f.Rows(undelivered))
	require.Len(t, f.Logs.Warnings(), 1)
	f.RequireIdle() // the session whose connection was cut holds the lock of the delivery until it notices
	require.NoError(t, f.Seed(cfg))
	entries := f.Audits.Entries()
	require.Len(t, entries, 4, "at least once")
	require.Equal(t, entries[:2], entries[2:], "with ids to deduplicate by")
}

func TestA5_DeliveryIsNotCancelledWithTheCaller(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.AuditTimeout(time.Hour))
	ctx, cancel := context.WithCancel(context.Background())
	start := time.Now()
	type key struct{}
	err := aiseed.SeedAIProvidersFromEnv(context.WithValue(ctx, key{}, "value"), f.Store, f.Parse("OPENAI_KEY=key"),
		aiseed.AuditorFunc(func(ctx context.Context, e aiseed.AuditEntry) error {
			cancel()
			if assert.NoError(t, ctx.Err()) {
				deadline, ok := ctx.Deadline()
				assert.True(t, ok)
				assert.WithinRange(t, deadline, start.Add(time.Hour/2), time.Now().Add(time.Hour/2), "half of the time; the other is for marking")
			}
			assert.Equal(t, "value", ctx.Value(key{}))
			return f.Audits.Audit(ctx, e)
		}), slog.Logger{})
	require.NoError(t, err)
	require.Len(t, f.Audits.Entries(), 2)
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
}

// timeIsUp seeds with an audit timeout that ends while the auditor has an entry.
// The steps before and the marking after take a part of it, and how much depends on the machine.
// So the timeout is doubled until there is time for both, and that run counts.
func (f *fixture) timeIsUp(cfg aiseed.Config, auditor func(reached func()) aiseed.AuditorFunc) {
	f.T.Helper()
	for timeout := 50 * time.Millisecond; timeout < testkit.Patience; timeout *= 2 {
		var reached atomic.Bool
		f.Exec(`update ai_provider_audits set delivered_at = null`)
		options := f.Options
		options.AuditTimeout = timeout
		f.Store = f.Opened(options)
		f.Logs = &testkit.LogRecorder{}
		f.seedWith(auditor(func() { reached.Store(true) }), cfg)
		if reached.Load() && !strings.Contains(f.Logs.String(), "marking audits") && !strings.Contains(f.Logs.String(), "there was time to mark") {
			return
		}
	}
	require.FailNow(f.T, "the auditor was never asked")
}

func TestA5_BadAuditorsDoNotStopTheStart(t *testing.T) {
	t.Parallel()
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	f := setup(t)
	for name, tt := range map[string]struct {
		auditor aiseed.AuditorFunc
		reason  string
		slow    bool // it takes all the time that is left
	}{
		"one that fails":  {refuse, "refused", false},
		"one that panics": {func(context.Context, aiseed.AuditEntry) error { panic("boom") }, "the auditor panicked: boom", false},
		"one that ends its goroutine": {
			func(context.Context, aiseed.AuditEntry) error { runtime.Goexit(); return nil },
			"the auditor ended its goroutine", false,
		},
		"one that blocks until its time is up": {
			func(ctx context.Context, _ aiseed.AuditEntry) error { <-ctx.Done(); return ctx.Err() },
			"context deadline exceeded", true,
		},
		"one that blocks for ever": {
			func(context.Context, aiseed.AuditEntry) error { <-forever; return nil },
			"the auditor did not answer: context deadline exceeded", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			cfg := f.Parse("OPENAI_KEY=key")
			if tt.slow {
				f.timeIsUp(cfg, func(reached func()) aiseed.AuditorFunc {
					return func(ctx context.Context, e aiseed.AuditEntry) error {
						reached()
						return tt.auditor(ctx, e)
					}
				})
			} else {
				f.seedWith(tt.auditor, cfg)
			}
			require.Len(t, f.Rows(`select id from ai_providers`), 1)
			require.Equal(t, []string{"2"}, f.Rows(undelivered))
			require.Len(t, f.Logs.Warnings(), 1)
			require.Contains(t, f.Logs.Warnings()[0], tt.reason)
			f.RequireIdle()

			f.Store = f.Opened(f.Options)
			require.NoError(t, f.Seed(cfg))
			require.Len(t, f.Audits.Entries(), 2, "they stayed for the next start")
		})
	}
}

func TestA5_AuditorHasHalfOfTenSecondsByDefault(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.AuditTimeout(0))
	start := time.Now()
	var asked atomic.Bool
	f.seedWith(aiseed.AuditorFunc(func(ctx context.Context, _ aiseed.AuditEntry) error {
		deadline, ok := ctx.Deadline()
		assert.True(t, ok)
		assert.WithinRange(t, deadline, start.Add(5*time.Second), time.Now().Add(5*time.Second))
		asked.Store(true)
		return nil
	}), f.Parse("OPENAI_KEY=key"))
	if !asked.Load() { // on a machine that used up the time before the first entry
		require.Greater(t, time.Since(start), 5*time.Second)
	}
}

func TestA5_WhatWasAcceptedBeforeTheTimeWasUpIsMarked(t *testing.T) {
	t.Parallel()
	f := setup(t)
	forever := make(chan struct{})
	defer close(forever)
	var offered *aiseedtest.AuditRecorder
	f.timeIsUp(f.Parse("OPENAI_KEY=key", "ANTHROPIC_KEY=key"), func(reached func()) aiseed.AuditorFunc {
		seen := &aiseedtest.AuditRecorder{}
		offered = seen
		return func(ctx context.Context, e aiseed.AuditEntry) error {
			_ = seen.Audit(ctx, e)
			if len(seen.Entries()) == 2 {
				reached()
				<-forever
			}
			return nil
		}
	})
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "the auditor did not answer: context deadline exceeded")
	entries := offered.Entries()
	require.Len(t, entries, 2, "the third was not offered")
	require.Equal(t, []string{"3"}, f.Rows(undelivered))
	require.Equal(t, []string{entries[0].ID.String()}, f.Rows(`select id::text from ai_provider_audits where delivered_at is not null`))
}

// The clock is that of the bubble: it advances when every goroutine waits.
func TestA5_AnAnswerAtTheEndOfTheTimeCounts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		late time.Duration
		want string
	}{
		"at the end":          {0, ""},
		"shortly after":       {aiseed.AuditorGrace - 1, ""},
		"when nobody listens": {aiseed.AuditorGrace + 1, "the auditor did not answer: context deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				err := aiseed.Offer(ctx, aiseed.AuditorFunc(func(ctx context.Context, _ aiseed.AuditEntry) error {
					<-ctx.Done()
					time.Sleep(tt.late)
					return nil
				}), aiseed.AuditEntry{})
				if tt.want == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, tt.want)
				}
				require.Equal(t, 10*time.Second+min(tt.late, aiseed.AuditorGrace), time.Since(start))
				time.Sleep(tt.late) // the auditor has to be gone when the bubble ends
			})
		})
	}
}

// It runs alone, because it shortens a limit of the library that all tests share.
func TestA5_MarkingHasTheTimeThatIsLeft(t *testing.T) {
	before := pg.CleanupTimeout
	pg.CleanupTimeout = time.Millisecond
	t.Cleanup(func() { pg.CleanupTimeout = before })
	f := setup(t)
	f.Exec(`create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.02); return new; end'`)
	f.Exec(`create trigger slow before update on ai_provider_audits for each row execute function slow()`)
	f.Seeded("OPENAI_KEY=key")
	require.Empty(t, f.Logs.Warnings())
	require.Equal(t, []string{"0"}, f.Rows(undelivered))
}

func TestA3_EntriesThatCannotBeMarkedAreNotOfferedForEver(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Exec(`create rule append_only as on update to ai_provider_audits do instead nothing`)
	f.Seeded("OPENAI_KEY=key")
	require.Len(t, f.Audits.Entries(), 2, "once")
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "delivered=0 reason=aiseed: 2 of 2 accepted audit entries could not be marked as delivered: a rule")
	require.Contains(t, f.Logs.Warnings()[0], "allow the role to update ai_provider_audits.delivered_at")
}

func TestA4_NothingIsDeliveredWhereItCannotBeMarked(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seedWith(aiseed.AuditorFunc(refuse), f.Parse("OPENAI_KEY=key"))
	f.Exec(`do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
	store, _ := f.Open()
	n, err := store.DeliverAudits(context.Background(), f.Audits)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Empty(t, f.Audits.Entries())
}

func TestL1_DeliveryOfAnotherSchemaIsNotBlocked(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other, err := aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{Keyring: f.Keyring, Schema: "other", Migrate: true})
	require.NoError(t, err)
	f.seedWith(aiseed.AuditorFunc(func(context.Context, aiseed.AuditEntry) error {
		audits := &aiseedtest.AuditRecorder{}
		cfg, err := aiseed.ParseEnviron(context.Background(), []string{"CODER_AIBRIDGE_ANTHROPIC_KEY=key"}, slog.Logger{})
		require.NoError(t, err)
		require.NoError(t, aiseed.SeedAIProvidersFromEnv(context.Background(), other, cfg, audits, slog.Logger{}))
		return nil
	}), f.Parse("PROVIDER_0_TYPE=openai"))
	require.Equal(t, []string{"0"}, f.Rows(`select count(*) from other.ai_provider_audits where delivered_at is null`))
}
