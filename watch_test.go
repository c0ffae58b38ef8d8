package aiseed_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

func notify(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.NotifyChannel = "Providers changed" }

// watched collects what Watch tells.
type watched struct {
	mu    sync.Mutex
	names [][]string
	errs  []error
}

func (w *watched) changed(providers []aiseed.Provider, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.errs = append(w.errs, err)
		return
	}
	names := []string{}
	for _, p := range providers {
		names = append(names, p.Name)
	}
	w.names = append(w.names, names)
}

func (w *watched) last() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.names) == 0 {
		return nil
	}
	return w.names[len(w.names)-1]
}

// watch runs Watch until the test ends, and waits for it.
func (f *fixture) watch(store *aiseed.Store) *watched {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watched{}
	done := make(chan error, 1)
	go func() { done <- store.Watch(ctx, w.changed) }()
	f.t.Cleanup(func() {
		cancel()
		require.ErrorIs(f.t, awaited(f.t, done), context.Canceled)
	})
	return w
}

func (f *fixture) eventually(w *watched, want ...string) {
	f.t.Helper()
	require.EventuallyWithT(f.t, func(c *assert.CollectT) { require.Equal(c, append([]string{}, want...), w.last()) }, patience, time.Millisecond)
}

func TestO8_AnotherInstanceIsToldOfChanges(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, notify)
	f.seeded("OPENAI_KEY=key")
	watching, _ := f.open(notify)
	w := f.watch(watching)
	f.eventually(w, "openai")
	f.seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	f.eventually(w, "anthropic", "openai")
	providers, err := f.store.Providers(ctx)
	require.NoError(t, err)
	require.NoError(t, f.store.SetProviderEnabled(ctx, "a", providers[0].ID, false))
	f.eventually(w, "openai")
	require.NoError(t, f.store.DeleteProvider(ctx, "a", providers[1].ID))
	require.EventuallyWithT(t, func(c *assert.CollectT) { require.Empty(c, w.last()) }, patience, time.Millisecond)
	_, troubles := w.counts()
	require.Zero(t, troubles)
}

func TestO8_ItReconnectsAndMissesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, _ := f.open(notify, func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["application_name"] = "watching"
	})
	w := f.watch(watching)
	f.eventually(w)
	for _, line := range []string{"OPENAI_KEY=key", "ANTHROPIC_KEY=key"} {
		f.exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'watching'`)
		f.seeded(line)
	}
	f.eventually(w, "anthropic", "openai")
}

func TestO8_TroubleIsToldAndOver(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	f.seeded("OPENAI_KEY=key")
	watching, _ := f.open(notify)
	w := f.watch(watching)
	f.eventually(w, "openai")
	good := f.rows(`select api_key from ai_provider_keys`)[0]
	f.exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	f.exec(`select pg_notify('Providers changed', '')`)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		w.mu.Lock()
		defer w.mu.Unlock()
		require.Len(c, w.errs, 1)
		require.ErrorIs(c, w.errs[0], aiseed.ErrUndecryptable)
	}, patience, time.Millisecond)
	f.exec(`update ai_provider_keys set api_key = $1`, good)
	f.seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	f.eventually(w, "anthropic", "openai")
}

func TestO8_OffByDefaultAndInTheTransaction(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	require.ErrorContains(t, f.store.Watch(ctx, nil), "set StoreOptions.NotifyChannel")
	conn, err := f.pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(ctx, `listen "Providers changed"`)
	require.NoError(t, err)
	f.seeded("OPENAI_KEY=key")
	notifying, w := f.open(notify)
	w.reset(nil)
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, notifying, f.parse("OPENAI_KEY=key"), f.audits, f.logs.Logger()))
	_, sent := w.count()
	require.NotContains(t, sent, "pg_notify", "nothing was written")
	f.failing(1000, "53100")
	require.Error(t, aiseed.SeedAIProvidersFromEnv(ctx, notifying, f.parse("ANTHROPIC_KEY=key"), f.audits, f.logs.Logger()))
	f.exec(`drop trigger fail on ai_providers`)
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, notifying, f.parse("ANTHROPIC_KEY=key"), f.audits, f.logs.Logger()))
	f.exec(`select pg_notify('Providers changed', 'the end')`)
	var payloads []string
	for {
		n, err := conn.Conn().WaitForNotification(ctx)
		require.NoError(t, err)
		payloads = append(payloads, n.Payload)
		if n.Payload != "" {
			break
		}
	}
	require.Equal(t, []string{"", "the end"}, payloads, "one for the one commit, none for the rollback")

	_, err = aiseed.Open(ctx, f.pool, aiseed.StoreOptions{Keyring: f.keyring, NotifyChannel: string(make([]byte, 64))})
	require.ErrorContains(t, err, "NotifyChannel is longer than 63 bytes")
}

func TestO8_AReadThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, wire := f.open(notify)
	w := f.watch(watching)
	f.eventually(w)
	wire.reset(once(cutBefore, "enabled and not deleted"))
	f.seeded("OPENAI_KEY=key")
	f.eventually(w, "openai")
}

// counts tells how often Watch told of providers and of trouble.
func (w *watched) counts() (told, troubles int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.names), len(w.errs)
}

func TestO8_TheSameIsNotToldTwice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, notify)
	watching, wire := f.open(notify)
	w := f.watch(watching)
	f.eventually(w)
	told, _ := w.counts()
	require.Equal(t, 1, told, "that there are none, too")
	reads := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			_, sent := wire.count()
			return strings.Count(sent, "enabled and not deleted") >= n
		}, patience, time.Millisecond)
	}
	wire.reset(nil)
	f.exec(`select pg_notify('Providers changed', '')`)
	reads(1)
	f.exec(`select pg_notify('Providers changed', '')`)
	reads(2)
	f.seeded("OPENAI_KEY=key")
	f.eventually(w, "openai")
	providers, err := f.store.Providers(ctx)
	require.NoError(t, err)

	// What is over is told although the providers are what they were.
	good := f.rows(`select api_key from ai_provider_keys`)[0]
	f.exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	wire.reset(nil)
	f.exec(`select pg_notify('Providers changed', '')`)
	reads(4) // again and again, after a pause
	f.exec(`update ai_provider_keys set api_key = $1`, good)
	require.Eventually(t, func() bool { told, _ := w.counts(); return told >= 3 }, patience, time.Millisecond)
	told, troubles := w.counts()
	require.Equal(t, []int{3, 1}, []int{told, troubles}, "each kind of trouble once")

	// And a second time it is trouble again.
	f.exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	f.exec(`select pg_notify('Providers changed', '')`)
	require.Eventually(t, func() bool { _, troubles := w.counts(); return troubles == 2 }, patience, time.Millisecond)
	require.NoError(t, f.store.SetProviderEnabled(ctx, "a", providers[0].ID, false))
	require.Eventually(t, func() bool { told, _ := w.counts(); return told == 4 }, patience, time.Millisecond)
}

func TestO8_ALostConnectionIsNoTrouble(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, wire := f.open(notify)
	w := f.watch(watching)
	f.eventually(w)
	wire.reset(once(cutBefore, "enabled and not deleted"))
	f.seeded("OPENAI_KEY=key")
	f.eventually(w, "openai")
	told, troubles := w.counts()
	require.Equal(t, []int{2, 0}, []int{told, troubles})
}

func TestO8_WatchKeepsNoConnectionOfThePool(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, _ := f.open(notify, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
	require.ErrorContains(t, watching.Watch(context.Background(), nil), "Watch needs a function to call back")
	w := f.watch(watching)
	f.eventually(w)
	f.seeded("OPENAI_KEY=key")
	f.eventually(w, "openai")
}

// listening are the backends of watchers.
const listening = `select pid from pg_stat_activity where datname = current_database() and query like 'listen %'`

func TestO8_ItPausesWhereNothingHelps(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	f.seeded("OPENAI_KEY=key")
	f.exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	watching, wire := f.open(notify)
	var mu sync.Mutex
	var reads []time.Time
	wire.reset(func(sent []byte) action {
		if bytes.Contains(sent, []byte("enabled and not deleted")) {
			mu.Lock()
			defer mu.Unlock()
			reads = append(reads, time.Now())
		}
		return pass
	})
	f.watch(watching)
	var seen []time.Time
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		seen = slices.Clone(reads)
		return len(seen) >= 4
	}, patience, time.Millisecond, "a connection that was closed is not waited for")
	growth := 0
	for i := range 3 { // a busy machine makes a pause longer, and never shorter
		// But after a second of listening the pauses are short again, and so long
		// can a busy machine take to begin with it.
		if i > 0 && seen[i+1].Sub(seen[i-1]) > time.Second {
			growth = 0
		}
		require.GreaterOrEqual(t, seen[i+1].Sub(seen[i]), 10*time.Millisecond<<growth, "the pauses grow")
		growth++
	}
	// One that was left open would stay.
	require.Eventually(t, func() bool { return len(f.rows(listening)) <= 1 }, patience, time.Millisecond,
		"each time the connection before is closed")
}

func TestO8_NothingOfItIsLeft(t *testing.T) { // F7
	t.Parallel()
	f := setup(t, notify)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, done := &watched{}, make(chan error, 1)
	go func() { done <- f.store.Watch(ctx, w.changed) }()
	f.eventually(w)
	require.Len(t, f.rows(listening), 1)
	cancel()
	require.ErrorIs(t, awaited(t, done), context.Canceled)
	require.Eventually(t, func() bool { return len(f.rows(listening)) == 0 }, patience, 5*time.Millisecond)
}
