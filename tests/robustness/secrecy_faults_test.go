package robustness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

const kindFault = "F5 faults searched for secrets"

// A secretOperation is one that a fault can hit.
type secretOperation struct {
	name    string
	prepare string // SQL that makes the state that it needs from the saved one
	run     func(ctx context.Context) (values []any, err error)
	fails   bool // also without a fault
}

// saveState makes the state that every operation starts from.
func (w *secretWorld) saveState() (restore string, operations []secretOperation) {
	t, ctx := w.t, context.Background()
	t.Helper()
	cfg, divergent, drifted, adopting := w.parse(w.environ), w.parse(w.divergent()), w.parse(w.drifted()), w.parse(w.drifted())
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, w.store, cfg, aiseed.LeaveAudits, w.logger))
	newProvider := func(name string) aiseed.ProviderSpec {
		return aiseed.ProviderSpec{Type: "openai", Name: name, Keys: []aiseed.Secret{aiseed.NewSecret(w.canaries.value("created key")), aiseed.NewSecret(w.canaries.value("legacy OpenAI key"))}}
	}
	made, err := w.store.CreateProvider(ctx, "somebody", newProvider("made"))
	require.NoError(t, err)
	gone, err := w.store.CreateProvider(ctx, "somebody", newProvider("gone"))
	require.NoError(t, err)
	require.NoError(t, w.store.DeleteProvider(ctx, "somebody", gone.ID))
	providers, err := w.store.Providers(ctx)
	require.NoError(t, err)
	pairs := providers[slices.IndexFunc(providers, func(p aiseed.Provider) bool { return p.Name == "pairs" })].ID
	require.ErrorIs(t, aiseed.SeedAIProvidersFromEnv(ctx, w.store, drifted, aiseed.LeaveAudits, w.logger), aiseed.ErrDrift)
	adopting.DriftAdopt = storetest.Tokens(t, w.store, drifted)
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
	reseal := func(do func(*aiseed.Store, context.Context) (aiseed.RotateResult, error)) func(context.Context) ([]any, error) {
		return func(ctx context.Context) ([]any, error) {
			report, err := do(w.sealing, ctx)
			return []any{report}, err
		}
	}
	id := func(do func(ctx context.Context) error) func(context.Context) ([]any, error) {
		return func(ctx context.Context) ([]any, error) { return nil, do(ctx) }
	}
	// The first operation is the one that most faults make fail: then it is known that these work.
	operations = []secretOperation{
		{name: "a first start", prepare: empty, run: seed(cfg)},
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
			_, err := w.store.Providers(ctx) // a base URL in the providers is as it was written
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
		{name: "a start", run: seed(cfg)},
		{name: "a start that diverged", run: seed(divergent)},
		{name: "a start that drifted", run: seed(drifted), fails: true},
		{name: "a start that adopts", run: seed(adopting)},
		{name: "a delivery", run: deliver(nil)},
		{name: "pruning", run: id(func(ctx context.Context) error { _, err := w.store.PruneAudits(ctx, 0); return err })},
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
		{name: "ReplaceProviderKeys", run: func(ctx context.Context) ([]any, error) {
			_, err := w.store.ReplaceProviderKeys(ctx, "somebody", made.ID, []aiseed.Secret{made.Keys[1].APIKey, aiseed.NewSecret(w.canaries.value("added key"))})
			return nil, err
		}},
		{name: "Provider", run: func(ctx context.Context) ([]any, error) {
			_, err := w.store.Provider(ctx, made.ID)
			return nil, err
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
		return restore, append(operations,
			secretOperation{name: "Rotate", run: reseal((*aiseed.Store).Rotate)},
			secretOperation{name: "ForgetKey", run: func(ctx context.Context) ([]any, error) {
				without := w.options()
				without.Keyring = storetest.Keyring(w.t, 9)
				forgotten, err := aiseed.ForgetKey(ctx, w.pool, without, "somebody", w.rings[0].IDs()[0])
				return []any{fmt.Sprint(forgotten)}, err
			}})
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

// auditor shows the entries that it gets, and answers.
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
	holds  bool // it holds a lock that somebody waits for
}

// faults returns those of the tables and their locks. Each makes some operation fail.
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
		return secretFault{name: name, holds: true, arm: func() func() {
			holder, err := w.f.Pool.Begin(ctx)
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

// S5, S6, S11: nothing that is printed when something fails shows a secret.
func TestF5_S11_NoFaultShowsASecret(t *testing.T) {
	t.Parallel()
	inEachWorld(t, func(t *testing.T, w *secretWorld) {
		random := chance(t.Name())
		restore, operations := w.saveState()
		faults := w.faults()
		run := func(o secretOperation, reproduce string, quoted, hasty bool, arm func() (disarm func()), decide cutDecision, happened func() bool) error {
			w.exec(restore + o.prepare)
			w.hurry(hasty)
			disarm := arm()
			ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
			defer cancel()
			w.reset(func(sent []byte) testkit.Action { return decide(cancel, sent) })
			values, err := o.run(ctx)
			w.reset(func([]byte) testkit.Action { return testkit.Pass })
			disarm()
			var found error
			for _, v := range append(values, err) {
				for _, r := range renderings(v, *torture) {
					found = errors.Join(found, w.printed.find(fmt.Sprintf("a %T as %s", v, r.how), r.text))
				}
			}
			if found = errors.Join(found, w.look(quoted)); found != nil || err != nil || happened() {
				cases.check(t, kindFault, fmt.Sprintf("%s: %s, %s", w.name, o.name, reproduce), found)
			}
			return err
		}
		nothing := func() func() { return func() {} }
		never := func() bool { return false }
		passing := func(context.CancelFunc, []byte) testkit.Action { return testkit.Pass }
		hit := map[string]bool{}
		for _, o := range operations {
			w.f.RequireIdle() // the server may still be ending connections that were cut
			if err := run(o, "no fault", false, false, nothing, passing, never); o.fails {
				require.Error(t, err, o.name)
			} else {
				require.NoError(t, err, o.name)
			}
			for _, fault := range faults {
				if hit[fault.name] && random.IntN(full(100, 1)) > 0 {
					continue
				}
				err := run(o, fault.name, fault.quotes, fault.holds, fault.arm, passing, never)
				hit[fault.name] = hit[fault.name] || err != nil && !o.fails
			}
			w.cutEverywhere(random, func(reproduce string, decide cutDecision, reached func() bool) error {
				return run(o, reproduce, false, true, nothing, decide, reached)
			})
		}
		for _, fault := range faults {
			require.True(t, hit[fault.name], "%s fails no operation", fault.name)
		}
		w.requireDump()
		require.True(t, w.traced, "nothing was traced")
	})
}

// A cutDecision decides what happens to a message, and to its caller.
type cutDecision func(cancel context.CancelFunc, sent []byte) testkit.Action

// maxMessages is more than most operations send.
const maxMessages = 8

// cutEverywhere loses the connection at each message of an operation, in each way.
// run runs it.
func (w *secretWorld) cutEverywhere(random *rand.Rand, run func(reproduce string, decide cutDecision, reached func() bool) error) {
	for _, way := range []string{"cut before", "cut after", "cut unheard", "cut before, and from then on", "cut after, and from then on", "backends terminated", "caller cancelled"} {
		for n, reached := 1, true; reached; n++ {
			if random.IntN(full(80, 1)) > 0 {
				reached = n < maxMessages // the real number is not known
				continue
			}
			sent := 0
			reached = false
			_ = run(fmt.Sprintf("message %d: %s", n, way), func(cancel context.CancelFunc, _ []byte) testkit.Action {
				if sent++; sent < n {
					return testkit.Pass
				}
				reached = true
				kind, always := strings.CutSuffix(way, ", and from then on")
				if sent > n && !always {
					return testkit.Pass
				}
				if always { // the caller gives up while the call waits to try again
					time.AfterFunc(20*time.Millisecond, cancel)
				}
				switch kind {
				case "cut before":
					return testkit.CutBefore
				case "cut after":
					return testkit.CutAfter
				case "cut unheard":
					return testkit.CutUnheard
				case "backends terminated":
					_, err := w.f.Pool.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and application_name = 'store'`)
					if err != nil {
						w.t.Error(err)
					}
				default:
					cancel()
				}
				return testkit.Pass
			}, func() bool { return reached })
			w.renewConnections() // some may be dead

			// What was sent unheard is done by then.
			require.Eventually(w.t, func() bool {
				return len(w.f.Rows(`select pid from pg_stat_activity where datname = current_database() and application_name = 'store'`)) == 0
			}, testkit.Patience, time.Millisecond)
		}
	}
}

// renewConnections closes the connections of the stores' pools.
func (w *secretWorld) renewConnections() {
	for _, pool := range w.pools {
		pool.Reset()
	}
}
