package robustness

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// at is a fixture without a store, on a database that the test made.
func at(t *testing.T, dsn string) *fixture {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), dsn)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return &fixture{&storetest.Fixture{T: t, Pool: pool, Keyring: storetest.Keyring(t, 1), Audits: &aiseedtest.AuditRecorder{}, Logs: &testkit.LogRecorder{}}}
}

// tells opens a store that creates the schema if there is none, and logs to the fixture.
func (f *fixture) tells(o *aiseed.StoreOptions, _ *pgxpool.Config) {
	o.Migrate, o.Logger = true, f.Logs.Logger()
}

// tested waits until Watch has connected again, to test, n times.
func (f *fixture) tested(wire *testkit.Wire, n int) {
	f.T.Helper()
	wire.Reset(nil)
	require.Eventually(f.T, func() bool {
		_, sent := wire.Count()
		return strings.Count(sent, `listen "aiseed_test_`) >= n
	}, testkit.Patience, time.Millisecond)
}

func TestO8_BehindATransactionPoolingProxyItPolls(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server, err := ephemeral.Start(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	direct := at(t, server.DSN(""))
	direct.Store, _ = direct.Open(direct.tells)
	through := func(settings ...string) *fixture {
		proxy, err := ephemeral.StartPgBouncer(ctx, server, settings...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, proxy.Close()) })
		return at(t, proxy.DSN("postgres"))
	}

	f := through("default_pool_size=1") // it listens and notifies over the same connection to the server
	watching, wire := f.Open(f.tells, storetest.PollEvery(10*time.Millisecond))
	w := f.Watch(watching)
	f.tested(wire, 2)
	direct.Created(aiseed.ProviderSpec{Type: "openai", Name: "first"})
	w.Eventually("first")
	f.tested(wire, 2)
	require.False(t, watching.WatchStatus().Listening)
	require.Zero(t, watching.WatchStatus().Heard)
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "as behind a transaction-pooling proxy poll_interval=10ms")
	_, troubles := w.Counts()
	require.Zero(t, troubles)

	// Sessions that are pooled are no obstacle.
	f = through("pool_mode=session")
	watching, _ = f.Open(f.tells, storetest.PollEvery(24*time.Hour))
	w = f.Watch(watching)
	f.AwaitListening(watching)
	direct.Created(aiseed.ProviderSpec{Type: "openai", Name: "second"})
	w.Eventually("first", "second")
}

func TestO8_OnAStandbyItPollsUntilThatIsThePrimary(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	primary, err := ephemeral.Start(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, primary.Close()) })
	there := at(t, primary.DSN(""))
	there.Store, _ = there.Open(there.tells)
	standby, err := primary.Standby(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })

	f := at(t, standby.DSN(""))
	watching, wire := f.Open(f.tells, storetest.PollEvery(10*time.Millisecond))
	w := f.Watch(watching)
	there.Created(aiseed.ProviderSpec{Type: "openai", Name: "first"})
	w.Eventually("first")
	f.tested(wire, 3)
	require.False(t, watching.WatchStatus().Listening)
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "the server is a standby")
	require.NoError(t, standby.Promote(ctx))
	f.AwaitListening(watching)
	_, troubles := w.Counts()
	require.Zero(t, troubles)
	require.Eventually(t, func() bool { return strings.Contains(f.Logs.String(), "arrive again") }, testkit.Patience, time.Millisecond)
}

// A silenceable connection can stop to receive, as if a device on the way had forgotten it.
type silenceable struct {
	net.Conn
	listens, silent atomic.Bool
}

func (c *silenceable) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(`listen "aiseed_public"`)) {
		c.listens.Store(true)
	}
	return c.Conn.Write(p)
}

func (c *silenceable) Read(p []byte) (int, error) {
	for {
		if n, err := c.Conn.Read(p); err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

func TestO8_AConnectionThatDiedSilentlyIsReplaced(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var all sync.Map
	watching, _ := f.Open(storetest.PollEvery(10*time.Millisecond), func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			silenceable := &silenceable{Conn: conn}
			all.Store(silenceable, nil)
			return silenceable, err
		}
	})
	f.Watch(watching)
	f.AwaitListening(watching)
	all.Range(func(c, _ any) bool {
		c.(*silenceable).silent.Store(c.(*silenceable).listens.Load())
		return true
	})
	require.Eventually(t, func() (replaced bool) {
		all.Range(func(c, _ any) bool {
			replaced = c.(*silenceable).listens.Load() && !c.(*silenceable).silent.Load()
			return !replaced
		})
		return replaced
	}, testkit.Patience, time.Millisecond)
	f.AwaitListening(watching)
}
