package aiseedcli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
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
	lock    time.Duration // of the start
	adopts  bool          // the start that writes adopts
}

const (
	firstKey  = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
	secondKey = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
	thirdKey  = "Q0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0M="
)

func newPatient(t *testing.T, owner *pgxpool.Pool, schema string) *patient {
	p := &patient{t: t, owner: owner, keys: firstKey, schema: schema, environ: []string{"CODER_AIBRIDGE_OPENAI_KEY=sk-6f1e9b07c2d84a53b1907e"}}
	require.NoError(t, aiseed.Migrate(t.Context(), owner, schema))
	require.NoError(t, p.start())
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
	p.t.Cleanup(func() { p.exec("drop owned by " + role); p.exec("drop role " + role) })
	if password := p.owner.Config().ConnConfig.Password; password != "" {
		p.exec(fmt.Sprintf("alter role %s password '%s'", role, strings.ReplaceAll(password, "'", "''")))
	}
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

// troubles are the lines that are not ok.
func (d diagnosis) troubles() (lines []string) {
	for _, f := range d.Findings {
		if f.State == stateFail || f.State == stateWarn {
			lines = append(lines, strings.Join(append([]string{f.State, f.Check, f.Found, f.Do}, f.Run...), "  "))
		}
	}
	return lines
}

// statements are what the lines say to run as SQL.
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

// A situation is something that can be wrong with a server's database.
type situation struct {
	name  string
	there func(*patient) // makes it so

	idle, writing bool     // a start with nothing to write fails, and one with something
	says          []string // what some line says, in parts; {role} is the role
	mends         bool     // what the lines print as SQL mends it
	mend          func(*patient, []string)
}

func onSchemaPublic(table string) string { return `"public"."` + table + `"` }

// situations are tried with each a start that writes nothing, and one that creates a provider.
func situations() (all []situation) {
	add := func(s situation) { all = append(all, s) }
	add(situation{name: "all is well", there: func(p *patient) { p.mayWrite() }})

	// Privileges.
	add(situation{
		name: "SELECT only", writing: true, mends: true,
		says: []string{"writing", `the role "{role}" lacks a privilege on "public"."ai_providers": INSERT to create providers`, `grant insert, update on "public"."ai_providers" to "{role}";`},
		there: func(p *patient) {
			role := p.login("reader_")
			p.exec("grant usage on schema public to " + role + "; ")
			p.exec("grant select on all tables in schema public to " + role)
		},
	})
	add(situation{
		name: "no privilege at all", idle: true, writing: true, mends: true,
		says: []string{`the role "{role}" lacks SELECT on "public"."ai_provider_audits"`, `grant select on "public"."ai_provider_audits" to "{role}";`},
		there: func(p *patient) {
			role := p.login("guest_")
			p.exec("revoke usage on schema public from public")
			_ = role
		},
	})
	add(situation{
		name: "no USAGE on the schema", idle: true, writing: true, mends: true,
		says: []string{"schema", `the role "{role}" lacks USAGE on the schema "public"`, `grant usage on schema "public" to "{role}";`},
		there: func(p *patient) {
			role := p.mayWrite()
			p.exec("revoke usage on schema public from public, " + role)
		},
	})
	add(situation{
		name: "nothing on the sequence of the audits", // an identity column asks for no privilege
		there: func(p *patient) {
			role := p.mayWrite()
			p.exec("revoke all on sequence ai_provider_audits_seq_seq from public, " + role)
		},
	})
	for _, table := range []string{"aiseed_schema", "ai_encryption_keys", "ai_providers", "ai_provider_keys", "ai_provider_audits"} {
		add(situation{
			name: "no SELECT on " + table, idle: true, writing: true, mends: true,
			says: []string{"schema", `the role "{role}" lacks SELECT on ` + onSchemaPublic(table), "grant select on " + onSchemaPublic(table) + ` to "{role}";`},
			there: func(p *patient) { p.exec("revoke select on " + table + " from " + p.mayWrite()) },
		})
		add(situation{
			name: "row security on " + table, idle: true, writing: true, mends: true,
			says: []string{"schema", `applies to the role "{role}" on ` + onSchemaPublic(table), "alter table " + onSchemaPublic(table) + " disable row level security;"},
			there: func(p *patient) { p.mayWrite(); p.exec("alter table " + table + " enable row level security") },
		})
		if table == "aiseed_schema" {
			continue
		}
		add(situation{
			name: "no INSERT on " + table, writing: true, mends: true,
			says:  []string{"writing", `the role "{role}" lacks a privilege on ` + onSchemaPublic(table) + ": INSERT", "grant insert on " + onSchemaPublic(table) + ` to "{role}";`},
			there: func(p *patient) { p.exec("revoke insert on " + table + " from " + p.mayWrite()) },
		})
		add(situation{
			name: "no UPDATE on " + table, writing: table == "ai_encryption_keys", mends: true,
			says:  []string{"writing", `the role "{role}" lacks a privilege on ` + onSchemaPublic(table) + ": UPDATE", "grant update on " + onSchemaPublic(table) + ` to "{role}";`},
			there: func(p *patient) { p.exec("revoke update on " + table + " from " + p.mayWrite()) },
		})
	}
	add(situation{
		name: "no UPDATE on ai_providers, and something to adopt", writing: true, mends: true,
		says:  []string{"FAIL  writing", "to adopt and to change providers; the next start needs it"},
		there: func(p *patient) { p.adopts = true; p.exec("revoke update on ai_providers from " + p.mayWrite()) },
	})
	add(situation{
		name: "no DELETE on ai_provider_keys, and a key to replace", writing: true, mends: true,
		says:  []string{"FAIL  writing", "DELETE to remove and to replace keys; the next start needs it", `grant delete on "public"."ai_provider_keys" to "{role}";`},
		there: func(p *patient) { p.adopts = true; p.exec("revoke delete on ai_provider_keys from " + p.mayWrite()) },
	})
	add(situation{
		name: "just the columns that are written",
		there: func(p *patient) {
			role := p.login("columns_")
			p.exec("grant usage on schema public to " + role)
			for _, n := range needs {
				columns := ""
				if n.columns != "" {
					columns = " (" + n.columns + ")"
				}
				p.exec("grant " + n.privilege + columns + " on " + n.table + " to " + role)
			}
		},
	})
	add(situation{
		name: "a role and a schema with odd names", writing: true, mends: true,
		says: []string{`on "My ""own"" schema"."ai_providers"`, `grant insert, update on "My ""own"" schema"."ai_providers" to "O'Neil ""x"" `},
		there: func(p *patient) {
			p.schema = `My "own" schema`
			require.NoError(p.t, aiseed.Migrate(context.Background(), p.owner, p.schema))
			require.NoError(p.t, p.start())
			role := p.login(`O'Neil "x" `)
			p.exec("grant usage on schema " + identifier(p.schema) + " to " + role)
			p.exec("grant select on all tables in schema " + identifier(p.schema) + " to " + role)
		},
	})
	add(situation{
		name: "row security that is forced on the owner", idle: true, writing: true, mends: true,
		says: []string{`alter table "public"."ai_providers" no force row level security;`},
		there: func(p *patient) {
			role := p.mayWrite()
			p.exec("alter table ai_providers owner to " + role)
			p.exec("alter table ai_providers enable row level security")
			p.exec("alter table ai_providers force row level security")
		},
	})

	// The server and its settings.
	for _, by := range []string{"alter role {role} set", "alter database {database} set"} {
		add(situation{
			name: "read-only: " + by, writing: true, mends: true,
			says:  []string{"writing", `the role "{role}" cannot write to the database`, `alter role "{role}" in database`, "set default_transaction_read_only = off;"},
			there: func(p *patient) { p.mayWrite(); p.set(by, "default_transaction_read_only = on") },
		})
		add(situation{
			name: "client_encoding: " + by, idle: true, writing: true, mends: true,
			says:  []string{"connection", "the client_encoding of the connection is LATIN1", `alter role "{role}" in database`, "set client_encoding = 'UTF8';"},
			there: func(p *patient) { p.mayWrite(); p.set(by, "client_encoding = 'LATIN1'") },
		})
	}
	add(situation{
		name: "read-only: connection string", writing: true,
		says:  []string{"writing", "the connection string sets default_transaction_read_only", "Take it out"},
		there: func(p *patient) { p.dsn = p.connection() + " options='-c default_transaction_read_only=on'" },
		mend:  func(p *patient, _ []string) { p.dsn = "" },
	})
	add(situation{
		name: "client_encoding: connection string", idle: true, writing: true,
		says:  []string{"connection", "the client_encoding of the connection is LATIN1", "connection string", "client_encoding=UTF8"},
		there: func(p *patient) { p.dsn = p.connection() + " client_encoding=LATIN1" },
		mend:  func(p *patient, run []string) { p.dsn += " " + run[0] },
	})
	add(situation{
		name: "an SQL_ASCII database", idle: true, writing: true, mends: true,
		says:  []string{"connection", "the client_encoding of the connection is SQL_ASCII", `alter role "`, "set client_encoding = 'UTF8';"},
		there: func(p *patient) { p.replace("encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0") },
	})
	add(situation{
		name: "a standby", writing: true,
		says: []string{"writing", "the server is a standby", "target_session_attrs=read-write"},
		there: func(p *patient) {
			primary := p.move()
			standby, err := primary.Standby(context.Background())
			require.NoError(p.t, err)
			p.t.Cleanup(func() { require.NoError(p.t, standby.Close()) })
			p.dsn = standby.DSN("")
		},
		mend: func(p *patient, run []string) { // the standby's port is that of the primary
			hosts := []string{}
			for _, dsn := range []string{p.dsn, p.owner.Config().ConnString()} {
				c, err := pgx.ParseConfig(dsn)
				require.NoError(p.t, err)
				hosts = append(hosts, c.Host)
			}
			p.dsn = "host=" + strings.Join(hosts, ",") + " port=5432,5432 user=postgres dbname=postgres " + run[0]
		},
	})
	add(situation{
		name: "a pooler of statements", writing: true,
		says: []string{"writing", "a transaction does not hold together", "pool_mode = transaction"},
		there: func(p *patient) {
			server := p.move()
			p.bouncer(server, "pool_mode=statement")
		},
		mend: func(p *patient, run []string) {
			p.bouncer(p.server(), strings.ReplaceAll(run[0], " ", ""))
		},
	})
	add(situation{
		name:  "a pooler of transactions",
		says:  []string{"warn  watch", "the notification of a test did not arrive", "connects to the server itself"},
		there: func(p *patient) { p.bouncer(p.move()) },
	})
	add(situation{
		name: "somebody holds the lock", writing: true, mends: true,
		says: []string{"lock", "is held by pid", `application "the holder"`, "select pg_terminate_backend("},
		there: func(p *patient) {
			config := p.owner.Config().ConnConfig.Copy()
			config.RuntimeParams["application_name"] = "the holder"
			conn, err := pgx.ConnectConfig(context.Background(), config)
			require.NoError(p.t, err)
			p.t.Cleanup(func() { _ = conn.Close(context.Background()) })
			_, err = conn.Exec(context.Background(), "begin")
			require.NoError(p.t, err)
			_, err = conn.Exec(context.Background(), "select pg_advisory_xact_lock($1)", aiseed.LockKey(p.schema))
			require.NoError(p.t, err)
			p.lock = 10 * time.Millisecond
		},
	})
	add(situation{
		name: "a server that does not answer", idle: true, writing: true,
		says: []string{"FAIL  connection", "timed out"},
		there: func(p *patient) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(p.t, err)
			p.t.Cleanup(func() { _ = listener.Close() })
			p.dsn = fmt.Sprintf("host=127.0.0.1 port=%d user=app dbname=db sslmode=disable connect_timeout=1", listener.Addr().(*net.TCPAddr).Port)
		},
	})
	add(situation{
		name: "no such role", idle: true, writing: true,
		says:  []string{"FAIL  connection", "28000"},
		there: func(p *patient) { p.role = "nobody_has_this_name" },
	})
	add(situation{
		name: "a connection string in quotes", idle: true, writing: true,
		says:  []string{"FAIL  connection", "connection string of DATABASE"},
		there: func(p *patient) { p.dsn = `"postgres://app:secret@127.0.0.1:1/db"` },
	})

	// The tables.
	add(situation{
		name: "two of four tables restored", idle: true, writing: true,
		says:  []string{"FAIL  schema", `there is no table "public"."ai_provider_keys"`, `although aiseed_schema says that version`, "schema -print"},
		there: func(p *patient) { p.exec("drop table ai_provider_keys, ai_provider_audits") },
	})
	add(situation{
		name: "the table of the audits is missing", idle: true, writing: true,
		says:  []string{"FAIL  schema", `there is no table "public"."ai_provider_audits"`},
		there: func(p *patient) { p.exec("drop table ai_provider_audits") },
	})
	add(situation{
		name: "a sequence behind its rows", mends: true,
		says:  []string{"warn  audits", `the sequence "public"."ai_provider_audits_seq_seq" is at 1, behind the rows of "public"."ai_provider_audits"`, `select setval('"public"."ai_provider_audits_seq_seq"', (select max(seq) from "public"."ai_provider_audits"));`},
		there: func(p *patient) { p.exec("select setval('ai_provider_audits_seq_seq', 1)") },
	})
	add(situation{
		name: "tables of somebody else", idle: true, writing: true,
		says: []string{"FAIL  schema", "ai_providers, which aiseed did not create", "choose another -schema"},
		there: func(p *patient) {
			p.schema = "shop"
			p.exec("create schema shop")
			p.exec("create table shop.ai_providers (id int)")
		},
	})
	add(situation{
		name: "an aiseed_schema of somebody else", idle: true, writing: true,
		says: []string{"FAIL  schema", "which aiseed did not create"},
		there: func(p *patient) {
			p.schema = "shop"
			p.exec("create schema shop")
			p.exec("create table shop.aiseed_schema (version text)")
		},
	})
	add(situation{
		name: "one table is another one", idle: true, writing: true,
		says: []string{"FAIL  schema", "a table there is not the one of aiseed"},
		there: func(p *patient) {
			p.exec("alter table ai_encryption_keys rename column canary to bird")
		},
	})
	add(situation{
		name: "tables in another schema", idle: true, writing: true,
		says:  []string{"FAIL  schema", `but in public; if those are meant, give -schema`},
		there: func(p *patient) { p.schema = "aiseed" },
	})
	add(situation{
		name: "no tables", idle: true, writing: true,
		says:  []string{"FAIL  schema", `there are no aiseed tables in the schema "public"`, "schema -apply"},
		there: func(p *patient) { p.exec("drop schema public cascade"); p.exec("create schema public") },
	})
	add(situation{
		name: "an older schema", idle: true, writing: true,
		says:  []string{"FAIL  schema", `the tables in "public" are at version 2`, "schema -apply"},
		there: func(p *patient) { p.exec("delete from aiseed_schema where version > 2") },
	})
	add(situation{
		name:  "a newer schema",
		there: func(p *patient) { p.exec("insert into aiseed_schema (version) values (99)") },
	})
	add(situation{
		name: "a newer schema that a writer has to know", idle: true, writing: true,
		says:  []string{"FAIL  schema", "a writer has to know version 98"},
		there: func(p *patient) { p.exec("insert into aiseed_schema (version, oldest_writer) values (99, 98)") },
	})

	// Keys and values.
	add(situation{
		name: "a key that values are sealed with is not in the keyring", idle: true, writing: true,
		says:  []string{"FAIL  keys", "knows none of the keyring's keys", "it lacks " + idOf(firstKey) + " (for ai_provider_keys.api_key)"},
		there: func(p *patient) { p.keys = secondKey },
	})
	add(situation{
		name:  "a key that the database never saw",
		there: func(p *patient) { p.keys = firstKey + "," + secondKey },
	})
	add(situation{
		name:  "a first key that the database never saw",
		says:  []string{"warn  keys", idOf(secondKey) + " seals from now on", "rotate"},
		there: func(p *patient) { p.keys = secondKey + "," + firstKey },
	})
	add(situation{
		name: "a first key that is revoked", idle: true, writing: true,
		says: []string{"FAIL  keys", idOf(firstKey) + ", is revoked", "put " + idOf(secondKey) + " first"},
		there: func(p *patient) {
			p.keys = secondKey + "," + firstKey
			_, err := p.store().Rotate(context.Background())
			require.NoError(p.t, err)
			p.keys = firstKey + "," + secondKey
		},
	})
	add(situation{
		name: "a canary that cannot be decrypted", idle: true, writing: true,
		says:  []string{"FAIL  keys", "cannot decrypt its own canary", "restore it from a backup"},
		there: func(p *patient) { p.exec("update ai_encryption_keys set canary = 'bird'") },
	})
	add(situation{
		name: "a value that is damaged", idle: true, writing: true,
		says:  []string{"FAIL  values", "(provider openai) cannot be decrypted with key " + idOf(firstKey)},
		there: func(p *patient) { p.exec("update ai_provider_keys set api_key = left(api_key, -4) || 'AAAA'") },
	})
	add(situation{
		name: "a value that is damaged, of a provider that only the database has", idle: true, writing: true,
		says: []string{"FAIL  values", "(provider own) cannot be decrypted"},
		there: func(p *patient) {
			p.created("own")
			p.damage("own")
		},
	})
	add(situation{
		name: "a value that is damaged, of a disabled provider",
		says: []string{"warn  values", "own, id ", "which is disabled, has a secret that cannot be decrypted"},
		there: func(p *patient) {
			p.created("own")
			p.damage("own")
			p.exec("update ai_providers set enabled = false where name = 'own'")
		},
	})
	add(situation{
		name: "a value that is damaged, of a disabled provider that the environment names", idle: true, writing: true,
		says: []string{"FAIL  plan", "(provider openai) cannot be decrypted"},
		there: func(p *patient) {
			p.damage("openai")
			p.exec("update ai_providers set enabled = false where name = 'openai'")
		},
	})
	add(situation{
		name: "a value that is damaged, of a deleted provider",
		says: []string{"warn  values", "openai, id ", "which is deleted", "an operator deleted it"},
		there: func(p *patient) {
			p.damage("openai")
			p.exec("update ai_providers set deleted = true where name = 'openai'")
		},
	})
	add(situation{
		name: "plaintext where there is a keyring", idle: true, writing: true,
		says:  []string{"FAIL  values", "is not sealed", "warn  plaintext", "1 value stored as plaintext", "seal"},
		there: func(p *patient) { p.exec("update ai_provider_keys set api_key = 'sk-plain', api_key_key_id = null") },
	})
	add(situation{
		name: "plaintext of a deleted provider",
		says: []string{"warn  plaintext", "1 value stored as plaintext", "seal"},
		there: func(p *patient) {
			p.exec("update ai_provider_keys set api_key = 'sk-plain', api_key_key_id = null")
			p.exec("update ai_providers set deleted = true")
		},
	})

	// The environment, and what a start makes of it.
	add(situation{
		name: "a value that cannot be right", idle: true, writing: true,
		says:  []string{"FAIL  environment", "CODER_AIBRIDGE_OPENAI_BASE_URL"},
		there: func(p *patient) { p.environ = append(p.environ, "CODER_AIBRIDGE_OPENAI_BASE_URL=gateway") },
	})
	add(situation{
		name: "a placeholder",
		says: []string{"warn  plan", "CODER_AIBRIDGE_PROVIDER_0_KEY: a placeholder"},
		there: func(p *patient) {
			p.environ = append(p.environ, "CODER_AIBRIDGE_PROVIDER_0_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_0_NAME=mine", "CODER_AIBRIDGE_PROVIDER_0_KEY=changeme")
		},
	})
	add(situation{
		name: "a drift", idle: true, writing: true,
		says: []string{"FAIL  plan", "openai: a start stops, because its base URL is https://api.openai.com/v1/ in the database", "CODER_AIBRIDGE_DRIFT_KEEP=openai@", "CODER_AIBRIDGE_DRIFT_ADOPT=openai@"},
		there: func(p *patient) {
			p.environ = append(p.environ, "CODER_AIBRIDGE_OPENAI_BASE_URL=https://gateway.example.com/v1/")
		},
		mend: func(p *patient, run []string) { p.environ = append(p.environ, run[0]) },
	})
	add(situation{
		name: "two drifts, and another that is settled", idle: true, writing: true,
		says: []string{"CODER_AIBRIDGE_DRIFT_ADOPT=a@"},
		there: func(p *patient) {
			for i, name := range []string{"a", "b", "c"} {
				at := fmt.Sprintf("CODER_AIBRIDGE_PROVIDER_%d_", i)
				p.environ = append(p.environ, at+"TYPE=openai", at+"NAME="+name, at+"BASE_URL=https://one.example.com/")
			}
			require.NoError(p.t, p.start())
			p.exec("update ai_providers set base_url = 'https://two.example.com/' where name in ('a', 'b', 'c')")
			p.environ = append(p.environ, "CODER_AIBRIDGE_DRIFT_KEEP=c@*,old@0123456789abcdef")
		},
		mend: func(p *patient, run []string) { p.environ = append(p.environ, run[len(run)-1]) },
	})
	add(situation{
		name: "a provider that was deleted",
		says: []string{"warn  plan", "openai: an operator deleted it"},
		there: func(p *patient) {
			p.exec("update ai_providers set deleted = true where name = 'openai'")
		},
	})
	add(situation{
		name:  "audit entries that are not delivered",
		says:  []string{"warn  audits", "2 entries are not delivered"},
		there: func(p *patient) { p.exec("update ai_provider_audits set delivered_at = null") },
	})
	return all
}

func idOf(key string) string {
	keyring, err := aiseed.ParseKeyring(key)
	if err != nil {
		panic(err)
	}
	return keyring.IDs()[0]
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

var servers sync.Map // of the patients that moved

// move gives the patient a server of its own.
func (p *patient) move() *ephemeral.Server {
	server, err := ephemeral.Start(context.Background())
	require.NoError(p.t, err)
	p.t.Cleanup(func() { require.NoError(p.t, server.Close()) })
	pool, err := pgxpool.New(context.Background(), server.DSN(""))
	require.NoError(p.t, err)
	p.t.Cleanup(pool.Close)
	*p = *newPatient(p.t, pool, p.schema)
	servers.Store(p, server)
	return server
}

func (p *patient) server() *ephemeral.Server {
	server, _ := servers.Load(p)
	return server.(*ephemeral.Server)
}

// bouncer puts a pooler before the server.
func (p *patient) bouncer(server *ephemeral.Server, settings ...string) {
	bouncer, err := ephemeral.StartPgBouncer(context.Background(), server, settings...)
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
// to run mends it.
func TestO10_DoctorAgreesWithTheStart(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	outcomes := map[string][2]string{}
	list := situations()
	t.Run("each", func(t *testing.T) {
		for _, s := range list {
			for i, variant := range []string{"nothing to write", "something to write"} {
				t.Run(s.name+"/"+variant, func(t *testing.T) {
					t.Parallel()
					p := newPatient(t, aiseedtest.NewPool(t), "public")
					s.there(p)
					if i == 1 {
						p.wants()
					}
					outcome := s.examined(p, i == 1)
					mu.Lock()
					defer mu.Unlock()
					both := outcomes[s.name]
					both[i] = outcome
					outcomes[s.name] = both
				})
			}
		}
	})
	for _, s := range list {
		t.Logf("| %-82s | %-16s | %-16s |", s.name, outcomes[s.name][0], outcomes[s.name][1])
	}
}

// wants gives the next start something to write.
func (p *patient) wants() {
	if !p.adopts {
		p.environ = append(p.environ, "CODER_AIBRIDGE_ANTHROPIC_KEY=sk-0b8d5f2e71c649aa83f2d0")
		return
	}
	p.environ = []string{"CODER_AIBRIDGE_OPENAI_KEY=sk-4c0e77d1a59b4f0e8b2a61"}
	cfg, err := aiseed.ParseEnviron(context.Background(), p.environ, slog.Logger{})
	require.NoError(p.t, err)
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), p.store(), cfg, slog.Logger{})
	require.NoError(p.t, err)
	p.environ = append(p.environ, "CODER_AIBRIDGE_DRIFT_ADOPT=openai@"+plan.Steps[0].Digest)
}

func (s situation) examined(p *patient, writes bool) (outcome string) {
	t := p.t
	before := p.rows()
	found := p.doctor()
	require.Equal(t, before, p.rows(), "doctor writes nothing")
	err := p.start()
	troubles := strings.Join(found.troubles(), "\n")
	require.Equal(t, found.Healthy, err == nil, "start: %v\n%s", err, troubles)
	require.Equal(t, err != nil, !writes && s.idle || writes && s.writing, "start: %v", err)
	for _, part := range s.says {
		require.Contains(t, troubles, strings.ReplaceAll(part, "{role}", p.role))
	}
	if s.says == nil {
		require.Empty(t, troubles)
	}
	outcome = map[bool]string{true: "ok", false: "FAIL"}[found.Healthy]
	if found.Healthy && troubles != "" {
		outcome = "warn"
	}
	outcome += map[bool]string{true: " starts", false: " stops"}[err == nil]

	var run []string
	for _, f := range found.Findings {
		if f.State == stateFail || s.mend != nil && f.State == stateWarn {
			run = append(run, f.Run...)
		}
	}
	switch {
	case s.mends:
		statements := found.statements()
		require.NotEmpty(t, statements, troubles)
		for _, statement := range statements {
			p.exec(statement)
		}
	case s.mend != nil && !found.Healthy:
		s.mend(p, run)
	default:
		return outcome
	}
	found = p.doctor()
	require.True(t, found.Healthy, found.troubles())
	if s.mends {
		require.Empty(t, slices.DeleteFunc(found.troubles(), func(line string) bool { return strings.Contains(line, "CODER_AIBRIDGE") }), "a warning is mended, too")
	}
	require.NoError(t, p.start())
	return outcome
}
