package aiseed_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/testkit"
)

// notify names a channel, on which Watch has to hear of what a test waits for: the next poll comes too late.
func notify(o *aiseed.StoreOptions, _ *pgxpool.Config) {
	o.NotifyChannel, o.PollInterval = "Providers changed", 24*time.Hour
}

// polling makes Watch poll all the time.
func polling(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.PollInterval = time.Millisecond }

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

// listening waits until the Watch of a store has seen that notifications arrive.
func (f *fixture) listening(store *aiseed.Store) {
	f.T.Helper()
	require.Eventually(f.T, func() bool { return store.WatchStatus().Listening }, testkit.Patience, time.Millisecond)
}

func TestO8_AnotherInstanceIsToldOfChanges(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	watching, _ := f.Open(func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.PollInterval = 24 * time.Hour })
	require.Zero(t, watching.WatchStatus())
	w := f.watch(watching)
	f.eventually(w, "openai")
	f.listening(watching)
	require.NotZero(t, watching.WatchStatus().Read)
	require.Zero(t, watching.WatchStatus().Heard, "the test of the connection tells of no change")
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	f.eventually(w, "anthropic", "openai")
	require.Eventually(t, func() bool { return !watching.WatchStatus().Heard.IsZero() }, testkit.Patience, time.Millisecond)
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

// notified listens on a channel, and returns a function for the payloads that arrived up to that call.
func (f *fixture) notified(channel string) (payloads func() []string) {
	f.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	conn, err := pgx.ConnectConfig(ctx, f.Pool.Config().ConnConfig)
	require.NoError(f.T, err)
	f.T.Cleanup(func() { _ = conn.Close(ctx); cancel() })
	name := pgx.Identifier{channel}.Sanitize()
	_, err = conn.Exec(ctx, `listen `+name)
	require.NoError(f.T, err)
	return func() (all []string) {
		f.T.Helper()
		f.Exec(`notify ` + name + `, 'the end'`)
		for {
			n, err := conn.WaitForNotification(ctx)
			require.NoError(f.T, err)
			if n.Payload == "the end" {
				return all
			}
			all = append(all, n.Payload)
		}
	}
}

func TestO8_InTheTransaction(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	payloads := f.notified("Providers changed")
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
	require.Equal(t, []string{""}, payloads(), "one for the one commit, none for the rollback")

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
	for schema, channel := range map[string]string{"": "aiseed_public", "s": "aiseed_s", long[1:]: "aiseed_" + long[1:], long: "aiseed_74c397717e5a103a"} {
		payloads := f.notified(channel)
		store, _ := f.Open(func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Schema, o.Migrate = schema, true })
		created, err := store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "one"})
		require.NoError(t, err)
		_, err = store.AddProviderKey(ctx, "a", created.ID, aiseed.NewSecret("key"))
		require.NoError(t, err)
		_, err = store.DeliverAudits(ctx, f.Audits)
		require.NoError(t, err)
		require.Len(t, payloads(), 2, "a delivery changes no provider")
	}
	silent, _ := f.Open(func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.NoNotifications = true })
	payloads := f.notified("aiseed_public")
	_, err := silent.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "two"})
	require.NoError(t, err)
	require.Empty(t, payloads())
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
	for n := range 3 {
		f.Exec(`select pg_notify('Providers changed', '')`)
		reads(n + 1)
	}
	f.Exec(`update ai_provider_keys set api_key = $1`, good)
	f.Exec(`select pg_notify('Providers changed', '')`)
	require.Eventually(t, func() bool { told, _ := w.counts(); return told >= 3 }, testkit.Patience, time.Millisecond)
	_, sent := wire.Count()
	require.NotContains(t, sent, "listen", "what cannot be decrypted is no reason to connect again")
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
	watching, wire := f.Open(notify)
	f.Exec(`alter table ai_provider_keys rename to kept`)
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
