package storetest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/testkit"
)

// PollEvery sets the option of the store. With 24 hours, a test sees only what Watch is notified of.
func PollEvery(d time.Duration) Option {
	return func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.PollInterval = d }
}

// Watched collects the calls of Watch.
type Watched struct {
	t     *testing.T
	stop  func()
	mu    sync.Mutex
	names [][]string
	errs  []error
}

// Watch runs Watch until the test ends, and waits for its end.
func (f *Fixture) Watch(store *aiseed.Store) *Watched {
	f.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watched{t: f.T}
	done := make(chan error, 1)
	w.stop = sync.OnceFunc(func() {
		cancel()
		require.ErrorIs(f.T, testkit.Awaited(f.T, done), context.Canceled)
	})
	go func() { done <- store.Watch(ctx, w.changed) }()
	f.T.Cleanup(w.stop)
	return w
}

// Stop ends Watch, and waits for its end.
func (w *Watched) Stop() { w.stop() }

func (w *Watched) changed(providers []aiseed.Provider, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.errs = append(w.errs, err)
	}
	if providers == nil {
		return
	}
	names := []string{}
	for _, p := range providers {
		names = append(names, p.Name)
	}
	w.names = append(w.names, names)
}

// Eventually waits until these are the names that Watch passed on last.
func (w *Watched) Eventually(names ...string) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		w.mu.Lock()
		defer w.mu.Unlock()
		require.NotEmpty(c, w.names)
		require.Equal(c, append([]string{}, names...), w.names[len(w.names)-1])
	}, testkit.Patience, time.Millisecond)
}

// Counts returns how often Watch passed on providers and errors.
func (w *Watched) Counts() (told, troubles int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.names), len(w.errs)
}

// Errors returns the errors that Watch passed on.
func (w *Watched) Errors() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.errs)
}

// AwaitListening waits until the Watch of a store has seen that notifications arrive.
func (f *Fixture) AwaitListening(store *aiseed.Store) {
	f.T.Helper()
	require.Eventually(f.T, func() bool { return store.WatchStatus().Listening }, testkit.Patience, time.Millisecond)
}
