package bench

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

func seeded(n int) string { return fmt.Sprintf("seeded_%d", n) }
func empty(n int) string  { return fmt.Sprintf("empty_%d", n) }

// database creates a database with our tables, as a copy of another one. No line to that is open.
func (s *suite) database(name, template string) {
	s.line("postgres", 0).exec("create database " + name + " template " + template)
	require.NoError(s, aiseed.Migrate(s.Context(), s.line(name, 0).Pool, ""))
}

// A line is a pool of one connection, over which each round trip takes latency longer. It counts
// round trips: a round trip is the client writing and then waiting for the server.
type line struct {
	*pgxpool.Pool
	s       *suite
	latency time.Duration
	trips   atomic.Int64
}

func (s *suite) line(database string, latency time.Duration) *line {
	l := &line{s: s, latency: latency}
	cfg, err := pgxpool.ParseConfig(s.server.DSN(database))
	require.NoError(s, err)
	cfg.MaxConns, cfg.MaxConnLifetime, cfg.MaxConnIdleTime, cfg.HealthCheckPeriod = 1, 24*time.Hour, 24*time.Hour, 24*time.Hour
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return &lineConn{Conn: conn, line: l}, err
	}
	l.Pool, err = pgxpool.NewWithConfig(s.Context(), cfg)
	require.NoError(s, err)
	s.lines = append(s.lines, l)
	require.NoError(s, l.Ping(s.Context()))
	return l
}

func (s *suite) hangUp() {
	for _, l := range s.lines {
		l.Close()
	}
	s.lines = nil
}

type lineConn struct {
	net.Conn
	line  *line
	asked atomic.Bool
}

// Write holds back the first message of a round trip. What follows at once is not delayed again:
// throughput is not limited.
func (c *lineConn) Write(p []byte) (int, error) {
	if !c.asked.Swap(true) {
		c.line.trips.Add(1)
		time.Sleep(c.line.latency)
	}
	return c.Conn.Write(p)
}

func (c *lineConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.asked.Store(false)
	return n, err
}

// reconnect leaves a connection on which nothing was done yet.
func (l *line) reconnect(ctx context.Context) error {
	l.Reset()
	return l.Ping(ctx)
}

// script runs statements in one round trip.
func (l *line) script(sql string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := l.Exec(ctx, sql)
		return err
	}
}

func (l *line) exec(sql string) { require.NoError(l.s, l.script(sql)(l.s.Context())) }

func (l *line) store() *aiseed.Store {
	store, err := aiseed.Open(l.s.Context(), l.Pool, l.s.options)
	require.NoError(l.s, err)
	return store
}

// seed returns a start with n providers in the environment.
func (l *line) seed(n int) func(context.Context) error {
	store, cfg := l.store(), l.s.config(n)
	return func(ctx context.Context) error {
		return aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, aiseed.DiscardAudits, slog.Logger{})
	}
}

// keysEach is how many keys each provider has.
const keysEach = 3

// environ is what a process has that is to have n providers.
func environ(n int) (list []string) {
	for i := range n {
		stem, id := fmt.Sprintf("%sPROVIDER_%d_", aiseed.DefaultPrefix, i), fmt.Sprintf("%05d", i)
		var keys []string
		for k := range keysEach {
			keys = append(keys, fmt.Sprintf("sk-proj-%s-%d-abcdefghijklmnopqrstuvwxyz0123456789", id, k))
		}
		list = append(list, stem+"TYPE=openai", stem+"NAME=provider-"+id, stem+"BASE_URL=https://llm-"+id+".example.com/v1/",
			stem+"KEYS="+strings.Join(keys, ","))
	}
	return list
}

func (s *suite) config(n int) aiseed.Config {
	cfg, err := aiseed.ParseEnviron(s.Context(), environ(n), slog.Logger{})
	require.NoError(s, err)
	return cfg
}
