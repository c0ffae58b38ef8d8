package robustness

import (
	"context"
	"strings"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
)

// A commit that one server acknowledged can be missing on the server that takes over.
func TestL10_ConnectionLostAfterTheCommitWasAnswered(t *testing.T) {
	t.Parallel()
	for name, missing := range map[string]bool{"and it is there": false, "and it is missing": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.Wire.Reset(nil)
			entries := 0
			auditor := aiseed.AuditorFunc(func(context.Context, aiseed.AuditEntry) error {
				if entries++; entries == 1 {
					f.takeOver(missing)
				}
				return nil
			})
			plan, err := f.Store.Seed(context.Background(), f.Parse("OPENAI_KEY=key"), auditor, f.Logs.Logger())
			require.NoError(t, err)
			require.Equal(t, aiseed.ActionCreate, plan.Steps[0].Action)
			require.Len(t, f.Rows(`select id from ai_providers`), 1)
			require.Len(t, f.Rows(`select id from ai_provider_audits`), 2)
			_, sent := f.Wire.Count()
			require.Contains(t, sent, lookUp)
			if missing {
				require.Equal(t, 4, entries, "and delivered again")
				require.Empty(t, f.Rows(`select id from ai_provider_audits where delivered_at is null`))
			} else {
				require.Contains(t, f.Logs.String(), "not all audit entries")
				require.Len(t, f.Rows(`select id from ai_provider_audits where delivered_at is null`), 2, "they stay for the next start")
			}
			f.RequireIdle()
		})
	}
}

// A start that changes nothing reports the state of the server that it read last.
func TestL10_ConnectionLostInTheDeliveryOfAStartThatWritesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Seeded("OPENAI_KEY=key")
	f.Exec(`update ai_provider_audits set delivered_at = null`)
	entries := 0
	auditor := aiseed.AuditorFunc(func(context.Context, aiseed.AuditEntry) error {
		if entries++; entries == 1 {
			f.takeOver(true)
		}
		return nil
	})
	plan, err := f.Store.Seed(context.Background(), cfg, auditor, slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, aiseed.ActionCreate, plan.Steps[0].Action)
	require.Len(t, f.Rows(`select id from ai_providers`), 1)
	require.Equal(t, 4, entries)
}

// The look-up of what a server said is committed ends like any other: a server that cannot say is
// not taken for a yes.
func TestL10_WhatWasAnsweredAndCannotBeLookedUpIsUnknown(t *testing.T) {
	t.Parallel()
	_, err := lookedUp(t, func(timeout time.Duration) (*fixture, bool, error) {
		f := setup(t)
		f.Exec(`create schema nolock`)
		f.Exec(`create function nolock.pg_is_in_recovery() returns boolean language sql as 'select true'`)
		store, w := f.Open(storetest.LockTimeout(timeout), storetest.WithoutLock)
		w.Reset(nil)
		auditor := aiseed.AuditorFunc(func(context.Context, aiseed.AuditEntry) error {
			f.takeOver(true)
			return nil
		})
		err := aiseed.SeedAIProvidersFromEnv(context.Background(), store, f.Parse("OPENAI_KEY=key"), auditor, slog.Logger{})
		_, sent := w.Count()
		return f, strings.Contains(sent, lookUp), err
	})
	require.ErrorIs(t, err, aiseed.ErrCommitUnknown)
	require.ErrorContains(t, err, "the server is a standby")
}

// A server that ends each connection at its commit is not tried for ever.
func TestL5_CommitThatIsLostEachTimeIsTriedABoundedNumberOfTimes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	f.Exec(`create sequence commits`)
	f.Exec(`create function fall() returns trigger language plpgsql as $$ begin perform nextval('commits'); perform pg_terminate_backend(pg_backend_pid()); return null; end $$`)
	f.Exec(`create constraint trigger fall after insert on ai_provider_audits deferrable initially deferred for each row execute function fall()`)
	err := f.Store.DeleteProvider(context.Background(), "a", p.ID)
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	require.ErrorContains(t, err, "each time, the connection was lost at the commit, and nothing was written")
	require.Equal(t, []string{"8"}, f.Rows(`select last_value from commits`))
	require.Equal(t, []string{"false"}, f.Rows(`select deleted from ai_providers`))
}

// A start that wrote, and then loses its connection in a later batch of its delivery, reads again.
func TestL10_ConnectionLostInALaterBatchOfTheDelivery(t *testing.T) {
	t.Parallel()
	for name, missing := range map[string]bool{"and it is there": false, "and it is missing": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.leftBehind(1500) // more than a batch
			entries := 0
			auditor := aiseed.AuditorFunc(func(context.Context, aiseed.AuditEntry) error {
				if entries++; entries == 1200 {
					f.takeOver(missing)
				}
				return nil
			})
			plan, err := f.Store.Seed(context.Background(), f.Parse("OPENAI_KEY=key"), auditor, slog.Logger{})
			require.NoError(t, err)
			require.Equal(t, aiseed.ActionCreate, plan.Steps[0].Action)
			require.Len(t, f.Rows(`select id from ai_providers`), 1)
			require.Empty(t, f.Rows(`select id from ai_provider_audits where delivered_at is null`), "and the rest was delivered")
		})
	}
}

// A start that wrote, and then loses two connections in its delivery, finds another provider than its
// own. That is a drift only if the server that is left lacks what the start wrote.
func TestL10_DriftOnTheServerThatTookOver(t *testing.T) {
	t.Parallel()
	for name, missing := range map[string]bool{"and it is there": false, "and it is missing": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.leftBehind(1500) // more than a batch
			entries := 0
			auditor := aiseed.AuditorFunc(func(context.Context, aiseed.AuditEntry) error {
				switch entries++; entries {
				case 1100:
					f.takeOver(false)
				case 1600: // of the second offer of the second batch
					f.takeOver(missing)
					if missing {
						f.Created(aiseed.ProviderSpec{Type: "openai", Name: "openai", BaseURL: "https://other.example/"})
					} else {
						f.Exec(`update ai_providers set base_url = 'https://other.example/'`)
					}
				}
				return nil
			})
			plan, err := f.Store.Seed(context.Background(), f.Parse("OPENAI_KEY=key"), auditor, slog.Logger{})
			require.GreaterOrEqual(t, entries, 1600)
			if missing {
				require.ErrorIs(t, err, aiseed.ErrDrift)
				return
			}
			require.NoError(t, err)
			require.Equal(t, aiseed.ActionCreate, plan.Steps[0].Action)
		})
	}
}

// takeOver ends the connection of the delivery, as a server that fails does. The one that takes
// over can lack everything.
func (f *fixture) takeOver(missing bool) {
	f.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`)
	if missing {
		f.Exec(`truncate ai_providers, ai_provider_keys, ai_provider_audits, ai_encryption_keys`)
	}
}
