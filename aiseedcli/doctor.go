package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// The states of a finding.
const (
	stateOK   = "ok"
	stateWarn = "warn"
	stateFail = "FAIL"
	stateSkip = "skip"
)

// A finding is one line of the doctor's output.
type finding struct {
	State string `json:"state"`
	Check string `json:"check"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"`
}

func ok(format string, args ...any) []finding {
	return []finding{{State: stateOK, Found: fmt.Sprintf(format, args...)}}
}

func warn(found, do string) []finding { return []finding{{State: stateWarn, Found: found, Do: do}} }
func fail(found, do string) []finding { return []finding{{State: stateFail, Found: found, Do: do}} }

// A check looks at one thing. It is skipped if a check that it needs failed or was
// skipped.
type check struct {
	name  string
	needs []string
	look  func(*doctor, context.Context) []finding
}

var checks = []check{
	{"environment", nil, (*doctor).environment},
	{"keyring", nil, (*doctor).readKeyring},
	{"connection", nil, (*doctor).connection},
	{"server", []string{"connection"}, (*doctor).server},
	{"schema", []string{"connection"}, (*doctor).tables},
	{"keys", []string{"keyring", "schema"}, (*doctor).keys},
	{"plaintext", []string{"keyring", "schema"}, (*doctor).plaintext},
	{"values", []string{"keys", "plaintext"}, (*doctor).values},
	{"audits", []string{"schema"}, (*doctor).audits},
	{"lock", []string{"connection"}, (*doctor).lock},
	{"plan", []string{"environment", "values"}, (*doctor).plan},
}

// doctor holds what the checks have found so far.
type doctor struct {
	*app
	cfg     aiseed.Config
	keyring *aiseed.Keyring
	pool    *pgxpool.Pool
	store   *aiseed.Store
}

func runDoctor(ctx context.Context, a *app) (result, error) {
	d := &doctor{app: a}
	defer func() {
		if d.pool != nil {
			d.pool.Close()
		}
	}()
	failed := map[string]bool{} // or skipped
	code, all := exitDone, []finding{}
	for _, c := range checks {
		findings := d.examine(ctx, c, failed)
		if ctx.Err() != nil {
			return result{}, ctx.Err()
		}
		for i := range findings {
			findings[i].Check = c.name
			switch findings[i].State {
			case stateFail:
				code, failed[c.name] = exitError, true
			case stateSkip:
				failed[c.name] = true
			}
			if !a.flags.json {
				a.printFinding(findings[i])
			}
		}
		all = append(all, findings...)
	}
	return result{code: code, document: map[string]any{"healthy": code == exitDone, "findings": all}}, nil
}

func (d *doctor) examine(ctx context.Context, c check, failed map[string]bool) []finding {
	for _, need := range c.needs {
		if failed[need] {
			return []finding{{State: stateSkip, Found: "needs: " + need}}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return c.look(d, ctx)
}

var stateColours = map[string]string{stateOK: "32", stateWarn: "33", stateFail: "31"}

func (a *app) printFinding(f finding) {
	state := fmt.Sprintf("%-4s", f.State)
	if code := stateColours[f.State]; code != "" && a.colour() {
		state = "\x1b[" + code + "m" + state + "\x1b[0m"
	}
	text := f.Found
	if f.Do != "" {
		text += ". " + f.Do
	}
	a.printf("%s  %-11s  %s\n", state, f.Check, strings.Join(strings.Fields(text), " "))
}

// environment finds variables that a start would refuse, and those that look misspelt.
func (d *doctor) environment(ctx context.Context) (findings []finding) {
	cfg, err := aiseed.ParseEnviron(ctx, d.Environ, slog.Logger{}, aiseed.WithPrefix(d.flags.prefixes...))
	d.cfg = cfg
	for _, problem := range problems(err) {
		findings = append(findings, fail(problem, "")...)
	}
	for _, w := range cfg.Warnings {
		findings = append(findings, warn(w.String(), "")...)
	}
	if !slices.ContainsFunc(d.Environ, func(entry string) bool { return strings.HasPrefix(entry, d.prefix()) }) {
		findings = append(findings, warn(fmt.Sprintf("no variable %s* is set; is this the server's environment, and -prefix its prefix?", strings.Join(d.flags.prefixes, "* or ")), "")...)
	}
	if findings == nil {
		return ok("nothing is wrong with the variables %s*", strings.Join(d.flags.prefixes, "* and "))
	}
	return findings
}

func (d *doctor) readKeyring(context.Context) []finding {
	keyring, err := d.requiredKeyring()
	d.keyring = keyring
	switch {
	case err != nil:
		return fail(bare(err), "")
	case keyring == nil:
		return ok("none, which -plaintext accepts")
	}
	return ok("%s; %s seals", text.Count(len(keyring.IDs()), "key"), keyring.IDs()[0])
}

// connection connects to the database, and counts the server's connection slots.
func (d *doctor) connection(ctx context.Context) []finding {
	pool, err := d.app.pool(ctx)
	if err != nil {
		return fail(err.Error(), "")
	}
	d.pool = pool
	if err := pool.Ping(ctx); err != nil {
		return d.cannotConnect(ctx, err)
	}
	var used, slots int
	var readOnly bool
	err = d.one(ctx, `
select (select count(*) from pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
       current_setting('transaction_read_only') = 'on'`, &used, &slots, &readOnly)
	at := d.address()
	switch {
	case err != nil:
		return d.trouble(ctx, err)
	case readOnly:
		return warn(at+": the database is read-only, so that a start that has something to write fails", "Connect to the primary, or clear default_transaction_read_only")
	}
	return checkSlots(at, used, slots)
}

// checkSlots warns if at least 90% of the slots are used.
func checkSlots(at string, used, slots int) []finding {
	found := fmt.Sprintf("%s; %d of %d connection slots are used", at, used, slots)
	if used*10 >= slots*9 {
		return warn(found, "Raise max_connections, make the pools smaller, or put a pooler between")
	}
	return ok("%s", found)
}

func (d *doctor) server(ctx context.Context) []finding {
	var version int
	if err := d.one(ctx, `select current_setting('server_version_num')::int`, &version); err != nil {
		return d.trouble(ctx, err)
	}
	return checkVersion(version)
}

const oldestVersion = 14

// checkVersion checks a server_version_num.
func checkVersion(number int) []finding {
	major, minor := number/10000, number%10000
	if major < oldestVersion {
		return fail(fmt.Sprintf("PostgreSQL %d.%d is too old; %d or later is needed", major, minor, oldestVersion), "Upgrade the server")
	}
	return ok("PostgreSQL %d.%d", major, minor)
}

func (d *doctor) tables(ctx context.Context) []finding {
	version, needed := 0, neededVersion()
	err := d.one(ctx, `select coalesce(max(version), 0) from {schema}.aiseed_schema`, &version)
	apply := "Apply it: " + d.sibling("schema -apply")
	switch {
	case isState(err, undefinedTable):
		return fail(fmt.Sprintf("there are no aiseed tables in the schema %q", d.flags.schema), apply)
	case err != nil:
		return d.trouble(ctx, err)
	case version < needed:
		return fail(fmt.Sprintf("the tables in %q are at version %d, and version %d is needed", d.flags.schema, version, needed), apply)
	case version > needed:
		return ok("version %d in %q, later than the %d that this command knows, which is fine", version, d.flags.schema, needed)
	}
	return ok("version %d in %q", version, d.flags.schema)
}

// keys compares the keyring with the database.
func (d *doctor) keys(ctx context.Context) []finding {
	known, err := d.list(ctx, `select id from {schema}.ai_encryption_keys`)
	if err != nil {
		return d.trouble(ctx, err)
	}
	store, err := aiseed.Open(ctx, d.pool, aiseed.StoreOptions{Keyring: d.keyring, AllowPlaintext: d.flags.acceptPlaintext, Schema: d.flags.schema})
	ours := d.keyring.IDs()
	foreign := !slices.ContainsFunc(ours, func(id string) bool { return slices.Contains(known, id) })
	switch {
	case err != nil && d.keyring != nil && foreign:
		return fail("this database knows none of the keyring's keys: is it the wrong keyring, or the wrong database? "+bare(err), "")
	case err != nil:
		return d.trouble(ctx, err)
	}
	d.store = store
	switch {
	case d.keyring == nil:
		return ok("nothing is sealed")
	case !slices.Contains(known, ours[0]) && len(known) > 0:
		return warn("key "+ours[0]+" seals from now on, and has sealed nothing yet", "If that is meant: "+d.sibling("rotate"))
	}
	return ok("the keyring has every key that stored values are sealed with")
}

const selectPlaintext = `
select (select count(*) from {schema}.ai_providers where settings is not null and settings_key_id is null) +
       (select count(*) from {schema}.ai_provider_keys where api_key_key_id is null)`

func (d *doctor) plaintext(ctx context.Context) []finding {
	var n int
	err := d.one(ctx, selectPlaintext, &n)
	switch {
	case err != nil:
		return d.trouble(ctx, err)
	case d.keyring == nil:
		return ok("%s stored as plaintext, and no keyring", text.Count(n, "value"))
	case n > 0:
		return fail(text.Count(n, "value")+" stored as plaintext, which a server with this keyring refuses to read", "If there was no keyring when they were written: "+d.sibling("seal")+"; if there was, find out who wrote to the tables")
	}
	return ok("none left")
}

// values decrypts what a server reads. Only a rotation reads the values of disabled and
// deleted providers.
func (d *doctor) values(ctx context.Context) []finding {
	providers, err := d.store.Providers(ctx)
	var unusable *aiseed.ProvidersError
	switch {
	case errors.As(err, &unusable):
		var all []finding
		for _, p := range unusable.Providers {
			all = append(all, d.trouble(ctx, p.Err)...)
		}
		return all
	case err != nil:
		return d.trouble(ctx, err)
	}
	return ok("a server can decrypt all that it reads, for %s", text.Count(len(providers), "enabled provider"))
}

func (d *doctor) audits(ctx context.Context) []finding {
	var n int
	var since *time.Time
	err := d.one(ctx, `select count(*), min(created_at) from {schema}.ai_provider_audits where delivered_at is null`, &n, &since)
	switch {
	case err != nil:
		return d.trouble(ctx, err)
	case n > 0:
		return warn(fmt.Sprintf("%s not delivered, since %s", countOf(n, "entry is", "entries are"), since.UTC().Format(time.RFC3339)),
			"The server's next start delivers them; if starts leave them, its log says why")
	}
	return ok("all delivered")
}

func countOf(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func (d *doctor) lock(ctx context.Context) []finding {
	holder, err := d.lockHolder(ctx, d.pool, "")
	switch {
	case err != nil:
		return d.trouble(ctx, err)
	case holder == nil:
		return ok("nobody holds it")
	}
	return warn(fmt.Sprintf("advisory lock %d is held by %s", aiseed.LockKey(d.flags.schema), described(holder)),
		fmt.Sprintf("Fine while a server starts; if it stays, end it: select pg_terminate_backend(%d)", holder.PID))
}

// plan finds what would stop a start or make it warn.
func (d *doctor) plan(ctx context.Context) (findings []finding) {
	plan, err := aiseed.PlanAIProvidersFromEnv(ctx, d.store, d.cfg, slog.Logger{})
	if err != nil {
		return d.trouble(ctx, err)
	}
	creates := 0
	for _, step := range plan.Steps {
		switch step.Action {
		case aiseed.ActionDrifted:
			findings = append(findings, fail(drifted(step), fmt.Sprintf("Settle it with %[1]sDRIFT_KEEP=%[2]s@%[3]s or %[1]sDRIFT_ADOPT=%[2]s@%[3]s, or see: %[4]s", d.prefix(), step.Name, step.Digest, d.sibling("plan")))...)
		case aiseed.ActionCreate:
			creates++
		}
		for _, w := range step.Warnings {
			findings = append(findings, warn(step.Name+": "+w.String(), "")...)
		}
	}
	for _, w := range notShown(plan, d.cfg) { // environment shows the others
		findings = append(findings, warn(w.String(), "")...)
	}
	if findings != nil {
		return findings
	}
	return ok("no drift; a start creates %d of %s", creates, text.Count(len(plan.Steps), "provider"))
}

func drifted(step aiseed.Step) string {
	var fields []string
	for _, f := range step.Drift {
		fields = append(fields, fmt.Sprintf("%s is %s in the database, and %s in the environment (%s)", f.Field, orNone(f.Stored), orNone(f.Environment), f.Variable))
	}
	return step.Name + ": a start stops, because its " + strings.Join(fields, "; its ")
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// sql fills in the schema's name.
func (d *doctor) sql(text string) string {
	return strings.ReplaceAll(text, "{schema}", pgx.Identifier{d.flags.schema}.Sanitize())
}
