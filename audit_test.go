package aiseed_test

import (
	"context"
	"errors"
	"runtime"
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
)

const undelivered = `select count(*) from ai_provider_audits where delivered_at is null`

var errRefused = errors.New("refused")

func refuse(context.Context, aiseed.AuditEntry) error { return errRefused }

func (f *fixture) seedWith(auditor aiseed.Auditor, cfg aiseed.Config) {
	f.t.Helper()
	require.NoError(f.t, aiseed.SeedAIProvidersFromEnv(context.Background(), f.store, cfg, auditor, f.logs.Logger()))
}

func TestA1_OneEntryPerProviderAndKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var start time.Time // by the server's clock
	f.scan(`select clock_timestamp()`, &start)
	f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=b", "PROVIDER_0_KEYS=key-0123456789-0123456789-tail,short",
		"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=a", "PROVIDER_1_BASE_URL=https://h/?token=hunter2hunter2")
	entries := f.audits.Entries()
	require.Len(t, entries, 4)
	providers, err := f.store.Providers(context.Background())
	require.NoError(t, err)
	a, b := providers[0], providers[1]
	for i, want := range []struct {
		resource string
		id       uuid.UUID
		provider aiseed.Provider
		new      string
	}{
		{"ai_provider", a.ID, a, `{"type":"openai","name":"a","display_name":"a","enabled":true,"base_url":"https://h/?token=****","bedrock":null}`},
		{"ai_provider", b.ID, b, `{"type":"openai","name":"b","display_name":"b","enabled":true,"base_url":"","bedrock":null}`},
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
		// Another connection sees the row that the entry tells of.
		require.Len(t, f.rows(`select id from ai_providers where id = $1`, e.ProviderID), 1)
		require.Len(t, f.rows(`select id from ai_provider_audits where id = $1 and delivered_at is null`, e.ID), 1, "A3: not marked before it was accepted")
		return nil
	}), f.parse("OPENAI_KEY=key"))
	require.Equal(t, 2, calls)
	require.Equal(t, []string{"0"}, f.rows(undelivered))
}

func TestA2_RolledBackCallLeavesNone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.failing(1000, "53100")
	require.Error(t, f.seed(f.parse("OPENAI_KEY=key")))
	require.Empty(t, f.rows(`select id from ai_provider_audits`))
	require.Empty(t, f.audits.Entries())
}

func TestA3_A4_WhatWasNotAcceptedIsOfferedAgainInOrderUnderTheSameID(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.parse("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	var seen []aiseed.AuditEntry
	f.seedWith(aiseed.AuditorFunc(func(_ context.Context, e aiseed.AuditEntry) error {
		if seen = append(seen, e); len(seen) == 2 {
			return errRefused
		}
		return nil
	}), cfg)
	require.Len(t, seen, 2, "in order: what follows a refused entry has to wait")
	require.Equal(t, []string{"3"}, f.rows(undelivered))
	require.Len(t, f.logs.Warnings(), 1)
	require.Contains(t, f.logs.Warnings()[0], "not all audit entries of AI providers were delivered; the next start tries again delivered=1")
	require.Contains(t, f.logs.Warnings()[0], "1 of 4 were delivered, the others stay for the next start: refused")

	f.wire.reset(nil)
	require.NoError(t, f.seed(cfg), "a start that changes nothing delivers them")
	n, _ := f.wire.count()
	require.LessOrEqual(t, n, 3)
	entries := f.audits.Entries()
	require.Len(t, entries, 3)
	require.Equal(t, seen[1], entries[0])
	require.Equal(t, []string{"0"}, f.rows(undelivered))
}

func TestA3_OrderIsThatOfTheSequence(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seedWith(aiseed.AuditorFunc(refuse), f.parse("OPENAI_KEY=key"))
	// The place in the table is another one now, and there is no index to go by.
	f.exec(`update ai_provider_audits set actor = actor where resource = 'ai_provider'`)
	f.exec(`drop index ai_provider_audits_undelivered_idx`)
	require.NoError(t, f.seed(aiseed.Config{}))
	require.Equal(t, aiseed.ResourceProvider, f.audits.Entries()[0].Resource)
	require.Equal(t, aiseed.ResourceProviderKey, f.audits.Entries()[1].Resource)
}

// Another process committed rows and audits between our read and our lock, and
// died before it delivered them.
func TestA4_AuditsThatAreFirstSeenUnderTheLockAreDelivered(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.wire.reset(once(pass, "pg_advisory_xact_lock", func() {
		f.exec(`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://api.openai.com/v1/')`)
		f.exec(`insert into ai_provider_audits (id, actor, action, resource, resource_id, provider_id, provider_name)
			select gen_random_uuid(), 'system', 'create', 'ai_provider', id, id, name from ai_providers`)
	}))
	f.seeded("OPENAI_KEY=key")
	require.Len(t, f.audits.Entries(), 1)
}

func TestA4_AnEmptyConfigDeliversToo(t *testing.T) { // R9
	t.Parallel()
	f := setup(t)
	f.seedWith(aiseed.AuditorFunc(refuse), f.parse("OPENAI_KEY=key"))
	require.NoError(t, f.seed(aiseed.Config{}))
	require.Len(t, f.audits.Entries(), 2)
}

func TestA4_TwoProcessesDoNotDeliverTheSame(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seedWith(aiseed.AuditorFunc(refuse), f.parse("OPENAI_KEY=key"))

	other, _ := f.open()
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
	awaited(t, entered)
	// Another process delivers: this one leaves it to it, also what it writes itself.
	n, err := f.store.DeliverAudits(context.Background(), f.audits)
	require.NoError(t, err)
	require.Zero(t, n)
	f.seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	require.Empty(t, f.audits.Entries())
	close(leave)
	all.Wait()
	require.Len(t, slow.Entries(), 4)
	require.Equal(t, []string{"0"}, f.rows(undelivered))
}

func TestA4_DelivererWithNothingToDoLooksOnceMore(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other, w := f.open()
	late := &aiseedtest.AuditRecorder{}
	// Entries that come in while the other one holds the lock for nothing.
	w.reset(once(pass, "order by seq limit 1", func() { f.seeded("OPENAI_KEY=key") }))
	n, err := other.DeliverAudits(context.Background(), late)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Len(t, late.Entries(), 2)
	require.Empty(t, f.audits.Entries())
}

func TestA4_DelivererThatDiesLeavesItToTheNext(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.wire.reset(once(cutBefore, "delivered_at = clock_timestamp()"))
	cfg := f.seeded("OPENAI_KEY=key")
	require.Len(t, f.audits.Entries(), 2)
	require.Equal(t, []string{"2"}, f.rows(undelivered))
	require.Len(t, f.logs.Warnings(), 1)
	require.NoError(t, f.seed(cfg))
	entries := f.audits.Entries()
	require.Len(t, entries, 4, "at least once")
	require.Equal(t, entries[:2], entries[2:], "with ids to deduplicate by")
}

func TestA5_DeliveryIsNotCancelledWithTheCaller(t *testing.T) {
	t.Parallel()
	f := setup(t, auditTimeout(time.Hour))
	ctx, cancel := context.WithCancel(context.Background())
	start := time.Now()
	type key struct{}
	err := aiseed.SeedAIProvidersFromEnv(context.WithValue(ctx, key{}, "value"), f.store, f.parse("OPENAI_KEY=key"),
		aiseed.AuditorFunc(func(ctx context.Context, e aiseed.AuditEntry) error {
			cancel()
			if assert.NoError(t, ctx.Err()) {
				deadline, ok := ctx.Deadline()
				assert.True(t, ok)
				assert.WithinRange(t, deadline, start.Add(time.Hour), time.Now().Add(time.Hour))
			}
			assert.Equal(t, "value", ctx.Value(key{}))
			return f.audits.Audit(ctx, e)
		}), slog.Logger{})
	require.NoError(t, err)
	require.Len(t, f.audits.Entries(), 2)
	require.Equal(t, []string{"0"}, f.rows(undelivered))
}

// timeIsUp seeds with an audit timeout that is up while the auditor has an entry.
// What comes before takes part of it, and how much is the machine's business: the
// timeout is doubled until the auditor is reached, and what happens then counts.
func (f *fixture) timeIsUp(cfg aiseed.Config, auditor func(reached func()) aiseed.AuditorFunc) {
	f.t.Helper()
	for timeout := 50 * time.Millisecond; timeout < patience; timeout *= 2 {
		var reached atomic.Bool
		f.exec(`update ai_provider_audits set delivered_at = null`)
		f.store, _ = f.open(auditTimeout(timeout))
		f.logs = &aiseed.LogRecorder{}
		f.seedWith(auditor(func() { reached.Store(true) }), cfg)
		if reached.Load() {
			return
		}
	}
	require.FailNow(f.t, "the auditor was never asked")
}

func TestA5_BadAuditorsDoNotStopTheStart(t *testing.T) {
	t.Parallel()
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	for name, tt := range map[string]struct {
		auditor aiseed.AuditorFunc
		reason  string
		slow    bool // it takes all the time that there is
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
			t.Parallel()
			f := setup(t)
			cfg := f.parse("OPENAI_KEY=key")
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
			require.Len(t, f.rows(`select id from ai_providers`), 1)
			require.Equal(t, []string{"2"}, f.rows(undelivered))
			require.Len(t, f.logs.Warnings(), 1)
			require.Contains(t, f.logs.Warnings()[0], tt.reason)
			f.requireIdle()

			f.store, _ = f.open()
			require.NoError(t, f.seed(cfg))
			require.Len(t, f.audits.Entries(), 2, "they stayed for the next start")
		})
	}
}

func TestA5_AuditorHasTenSecondsByDefault(t *testing.T) {
	t.Parallel()
	f := setup(t, auditTimeout(0))
	start := time.Now()
	var asked atomic.Bool
	f.seedWith(aiseed.AuditorFunc(func(ctx context.Context, _ aiseed.AuditEntry) error {
		deadline, ok := ctx.Deadline()
		assert.True(t, ok)
		assert.WithinRange(t, deadline, start.Add(10*time.Second), time.Now().Add(10*time.Second))
		asked.Store(true)
		return nil
	}), f.parse("OPENAI_KEY=key"))
	if !asked.Load() { // on a machine that needed them before the first entry
		require.Greater(t, time.Since(start), 10*time.Second)
	}
}

func TestA5_WhatWasAcceptedBeforeTheTimeWasUpIsMarked(t *testing.T) {
	t.Parallel()
	f := setup(t)
	forever := make(chan struct{})
	defer close(forever)
	var offered *aiseedtest.AuditRecorder
	f.timeIsUp(f.parse("OPENAI_KEY=key", "ANTHROPIC_KEY=key"), func(reached func()) aiseed.AuditorFunc {
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
	require.Len(t, f.logs.Warnings(), 1)
	require.Contains(t, f.logs.Warnings()[0], "the auditor did not answer: context deadline exceeded")
	entries := offered.Entries()
	require.Len(t, entries, 2, "the third was not offered")
	require.Equal(t, []string{"3"}, f.rows(undelivered))
	require.Equal(t, []string{entries[0].ID.String()}, f.rows(`select id::text from ai_provider_audits where delivered_at is not null`))
}

// The clock is the bubble's: it goes on when nothing else does.
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

// It runs alone, because the limit of the library that it shortens is everybody's.
func TestA5_MarkingHasTheTimeThatIsLeft(t *testing.T) {
	before := pg.CleanupTimeout
	pg.CleanupTimeout = time.Millisecond
	t.Cleanup(func() { pg.CleanupTimeout = before })
	f := setup(t)
	f.exec(`create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.2); return new; end'`)
	f.exec(`create trigger slow before update on ai_provider_audits for each row execute function slow()`)
	f.seeded("OPENAI_KEY=key")
	require.Empty(t, f.logs.Warnings())
	require.Equal(t, []string{"0"}, f.rows(undelivered))
}

func TestA3_EntriesThatCannotBeMarkedAreNotOfferedForEver(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create rule append_only as on update to ai_provider_audits do instead nothing`)
	f.seeded("OPENAI_KEY=key")
	require.Len(t, f.audits.Entries(), 2, "once")
	require.Len(t, f.logs.Warnings(), 1)
	require.Contains(t, f.logs.Warnings()[0], "2 of 2 delivered audit entries could not be marked; allow the role to update ai_provider_audits.delivered_at")
}

func TestA4_NothingIsDeliveredWhereItCannotBeMarked(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seedWith(aiseed.AuditorFunc(refuse), f.parse("OPENAI_KEY=key"))
	f.exec(`do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
	store, _ := f.open()
	n, err := store.DeliverAudits(context.Background(), f.audits)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Empty(t, f.audits.Entries())
}

func TestL1_DeliveryOfAnotherSchemaIsNotBlocked(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other, err := aiseed.Open(context.Background(), f.pool, aiseed.StoreOptions{Keyring: f.keyring, Schema: "other", Migrate: true})
	require.NoError(t, err)
	f.seedWith(aiseed.AuditorFunc(func(context.Context, aiseed.AuditEntry) error {
		audits := &aiseedtest.AuditRecorder{}
		cfg, err := aiseed.ParseEnviron(context.Background(), []string{"CODER_AIBRIDGE_ANTHROPIC_KEY=key"}, slog.Logger{})
		require.NoError(t, err)
		require.NoError(t, aiseed.SeedAIProvidersFromEnv(context.Background(), other, cfg, audits, slog.Logger{}))
		return nil
	}), f.parse("PROVIDER_0_TYPE=openai"))
	require.Equal(t, []string{"0"}, f.rows(`select count(*) from other.ai_provider_audits where delivered_at is null`))
}
