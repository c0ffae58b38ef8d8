package aiseedcli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/testkit"
)

// A patient is a database with one seeded provider, the role that a server connects as, and the
// server's environment.
type patient struct {
	t       *testing.T
	owner   *pgxpool.Pool // a superuser
	role    string        // "" for that of the owner
	dsn     string        // the server's; "" for that of the role
	keys    string
	schema  string
	environ []string
	lock    time.Duration     // of the start
	creates []string          // what the start that writes creates; nil for a provider with a key
	adopts  bool              // that start adopts instead
	server  *ephemeral.Server // its own, or nil
}

const (
	firstKey  = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
	secondKey = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
)

func newPatient(t *testing.T, owner *pgxpool.Pool, schema string) *patient {
	p := &patient{t: t, owner: owner, keys: firstKey, schema: schema, environ: []string{"CODER_AIBRIDGE_OPENAI_KEY=sk-6f1e9b07c2d84a53b1907e"}}
	require.NoError(t, aiseed.Migrate(t.Context(), owner, schema))
	require.NoError(t, p.startOn(owner))
	return p
}

// connection is the server's connection string.
func (p *patient) connection() string {
	if p.dsn != "" {
		return p.dsn
	}
	c := p.owner.Config().ConnConfig
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	role := p.role
	if role == "" {
		role = c.User
	}
	return fmt.Sprintf("host='%s' port=%d user='%s' password='%s' dbname='%s'", c.Host, c.Port, quoted(role), quoted(c.Password), c.Database)
}

func (p *patient) exec(sql string) {
	p.t.Helper()
	_, err := p.owner.Exec(context.Background(), sql, pgx.QueryExecModeExec)
	require.NoError(p.t, err, sql)
}

// login makes a role, and lets the server connect as it.
func (p *patient) login(name string) string {
	p.role = name + p.owner.Config().ConnConfig.Database
	role := identifier(p.role)
	p.exec("create role " + role + " login")
	p.t.Cleanup(func() {
		p.exec("reassign owned by " + role + " to current_user")
		p.exec("drop owned by " + role)
		p.exec("drop role " + role)
	})
	if password := p.owner.Config().ConnConfig.Password; password != "" {
		// standard_conforming_strings can be off
		p.exec(fmt.Sprintf("do $do$ begin execute format('alter role %%I password %%L', $r$%s$r$, $r$%s$r$); end $do$", p.role, password))
	}
	return role
}

// mayRead makes a role that may only read.
func (p *patient) mayRead(name string) string {
	role := p.login(name)
	p.exec("grant usage on schema " + identifier(p.schema) + " to " + role)
	p.exec("grant select on all tables in schema " + identifier(p.schema) + " to " + role)
	return role
}

// mayWrite makes a role that may do all that a server does.
func (p *patient) mayWrite() string {
	role := p.login("app_")
	p.exec("grant usage on schema public to " + role)
	p.exec("grant select, insert, update, delete on all tables in schema public to " + role)
	return role
}

// start is what a server does before it serves.
func (p *patient) start() error {
	pool, err := pgxpool.New(context.Background(), p.connection())
	if err != nil {
		return err
	}
	defer pool.Close()
	return p.startOn(pool)
}

func (p *patient) startOn(pool *pgxpool.Pool) error {
	cfg, err := aiseed.ParseEnviron(context.Background(), p.environ, slog.Logger{})
	if err != nil {
		return err
	}
	keyring, err := aiseed.ParseKeyring(p.keys)
	if err != nil {
		return err
	}
	lockTimeout := time.Hour
	if p.lock > 0 {
		lockTimeout = p.lock
	}
	store, err := aiseed.Open(context.Background(), pool, aiseed.StoreOptions{Keyring: keyring, Schema: p.schema, LockTimeout: lockTimeout})
	if err != nil {
		return err
	}
	if err := aiseed.SeedAIProvidersFromEnv(context.Background(), store, cfg, aiseed.DiscardAudits, slog.Logger{}); err != nil {
		return err
	}
	_, err = store.Providers(context.Background())
	return err
}

// A diagnosis is what doctor prints with -json.
type diagnosis struct {
	Healthy  bool      `json:"healthy"`
	Findings []finding `json:"findings"`
}

func (p *patient) doctor() (d diagnosis) {
	p.t.Helper()
	var stdout, stderr bytes.Buffer
	code := Run(context.Background(), []string{"doctor", "-json"}, Options{
		Schema: p.schema, Stdout: &stdout, Stderr: &stderr, DatabaseVariable: "DATABASE", KeysVariable: "KEYS",
		Environ: append(slices.Clone(p.environ), "DATABASE="+p.connection(), "KEYS="+p.keys),
	})
	require.Empty(p.t, stderr.String())
	require.NoError(p.t, json.Unmarshal(stdout.Bytes(), &d), stdout.String())
	require.Equal(p.t, code == exitDone, d.Healthy)
	require.Equal(p.t, code == exitDone, !slices.ContainsFunc(d.Findings, func(f finding) bool { return f.State == stateFail }))
	return d
}

// apply applies the schema as the server's role.
func (p *patient) apply(flags ...string) (code int, output string) {
	var out bytes.Buffer
	code = Run(context.Background(), append([]string{"schema", "-apply"}, flags...), Options{
		Schema: p.schema, Stdout: &out, Stderr: &out, DatabaseVariable: "DATABASE", Environ: []string{"DATABASE=" + p.connection(), "COLUMNS=10000"},
	})
	return code, out.String()
}

// written returns a name as the server writes it: with some settings, in quotation marks.
func written(t *testing.T, pool *pgxpool.Pool, name string) (as string) {
	t.Helper()
	const sql = `select array_to_string(array(select quote_ident(part) from unnest(parse_ident($1)) as part), '.')`
	require.NoError(t, pool.QueryRow(t.Context(), sql, name).Scan(&as))
	return as
}

// O7. The error has the statement that mends it, or the role that may.
func TestO7_ApplyingTheSchemaNamesWhatTheRoleLacks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ schema, before, lacks string }{
		"no schema":              {"fresh", "select", "the role may not create the schema; as the owner of the database or a superuser, run: grant create on database "},
		"no USAGE":               {"closed", "create schema closed", `the role may not create tables in the schema; as its owner or a superuser, run: grant usage, create on schema {schema} to `},
		"tables of another role": {"public", "delete from aiseed_schema where version > 1", "are not those of the role "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t, aiseedtest.NewPool(t), "public")
			p.mayWrite()
			p.exec(tt.before)
			p.exec("grant create on schema public to " + identifier(p.role))
			p.schema = tt.schema
			code, output := p.apply()
			require.Equal(t, exitError, code)
			require.Contains(t, output, strings.ReplaceAll(tt.lacks, "{schema}", written(t, p.owner, tt.schema)))
			require.NotContains(t, output, "compare them")
			if _, grant, ok := strings.Cut(output, "run: "); ok {
				p.exec(grant)
				code, output = p.apply()
				require.Zero(t, code, output)
			}
		})
	}
}

// troubles are the lines that are neither ok nor skipped, as a person sees them.
func (d diagnosis) troubles() string {
	var out bytes.Buffer
	a := &app{Options: Options{Environ: []string{"COLUMNS=10000"}}, stdout: &checkedWriter{w: &out}}
	for _, f := range d.Findings {
		if f.State == stateFail || f.State == stateWarn {
			a.printFinding(f)
		}
	}
	return out.String()
}

// run is what failures say to run.
func (d diagnosis) run() (lines []string) {
	for _, f := range d.Findings {
		if f.State == stateFail {
			lines = append(lines, f.Run...)
		}
	}
	return lines
}

// statements are the SQL that failures and warnings say to run.
func (d diagnosis) statements() (list []string) {
	for _, f := range d.Findings {
		for _, line := range f.Run {
			if strings.HasSuffix(line, ";") {
				list = append(list, line)
			}
		}
	}
	return list
}

// set sets something for the role or the database.
func (p *patient) set(by, setting string) {
	c := p.owner.Config().ConnConfig
	p.exec(strings.NewReplacer("{role}", identifier(p.role), "{database}", identifier(c.Database)).Replace(by) + " " + setting)
}

// store is a store of an operator.
func (p *patient) store() *aiseed.Store {
	keyring, err := aiseed.ParseKeyring(p.keys)
	require.NoError(p.t, err)
	store, err := aiseed.Open(context.Background(), p.owner, aiseed.StoreOptions{Keyring: keyring, Schema: p.schema})
	require.NoError(p.t, err)
	return store
}

func (p *patient) provider(name string) aiseed.Provider {
	provider, err := p.store().ProviderByName(context.Background(), name)
	require.NoError(p.t, err)
	return provider
}

// adopting is the variable that settles the difference of the first provider.
func (p *patient) adopting() string {
	cfg, err := aiseed.ParseEnviron(context.Background(), p.environ, slog.Logger{})
	require.NoError(p.t, err)
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), p.store(), cfg, slog.Logger{})
	require.NoError(p.t, err)
	return "CODER_AIBRIDGE_DRIFT_ADOPT=" + plan.Steps[0].Name + "@" + plan.Steps[0].Digest
}

func (p *patient) created(name string) {
	_, err := p.store().CreateProvider(context.Background(), "alice", aiseed.ProviderSpec{Type: aiseed.TypeOpenAI, Name: name, Keys: []aiseed.Secret{aiseed.NewSecret("sk-0b8d5f2e71c649aa83f2d0")}})
	require.NoError(p.t, err)
}

func (p *patient) damage(name string) {
	p.exec("update ai_provider_keys set api_key = left(api_key, -4) || 'AAAA' where provider_id = (select id from ai_providers where name = '" + name + "')")
}

// replace gives the patient another database on its server.
func (p *patient) replace(options string) {
	c := p.owner.Config().ConnConfig
	name := c.Database + "_2"
	p.exec("create database " + name + " " + options)
	maintenance := p.owner
	p.t.Cleanup(func() {
		_, err := maintenance.Exec(context.Background(), "drop database "+name+" with (force)")
		require.NoError(p.t, err)
	})
	config := p.owner.Config().Copy()
	config.ConnConfig.Database = name
	config.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(p.t, err)
	p.t.Cleanup(pool.Close)
	p.owner, p.dsn = pool, ""
	require.NoError(p.t, aiseed.Migrate(context.Background(), pool, p.schema))
	cfg, err := aiseed.ParseEnviron(context.Background(), p.environ, slog.Logger{})
	require.NoError(p.t, err)
	require.NoError(p.t, aiseed.SeedAIProvidersFromEnv(context.Background(), p.store(), cfg, aiseed.DiscardAudits, slog.Logger{}))
}

// move gives the patient a server of its own.
func (p *patient) move() *ephemeral.Server {
	server, err := ephemeral.Start(context.Background())
	require.NoError(p.t, err)
	p.t.Cleanup(func() { require.NoError(p.t, server.Close()) })
	pool, err := pgxpool.New(context.Background(), server.DSN(""))
	require.NoError(p.t, err)
	p.t.Cleanup(pool.Close)
	*p = *newPatient(p.t, pool, p.schema)
	p.server = server
	return server
}

// bouncer puts a pooler before the patient's own server.
func (p *patient) bouncer(settings ...string) {
	bouncer, err := ephemeral.StartPgBouncer(context.Background(), p.server, settings...)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { require.NoError(p.t, bouncer.Close()) })
	p.dsn = bouncer.DSN("")
}

// rows is every row of the tables, with what tells whether it was written to.
func (p *patient) rows() (all string) {
	for _, n := range needs[:5] {
		var rows string
		err := p.owner.QueryRow(context.Background(), fmt.Sprintf("select coalesce(string_agg(concat_ws(' ', xmin, xmax, ctid, t), e'\n'), '') from %s t", identifier(p.schema, n.table))).Scan(&rows)
		if err == nil { // the table can be missing
			all += rows
		}
	}
	return all
}

// O10. In each situation, doctor says of the next start what the start then does, and what it says
// to run mends it. The golden file has what it says.
func TestO10_DoctorAgreesWithTheStart(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	looks := map[string][]look{}
	list := situations()
	t.Run("each", func(t *testing.T) {
		for _, s := range list {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				p := newPatient(t, aiseedtest.NewPool(t), "public")
				s.there(p)
				both := s.tried(p)
				mu.Lock()
				defer mu.Unlock()
				looks[s.name] = both
			})
		}
	})
	var all strings.Builder
	for _, s := range list {
		both := looks[s.name]
		if both == nil {
			return // a part of the test was asked for, or it failed
		}
		t.Logf("| %-78s | %s | %s |", s.name, both[0].outcome, both[1].outcome)
		fmt.Fprintf(&all, "# %s\nnothing to write:   %s\n", s.name, both[0].outcome)
		if both[0].said != both[1].said {
			all.WriteString(both[0].said)
		}
		fmt.Fprintf(&all, "something to write: %s\n%s\n", both[1].outcome, both[1].said)
	}
	testkit.Golden(t, "doctor.txt", all.String())
}

// O10. Not parallel: it changes the time that a question has.
func TestO10_DoctorEndsIfNothingAnswers(t *testing.T) {
	before := checkTimeout
	defer func() { checkTimeout = before }()
	p := newPatient(t, aiseedtest.NewPool(t), "public")
	holder, err := p.owner.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(context.Background()) }()
	_, err = holder.Exec(t.Context(), "lock table ai_providers in access exclusive mode")
	require.NoError(t, err)
	checkTimeout = 100 * time.Millisecond
	require.Contains(t, p.doctor().troubles(), "no answer within 100ms")
}

// A name in the database can hold a line break, and then nobody should paste it.
func TestO10_WhatCannotBeShownIsNotToBePasted(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"grant b;"}, fail("", "", "grant a\n;", "grant b;", "\x1b[2J;")[0].Run)
	require.Empty(t, warn("", "", "grant a\n;")[0].Run)
}

// A look is what doctor said, and what came of it.
type look struct{ said, outcome string }

// tried looks and starts, first with nothing to write, and then with something.
func (s situation) tried(p *patient) []look {
	_, idle := s.lookAndStart(p, s.idle)
	p.wants()
	found, writing := s.lookAndStart(p, s.writing)
	if s.mends {
		for _, statement := range found.statements() {
			p.exec(statement)
		}
		p.awaitNoLock() // a session that is ended needs a moment
	}
	if s.mend != nil {
		s.mend(p, found.run())
	}
	if s.mends || s.mend != nil {
		mended := p.doctor()
		require.True(p.t, mended.Healthy, mended.troubles())
		require.NoError(p.t, p.start())
		ofDatabase := regexp.MustCompile(`(?m)^\w+ +(keys|schema|connection|audits|writing|lock|watch)`)
		if s.mends && ofDatabase.MatchString(mended.troubles()) { // the start that could not mark its audits left these
			require.NotRegexp(p.t, ofDatabase, p.doctor().troubles())
		}
	}
	return []look{idle, writing}
}

func (p *patient) awaitNoLock() {
	require.Eventually(p.t, func() bool {
		var held bool
		err := p.owner.QueryRow(context.Background(), "select exists (select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()))").Scan(&held)
		return err == nil && !held
	}, testkit.Patience, time.Millisecond)
}

// lookAndStart asks doctor, and then starts.
func (s situation) lookAndStart(p *patient, fails bool) (diagnosis, look) {
	before := p.rows()
	found := p.doctor()
	require.Equal(p.t, before, p.rows(), "doctor writes nothing")
	err := p.start()
	said := found.troubles()
	require.Equal(p.t, fails, err != nil, "start: %v", err)
	require.Equal(p.t, found.Healthy, err == nil, "start: %v\n%s", err, said)
	state := map[bool]string{true: "ok", false: "FAIL"}[found.Healthy]
	if found.Healthy && said != "" {
		state = "warn"
	}
	return found, look{p.redact(said), fmt.Sprintf("%-4s and the start %s", state, map[bool]string{true: "succeeds", false: "fails"}[err == nil])}
}

// redact replaces what differs from test to test.
func (p *patient) redact(said string) string {
	c := p.owner.Config().ConnConfig
	pairs := []string{c.Database, "DATABASE", strings.ReplaceAll(c.Database, `"`, `""`), "DATABASE", fmt.Sprintf("%q", c.User), "USER"}
	for _, dsn := range []string{p.connection(), c.ConnString()} {
		if at, err := pgx.ParseConfig(dsn); err == nil {
			pairs = append([]string{fmt.Sprintf("%s, port %d", at.Host, at.Port), "HOST, port PORT"}, pairs...)
		}
	}
	said = strings.NewReplacer(pairs...).Replace(said)
	for _, r := range random {
		said = r.pattern.ReplaceAllString(said, r.with)
	}
	return said
}

// wants gives the next start something to write.
func (p *patient) wants() {
	switch {
	case p.creates != nil:
		p.environ = append(p.environ, p.creates...)
		return
	case !p.adopts:
		p.environ = append(p.environ, "CODER_AIBRIDGE_ANTHROPIC_KEY=sk-0b8d5f2e71c649aa83f2d0")
		return
	}
	p.environ = []string{"CODER_AIBRIDGE_OPENAI_KEY=sk-4c0e77d1a59b4f0e8b2a61"}
	p.environ = append(p.environ, p.adopting())
}
