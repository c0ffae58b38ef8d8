package aiseed_test

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// notify names a channel, on which Watch has to hear of what a test waits for: the next poll comes too late.
func notify(o *aiseed.StoreOptions, _ *pgxpool.Config) {
	o.NotifyChannel, o.PollInterval = "Providers changed", 24*time.Hour
}

func TestO8_AnotherInstanceIsToldOfChanges(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	watching, _ := f.Open(storetest.PollEvery(24 * time.Hour))
	require.Zero(t, watching.WatchStatus())
	w := f.Watch(watching)
	w.Eventually("openai")
	f.AwaitListening(watching)
	require.NotZero(t, watching.WatchStatus().Read)
	require.Zero(t, watching.WatchStatus().Heard, "the test of the connection tells of no change")
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	w.Eventually("anthropic", "openai")
	require.Eventually(t, func() bool { return !watching.WatchStatus().Heard.IsZero() }, testkit.Patience, time.Millisecond)
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "a", providers[0].ID, false))
	w.Eventually("openai")
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", providers[1].ID))
	w.Eventually()
	_, troubles := w.Counts()
	require.Zero(t, troubles)
}

func TestO8_ItReconnectsAndMissesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, _ := f.Open(notify, func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["application_name"] = "watching"
	})
	w := f.Watch(watching)
	w.Eventually()
	for _, line := range []string{"OPENAI_KEY=key", "ANTHROPIC_KEY=key"} {
		f.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'watching'`)
		f.Seeded(line)
	}
	w.Eventually("anthropic", "openai")
}

func TestO8_S7_TroubleIsToldAndOver(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	f.Seeded("OPENAI_KEY=key", "PROVIDER_0_TYPE=copilot")
	w := f.Watch(f.Store)
	w.Eventually("copilot", "openai")
	good := f.Rows(`select api_key from ai_provider_keys`)[0]
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	f.Exec(`select pg_notify('Providers changed', '')`)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		require.Len(c, w.Errors(), 1)
		require.ErrorIs(c, w.Errors()[0], aiseed.ErrUndecryptable)
	}, testkit.Patience, time.Millisecond)
	w.Eventually("copilot") // told together with the error
	f.Exec(`update ai_provider_keys set api_key = $1`, good)
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	w.Eventually("anthropic", "copilot", "openai")
}

// notified listens on channels, and returns a function for what arrived since the last call: channels, each with its payload.
func (f *fixture) notified(channels ...string) (heard func() []string) {
	f.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	conn, err := pgx.ConnectConfig(ctx, f.Pool.Config().ConnConfig)
	require.NoError(f.T, err)
	f.T.Cleanup(func() { _ = conn.Close(ctx); cancel() })
	for _, channel := range append(channels, "the end") {
		_, err = conn.Exec(ctx, `listen `+pgx.Identifier{channel}.Sanitize())
		require.NoError(f.T, err)
	}
	return func() (all []string) {
		f.T.Helper()
		f.Exec(`notify "the end"`)
		for {
			n, err := conn.WaitForNotification(ctx)
			require.NoError(f.T, err)
			if n.Channel == "the end" {
				return all
			}
			all = append(all, n.Channel+n.Payload)
		}
	}
}

func TestO8_InTheTransaction(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	heard := f.notified("Providers changed")
	f.Seeded("OPENAI_KEY=key")
	notifying, w := f.Open(notify)
	w.Reset(nil)
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, notifying, f.Parse("OPENAI_KEY=key"), f.Audits, f.Logs.Logger()))
	_, sent := w.Count()
	require.NotContains(t, sent, "pg_notify", "nothing was written")
	f.failing(1000, "53100")
	require.Error(t, aiseed.SeedAIProvidersFromEnv(ctx, notifying, f.Parse("ANTHROPIC_KEY=key"), f.Audits, f.Logs.Logger()))
	f.Exec(`drop trigger fail on ai_providers`)
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, notifying, f.Parse("ANTHROPIC_KEY=key"), f.Audits, f.Logs.Logger()))
	require.Equal(t, []string{"Providers changed"}, heard(), "one for the one commit, none for the rollback")

	_, err := aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: f.Keyring, NotifyChannel: string(make([]byte, 64))})
	require.ErrorContains(t, err, "NotifyChannel is longer than 63 bytes")
	_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: f.Keyring, NotifyChannel: "c", NoNotifications: true})
	require.ErrorContains(t, err, "choose one")
}

func TestO8_TheChannelIsThatOfTheSchema(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	long := strings.Repeat("s", 57)
	channels := map[string]string{"": "aiseed_public", "s": "aiseed_s", long[1:]: "aiseed_" + long[1:], long: "aiseed_74c397717e5a103a"}
	heard := f.notified(slices.Collect(maps.Values(channels))...)
	for schema, channel := range channels {
		options := f.Options
		options.Schema, options.Migrate = schema, true
		store := f.Opened(options)
		created, err := store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "one"})
		require.NoError(t, err)
		_, err = store.AddProviderKey(ctx, "a", created.ID, aiseed.NewSecret("key"))
		require.NoError(t, err)
		_, err = store.DeliverAudits(ctx, f.Audits)
		require.NoError(t, err)
		require.Equal(t, []string{channel, channel}, heard(), "a delivery changes no provider")
	}
	f.Options.NoNotifications = true
	silent := f.Opened(f.Options)
	_, err := silent.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "two"})
	require.NoError(t, err)
	require.Empty(t, heard())
}

func TestO8_TheSameIsNotToldTwice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, notify)
	watching, wire := f.Open(notify)
	w := f.Watch(watching)
	w.Eventually()
	told, _ := w.Counts()
	require.Equal(t, 1, told, "that there are none, too")
	reads := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			_, sent := wire.Count()
			return strings.Count(sent, "enabled and not deleted") >= n
		}, testkit.Patience, time.Millisecond)
	}
	wire.Reset(nil)
	f.Exec(`select pg_notify('Providers changed', '')`)
	reads(1)
	f.Exec(`select pg_notify('Providers changed', '')`)
	reads(2)
	f.Seeded("OPENAI_KEY=key")
	w.Eventually("openai")
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)

	// The end of a problem is reported, even if the providers are the same as before it.
	good := f.Rows(`select api_key from ai_provider_keys`)[0]
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	wire.Reset(nil)
	for n := range 3 {
		f.Exec(`select pg_notify('Providers changed', '')`)
		reads(n + 1)
	}
	f.Exec(`update ai_provider_keys set api_key = $1`, good)
	f.Exec(`select pg_notify('Providers changed', '')`)
	require.Eventually(t, func() bool { told, _ := w.Counts(); return told >= 4 }, testkit.Patience, time.Millisecond)
	_, sent := wire.Count()
	require.NotContains(t, sent, "listen", "what cannot be decrypted is no reason to connect again")
	told, troubles := w.Counts()
	require.Equal(t, []int{4, 1}, []int{told, troubles}, "each kind of trouble once")

	// The same problem is reported again if it comes back.
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	f.Exec(`select pg_notify('Providers changed', '')`)
	require.Eventually(t, func() bool { _, troubles := w.Counts(); return troubles == 2 }, testkit.Patience, time.Millisecond)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "a", providers[0].ID, false))
	require.Eventually(t, func() bool { told, _ := w.Counts(); return told == 6 }, testkit.Patience, time.Millisecond)
}

// What the callback gets is the host's.
func TestO8_AHostMayChangeWhatItGets(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	f.Seeded("OPENAI_KEY=key", "BEDROCK_REGION=r")
	f.Wire.Reset(nil)
	ctx, cancel := context.WithCancel(context.Background())
	var calls atomic.Int32
	ended := make(chan error, 1)
	go func() {
		ended <- f.Store.Watch(ctx, func(providers []aiseed.Provider, _ error) {
			calls.Add(1)
			slices.Reverse(providers)
			for i := range providers {
				for j := range providers[i].Keys {
					providers[i].Keys[j].APIKey = aiseed.Secret{}
				}
				if bedrock := providers[i].Bedrock; bedrock != nil {
					bedrock.Region = "another"
				}
			}
		})
	}()
	f.AwaitListening(f.Store)
	for n := range 3 {
		_, sent := f.Wire.Count()
		f.Exec(`select pg_notify('Providers changed', '')`)
		require.Eventually(t, func() bool {
			_, now := f.Wire.Count()
			return strings.Count(now, "enabled and not deleted") > strings.Count(sent, "enabled and not deleted")
		}, testkit.Patience, time.Millisecond, n)
	}
	cancel()
	require.ErrorIs(t, testkit.Awaited(t, ended), context.Canceled)
	require.EqualValues(t, 1, calls.Load(), "nothing changed")
}

func TestO8_ALostConnectionIsNoTrouble(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, wire := f.Open(notify)
	w := f.Watch(watching)
	w.Eventually()
	wire.Reset(testkit.Once(testkit.CutBefore, "enabled and not deleted"))
	f.Seeded("OPENAI_KEY=key")
	w.Eventually("openai")
	told, troubles := w.Counts()
	require.Equal(t, []int{2, 0}, []int{told, troubles})
}

func TestO8_WatchKeepsNoConnectionOfThePool(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, _ := f.Open(notify, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
	require.ErrorContains(t, watching.Watch(context.Background(), nil), "Watch needs a function to call back")
	w := f.Watch(watching)
	w.Eventually()
	f.Seeded("OPENAI_KEY=key")
	w.Eventually("openai")
}

// listening are the backends of watchers.
const listening = `select pid from pg_stat_activity where datname = current_database() and query like 'listen %'`

func TestO8_ItPausesWhereNothingHelps(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	f.Exec(`alter table ai_provider_keys rename to kept`)
	var mu sync.Mutex
	var reads []time.Time
	f.Wire.Reset(func(sent []byte) testkit.Action {
		if bytes.Contains(sent, []byte("enabled and not deleted")) {
			mu.Lock()
			defer mu.Unlock()
			reads = append(reads, time.Now())
		}
		return testkit.Pass
	})
	f.Watch(f.Store)
	var seen []time.Time
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		seen = slices.Clone(reads)
		return len(seen) >= 4
	}, testkit.Patience, time.Millisecond, "a connection that was closed is not waited for")
	growth := 0
	for i := range 3 { // a busy machine makes a pause longer, never shorter
		// But after a second of listening the pauses are short again, and a busy machine
		// can take that long to begin to listen.
		if i > 0 && seen[i+1].Sub(seen[i-1]) > time.Second {
			growth = 0
		}
		require.GreaterOrEqual(t, seen[i+1].Sub(seen[i]), 10*time.Millisecond<<growth, "the pauses grow")
		growth++
	}
	// A connection that was left open would stay.
	require.Eventually(t, func() bool { return len(f.Rows(listening)) <= 1 }, testkit.Patience, time.Millisecond,
		"each time the connection before is closed")
}

func TestO8_NothingOfItIsLeft(t *testing.T) { // F7
	t.Parallel()
	f := setup(t, notify)
	w := f.Watch(f.Store)
	w.Eventually()
	f.AwaitListening(f.Store)
	require.Len(t, f.Rows(listening), 1)
	w.Stop()
	require.False(t, f.Store.WatchStatus().Listening)
	require.Eventually(t, func() bool { return len(f.Rows(listening)) == 0 }, testkit.Patience, 5*time.Millisecond)
}

func TestO8_WhatNobodyNotifiesOfIsPolled(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	hears, _ := f.Open(storetest.PollEvery(10 * time.Millisecond))
	deaf, wire := f.Open(storetest.PollEvery(10*time.Millisecond), func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.NoNotifications = true })
	for _, w := range []*storetest.Watched{f.Watch(hears), f.Watch(deaf)} {
		w.Eventually("openai")
		f.Exec(`update ai_providers set enabled = not enabled`)
		w.Eventually()
		f.Exec(`update ai_providers set enabled = not enabled`)
		w.Eventually("openai")
	}
	_, sent := wire.Count()
	require.NotContains(t, sent, "listen")
	require.NotContains(t, sent, "pg_notify")
	require.NotZero(t, deaf.WatchStatus().Read)
	require.False(t, deaf.WatchStatus().Listening)
}
