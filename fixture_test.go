package aiseed_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
)

// patience is how long a test waits for what has to come. A right library never
// needs it, however slow the machine is; it is there for one that hangs.
const patience = 2 * time.Minute

// awaited returns what comes from a channel.
func awaited[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		require.FailNow(t, "it never came")
		panic("unreachable")
	}
}

// fixture is a store on a database of its own.
type fixture struct {
	t       *testing.T
	pool    *pgxpool.Pool // a plain one, for looking and for tampering
	wire    *wire         // between the store's own pool and the server
	keyring *aiseed.Keyring
	store   *aiseed.Store
	audits  *aiseedtest.AuditRecorder
	logs    *aiseed.LogRecorder
}

type option func(*aiseed.StoreOptions, *pgxpool.Config)

func plaintext(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Keyring, o.AllowPlaintext = nil, true }

func lockTimeout(d time.Duration) option {
	return func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.LockTimeout = d }
}

func auditTimeout(d time.Duration) option {
	return func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.AuditTimeout = d }
}

func setup(t *testing.T, opts ...option) *fixture {
	t.Helper()
	f := &fixture{t: t, pool: aiseedtest.NewPool(t), keyring: aiseedtest.NewKeyring(t), audits: &aiseedtest.AuditRecorder{}, logs: &aiseed.LogRecorder{}}
	t.Cleanup(f.requireNothingLeft) // before the pool is closed, and after what the test opened
	f.store, f.wire = f.open(opts...)
	return f
}

// requireNothingLeft is F7, after every test on a fixture: no backend but the looking
// pool's own is there, and so no lock and no transaction.
func (f *fixture) requireNothingLeft() {
	require.Eventually(f.t, func() bool {
		left := f.rows(`select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend'`)
		return left[0] == fmt.Sprint(f.pool.Stat().TotalConns())
	}, patience, 5*time.Millisecond, "a backend is left")
}

// open makes another store on the same database, over connections of its own.
func (f *fixture) open(opts ...option) (*aiseed.Store, *wire) {
	f.t.Helper()
	w := &wire{}
	config := f.pool.Config().Copy()
	config.ConnConfig.DialFunc = w.dial
	// A pool pings a connection that was idle for long, which on a busy machine
	// would be counted among our round trips.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	// What a host waits for by default can be too short for a busy machine.
	options := aiseed.StoreOptions{Keyring: f.keyring, LockTimeout: patience, AuditTimeout: patience}
	for _, opt := range opts {
		opt(&options, config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(f.t, err)
	f.t.Cleanup(pool.Close)
	store, err := aiseed.Open(context.Background(), pool, options)
	require.NoError(f.t, err)
	return store, w
}

// parse reads lines behind the default prefix.
func (f *fixture) parse(lines ...string) aiseed.Config {
	f.t.Helper()
	environ := make([]string, len(lines))
	for i, line := range lines {
		environ[i] = aiseed.DefaultPrefix + line
	}
	return f.parseEnviron(environ)
}

func (f *fixture) parseEnviron(environ []string) aiseed.Config {
	f.t.Helper()
	cfg, err := aiseed.ParseEnviron(context.Background(), environ, f.logs.Logger())
	require.NoError(f.t, err)
	return cfg
}

func (f *fixture) seed(cfg aiseed.Config) error {
	return aiseed.SeedAIProvidersFromEnv(context.Background(), f.store, cfg, f.audits, f.logs.Logger())
}

// seeded seeds providers that the test starts from.
func (f *fixture) seeded(lines ...string) aiseed.Config {
	f.t.Helper()
	cfg := f.parse(lines...)
	require.NoError(f.t, f.seed(cfg))
	return cfg
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	_, err := f.pool.Exec(context.Background(), sql, args...)
	require.NoError(f.t, err)
}

// rows runs a query and returns each row as one string.
func (f *fixture) rows(sql string, args ...any) []string {
	f.t.Helper()
	rows, err := f.pool.Query(context.Background(), sql, args...)
	require.NoError(f.t, err)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		parts := make([]string, len(values))
		for i, v := range values {
			parts[i] = fmt.Sprint(v)
		}
		return strings.Join(parts, " "), err
	})
	require.NoError(f.t, err)
	return out
}

// state is every row of every table, with what tells whether it was written to.
func (f *fixture) state() string {
	f.t.Helper()
	var all []string
	for _, table := range []string{"ai_providers", "ai_provider_keys", "ai_provider_audits", "ai_encryption_keys", "aiseed_schema"} {
		all = append(all, f.rows(fmt.Sprintf("select '%[1]s', xmin::text, xmax::text, ctid::text, to_jsonb(t)::text from %[1]s t order by ctid", table))...)
	}
	return strings.Join(all, "\n")
}

// leftOver are the backends with a transaction or a lock. An autovacuum worker is
// nobody's.
const leftOver = `
select pid from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle' and backend_type = 'client backend'
 union all select pid from pg_locks
 where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`

// requireIdle fails where a backend of the store still has a transaction or a
// lock. The server needs a moment to notice that a client is gone.
func (f *fixture) requireIdle() {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		return len(f.rows(leftOver)) == 0
	}, patience, 5*time.Millisecond)
}

// A wire is what the store's connections go through: it counts round trips and
// cuts connections.
type wire struct {
	mu         sync.Mutex
	roundTrips int
	sent       bytes.Buffer
	halfClosed int // connections on which the client closed its direction alone
	decide     func(sent []byte) action
	written    func() // what is to be done once the message that is decided on is written
}

type action int

const (
	pass       action = iota
	cutBefore         // nothing of it reaches the server
	cutAfter          // it reaches the server, and the answer does not come back
	cutUnheard        // it reaches the server, and nobody waits for the answer
)

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: conn, wire: w}, nil
}

// reset starts the count and the record anew, and decides what becomes of what is
// sent from now on.
func (w *wire) reset(decide func(sent []byte) action) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.roundTrips, w.decide = 0, decide
	w.sent.Reset()
}

// count returns the round trips since reset, and everything that was sent.
func (w *wire) count() (roundTrips int, sent string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.roundTrips, w.sent.String()
}

// onceWritten acts on the first message that contains text, and calls then when it
// is written: a context that is cancelled before can keep pgx from sending it.
func (w *wire) onceWritten(act action, text string, then func()) func([]byte) action {
	return once(act, text, func() { w.written = then })
}

// once acts on the first message that contains text. It calls then before the
// message is written.
func once(act action, text string, then ...func()) func([]byte) action {
	done := false
	return func(sent []byte) action {
		if done || !bytes.Contains(sent, []byte(text)) {
			return pass
		}
		done = true
		for _, f := range then {
			f()
		}
		return act
	}
}

type wireConn struct {
	net.Conn
	wire  *wire
	wrote bool
	deaf  bool // an answer counts as lost
}

func (c *wireConn) Write(p []byte) (int, error) {
	c.wire.mu.Lock()
	if !c.wrote && p[0] != 'X' { // a Terminate message is not answered
		c.wrote = true
		c.wire.roundTrips++
	}
	c.wire.sent.Write(p)
	act := pass
	if c.wire.decide != nil {
		act = c.wire.decide(p)
	}
	c.deaf = c.deaf || act == cutAfter
	written := c.wire.written
	c.wire.written = nil
	c.wire.mu.Unlock()
	if act == cutBefore {
		_ = c.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	n, err := c.Conn.Write(p)
	if act == cutAfter && err == nil {
		c.awaitAnswer()
	}
	if act != pass {
		_ = c.Conn.Close()
	}
	if written != nil {
		written()
	}
	return n, err
}

// awaitAnswer returns when the server has answered: or the cancellation that pgx
// sends for a lost connection could overtake the commit.
func (c *wireConn) awaitAnswer() {
	_ = c.Conn.SetReadDeadline(time.Now().Add(patience))
	_, _ = c.Read(make([]byte, 1))
}

func (c *wireConn) CloseWrite() error {
	c.wire.mu.Lock()
	c.wire.halfClosed++
	c.wire.mu.Unlock()
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func (c *wireConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.mu.Lock()
	c.wrote = false
	deaf := c.deaf
	c.wire.mu.Unlock()
	if deaf {
		// pgx reads too where writing took long, and whoever reads the answer ends
		// the wait of the other.
		_ = c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// dsn is a connection string of the fixture's database.
func (f *fixture) dsn() string {
	c := f.pool.Config().ConnConfig
	return fmt.Sprintf("host='%s' port=%d user='%s' password='%s' dbname='%s'", c.Host, c.Port, c.User, c.Password, c.Database)
}

// role creates a role of this database only. Its password is that of the pool's role,
// for a server that asks for one.
func (f *fixture) role(prefix string) string {
	f.t.Helper()
	c := f.pool.Config().ConnConfig
	role := prefix + c.Database
	f.exec(`create role ` + role + ` login`)
	f.t.Cleanup(func() { f.exec(`drop owned by ` + role); f.exec(`drop role ` + role) })
	if c.Password != "" {
		f.exec(fmt.Sprintf(`do $$ begin execute format('alter role %s password %%L', '%s'); end $$`,
			role, strings.ReplaceAll(c.Password, "'", "''")))
	}
	return role
}

// grantTables is what a server needs.
const grantTables = `grant usage on schema public to %[1]s; grant select, insert, update on all tables in schema public to %[1]s`

// requireRefused is for what a server refuses. Its words are in its own language.
func requireRefused(t *testing.T, err error, sqlState, constraint string, args ...any) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused, args...)
	require.Equal(t, []string{sqlState, constraint}, []string{refused.Code, refused.ConstraintName}, args...)
}

// scan reads one row.
func (f *fixture) scan(sql string, into ...any) {
	f.t.Helper()
	require.NoError(f.t, f.pool.QueryRow(context.Background(), sql).Scan(into...))
}

// behindPgBouncer starts a private server and a transaction-pooling proxy before it.
func behindPgBouncer(t *testing.T) (*ephemeral.Server, *ephemeral.PgBouncer) {
	t.Helper()
	server, err := ephemeral.Start(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	proxy, err := ephemeral.StartPgBouncer(context.Background(), server, "default_pool_size=2")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	return server, proxy
}
