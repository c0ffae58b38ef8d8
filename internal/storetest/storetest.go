// Package storetest gives each test a store on a database of its own, as package aiseedtest
// does for hosts, and looks into its tables, its round trips and its locks.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/testkit"
)

// A Fixture is a store on a database of its own.
type Fixture struct {
	T       *testing.T
	Pool    *pgxpool.Pool // a plain one, for looking and for tampering
	Own     *pgxpool.Pool // the store's own
	Wire    *testkit.Wire // between the store's own pool and the server
	Options aiseed.StoreOptions
	Keyring *aiseed.Keyring
	Store   *aiseed.Store
	Audits  *aiseedtest.AuditRecorder
	Logs    *testkit.LogRecorder
}

// CleanupTimeout is that of the library in the tests: no verdict depends on how fast the
// machine is. It is longer than package leak waits for a goroutine.
const CleanupTimeout = 3 * time.Minute

func init() { pg.CleanupTimeout = CleanupTimeout }

// An Option changes the options of a store or its connections.
type Option func(*aiseed.StoreOptions, *pgxpool.Config)

// Plaintext is a store without a keyring.
func Plaintext(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Keyring, o.AllowPlaintext = nil, true }

// LockTimeout sets the option of the store.
func LockTimeout(d time.Duration) Option {
	return func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.LockTimeout = d }
}

// AuditTimeout sets the option of the store.
func AuditTimeout(d time.Duration) Option {
	return func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.AuditTimeout = d }
}

// Setup makes a Fixture that is gone after the test.
func Setup(t *testing.T, opts ...Option) *Fixture {
	t.Helper()
	f := &Fixture{T: t, Pool: aiseedtest.NewPool(t), Keyring: aiseedtest.NewKeyring(t), Audits: &aiseedtest.AuditRecorder{}, Logs: &testkit.LogRecorder{}}
	leave := overseer.Join()
	t.Cleanup(func() { require.NoError(t, leave(context.Background())) })
	t.Cleanup(f.requireNothingLeft) // before the pool is closed, and after what the test opened
	f.Own, f.Options, f.Wire = f.Connect(opts...)
	f.Store = f.Opened(f.Options)
	return f
}

// Opened opens a store on the pool that is open: to connect is what costs most in a test.
func (f *Fixture) Opened(options aiseed.StoreOptions) *aiseed.Store {
	f.T.Helper()
	store, err := aiseed.Open(context.Background(), f.Own, options)
	require.NoError(f.T, err)
	return store
}

// With opens another store on the same pool, with these keys.
func (f *Fixture) With(keys ...byte) *aiseed.Store {
	f.T.Helper()
	options := f.Options
	options.Keyring, options.AllowPlaintext = Keyring(f.T, keys...), false
	return f.Opened(options)
}

// Rekey gives the store other keys.
func (f *Fixture) Rekey(keys ...byte) {
	f.T.Helper()
	f.Keyring = Keyring(f.T, keys...)
	f.Options.Keyring = f.Keyring
	f.Store = f.Opened(f.Options)
}

// requireNothingLeft is F7, after every test on a fixture: no backend but the looking
// pool's own is there, and so no lock and no transaction.
func (f *Fixture) requireNothingLeft() {
	require.Eventually(f.T, func() bool {
		return backends(f.T, f.Pool.Config().ConnConfig) == int(f.Pool.Stat().TotalConns())
	}, testkit.Patience, 5*time.Millisecond, "a backend is left")
}

var overseer ephemeral.Lender

// backends counts the clients that a database has.
func backends(t *testing.T, of *pgx.ConnConfig) (n int) {
	ctx := context.Background()
	config := of.Copy()
	config.Database = "postgres"
	require.NoError(t, overseer.Lend(ctx, config, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = $1 and backend_type = 'client backend'`, of.Database).Scan(&n)
	}))
	return n
}

// Open makes another store on the same database, over connections of its own.
func (f *Fixture) Open(opts ...Option) (*aiseed.Store, *testkit.Wire) {
	f.T.Helper()
	pool, options, w := f.Connect(opts...)
	store, err := aiseed.Open(context.Background(), pool, options)
	require.NoError(f.T, err)
	return store, w
}

// Connect returns what Open makes a store of.
func (f *Fixture) Connect(opts ...Option) (*pgxpool.Pool, aiseed.StoreOptions, *testkit.Wire) {
	f.T.Helper()
	w := &testkit.Wire{}
	config := f.Pool.Config().Copy()
	config.ConnConfig.DialFunc = w.Dial
	// A pool pings a connection that was idle for long, which on a busy machine
	// would be counted among our round trips.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	// What a host waits for by default can be too short for a busy machine.
	options := aiseed.StoreOptions{Keyring: f.Keyring, LockTimeout: testkit.Patience, AuditTimeout: testkit.Patience}
	for _, opt := range opts {
		opt(&options, config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(f.T, err)
	f.T.Cleanup(pool.Close)
	return pool, options, w
}

// Parse reads lines behind the default prefix.
func (f *Fixture) Parse(lines ...string) aiseed.Config {
	f.T.Helper()
	return f.ParseEnviron(Prefixed(lines))
}

// Prefixed puts each line behind the default prefix.
func Prefixed(lines []string) []string {
	environ := make([]string, len(lines))
	for i, line := range lines {
		environ[i] = aiseed.DefaultPrefix + line
	}
	return environ
}

// ParseEnviron reads whole variables.
func (f *Fixture) ParseEnviron(environ []string) aiseed.Config {
	f.T.Helper()
	cfg, err := aiseed.ParseEnviron(context.Background(), environ, f.Logs.Logger())
	require.NoError(f.T, err)
	return cfg
}

// Seed is a start of the fixture's store.
func (f *Fixture) Seed(cfg aiseed.Config) error {
	return aiseed.SeedAIProvidersFromEnv(context.Background(), f.Store, cfg, f.Audits, f.Logs.Logger())
}

// Seeded seeds providers that the test starts from.
func (f *Fixture) Seeded(lines ...string) aiseed.Config {
	f.T.Helper()
	cfg := f.Parse(lines...)
	require.NoError(f.T, f.Seed(cfg))
	return cfg
}

// Exec runs a statement.
func (f *Fixture) Exec(sql string, args ...any) {
	f.T.Helper()
	_, err := f.Pool.Exec(context.Background(), sql, args...)
	require.NoError(f.T, err)
}

// Rows runs a query and returns each row as one string.
func (f *Fixture) Rows(sql string, args ...any) []string {
	f.T.Helper()
	rows, err := f.Pool.Query(context.Background(), sql, args...)
	require.NoError(f.T, err)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		parts := make([]string, len(values))
		for i, v := range values {
			parts[i] = fmt.Sprint(v)
		}
		return strings.Join(parts, " "), err
	})
	require.NoError(f.T, err)
	return out
}

// State is every row of every table, with what tells whether it was written to.
func (f *Fixture) State() string {
	f.T.Helper()
	var all []string
	for _, table := range []string{"ai_providers", "ai_provider_keys", "ai_provider_audits", "ai_encryption_keys", "aiseed_schema"} {
		all = append(all, f.Rows(fmt.Sprintf("select '%[1]s', xmin::text, xmax::text, ctid::text, to_jsonb(t)::text from %[1]s t order by ctid", table))...)
	}
	return strings.Join(all, "\n")
}

// LeftOver are the backends with a transaction or a lock. An autovacuum worker is
// nobody's.
const LeftOver = `
select pid from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle' and backend_type = 'client backend'
 union all select pid from pg_locks
 where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`

// RequireIdle fails where a backend of the store still has a transaction or a
// lock. The server needs a moment to notice that a client is gone.
func (f *Fixture) RequireIdle() {
	f.T.Helper()
	require.Eventually(f.T, func() bool {
		return len(f.Rows(LeftOver)) == 0
	}, testkit.Patience, 5*time.Millisecond)
}

// DSN is a connection string of the fixture's database.
func (f *Fixture) DSN() string {
	c := f.Pool.Config().ConnConfig
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	return fmt.Sprintf("host='%s' port=%d user='%s' password='%s' dbname='%s'", c.Host, c.Port, quoted(c.User), quoted(c.Password), c.Database)
}

// Role creates a role of this database only. Its password is that of the pool's role,
// for a server that asks for one.
func (f *Fixture) Role(prefix string) string {
	f.T.Helper()
	c := f.Pool.Config().ConnConfig
	role := prefix + c.Database
	f.Exec(`create role ` + role + ` login`)
	f.T.Cleanup(func() { f.Exec(`drop owned by ` + role); f.Exec(`drop role ` + role) })
	if c.Password != "" {
		f.Exec(fmt.Sprintf(`do $do$ begin execute format('alter role %s password %%L', $$%s$$); end $do$`, role, c.Password))
	}
	return role
}

// GrantTables is what a server needs.
const GrantTables = `grant usage on schema public to %[1]s; grant select, insert, update on all tables in schema public to %[1]s`

// Scan reads one row.
func (f *Fixture) Scan(sql string, into ...any) {
	f.T.Helper()
	require.NoError(f.T, f.Pool.QueryRow(context.Background(), sql).Scan(into...))
}

// BehindPgBouncer starts a private server and a transaction-pooling proxy before it.
func BehindPgBouncer(t *testing.T) (*ephemeral.Server, *ephemeral.PgBouncer) {
	t.Helper()
	server, err := ephemeral.Start(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	proxy, err := ephemeral.StartPgBouncer(context.Background(), server, "default_pool_size=2")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	return server, proxy
}

// CreateNoLock creates the lock of [WithoutLock].
func (f *Fixture) CreateNoLock() {
	f.Exec(`create schema nolock`)
	f.Exec(`create function nolock.pg_advisory_xact_lock(bigint) returns void language sql as 'select'`)
}

// WithoutLock replaces the advisory lock by one that locks nothing.
func WithoutLock(_ *aiseed.StoreOptions, c *pgxpool.Config) {
	c.ConnConfig.RuntimeParams["search_path"] = "nolock, pg_catalog, public"
}

func Keyring(t *testing.T, keys ...byte) *aiseed.Keyring {
	t.Helper()
	var raws [][]byte
	for _, k := range keys {
		raws = append(raws, bytes.Repeat([]byte{k}, aiseed.KeySize))
	}
	ring, err := aiseed.NewKeyring(raws[0], raws[1:]...)
	require.NoError(t, err)
	return ring
}

// DriftOf seeds and returns the drift that it ends with.
func (f *Fixture) DriftOf(cfg aiseed.Config) *aiseed.DriftError {
	f.T.Helper()
	err := f.Seed(cfg)
	var drift *aiseed.DriftError
	require.ErrorAs(f.T, err, &drift)
	return drift
}

// WordsFor returns the line that an error tells an operator to set.
func WordsFor(t *testing.T, err error, variable string) string {
	t.Helper()
	for _, line := range strings.Split(err.Error(), "\n") {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, aiseed.DefaultPrefix+variable+"=") {
			return strings.TrimPrefix(line, aiseed.DefaultPrefix)
		}
	}
	t.Fatalf("no words for %s in:\n%s", variable, err)
	return ""
}

// Tokens are the tokens for everything in which environment and database differ.
func Tokens(t *testing.T, store *aiseed.Store, cfg aiseed.Config) (tokens []string) {
	t.Helper()
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), store, cfg, slog.Logger{})
	require.NoError(t, err)
	for _, s := range plan.Steps {
		if s.Digest != "" {
			tokens = append(tokens, s.Name+"@"+s.Digest)
		}
	}
	require.NotEmpty(t, tokens)
	return tokens
}

// AdoptWords returns the line of the error that adopts the drift.
func (f *Fixture) AdoptWords(cfg aiseed.Config) string {
	f.T.Helper()
	return WordsFor(f.T, f.DriftOf(cfg), "DRIFT_ADOPT")
}

// SetLockTimeout changes the option of a store that is open, which the library does not
// offer: a case can give what it does next a time of its own.
func SetLockTimeout(s *aiseed.Store, d time.Duration) {
	field := reflect.ValueOf(s).Elem().FieldByName("lockTimeout")
	reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().SetInt(int64(d))
}

// Created makes a provider through the operations.
func (f *Fixture) Created(n aiseed.ProviderSpec) aiseed.Provider {
	f.T.Helper()
	p, err := f.Store.CreateProvider(context.Background(), "alice", n)
	require.NoError(f.T, err)
	return p
}

// Hold takes the lock of a schema until the test ends.
func (f *Fixture) Hold(schema string) *pgx.Conn {
	f.T.Helper()
	config := f.Pool.Config().ConnConfig.Copy()
	config.RuntimeParams["application_name"] = "the holder"
	conn, err := pgx.ConnectConfig(context.Background(), config)
	require.NoError(f.T, err)
	f.T.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(context.Background(), "begin")
	require.NoError(f.T, err)
	_, err = conn.Exec(context.Background(), "select pg_advisory_xact_lock($1)", aiseed.LockKey(schema))
	require.NoError(f.T, err)
	return conn
}

// WaitForWaiters returns when n sessions wait for a lock.
func (f *Fixture) WaitForWaiters(n int) {
	assert.Eventually(f.T, func() bool {
		return len(f.Rows(`select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)) >= n
	}, testkit.Patience, time.Millisecond)
}
