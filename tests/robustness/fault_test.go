package robustness

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/faultproxy"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

var caseFlag = flag.String("case", "", "run only this case of a sweep, as its failure names it")

// A rig is a fixture with a pool that connects through a fault proxy.
type rig struct {
	*fixture
	proxy   *faultproxy.Proxy
	swept   *pgxpool.Pool
	options aiseed.StoreOptions
	patient *aiseed.Store     // on the swept pool; its limits are never reached
	hasty   *aiseed.Store     // on the swept pool too; soon gives up a server that does not answer
	after   map[string]string // content after an undisturbed run of each operation
}

// sweptApplication marks the backends of the swept pool.
const sweptApplication = "swept"

func (f *fixture) rig(opts ...storetest.Option) *rig {
	f.T.Helper()
	t, r := f.T, &rig{fixture: f, after: map[string]string{}}
	config := r.Pool.Config().Copy()
	var err error
	r.proxy, err = faultproxy.Start(pgconn.NetworkAddress(config.ConnConfig.Host, config.ConnConfig.Port))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.proxy.Close()) })
	config.ConnConfig.Host, config.ConnConfig.Port = r.proxy.Host(), 5432
	config.ConnConfig.TLSConfig, config.ConnConfig.Fallbacks = nil, nil
	config.ConnConfig.RuntimeParams["application_name"] = sweptApplication
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	options := aiseed.StoreOptions{Keyring: r.Keyring, LockTimeout: testkit.Patience, AuditTimeout: testkit.Patience}
	for _, opt := range opts {
		opt(&options, config)
	}
	r.swept, err = pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(r.swept.Close)
	r.patient, err = aiseed.Open(context.Background(), r.swept, options)
	require.NoError(t, err)
	r.options = options
	options.LockTimeout, options.AuditTimeout = 100*time.Millisecond, 2*time.Second
	r.hasty, err = aiseed.Open(context.Background(), r.swept, options)
	require.NoError(t, err)
	return r
}

// arm arms the proxy for an operation, which gets new connections.
func (r *rig) arm(f faultproxy.Fault, then func()) {
	r.proxy.Arm(f, then)
	r.swept.Reset()
}

// An operation is a call that a sweep disturbs.
type operation struct {
	name    string
	lines   []string     // of the environment
	prepare func(r *rig) // makes the tables as they are before; nil for empty tables
	run     func(ctx context.Context, r *rig, store *aiseed.Store, cfg aiseed.Config, auditor aiseed.Auditor) error
	told    told // by an undisturbed run

	adopts   bool // what differs is settled
	once     bool // it may fail if a connection is lost once
	constant bool // it writes nothing
	delivers bool // if it is done, everything is delivered
	noStart  bool // it is not a start
	edits    bool // what a start would do afterwards is another matter
}

func seedOperation(ctx context.Context, _ *rig, store *aiseed.Store, cfg aiseed.Config, auditor aiseed.Auditor) error {
	return aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, auditor, slog.Logger{})
}

func (r *rig) seedWith(auditor aiseed.Auditor, lines ...string) {
	r.T.Helper()
	require.NoError(r.T, seedOperation(context.Background(), r, r.Store, r.Parse(lines...), auditor))
}

var sweptLines = []string{
	"OPENAI_KEY=sk-first-key-of-openai-0001",
	"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=two", "PROVIDER_0_BASE_URL=https://two.example/v1", "PROVIDER_0_KEYS=sk-key-1-of-two-00000001,sk-key-2-of-two-00000002",
	"PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=rock", "PROVIDER_1_BEDROCK_REGION=eu-west-1", "PROVIDER_1_BEDROCK_ACCESS_KEY=AKIA-access-key-00001", "PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET=secret-of-access-key-1",
}

const sweptSecrets = `openai sk-first-key-of-openai-0001
rock AKIA-access-key-00001 secret-of-access-key-1
two sk-key-1-of-two-00000001 sk-key-2-of-two-00000002`

// driftedLines ask for another base URL than sweptLines for one provider.
var driftedLines = slices.Concat(sweptLines, []string{"OPENAI_BASE_URL=https://elsewhere.example/v1"})

// adoptedLines also ask for other credentials.
var adoptedLines = slices.Concat([]string{
	"PROVIDER_0_KEYS=sk-key-3-of-two-00000003,sk-key-1-of-two-00000001", "PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET=secret-of-access-key-2",
}, driftedLines) // of two values of a variable the first counts

const adoptedSecrets = `openai sk-first-key-of-openai-0001
rock AKIA-access-key-00001 secret-of-access-key-2
two sk-key-3-of-two-00000003 sk-key-1-of-two-00000001`

var operations = []operation{
	{name: "first start", lines: sweptLines, run: seedOperation, told: toldDone},
	{
		name: "start that adopts", lines: adoptedLines, run: seedOperation, told: toldDone, adopts: true,
		prepare: func(r *rig) { r.seedWith(aiseed.DiscardAudits, sweptLines...) },
	},
	{
		name: "no-op start", lines: sweptLines, run: seedOperation, told: toldDone, constant: true,
		prepare: func(r *rig) { r.seedWith(aiseed.DiscardAudits, sweptLines...) },
	},
	{
		name: "drifted start", lines: driftedLines, run: seedOperation, told: toldDrift, constant: true,
		prepare: func(r *rig) { r.seedWith(aiseed.DiscardAudits, sweptLines...) },
	},
	{
		name: "start that delivers", lines: sweptLines, run: seedOperation, told: toldDone,
		prepare: func(r *rig) { r.seedWith(aiseed.LeaveAudits, sweptLines...) },
	},
	{
		name: "delivery of audits", lines: sweptLines, told: toldDone, once: true, delivers: true, noStart: true,
		prepare: func(r *rig) { r.seedWith(aiseed.LeaveAudits, sweptLines...) },
		run: func(ctx context.Context, _ *rig, store *aiseed.Store, _ aiseed.Config, auditor aiseed.Auditor) error {
			_, err := store.DeliverAudits(ctx, auditor)
			return err
		},
	},
	{
		name: "opening and reading", lines: sweptLines, told: toldDone, constant: true, noStart: true,
		prepare: func(r *rig) { r.seedWith(aiseed.DiscardAudits, sweptLines...) },
		run: func(ctx context.Context, r *rig, _ *aiseed.Store, _ aiseed.Config, _ aiseed.Auditor) error {
			store, err := aiseed.Open(ctx, r.swept, r.options)
			if err != nil {
				return err
			}
			providers, err := store.Providers(ctx)
			if err == nil && revealed(providers) != sweptSecrets {
				r.T.Errorf("read were %s", revealed(providers))
			}
			return err
		},
	},
}

func (r *rig) empty() {
	r.Exec(`delete from ai_provider_keys; delete from ai_providers; delete from ai_provider_audits; delete from ai_encryption_keys`)
}

// content is everything that a start can write, without ids and times.
func (r *rig) content() string {
	return strings.Join(r.Rows(`
select line from (
	select concat_ws(' ', 'provider', name, type, base_url, display_name, enabled, deleted, settings is not null, (select count(*) from ai_provider_keys k where k.provider_id = p.id)) as line from ai_providers p
	union all select concat_ws(' ', 'audit', actor, action, resource, provider_name, old, new) from ai_provider_audits
) lines order by line`), "\n")
}

// integrity selects states of the tables that must never occur, whatever happened.
const integrity = `
select 'two live rows: ' || name from ai_providers where not deleted group by name having count(*) > 1
union all
select 'an audit of a row that does not exist: ' || id from ai_provider_audits a
 where not exists (select from ai_providers where id = a.resource_id) and not exists (select from ai_provider_keys where id = a.resource_id)
   and not exists (select from ai_provider_audits where resource_id = a.resource_id and action = 'delete')
union all
select 'a row that was audited ' || n || ' times: ' || id
  from (select r.id, (select count(*) from ai_provider_audits where resource_id = r.id and action = 'create') as n
          from (select id from ai_providers union all select id from ai_provider_keys) r) counted where n <> 1
union all
select 'an entry was marked before an earlier one: ' || b.id from ai_provider_audits a join ai_provider_audits b on a.seq < b.seq
 where a.delivered_at is null and b.delivered_at is not null`

// check compares the database with what the caller was told and with what the
// auditor accepted. before is the content at the start and after that of an
// undisturbed run.
func (r *rig) check(what told, before, after string, marked []string, audits []string) error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	deadline := time.Now().Add(testkit.Patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		left := r.Rows(storetest.LeftOver)
		// A backend that was cut off may not have executed yet what was sent to it before.
		backends := r.Rows(`select pid from pg_stat_activity where datname = current_database() and application_name = $1`, sweptApplication)
		if len(left) == 0 && len(backends) <= int(r.swept.Stat().TotalConns()) {
			break
		}
		if time.Now().After(deadline) {
			problem("a backend, a transaction or a lock is left: of %q %q are busy", backends, left)
			break
		}
		time.Sleep(pause)
	}
	for _, row := range r.Rows(integrity) {
		problem("%s", row)
	}
	switch content := r.content(); {
	case content != before && content != after:
		problem("neither nothing nor all was written:\n%s", content)
	case what == toldDone && content != after:
		problem("the caller was told that it is done, and it is not")
	case (what == toldFailed || what == toldDrift) && content != before:
		problem("the caller was told of a failure, and it was written")
	}
	accepted := map[string]bool{}
	for _, id := range audits {
		accepted[id] = true
	}
	var order []string // of the entries in the table that were accepted
	for _, row := range r.Rows(`select id::text, delivered_at is not null from ai_provider_audits order by seq`) {
		id, delivered, _ := strings.Cut(row, " ")
		if delivered == "true" && !accepted[id] && !slices.Contains(marked, id) {
			problem("marked as delivered, and never accepted: %s", id)
		}
		if accepted[id] {
			order = append(order, id)
			delete(accepted, id)
		}
	}
	for id := range accepted {
		problem("an entry was delivered that is not in the table: %s", id)
	}
	if first := unique(audits); !slices.Equal(first, order) && len(accepted) == 0 {
		problem("entries were delivered out of order: %q", first)
	}
	return errors.Join(problems...)
}

// unique keeps the first of each id.
func unique(ids []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// idsOf returns the ids of recorded entries.
func idsOf(audits *aiseedtest.AuditRecorder) []string {
	var out []string
	for _, e := range audits.Entries() {
		out = append(out, e.ID.String())
	}
	return out
}

// converge is the next clean start. After it everything is as if no fault had happened.
func (r *rig) converge(op operation, cfg aiseed.Config, before, after string, marked []string, audits *aiseedtest.AuditRecorder) error {
	err := seedOperation(context.Background(), r, r.Store, cfg, audits)
	if got := outcome(err); got != op.told {
		return fmt.Errorf("the next clean start is told %q, not %q: %w", got, op.told, err)
	}
	if err := r.check(op.told, before, after, marked, idsOf(audits)); err != nil {
		return fmt.Errorf("after the next clean start: %w", err)
	}
	if left := r.Rows(`select id from ai_provider_audits where delivered_at is null`); len(left) > 0 {
		return fmt.Errorf("after the next clean start entries are not delivered: %q", left)
	}
	providers, err := r.Store.Providers(context.Background())
	if err != nil {
		return err
	}
	want := sweptSecrets
	if op.adopts {
		want = adoptedSecrets
	}
	if got := revealed(providers); got != want {
		return fmt.Errorf("after the next clean start the secrets are:\n%s", got)
	}
	return nil
}

// revealed are the names and the secrets of providers.
func revealed(providers []aiseed.Provider) string {
	var lines []string
	for _, p := range providers {
		line := p.Name
		for _, k := range p.Keys {
			line += " " + k.APIKey.Reveal()
		}
		if p.Bedrock != nil {
			line += " " + p.Bedrock.AccessKey.Reveal() + " " + p.Bedrock.AccessKeySecret.Reveal()
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// A disturbance is a fault, and how it is counted.
type disturbance struct {
	kind   string // in the summary
	fault  faultproxy.Fault
	cancel bool // the context, at the message
	end    bool // the backends, at the message

	restart func() // the server, at the message
}

func (d disturbance) String() string {
	switch {
	case d.cancel:
		return fmt.Sprintf("message %d %s, %s, context cancelled", d.fault.Message, d.fault.Direction, d.fault.Kind)
	case d.end:
		return fmt.Sprintf("message %d %s, backend terminated", d.fault.Message, d.fault.Direction)
	case d.restart != nil:
		return fmt.Sprintf("message %d %s, server restarted", d.fault.Message, d.fault.Direction)
	}
	return d.fault.String()
}

// disturbances returns everything that can be done at a message.
func disturbances(direction faultproxy.Direction, message int) []disturbance {
	var all []disturbance
	for _, kind := range faultproxy.Kinds {
		for _, forGood := range []bool{false, true} {
			all = append(all, disturbance{kind: "F1 " + string(kind), fault: faultproxy.Fault{Direction: direction, Message: message, Kind: kind, ForGood: forGood}})
		}
	}
	nothing := faultproxy.Fault{Direction: direction, Message: message, Kind: faultproxy.None}
	late := faultproxy.Fault{Direction: direction, Message: message, Kind: faultproxy.Hold}
	return append(all,
		disturbance{kind: "F2 context cancelled", fault: nothing, cancel: true},
		disturbance{kind: "F2 context cancelled", fault: late, cancel: true},
		disturbance{kind: "F2 backend terminated", fault: nothing, end: true})
}

// F1, F2, L5, L6, A3, A4, A5: each disturbance at every message of every operation leaves
// all or nothing, the caller is told the truth, and the next clean start converges. Without
// -torture each operation runs in one mode, and some messages get one random disturbance each.
func TestF1_SweepOverEveryMessage(t *testing.T) {
	t.Parallel()
	for m, mode := range []string{"sealed", "plaintext"} {
		for o, op := range operations {
			if !*torture && *caseFlag == "" && m != o%2 {
				continue
			}
			t.Run(op.name+", "+mode, func(t *testing.T) {
				t.Parallel()
				var opts []storetest.Option
				if mode == "plaintext" {
					opts = append(opts, storetest.Plaintext)
				}
				r := setup(t, opts...).rig(opts...)
				random := chance(t.Name())
				swept := 0
				for _, direction := range faultproxy.Directions {
					for n, fired := 1, true; fired; {
						fired = false
						for _, d := range chosen(random, disturbances(direction, n)) {
							hit, err := r.disturb(op, d)
							if hit {
								fired = true
								swept++
								cases.check(t, d.kind, fmt.Sprintf("go test ./tests/robustness -run '%s' -case '%s'", t.Name(), d), err)
							} else {
								require.NoError(t, err, "undisturbed")
							}
						}
						if n++; *caseFlag != "" {
							fired = n < 1000
						} else if !*torture {
							n += random.IntN(50)
						}
					}
				}
				require.NotZero(t, swept)
			})
		}
	}
}

// begin makes the tables as they are before an operation, and returns its
// configuration.
func (r *rig) begin(op operation) aiseed.Config {
	r.T.Helper()
	cfg := r.Parse(op.lines...)
	if _, begun := r.after[op.name]; !begun || !op.constant {
		r.empty()
		if op.prepare != nil {
			op.prepare(r)
		}
	}
	if op.adopts {
		cfg.DriftAdopt = storetest.Tokens(r.T, r.Store, cfg)
	}
	if _, begun := r.after[op.name]; !begun {
		err := op.run(context.Background(), r, r.Store, cfg, aiseed.DiscardAudits)
		require.Equal(r.T, op.told, outcome(err), "%v", err)
		r.after[op.name] = r.content()
		return r.begin(op)
	}
	return cfg
}

// chosen returns the disturbances to try: all, or the one of -case, or a random one.
func chosen(random *rand.Rand, all []disturbance) []disturbance {
	if *caseFlag != "" {
		return slices.DeleteFunc(all, func(d disturbance) bool { return d.String() != *caseFlag })
	}
	if *torture {
		return all
	}
	i := random.IntN(len(all))
	return all[i : i+1]
}

// disturb runs one case from the beginning. hit reports whether the operation reached the
// fault.
func (r *rig) disturb(op operation, d disturbance) (hit bool, err error) {
	cfg := r.begin(op)
	before, after, state := r.content(), r.after[op.name], r.State()
	marked := r.Rows(`select id::text from ai_provider_audits where delivered_at is not null`)

	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	givesUp, arrives := time.AfterFunc(time.Hour, cancel), time.AfterFunc(time.Hour, r.proxy.Release)
	store, then := r.patient, func() {}
	switch {
	case d.cancel:
		then = func() {
			arrives.Reset(100 * time.Millisecond)
			cancel()
		}
	case d.end:
		then = func() { r.terminate(sweptApplication) }
	case d.restart != nil:
		then = d.restart
	case d.fault.ForGood: // until the waiting side gives up
		store = r.hasty
		then = func() {
			givesUp.Reset(10 * time.Millisecond)
			arrives.Reset(300 * time.Millisecond)
		}
	case d.fault.Kind == faultproxy.Hold: // for a while
		then = func() { arrives.Reset(time.Millisecond) }
	}
	audits := &aiseedtest.AuditRecorder{}
	r.arm(d.fault, then)
	said := op.run(ctx, r, store, cfg, audits)
	hit = r.proxy.Fired()
	record := r.proxy.Record()
	givesUp.Stop()
	arrives.Stop()
	r.proxy.Release() // what is on its way arrives

	what := outcome(said)
	problems := []error{r.check(what, before, after, marked, idsOf(audits))}
	if op.constant && r.State() != state {
		problems = append(problems, errors.New("something was written"))
	}
	if left := r.Rows(`select id from ai_provider_audits where delivered_at is null`); op.delivers && what == toldDone && (len(left) > 0 || len(audits.Entries()) == 0) {
		problems = append(problems, fmt.Errorf("the caller was told that all is delivered, and %d are left", len(left)))
	}
	if (d.cancel || d.restart != nil) && what == toldUnknown {
		problems = append(problems, errors.New("the outcome is reported as unknown, although the server is there to be asked"))
	}
	survives := !op.once && !d.cancel && d.restart == nil && !d.fault.ForGood && !connecting(record)
	// If no fault happened, the result of the hasty store depends on the machine: it may give
	// up a slow server. What it is told must still be true.
	undisturbed := !hit && store == r.patient
	if (survives || undisturbed) && what != op.told {
		problems = append(problems, fmt.Errorf("the caller is told %q, not %q", what, op.told))
	}
	problems = append(problems, r.converge(op, cfg, r.content(), after, marked, audits))
	if err := errors.Join(problems...); err != nil {
		return hit, fmt.Errorf("%w\nthe caller was told: %v\nwhat happened:\n%s", err, said, record)
	}
	return hit, nil
}

// terminate ends backends and waits until they are gone.
func (r *rig) terminate(application string) {
	_, err := r.Pool.Exec(context.Background(), `
select pg_terminate_backend(pid, 10000) from pg_stat_activity
 where datname = current_database() and application_name = $1`, application)
	assert.NoError(r.T, err)
}

// connecting reports whether the fault came before the first connection was made: a server
// that was never reached is reported at once.
func connecting(record string) bool {
	for _, line := range strings.Split(record, "\n") {
		if strings.Contains(line, ": ") {
			return true
		}
		if strings.HasSuffix(line, "ReadyForQuery") {
			return false
		}
	}
	return false
}
