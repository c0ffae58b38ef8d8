package aiseed_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
)

const kindFault = "F5 faults searched for secrets"

// A secretWorld is a server of its own that logs all that it can, a store, and secrets
// that must not show up in anything that either of them says.
type secretWorld struct {
	t      *testing.T
	name   string
	sealed bool
	f      *fixture
	server *ephemeral.Server

	canaries canaries
	printed  *search // for what the library says
	served   *search // for what holds base URLs as they are: without the canaries in those
	raw      [][]byte
	rings    []*aiseed.Keyring
	environ  []string

	store, sealing *aiseed.Store // sealing has a keyring also where store has none
	pool           *pgxpool.Pool // of store
	wires          []*wire       // of all stores
	pools          []*pgxpool.Pool
	out            *sharedBuffer // all logs and traces
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

func newSecretWorld(t *testing.T, sealed bool) *secretWorld {
	t.Helper()
	w := newSecretWorldOutside(t, sealed)
	settings := []string{
		"log_statement=all", "log_min_messages=debug2", "log_min_error_statement=debug5", "log_error_verbosity=verbose", "log_duration=on",
		"log_parameter_max_length=-1", "log_parameter_max_length_on_error=-1", "track_activity_query_size=1000000",
	}
	if !sealed {
		// What is written as plaintext stands in the parameters, and what the
		// server says of a row in the detail of an error.
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
	w.f = &fixture{t: t, pool: pool, keyring: w.rings[0], audits: &aiseedtest.AuditRecorder{}, logs: &aiseed.LogRecorder{}}
	w.store, w.pool = w.open(w.options())
	w.sealing = w.store
	if !sealed {
		w.sealing, _ = w.open(aiseed.StoreOptions{Keyring: w.rings[0], LockTimeout: worldTimeout})
	}
	return w
}

// worldTimeout bounds what a case of a held lock takes.
const worldTimeout = 50 * time.Millisecond

func (w *secretWorld) options() aiseed.StoreOptions {
	o := aiseed.StoreOptions{Keyring: w.rings[0], Migrate: true, LockTimeout: worldTimeout, NotifyChannel: "world"}
	if !w.sealed {
		o.Keyring, o.AllowPlaintext = nil, true
	}
	return o
}

// open makes a store that is looked at from all sides, and its pool.
func (w *secretWorld) open(options aiseed.StoreOptions) (*aiseed.Store, *pgxpool.Pool) {
	w.t.Helper()
	wire := &wire{}
	config := w.f.pool.Config().Copy()
	config.ConnConfig.DialFunc = wire.dial
	config.ConnConfig.Tracer = tracer{w.out}
	config.ConnConfig.RuntimeParams["application_name"] = "store"
	config.ConnConfig.RuntimeParams["lock_timeout"] = fmt.Sprint(worldTimeout.Milliseconds())
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

// keyList is the keyring as its keys, and as a variable has it.
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

// with is the environment with some variables before the others, so that they count.
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

// tracer writes what pgx tells of to a log.
type tracer struct{ out io.Writer }

func (tr tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	fmt.Fprintf(tr.out, "%+v\n", data)
	return ctx
}

func (tr tracer) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	fmt.Fprintf(tr.out, "%+v %#v\n", data, data)
}

// reset decides what becomes of what the stores send, and samples pg_stat_activity
// before each message of theirs.
func (w *secretWorld) reset(decide func(sent []byte) action) {
	var mu sync.Mutex // of several stores, and of connections that a pool closes
	messages := 0
	for _, wire := range w.wires {
		wire.reset(func(sent []byte) action {
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
	rows, err := w.f.pool.Query(context.Background(), `select query from pg_stat_activity`)
	if err == nil {
		var queries []string
		queries, err = pgx.CollectRows(rows, pgx.RowTo[string])
		for _, q := range queries {
			fmt.Fprintln(&w.activity, q)
		}
	}
	if err != nil {
		w.t.Error(err) // on the goroutine of a caller
	}
}

// exec runs several statements.
func (w *secretWorld) exec(sql string) {
	w.t.Helper()
	_, err := w.f.pool.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(w.t, err)
}

// look searches what was logged, by us and by the server, and what others could see
// in pg_stat_activity, since it last did. quoted says that the server had a reason
// to quote a row, which in plaintext holds secrets.
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
	return errors.Join(err, w.printed.find("a log or a trace", w.out.take()), w.printed.find("pg_stat_activity", w.activity.take()))
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

// requireDump looks at a dump of the database.
func (w *secretWorld) requireDump() {
	w.t.Helper()
	bin := w.f.rows(`select setting from pg_config where name = 'BINDIR'`)[0]
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "pg_dump"), "--inserts", "--dbname="+w.server.DSN("postgres"))
	cmd.Stderr = &stderr
	dump, err := cmd.Output()
	require.NoError(w.t, err, stderr.String())
	require.Contains(w.t, string(dump), "INSERT INTO public.ai_provider_keys")
	if !w.sealed {
		require.Error(w.t, w.served.find("the dump", dump), "that is what plaintext is")
		return
	}
	cases.check(w.t, kindRendering, w.name+": a dump of the database", w.served.find("the dump", dump))
	require.Error(w.t, w.printed.find("the dump", dump), "a base URL is stored as it was written")
}

// A secretOperation is one that a fault can hit.
type secretOperation struct {
	name    string
	prepare string // SQL, of which the state that it needs differs from the saved one
	run     func(ctx context.Context) (values []any, err error)
	fails   bool // also without a fault
}

// saveState makes the state that every operation starts from.
func (w *secretWorld) saveState() (restore string, operations []secretOperation) {
	t, ctx := w.t, context.Background()
	t.Helper()
	cfg, divergent, drifted, adopting := w.parse(w.environ), w.parse(w.divergent()), w.parse(w.drifted()), w.parse(w.drifted())
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, w.store, cfg, aiseed.LeaveAudits, w.logger))
	newProvider := func(name string) aiseed.NewProvider {
		return aiseed.NewProvider{Type: "openai", Name: name, Keys: []aiseed.Secret{aiseed.NewSecret(w.canaries.value("created key")), aiseed.NewSecret(w.canaries.value("legacy OpenAI key"))}}
	}
	made, err := w.store.CreateProvider(ctx, "somebody", newProvider("made"))
	require.NoError(t, err)
	gone, err := w.store.CreateProvider(ctx, "somebody", newProvider("gone"))
	require.NoError(t, err)
	require.NoError(t, w.store.DeleteProvider(ctx, "somebody", gone.ID))
	providers, err := w.store.Providers(ctx)
	require.NoError(t, err)
	pairs := providers[slices.IndexFunc(providers, func(p aiseed.Provider) bool { return p.Name == "pairs" })].ID
	var drift *aiseed.DriftError
	require.ErrorAs(t, aiseed.SeedAIProvidersFromEnv(ctx, w.store, drifted, aiseed.LeaveAudits, w.logger), &drift)
	adopting.DriftAdopt = []string{drift.Providers[0].Name + "@" + drift.Providers[0].Digest}
	w.rotateKeys()

	const tables = "ai_encryption_keys ai_providers ai_provider_keys ai_provider_audits"
	empty := `delete from ai_provider_keys; delete from ai_providers; delete from ai_provider_audits; `
	restore = empty + `delete from ai_encryption_keys; drop schema if exists elsewhere cascade; `
	for _, table := range strings.Fields(tables) {
		w.exec(`create table saved_` + table + ` as table ` + table)
		restore += fmt.Sprintf(`insert into %[1]s overriding system value select * from saved_%[1]s; `, table)
	}
	seed := func(cfg aiseed.Config) func(context.Context) ([]any, error) {
		return func(ctx context.Context) ([]any, error) {
			return nil, aiseed.SeedAIProvidersFromEnv(ctx, w.store, cfg, w.auditor(nil), w.logger)
		}
	}
	plan := func(cfg aiseed.Config) func(context.Context) ([]any, error) {
		return func(ctx context.Context) ([]any, error) {
			plan, err := aiseed.PlanAIProvidersFromEnv(ctx, w.store, cfg, w.logger)
			if err != nil {
				return nil, err
			}
			return []any{plan, plan.String()}, nil
		}
	}
	deliver := func(answer func(aiseed.AuditEntry) error) func(context.Context) ([]any, error) {
		return func(ctx context.Context) ([]any, error) {
			_, err := w.store.DeliverAudits(ctx, w.auditor(answer))
			return nil, err
		}
	}
	reseal := func(do func(*aiseed.Store, context.Context) (aiseed.Resealing, error)) func(context.Context) ([]any, error) {
		return func(ctx context.Context) ([]any, error) {
			report, err := do(w.sealing, ctx)
			return []any{report}, err
		}
	}
	id := func(do func(ctx context.Context) error) func(context.Context) ([]any, error) {
		return func(ctx context.Context) ([]any, error) { return nil, do(ctx) }
	}
	operations = []secretOperation{
		{name: "Open", run: func(ctx context.Context) ([]any, error) {
			options := w.options()
			if w.sealed {
				options.Keyring = w.rings[1]
			}
			store, err := aiseed.Open(ctx, w.pool, options)
			return []any{store}, err
		}},
		{name: "Migrate", run: id(func(ctx context.Context) error { return aiseed.Migrate(ctx, w.pool, "elsewhere") })},
		{name: "Providers", run: func(ctx context.Context) ([]any, error) {
			_, err := w.store.Providers(ctx) // a base URL in them is as it was written
			return nil, err
		}},
		{name: "ListProviders", run: func(ctx context.Context) ([]any, error) {
			_, err := w.store.ListProviders(ctx)
			return nil, err
		}},
		{name: "Watch", run: func(ctx context.Context) (values []any, err error) {
			ctx, cancel := context.WithCancel(ctx)
			err = w.store.Watch(ctx, func(_ []aiseed.Provider, err error) {
				values = append(values, err)
				cancel()
			})
			if len(values) > 0 {
				err, _ = values[0].(error)
			}
			return values, err
		}},
		{name: "a plan", run: plan(cfg)},
		{name: "a plan of a first start", prepare: empty, run: plan(cfg)},
		{name: "a plan of divergence", run: plan(divergent)},
		{name: "a plan of drift", run: plan(drifted)},
		{name: "a first start", prepare: empty, run: seed(cfg)},
		{name: "a start", run: seed(cfg)},
		{name: "a start that diverged", run: seed(divergent)},
		{name: "a start that drifted", run: seed(drifted), fails: true},
		{name: "a start that adopts", run: seed(adopting)},
		{name: "a delivery", run: deliver(nil)},
		{name: "a delivery that fails", run: deliver(func(e aiseed.AuditEntry) error { return fmt.Errorf("%+v %s", e, e.New) }), fails: true},
		{name: "a delivery that panics", run: deliver(func(e aiseed.AuditEntry) error { panic(e) }), fails: true},
		{name: "CreateProvider", run: func(ctx context.Context) ([]any, error) {
			_, err := w.store.CreateProvider(ctx, "somebody", newProvider("another"))
			return nil, err
		}},
		{name: "UpdateProvider", run: func(ctx context.Context) ([]any, error) {
			_, err := w.store.UpdateProvider(ctx, "somebody", pairs, w.update())
			return nil, err
		}},
		{name: "AddProviderKey", run: func(ctx context.Context) ([]any, error) {
			key, err := w.store.AddProviderKey(ctx, "somebody", made.ID, aiseed.NewSecret(w.canaries.value("added key")))
			return []any{key}, err
		}},
		{name: "RemoveProviderKey", run: id(func(ctx context.Context) error {
			return w.store.RemoveProviderKey(ctx, "somebody", made.ID, made.Keys[0].ID)
		})},
		{name: "SetProviderEnabled", run: id(func(ctx context.Context) error { return w.store.SetProviderEnabled(ctx, "somebody", made.ID, false) })},
		{name: "DeleteProvider", run: id(func(ctx context.Context) error { return w.store.DeleteProvider(ctx, "somebody", made.ID) })},
		{name: "RestoreProvider", run: func(ctx context.Context) ([]any, error) {
			_, err := w.store.RestoreProvider(ctx, "somebody", gone.ID)
			return nil, err
		}},
	}
	if w.sealed {
		operations = append(operations, secretOperation{name: "Rotate", run: reseal((*aiseed.Store).Rotate)})
		return restore, operations
	}
	return restore, append(operations,
		secretOperation{name: "SealPlaintext", run: reseal((*aiseed.Store).SealPlaintext)},
		secretOperation{name: "Unseal", run: func(ctx context.Context) ([]any, error) {
			if _, err := w.sealing.SealPlaintext(ctx); err != nil {
				return nil, err
			}
			return reseal((*aiseed.Store).Unseal)(ctx)
		}})
}

// auditor shows what it gets, and answers.
func (w *secretWorld) auditor(answer func(aiseed.AuditEntry) error) aiseed.Auditor {
	return aiseed.AuditorFunc(func(_ context.Context, e aiseed.AuditEntry) error {
		fmt.Fprintf(w.out, "%+v %s %s\n", e, e.Old, e.New)
		if answer == nil {
			return nil
		}
		return answer(e)
	})
}

// A secretFault is one that can hit any operation.
type secretFault struct {
	name   string
	arm    func() (disarm func())
	quotes bool // the server's message quotes a row
}

// faults are those of the tables and their locks. Every one fails some operation.
func (w *secretWorld) faults() (all []secretFault) {
	ctx := context.Background()
	w.exec(`
create function quoting() returns trigger language plpgsql as $$
begin
    raise exception 'this row: % and %', to_jsonb(old), to_jsonb(new) using detail = old::text, hint = new::text;
end $$;
create function casting() returns trigger language plpgsql as $$
begin
    perform new.api_key::int;
    return new;
end $$`)
	sql := func(name, do, undo string) secretFault {
		return secretFault{name: name, arm: func() func() {
			w.exec(do)
			return func() { w.exec(undo) }
		}}
	}
	for _, table := range []string{"ai_providers", "ai_provider_keys", "ai_provider_audits", "ai_encryption_keys"} {
		check := sql("a constraint of "+table, `alter table `+table+` add constraint quoting check (false) not valid`, `alter table `+table+` drop constraint quoting`)
		trigger := sql("a trigger of "+table, `create trigger quoting before insert or update or delete on `+table+` for each row execute function quoting()`, `drop trigger quoting on `+table)
		trigger.quotes = true
		all = append(all, check, trigger)
	}
	casting := sql("a cast", `create trigger casting before insert or update on ai_provider_keys for each row execute function casting()`, `drop trigger casting on ai_provider_keys`)
	casting.quotes = true
	all = append(all, casting)
	for _, change := range []struct{ table, column, from, to, there, back string }{
		{"ai_providers", "settings", "text", "bytea", "convert_to(settings, 'UTF8')", "convert_from(settings, 'UTF8')"},
		{"ai_provider_keys", "api_key", "text", "bytea", "convert_to(api_key, 'UTF8')", "convert_from(api_key, 'UTF8')"},
		{"ai_provider_keys", "position", "int", "text", "position::text", "position::int"},
		{"ai_provider_audits", "new", "jsonb", "bytea", "convert_to(new::text, 'UTF8')", "convert_from(new, 'UTF8')::jsonb"},
		{"ai_providers", "base_url", "text", "text[]", "array[base_url]", "base_url[1]"},
	} {
		alter := fmt.Sprintf(`alter table %[1]s alter %[2]s drop default, alter %[2]s type `, change.table, change.column)
		all = append(all, sql(fmt.Sprintf("%s.%s of type %s", change.table, change.column, change.to), alter+change.to+` using `+change.there, alter+change.from+` using `+change.back))
	}
	damages := map[string]string{
		"settings cut off": `update ai_providers set settings = left(settings, -3)`,
		"another key's id": `insert into ai_encryption_keys values ('another', 'x'); update ai_provider_keys set api_key_key_id = 'another'`,
	}
	if w.sealed {
		maps.Copy(damages, map[string]string{
			"keys cut off":     `update ai_provider_keys set api_key = left(api_key, -3)`,
			"keys in disorder": `update ai_provider_keys k set api_key = s.next from (select id, lead(api_key, 1, api_key) over (order by id) as next from ai_provider_keys) s where s.id = k.id`,
			"no key ids":       `update ai_provider_keys set api_key_key_id = null; update ai_providers set settings_key_id = null`,
		})
	} else {
		damages["settings from later"] = `update ai_providers set settings = replace(settings, '"_version":1', '"_version":2')`
	}
	for name, do := range damages {
		all = append(all, sql(name, do, ``)) // the next case starts from the saved state
	}
	holding := func(name, lock string) secretFault {
		return secretFault{name: name, arm: func() func() {
			holder, err := w.f.pool.Begin(ctx)
			require.NoError(w.t, err)
			_, err = holder.Exec(ctx, lock)
			require.NoError(w.t, err)
			return func() { require.NoError(w.t, holder.Rollback(ctx)) }
		}}
	}
	all = append(all, holding("the lock is held", fmt.Sprintf(`select pg_advisory_xact_lock(%d)`, aiseed.LockKey(""))),
		holding("a table is locked", `lock table ai_providers, ai_provider_keys, ai_provider_audits in access exclusive mode`))
	slices.SortFunc(all, func(a, b secretFault) int { return strings.Compare(a.name, b.name) })
	return all
}

// S5, S6, S11: what is said when something goes wrong.
func TestF5_S11_NoFaultShowsASecret(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{true, false} {
		w := newSecretWorld(t, sealed)
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			w.t, w.f.t = t, t
			random := chance(t.Name())
			restore, operations := w.saveState()
			faults := w.faults()
			run := func(o secretOperation, reproduce string, quoted bool, arm func() (disarm func()), decide cutDecision) error {
				w.exec(restore + o.prepare)
				disarm := arm()
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				w.reset(func(sent []byte) action { return decide(cancel, sent) })
				values, err := o.run(ctx)
				w.reset(func([]byte) action { return pass })
				disarm()
				var found error
				for _, v := range append(values, err) {
					for _, r := range renderings(v, *torture) {
						found = errors.Join(found, w.printed.find(fmt.Sprintf("a %T as %s", v, r.how), r.text))
					}
				}
				cases.check(t, kindFault, fmt.Sprintf("%s: %s, %s", w.name, o.name, reproduce), errors.Join(found, w.look(quoted)))
				return err
			}
			nothing := func() func() { return func() {} }
			passing := func(context.CancelFunc, []byte) action { return pass }
			hit := map[string]bool{}
			for _, o := range operations {
				w.f.requireIdle() // the server may still be ending connections that were cut
				if err := run(o, "no fault", false, nothing, passing); o.fails {
					require.Error(t, err, o.name)
				} else {
					require.NoError(t, err, o.name)
				}
				for _, fault := range faults {
					if hit[fault.name] && random.IntN(full(8, 1)) > 0 {
						continue
					}
					err := run(o, fault.name, fault.quotes, fault.arm, passing)
					hit[fault.name] = hit[fault.name] || err != nil && !o.fails
				}
				w.cutEverywhere(random, func(reproduce string, decide cutDecision) error { return run(o, reproduce, false, nothing, decide) })
			}
			for _, fault := range faults {
				require.True(t, hit[fault.name], "%s fails no operation", fault.name)
			}
			w.requireDump()
		})
	}
}

// A cutDecision is what becomes of a message, and of its caller.
type cutDecision func(cancel context.CancelFunc, sent []byte) action

// maxMessages is more than most operations send.
const maxMessages = 8

// cutEverywhere loses the connection at each message of an operation, in each way.
// run runs it.
func (w *secretWorld) cutEverywhere(random *rand.Rand, run func(reproduce string, decide cutDecision) error) {
	for _, way := range []string{"cut before", "cut after", "cut unheard", "cut before, and from then on", "cut after, and from then on", "backends terminated", "caller cancelled"} {
		for n, reached := 1, true; reached; n++ {
			if random.IntN(full(12, 1)) > 0 {
				reached = n < maxMessages // which nobody has counted
				continue
			}
			sent := 0
			reached = false
			_ = run(fmt.Sprintf("message %d: %s", n, way), func(cancel context.CancelFunc, _ []byte) action {
				if sent++; sent < n {
					return pass
				}
				reached = true
				kind, always := strings.CutSuffix(way, ", and from then on")
				if sent > n && !always {
					return pass
				}
				if always { // it gives up while it waits to try again
					time.AfterFunc(20*time.Millisecond, cancel)
				}
				switch kind {
				case "cut before":
					return cutBefore
				case "cut after":
					return cutAfter
				case "cut unheard":
					return cutUnheard
				case "backends terminated":
					_, err := w.f.pool.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and application_name = 'store'`)
					if err != nil {
						w.t.Error(err)
					}
				default:
					cancel()
				}
				return pass
			})
			for _, pool := range w.pools {
				pool.Reset() // some of their idle connections may be dead
			}
		}
	}
}

// S11: a server that cannot be used. The connection string has a password in it.
func TestF5_S11_NoConnectErrorShowsThePassword(t *testing.T) {
	t.Parallel()
	w := newSecretWorld(t, true)
	password := w.canaries.value("password of the server")
	quoting := errors.New("no connection as postgres with password " + password)
	w.exec(`create role locked login password 'another'`)
	w.exec(`copy (select 'local all locked scram-sha-256' union all select 'local all postgres trust') to '` + w.f.rows(`show hba_file`)[0] + `'`)
	require.Equal(t, []string{"true"}, w.f.rows(`select pg_reload_conf()`))
	require.NoError(t, w.look(true))
	for name, change := range map[string]func(*pgxpool.Config){
		"no such socket":        func(c *pgxpool.Config) { c.ConnConfig.Host = t.TempDir() },
		"no such port":          func(c *pgxpool.Config) { c.ConnConfig.Host, c.ConnConfig.Port = "127.0.0.1", 1 },
		"no such database":      func(c *pgxpool.Config) { c.ConnConfig.Database = "none" },
		"no such role":          func(c *pgxpool.Config) { c.ConnConfig.User = "none" },
		"another password":      func(c *pgxpool.Config) { c.ConnConfig.User = "locked" },
		"a setting that is bad": func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["work_mem"] = "x" },
		"a host name that does not resolve": func(c *pgxpool.Config) {
			c.ConnConfig.Host = "host.example"
			c.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) {
				return nil, &net.DNSError{Err: quoting.Error(), Name: password}
			}
		},
		"a connection string in the place of the host": func(c *pgxpool.Config) { c.ConnConfig.Host = "postgres:" + url.QueryEscape(password) + "@127.0.0.1" },
		"a dialler that quotes": func(c *pgxpool.Config) {
			c.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, quoting }
		},
		"a hook that quotes": func(c *pgxpool.Config) {
			c.AfterConnect = func(context.Context, *pgx.Conn) error { return quoting }
		},
		"another hook that quotes": func(c *pgxpool.Config) {
			c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return quoting }
		},
		"a check that quotes": func(c *pgxpool.Config) {
			c.ConnConfig.ValidateConnect = func(context.Context, *pgconn.PgConn) error { return quoting }
		},
		"a server that quotes": func(c *pgxpool.Config) {
			answer := "SFATAL\x00C28000\x00M" + quoting.Error() + "\x00D" + quoting.Error() + "\x00H" + quoting.Error() + "\x00\x00"
			c.ConnConfig.DialFunc = answering(string(binary.BigEndian.AppendUint32([]byte("E"), uint32(len(answer)+4))) + answer)
		},
		"a server that talks nonsense": func(c *pgxpool.Config) { c.ConnConfig.DialFunc = answering(quoting.Error() + quoting.Error()) },
	} {
		config := w.f.pool.Config().Copy()
		config.ConnConfig.Fallbacks = nil
		change(config)
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		require.NoError(t, err)
		options := w.options()
		_, err = aiseed.Open(context.Background(), pool, options)
		pool.Close()
		_, closed := aiseed.Open(context.Background(), pool, options)
		require.ErrorIs(t, closed, aiseed.ErrDatabase)
		var found error
		if !errors.Is(err, aiseed.ErrDatabase) {
			found = fmt.Errorf("want an error of the database, got %v", err)
		}
		for _, r := range append(renderings(err, true), renderings(closed, true)...) {
			found = errors.Join(found, w.printed.find("the error as "+r.how, r.text))
		}
		cases.check(t, kindFault, name, errors.Join(found, w.look(false)))
	}
}

// answering is a server that says one thing.
func answering(what string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			_, _ = server.Read(make([]byte, 1000))
			_, _ = io.WriteString(server, what)
		}()
		return client, nil
	}
}

// E10, S11: a secret in every variable, also in those that are not for one, and in
// every way in which that is wrong.
func TestF5_E10_NoConfigErrorShowsASecret(t *testing.T) {
	t.Parallel()
	w := newSecretWorldOutside(t, true)
	dir := t.TempDir()
	random := chance(t.Name())
	wrongs := map[string]func(secret string) string{
		"as it is":                func(s string) string { return s },
		"with a space":            func(s string) string { return s + " " + s },
		"with a line break":       func(s string) string { return "\n" + s },
		"with a NUL":              func(s string) string { return s + "\x00" },
		"that is not UTF-8":       func(s string) string { return s + "\xff" },
		"after an empty element":  func(s string) string { return "," + s },
		"twice":                   func(s string) string { return s + "," + s },
		"six times":               func(s string) string { return s + ",b,c,d,e," + s },
		"that is too long":        func(s string) string { return strings.Repeat(s, 9000/len(s)+1) },
		"as the user of a URL":    func(s string) string { return "https://" + s + "@h/" },
		"as a password in a URL":  func(s string) string { return "https://user:" + s + "@h/" },
		"as a fragment":           func(s string) string { return "https://h/#" + s },
		"as a port":               func(s string) string { return "https://h:" + s },
		"in a query":              func(s string) string { return "https://h/?token=" + url.QueryEscape(s) },
		"as a scheme":             func(s string) string { return s + "://h/" },
		"as a file that is none":  func(s string) string { return "/none/" + s },
		"as a settlement":         func(s string) string { return "name@" + s },
		"in a file, with a space": func(s string) string { return w.file(dir, s+" "+s) },
		"in a file, too large":    func(s string) string { return w.file(dir, strings.Repeat(s, 70000/len(s)+1)) },
		"in a file, with NULs":    func(s string) string { return w.file(dir, s+"\x00\n\n") },
	}
	var names []string
	for _, v := range aiseed.Variables("") {
		name := strings.ReplaceAll(v.Name, "<N>", "0")
		names = append(names, name)
		if v.Plural != "" {
			names = append(names, name+"S", name+"S_FILE")
		}
		if v.Secret {
			names = append(names, name+"_FILE")
		}
	}
	for _, name := range names {
		for wrong, change := range wrongs {
			for range full(1, 10) {
				c := w.canaries[random.IntN(len(canaryNames))]
				// A type and a name that are short or could be ones are shown.
				if (strings.HasSuffix(name, "_TYPE") || strings.HasSuffix(name, "_NAME")) && len(c.value) < 20 {
					continue
				}
				for _, typ := range []string{"openai", "anthropic", "copilot", ""} {
					environ := []string{name + "=" + change(c.value), aiseed.DefaultPrefix + "PROVIDER_0_TYPE=" + typ, aiseed.DefaultPrefix + "PROVIDER_0_NAME=name"}
					_, err := aiseed.ParseEnviron(context.Background(), environ, w.logger)
					text := fmt.Sprint(err)
					for _, verb := range []string{"%+v", "%#v", "%x", "%d"} {
						text += fmt.Sprintf(verb, err)
					}
					cases.check(t, kindFault, fmt.Sprintf("%s holds the %s %s, and the type is %q", name, c.name, wrong, typ), errors.Join(w.printed.find("the error", []byte(text)), w.look(false)))
					if !strings.Contains(name, "PROVIDER_") {
						break
					}
				}
			}
		}
	}
}

// file writes a file and returns its path.
func (w *secretWorld) file(dir, contents string) string {
	path := filepath.Join(dir, uuid.NewString())
	require.NoError(w.t, os.WriteFile(path, []byte(contents), 0o600))
	return path
}
