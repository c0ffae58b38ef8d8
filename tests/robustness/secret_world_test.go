package robustness

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// A secretWorld is its own server, which logs as much as it can, a store, and secrets that
// must not appear in any output of either.
type secretWorld struct {
	t      *testing.T
	name   string
	sealed bool
	f      *fixture
	server *ephemeral.Server

	canaries canaries
	printed  *search // for what the library says
	served   *search // for output with base URLs as they are: without the canaries in those
	raw      [][]byte
	rings    []*aiseed.Keyring
	environ  []string

	store, sealing *aiseed.Store   // sealing has a keyring even if store has none
	pool           *pgxpool.Pool   // of store
	wires          []*testkit.Wire // of all stores
	pools          []*pgxpool.Pool
	out            *sharedBuffer // all logs and traces
	hasty          atomic.Bool   // the stores wait only for worldTimeout
	traced         bool          // out had the output of a trace
	logger         slog.Logger

	logRead  int64        // of the server's log
	activity sharedBuffer // what was seen in pg_stat_activity
}

// newSecretWorldOutside is a world without a server.
func newSecretWorldOutside(t *testing.T, sealed bool) *secretWorld {
	t.Helper()
	w := &secretWorld{t: t, name: "plaintext", sealed: sealed, out: &sharedBuffer{}}
	if sealed {
		w.name = "sealed"
	}
	w.logger = allSinks(w.out)
	random := chance(t.Name() + w.name)
	w.canaries = newCanaries(random)
	w.rings, w.raw = w.canaries.keyring(t, random, 2)
	w.printed = newSearch(w.canaries)
	w.served = newSearch(slices.DeleteFunc(slices.Clone(w.canaries), func(c canary) bool { return c.inURL }))
	keyFile := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(keyFile, []byte(w.canaries.value("key of a file")+"\n"), 0o600))
	w.environ = w.canaries.environ(keyFile)
	return w
}

// inEachWorld runs a test in a world that seals and in one that does not.
func inEachWorld(t *testing.T, test func(t *testing.T, w *secretWorld)) {
	t.Helper()
	for _, sealed := range []bool{true, false} {
		w := newSecretWorld(t, sealed)
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			w.t, w.f.T = t, t
			test(t, w)
		})
	}
}

func newSecretWorld(t *testing.T, sealed bool) *secretWorld {
	t.Helper()
	w := newSecretWorldOutside(t, sealed)
	settings := []string{
		"log_statement=all", "log_min_messages=debug2", "log_min_error_statement=debug5", "log_error_verbosity=verbose", "log_duration=on",
		"log_parameter_max_length=-1", "log_parameter_max_length_on_error=-1",
		// A reader of pg_stat_activity copies this much for each possible connection.
		"track_activity_query_size=1000000", "max_connections=40",
	}
	if !sealed {
		// In plaintext mode the secrets are in the parameters, and in the detail of an
		// error about a row.
		settings = append(settings, "log_parameter_max_length=0", "log_parameter_max_length_on_error=0", "log_error_verbosity=terse")
	}
	var err error
	w.server, err = ephemeral.Start(context.Background(), settings...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.server.Close()) })
	config, err := pgxpool.ParseConfig(w.server.DSN("postgres"))
	require.NoError(t, err)
	config.ConnConfig.Password = w.canaries.value("password of the server")
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	w.f = &fixture{&storetest.Fixture{T: t, Pool: pool, Keyring: w.rings[0], Audits: &aiseedtest.AuditRecorder{}, Logs: &testkit.LogRecorder{}}}
	w.store, w.pool = w.open(w.options())
	w.sealing = w.store
	if !sealed {
		w.sealing, _ = w.open(aiseed.StoreOptions{Keyring: w.rings[0], LockTimeout: testkit.Patience, AuditTimeout: testkit.Patience})
	}
	return w
}

// worldTimeout bounds the time of a case in which a lock is held or the server is gone.
// In other cases there is no limit.
const worldTimeout = 50 * time.Millisecond

// hurry makes the stores wait for worldTimeout, or for as long as needed.
func (w *secretWorld) hurry(hasty bool) {
	w.t.Helper()
	if w.hasty.Swap(hasty) != hasty {
		w.renewConnections()
	}
	for _, store := range []*aiseed.Store{w.store, w.sealing} {
		storetest.SetLockTimeout(store, w.lockTimeout())
	}
}

func (w *secretWorld) lockTimeout() time.Duration {
	if w.hasty.Load() {
		return worldTimeout
	}
	return testkit.Patience
}

func (w *secretWorld) options() aiseed.StoreOptions {
	o := aiseed.StoreOptions{Keyring: w.rings[0], Migrate: true, LockTimeout: w.lockTimeout(), AuditTimeout: testkit.Patience, NotifyChannel: "world", Logger: w.logger}
	if !w.sealed {
		o.Keyring, o.AllowPlaintext = nil, true
	}
	return o
}

// open makes a store whose output is all recorded, and its pool.
func (w *secretWorld) open(options aiseed.StoreOptions) (*aiseed.Store, *pgxpool.Pool) {
	w.t.Helper()
	wire := &testkit.Wire{}
	config := w.f.Pool.Config().Copy()
	config.ConnConfig.DialFunc = wire.Dial
	config.ConnConfig.Tracer = tracer{w.out}
	if len(w.pools)%2 == 1 {
		config.ConnConfig.Tracer = batchTracer{tracer{w.out}}
	}
	config.ConnConfig.RuntimeParams["application_name"] = "store"
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		if w.hasty.Load() { // nothing else bounds statements that wait outside of our transactions
			c.RuntimeParams["lock_timeout"] = fmt.Sprint(worldTimeout.Milliseconds())
		}
		return nil
	}
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(w.t, err)
	w.t.Cleanup(pool.Close)
	store, err := aiseed.Open(context.Background(), pool, options)
	require.NoError(w.t, err)
	w.wires, w.pools = append(w.wires, wire), append(w.pools, pool)
	return store, pool
}

// rotateKeys gives the keyring a new first key.
func (w *secretWorld) rotateKeys() {
	w.t.Helper()
	options := w.options()
	options.Keyring, options.AllowPlaintext = w.rings[1], false
	w.sealing, _ = w.open(options)
	if w.sealed {
		w.store, w.pool = w.open(options)
	}
}

// keyList returns the keyring as the value of a variable, and as raw keys.
func (w *secretWorld) keyList() (encoded string, raw [][]byte) {
	var list []string
	for _, key := range w.raw {
		list = append(list, base64.StdEncoding.EncodeToString(key))
	}
	return strings.Join(list, ","), w.raw
}

func (w *secretWorld) parse(environ []string) aiseed.Config {
	w.t.Helper()
	cfg, err := aiseed.ParseEnviron(context.Background(), environ, w.logger)
	require.NoError(w.t, err)
	return cfg
}

// with returns the environment with some variables before the others, so that they win.
func (w *secretWorld) with(lines ...string) []string { return append(lines, w.environ...) }

func (w *secretWorld) divergent() []string {
	return w.with(aiseed.DefaultPrefix+"OPENAI_KEY="+w.canaries.value("divergent key"), aiseed.DefaultPrefix+"PROVIDER_1_BEDROCK_ACCESS_KEYS="+w.canaries.value("unused Bedrock access key")+","+w.canaries.value("second Bedrock access key"))
}

func (w *secretWorld) drifted() []string {
	return append([]string{aiseed.DefaultPrefix + "OPENAI_BASE_URL=" + w.canaries.inQuery("legacy", "URL updated")}, w.divergent()...)
}

func (w *secretWorld) update() aiseed.ProviderUpdate {
	baseURL := w.canaries.inQuery("updated", "URL updated")
	key, secret := aiseed.NewSecret(w.canaries.value("updated access key")), aiseed.NewSecret(w.canaries.value("updated secret"))
	return aiseed.ProviderUpdate{BaseURL: &baseURL, AccessKey: &key, AccessKeySecret: &secret}
}

// tracer writes what a tracer is told to a log.
type tracer struct{ out io.Writer }

func (tr tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	fmt.Fprintf(tr.out, "%+v\n", data)
	return ctx
}

// The next four methods trace how a store makes and acquires connections.
func (tr tracer) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	fmt.Fprintf(tr.out, "%+v\n", data)
	return ctx
}

func (tr tracer) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	fmt.Fprintf(tr.out, "%+v %#v\n", data, data)
}

func (tr tracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, data pgxpool.TraceAcquireStartData) context.Context {
	fmt.Fprintf(tr.out, "%+v\n", data)
	return ctx
}

func (tr tracer) TraceAcquireEnd(_ context.Context, _ *pgxpool.Pool, data pgxpool.TraceAcquireEndData) {
	fmt.Fprintf(tr.out, "acquired %+v %#v\n", data, data)
}

// batchTracer is a tracer that knows batches.
type batchTracer struct{ tracer }

func (tr batchTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		fmt.Fprintf(tr.out, "%+v\n", *q)
	}
	return ctx
}

func (tr batchTracer) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	fmt.Fprintf(tr.out, "%+v %#v\n", data, data)
}

func (tr batchTracer) TraceBatchEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	fmt.Fprintf(tr.out, "%+v %#v\n", data, data)
}

func (tr tracer) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	fmt.Fprintf(tr.out, "%+v %#v\n", data, data)
}

// reset sets what happens to the messages of the stores, and samples pg_stat_activity
// before each of them.
func (w *secretWorld) reset(decide func(sent []byte) testkit.Action) {
	var mu sync.Mutex // of several stores, and of connections that a pool closes
	messages := 0
	for _, wire := range w.wires {
		wire.Reset(func(sent []byte) testkit.Action {
			mu.Lock()
			defer mu.Unlock()
			if messages++; messages%full(3, 1) == 0 {
				w.sample()
			}
			return decide(sent)
		})
	}
}

func (w *secretWorld) sample() {
	rows, err := w.f.Pool.Query(context.Background(), `select query from pg_stat_activity`)
	if err == nil {
		var queries []string
		queries, err = pgx.CollectRows(rows, pgx.RowTo[string])
		for _, q := range queries {
			fmt.Fprintln(&w.activity, q)
		}
	}
	if err != nil {
		w.t.Error(err) // this runs on the goroutine of a caller
	}
}

// exec runs several statements.
func (w *secretWorld) exec(sql string) {
	w.t.Helper()
	_, err := w.f.Pool.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(w.t, err)
}

// look searches what we and the server logged since the last call, and what others could
// see in pg_stat_activity. quoted says that the server had a reason to quote a row, which
// holds secrets in plaintext mode.
func (w *secretWorld) look(quoted bool) error {
	log, err := w.readLog()
	if err != nil {
		return err
	}
	switch {
	case w.sealed:
		err = w.served.find("the server's log", log)
	case !quoted:
		err = w.printed.find("the server's log", log)
	}
	out := w.out.take()
	w.traced = w.traced || bytes.Contains(out, []byte("acquired")) && bytes.Contains(out, []byte("insert into"))
	return errors.Join(err, w.printed.find("a log or a trace", out), w.printed.find("pg_stat_activity", w.activity.take()))
}

func (w *secretWorld) readLog() ([]byte, error) {
	if w.server == nil {
		return nil, nil
	}
	file, err := os.Open(w.server.LogFile())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	log, err := io.ReadAll(io.NewSectionReader(file, w.logRead, 1<<40))
	w.logRead += int64(len(log))
	return log, err
}

// requireDump looks at what a dump of the database has: the rows of all tables, as COPY prints them.
func (w *secretWorld) requireDump() {
	w.t.Helper()
	conn, err := w.f.Pool.Acquire(context.Background())
	require.NoError(w.t, err)
	defer conn.Release()
	var out bytes.Buffer
	for _, table := range w.f.Rows(`select format('%I.%I', table_schema, table_name) from information_schema.tables where table_schema not in ('pg_catalog', 'information_schema')`) {
		fmt.Fprintln(&out, table)
		_, err := conn.Conn().PgConn().CopyTo(context.Background(), &out, "copy "+table+" to stdout")
		require.NoError(w.t, err)
	}
	dump := out.Bytes()
	require.Contains(w.t, string(dump), "public.ai_provider_keys")
	if !w.sealed {
		require.Error(w.t, w.served.find("the dump", dump), "that is what plaintext is")
		return
	}
	cases.check(w.t, kindRendering, w.name+": a dump of the database", w.served.find("the dump", dump))
	require.Error(w.t, w.printed.find("the dump", dump), "a base URL is stored as it was written")
}
