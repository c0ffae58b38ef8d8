package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"example.com/aiseed/internal/leak"
)

// TestL7_InterruptedAtAnyMomentOfAStart interrupts a start at one of the first nine
// events on the wire, then at every ninth event after it, until a start succeeds.
// Each time nothing may be left behind, and the next start must do the rest.
//
// It runs alone, because it looks for leftovers in the whole process.
func TestL7_InterruptedAtAnyMomentOfAStart(t *testing.T) {
	const every = 9
	for name, tt := range map[string]struct {
		prepare func(*fixture)
		leaves  []string // what may be in the database afterwards
		moments int      // at least
	}{
		"empty database": {
			func(f *fixture) { f.exec(emptyDatabase) },
			[]string{nothing, everything},
			30,
		},
		"current schema": {
			func(f *fixture) {
				f.exec(`truncate ai_providers, ai_provider_keys, ai_provider_audits, ai_encryption_keys`)
			},
			[]string{nothing, everything},
			20,
		},
		"nothing to do": {
			func(f *fixture) {
				if f.count() == everything {
					return // the start after the last interrupted one
				}
				h := f.start(f.environ)
				h.serving()
				h.stop()
			},
			[]string{everything},
			10,
		},
	} {
		t.Run(name, func(t *testing.T) {
			one := setup(t)
			left := map[string]int{}
			n, interrupted := 1+rand.IntN(every), true
			for ; interrupted; n += every {
				ok := t.Run(fmt.Sprintf("moment %d", n), func(t *testing.T) {
					f := one.of(t)
					tt.prepare(f)
					interrupted = f.interruptAt(n)
					outcome := f.count()
					require.Contains(t, tt.leaves, outcome, "all or nothing")
					left[outcome]++

					next := f.start(f.environ)
					f.requireListed(next.serving())
					next.stop()
					require.Equal(t, everything, f.count())
					require.Empty(t, f.rows(`select id from ai_provider_audits where delivered_at is null`), "A4")
				})
				if !ok {
					return
				}
			}
			t.Logf("of %d moments every %d. left behind: %v", n-every, every, left)
			require.GreaterOrEqual(t, n, tt.moments, "a start has more moments than that")
			require.Len(t, left, len(tt.leaves), "each outcome was seen")
		})
	}
}

// interruptAt interrupts a start at the n-th event on the wire, and reports whether there
// was one.
func (f *fixture) interruptAt(n int) (interrupted bool) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var moments int
	happens := func() error {
		mu.Lock()
		defer mu.Unlock()
		if moments++; moments == n {
			cancel()
		}
		return nil
	}
	w := &wire{before: happens, after: func() { _ = happens() }}

	goroutines := goleak.IgnoreCurrent()
	h := f.startContext(ctx, cancel, f.environ, w.tune)
	select {
	case <-h.ended:
	case <-h.output.address:
	case <-time.After(patience):
		require.FailNow(f.t, "the host neither serves nor ends")
	}
	mu.Lock()
	interrupted = moments >= n
	mu.Unlock()
	cancel()
	h.end()
	require.NoError(f.t, leak.Find(goroutines))
	require.Zero(f.t, w.open.Load(), "a connection is open")

	printed, code, err := h.wait()
	if strings.Contains(h.output.String(), "msg=listening") {
		// The interrupt came after start-up.
		require.NoError(f.t, err)
		require.Zero(f.t, code)
		return interrupted
	}
	require.ErrorIs(f.t, err, context.Canceled)
	require.Equal(f.t, "hostserver: interrupted\n", printed)
	require.Equal(f.t, 130, code)
	require.NotRegexp(f.t, `level=(WARN|ERROR)`, h.output.String(), "no noise")
	return interrupted
}

func TestL7_InterruptedWhileAnotherHostHoldsTheLock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	release := f.hold(`select pg_advisory_xact_lock(-8830732264031859510)`) // of the schema "public"
	h := f.start(f.environ)
	f.waitForWaiter()
	h.interrupt()
	printed, code, err := h.wait()
	require.ErrorIs(t, err, context.Canceled, "although the lock is still held")
	require.Equal(t, "hostserver: interrupted\n", printed)
	require.Equal(t, 130, code)
	require.Equal(t, nothing, f.count())

	release()
	next := f.start(f.environ)
	f.requireListed(next.serving())
	next.stop()
}

func TestInterruptedWhileConnecting(t *testing.T) {
	t.Parallel()
	silent, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}) // accepts connections and sends nothing
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, silent.SetDeadline(time.Now().Add(patience)))
	f := setup(t)
	h := f.start(f.with(databaseVariable + "=postgres://app@" + silent.Addr().String() + "/app?sslmode=disable"))
	conn, err := silent.Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))

	h.interrupt()
	printed, code, err := h.wait()
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "hostserver: interrupted\n", printed)
	require.Equal(t, 130, code)
	_, err = io.Copy(io.Discard, conn)
	require.NoError(t, err, "the connection is closed")
}

func TestInterruptedBeforeItBegins(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h := f.startContext(ctx, cancel, f.environ)
	_, _, err := h.wait()
	require.ErrorIs(t, err, context.Canceled)
	require.NotContains(t, h.output.String(), "msg=listening")
	require.Equal(t, nothing, f.count())
}

func TestInterruptedWhileServing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := f.start(f.with(addressVariable + "=" + ownHost() + ":0"))
	url := h.serving()
	address := strings.TrimPrefix(url, "http://")

	// A request that waits in the database.
	f.waitForWatcher()
	release := f.hold(`lock table ai_providers`)
	type answer struct {
		status int
		body   string
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		status, body, err := call("GET", url+"/api/providers", "")
		answered <- answer{status, body, err}
	}()
	f.waitForRequest()

	h.interrupt()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, patience, time.Millisecond, "new requests are refused at once")
	require.Empty(t, answered)
	select {
	case <-h.ended:
		require.FailNow(t, "the host ended before the request under way")
	default:
	}

	release()
	got := <-answered
	require.NoError(t, got.err)
	require.Equal(t, http.StatusOK, got.status)
	require.Contains(t, got.body, `"name":"corp"`)
	h.stop()

	listener, err := net.Listen("tcp", address)
	require.NoError(t, err, "the port is free again")
	require.NoError(t, listener.Close())
}

// ownHost is an address on which nobody else listens or connects. So nobody takes a port
// that was closed. Only Linux has more than one such address.
func ownHost() string {
	if runtime.GOOS == "linux" {
		return "127.68.21.7"
	}
	return "127.0.0.1"
}

// A wire carries a host's connections to the database.
type wire struct {
	before func() error // called before a dial, a read or a write, which fails with its error
	after  func()       // called after a read or a write; may be nil
	open   atomic.Int64 // connections
}

func (w *wire) tune(config *pgxpool.Config) { config.ConnConfig.DialFunc = w.dial }

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := w.before(); err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.open.Add(1)
	return &wireConn{Conn: conn, wire: w}, nil
}

type wireConn struct {
	net.Conn
	wire   *wire
	closed sync.Once
}

func (c *wireConn) Read(p []byte) (int, error)  { return c.wire.pass(c.Conn.Read, p) }
func (c *wireConn) Write(p []byte) (int, error) { return c.wire.pass(c.Conn.Write, p) }

func (c *wireConn) Close() error {
	c.closed.Do(func() { c.wire.open.Add(-1) })
	return c.Conn.Close()
}

func (w *wire) pass(do func([]byte) (int, error), p []byte) (int, error) {
	if err := w.before(); err != nil {
		return 0, err
	}
	n, err := do(p)
	if w.after != nil {
		w.after()
	}
	return n, err
}
