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
	"example.com/aiseed/internal/testkit"
)

func notify(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.NotifyChannel = "Providers changed" }

// watched collects the calls of Watch.
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
	f.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watched{}
	done := make(chan error, 1)
	go func() { done <- store.Watch(ctx, w.changed) }()
	f.T.Cleanup(func() {
		cancel()
		require.ErrorIs(f.T, testkit.Awaited(f.T, done), context.Canceled)
	})
	return w
}

func (f *fixture) eventually(w *watched, want ...string) {
	f.T.Helper()
	require.EventuallyWithT(f.T, func(c *assert.CollectT) { require.Equal(c, append([]string{}, want...), w.last()) }, testkit.Patience, time.Millisecond)
}

func TestO8_AnotherInstanceIsToldOfChanges(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, notify)
	f.Seeded("OPENAI_KEY=key")
	watching, _ := f.Open(notify)
	w := f.watch(watching)
	f.eventually(w, "openai")
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	f.eventually(w, "anthropic", "openai")
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "a", providers[0].ID, false))
	f.eventually(w, "openai")
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", providers[1].ID))
	require.EventuallyWithT(t, func(c *assert.CollectT) { require.Empty(c, w.last()) }, testkit.Patience, time.Millisecond)
	_, troubles := w.counts()
	require.Zero(t, troubles)
}

func TestO8_ItReconnectsAndMissesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, _ := f.Open(notify, func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["application_name"] = "watching"
	})
	w := f.watch(watching)
	f.eventually(w)
	for _, line := range []string{"OPENAI_KEY=key", "ANTHROPIC_KEY=key"} {
		f.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'watching'`)
		f.Seeded(line)
	}
	f.eventually(w, "anthropic", "openai")
}

func TestO8_TroubleIsToldAndOver(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	f.Seeded("OPENAI_KEY=key")
	watching, _ := f.Open(notify)
	w := f.watch(watching)
	f.eventually(w, "openai")
	good := f.Rows(`select api_key from ai_provider_keys`)[0]
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	f.Exec(`select pg_notify('Providers changed', '')`)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		w.mu.Lock()
		defer w.mu.Unlock()
		require.Len(c, w.errs, 1)
		require.ErrorIs(c, w.errs[0], aiseed.ErrUndecryptable)
	}, testkit.Patience, time.Millisecond)
	f.Exec(`update ai_provider_keys set api_key = $1`, good)
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	f.eventually(w, "anthropic", "openai")
}

func TestO8_OffByDefaultAndInTheTransaction(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	require.ErrorContains(t, f.Store.Watch(ctx, nil), "Watch needs")
	conn, err := f.Pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(ctx, `listen "Providers changed"`)
	require.NoError(t, err)
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
	f.Exec(`select pg_notify('Providers changed', 'the end')`)
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

	_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: f.Keyring, NotifyChannel: string(make([]byte, 64))})
	require.ErrorContains(t, err, "NotifyChannel is longer than 63 bytes")
}

func TestO8_AReadThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, wire := f.Open(notify)
	w := f.watch(watching)
	f.eventually(w)
	wire.Reset(testkit.Once(testkit.CutBefore, "enabled and not deleted"))
	f.Seeded("OPENAI_KEY=key")
	f.eventually(w, "openai")
}

// counts returns how often Watch passed on providers and errors.
func (w *watched) counts() (told, troubles int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.names), len(w.errs)
}

func TestO8_TheSameIsNotToldTwice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, notify)
	watching, wire := f.Open(notify)
	w := f.watch(watching)
	f.eventually(w)
	told, _ := w.counts()
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
	f.eventually(w, "openai")
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)

	// The end of a problem is reported, even if the providers are the same as before it.
	good := f.Rows(`select api_key from ai_provider_keys`)[0]
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	wire.Reset(nil)
	f.Exec(`select pg_notify('Providers changed', '')`)
	reads(4) // again and again, after a pause
	f.Exec(`update ai_provider_keys set api_key = $1`, good)
	require.Eventually(t, func() bool { told, _ := w.counts(); return told >= 3 }, testkit.Patience, time.Millisecond)
	told, troubles := w.counts()
	require.Equal(t, []int{3, 1}, []int{told, troubles}, "each kind of trouble once")

	// The same problem is reported again if it comes back.
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	f.Exec(`select pg_notify('Providers changed', '')`)
	require.Eventually(t, func() bool { _, troubles := w.counts(); return troubles == 2 }, testkit.Patience, time.Millisecond)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "a", providers[0].ID, false))
	require.Eventually(t, func() bool { told, _ := w.counts(); return told == 4 }, testkit.Patience, time.Millisecond)
}

func TestO8_ALostConnectionIsNoTrouble(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, wire := f.Open(notify)
	w := f.watch(watching)
	f.eventually(w)
	wire.Reset(testkit.Once(testkit.CutBefore, "enabled and not deleted"))
	f.Seeded("OPENAI_KEY=key")
	f.eventually(w, "openai")
	told, troubles := w.counts()
	require.Equal(t, []int{2, 0}, []int{told, troubles})
}

func TestO8_WatchKeepsNoConnectionOfThePool(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	watching, _ := f.Open(notify, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.MaxConns = 1 })
	require.ErrorContains(t, watching.Watch(context.Background(), nil), "Watch needs a function to call back")
	w := f.watch(watching)
	f.eventually(w)
	f.Seeded("OPENAI_KEY=key")
	f.eventually(w, "openai")
}

// listening are the backends of watchers.
const listening = `select pid from pg_stat_activity where datname = current_database() and query like 'listen %'`

func TestO8_ItPausesWhereNothingHelps(t *testing.T) {
	t.Parallel()
	f := setup(t, notify)
	f.Seeded("OPENAI_KEY=key")
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	watching, wire := f.Open(notify)
	var mu sync.Mutex
	var reads []time.Time
	wire.Reset(func(sent []byte) testkit.Action {
		if bytes.Contains(sent, []byte("enabled and not deleted")) {
			mu.Lock()
			defer mu.Unlock()
			reads = append(reads, time.Now())
		}
		return testkit.Pass
	})
	f.watch(watching)
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
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, done := &watched{}, make(chan error, 1)
	go func() { done <- f.Store.Watch(ctx, w.changed) }()
	f.eventually(w)
	require.Len(t, f.Rows(listening), 1)
	cancel()
	require.ErrorIs(t, testkit.Awaited(t, done), context.Canceled)
	require.Eventually(t, func() bool { return len(f.Rows(listening)) == 0 }, testkit.Patience, 5*time.Millisecond)
}
