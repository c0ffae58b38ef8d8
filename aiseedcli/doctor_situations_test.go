package aiseedcli

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

// A situation is something that can be wrong with a server's database.
type situation struct {
	name  string
	there func(*patient) // makes it so

	idle, writing bool                           // a start with nothing to write fails, and one with something
	mends         bool                           // the statements that the lines say to run mend it
	mend          func(p *patient, run []string) // or this does, with what the failures say to run
}

// applies runs the command that applies the schema, as the server's role.
func applies(p *patient, run []string) {
	require.Equal(p.t, []string{"aiseed schema -apply"}, run)
	code, output := p.apply()
	require.Zero(p.t, code, output)
}

// situations are all that are tried.
func situations() (all []situation) {
	add := func(s situation) { all = append(all, s) }
	add(situation{name: "nothing is wrong", there: func(p *patient) { p.mayWrite() }})

	// Privileges.
	add(situation{
		name: "SELECT only", writing: true, mends: true,
		there: func(p *patient) {
			p.mayRead("reader_")
		},
	})
	add(situation{
		name: "no privilege at all", idle: true, writing: true, mends: true,
		there: func(p *patient) {
			p.login("guest_")
			p.exec("revoke usage on schema public from public")
		},
	})
	add(situation{
		name: "no USAGE on the schema", idle: true, writing: true, mends: true,
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
			there: func(p *patient) { p.exec("revoke select on " + table + " from " + p.mayWrite()) },
		})
		add(situation{
			name: "row security on " + table, idle: true, writing: true, mends: true,
			there: func(p *patient) { p.mayWrite(); p.exec("alter table " + table + " enable row level security") },
		})
		if table == "aiseed_schema" {
			continue
		}
		add(situation{
			name: "no INSERT on " + table, writing: true, mends: true,
			there: func(p *patient) { p.exec("revoke insert on " + table + " from " + p.mayWrite()) },
		})
		add(situation{
			name: "no UPDATE on " + table, writing: table == "ai_encryption_keys", mends: true,
			there: func(p *patient) { p.exec("revoke update on " + table + " from " + p.mayWrite()) },
		})
	}
	add(situation{
		name: "a rule", writing: true, mends: true,
		there: func(p *patient) {
			p.exec(`create rule "Copy it" as on insert to ai_providers do also notify copied`)
		},
	})
	add(situation{
		name: "no UPDATE on ai_providers, and something to adopt", writing: true, mends: true,
		there: func(p *patient) { p.adopts = true; p.exec("revoke update on ai_providers from " + p.mayWrite()) },
	})
	add(situation{
		name: "no DELETE on ai_provider_keys, and a key to replace", writing: true, mends: true,
		there: func(p *patient) { p.adopts = true; p.exec("revoke delete on ai_provider_keys from " + p.mayWrite()) },
	})
	add(situation{
		name: "no UPDATE on ai_provider_keys, and a key to replace", mends: true, // none moves
		there: func(p *patient) { p.adopts = true; p.exec("revoke update on ai_provider_keys from " + p.mayWrite()) },
	})
	add(situation{
		name: "no DELETE on ai_provider_keys, and a key to remove", writing: true, mends: true,
		there: func(p *patient) {
			_, err := p.store().AddProviderKey(context.Background(), "alice", p.provider("openai").ID, aiseed.NewSecret("sk-0b8d5f2e71c649aa83f2d0"))
			require.NoError(p.t, err)
			p.creates = []string{p.adopting()}
			p.exec("revoke delete on ai_provider_keys from " + p.mayWrite())
		},
	})
	add(situation{
		name: "no INSERT of sealing keys, and Bedrock settings to adopt", writing: true, mends: true,
		there: func(p *patient) {
			p.environ = []string{"CODER_AIBRIDGE_PROVIDER_0_TYPE=bedrock", "CODER_AIBRIDGE_PROVIDER_0_BEDROCK_REGION=us-east-1", "CODER_AIBRIDGE_PROVIDER_0_BEDROCK_MODEL=one"}
			require.NoError(p.t, p.start())
			_, err := p.store().UpdateProvider(context.Background(), "alice", p.provider("bedrock").ID, aiseed.ProviderUpdate{Model: new("two")})
			require.NoError(p.t, err)
			p.creates = []string{p.adopting()}
			p.exec("revoke insert on ai_encryption_keys from " + p.mayWrite())
		},
	})
	add(situation{
		name: "no INSERT of keys, and a provider without a secret to create", mends: true,
		there: func(p *patient) {
			p.creates = []string{"CODER_AIBRIDGE_PROVIDER_0_TYPE=copilot"}
			p.exec("revoke insert on ai_provider_keys, ai_encryption_keys from " + p.mayWrite())
		},
	})
	add(situation{
		name: "no INSERT of sealing keys, and Bedrock settings to create", writing: true, mends: true,
		there: func(p *patient) {
			p.creates = []string{"CODER_AIBRIDGE_PROVIDER_0_TYPE=bedrock", "CODER_AIBRIDGE_PROVIDER_0_BEDROCK_REGION=us-east-1"}
			p.exec("revoke insert on ai_provider_keys, ai_encryption_keys from " + p.mayWrite())
		},
	})
	for _, adopts := range []bool{false, true} {
		add(situation{
			name: map[bool]string{false: "just the columns that are written", true: "just the columns, and something to adopt"}[adopts],
			there: func(p *patient) {
				p.adopts = adopts
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
	}
	add(situation{
		name: "a role and a schema with odd names", writing: true, mends: true,
		there: func(p *patient) {
			p.schema = `My "own" schema`
			require.NoError(p.t, aiseed.Migrate(context.Background(), p.owner, p.schema))
			require.NoError(p.t, p.start())
			p.mayRead(`O'Neil "x" `)
		},
	})
	add(situation{
		name: "a login that becomes another role", writing: true, mends: true,
		there: func(p *patient) {
			group := p.mayRead("group_")
			login := p.login("login_")
			p.exec("grant " + group + " to " + login)
			p.set("alter role {role} set", "role = "+group)
			p.set("alter role {role} set", "default_transaction_read_only = on")
		},
	})
	add(situation{
		name: "row security that is forced on the owner", idle: true, writing: true, mends: true,
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
			there: func(p *patient) { p.mayWrite(); p.set(by, "default_transaction_read_only = on") },
		})
		add(situation{
			name: "client_encoding: " + by, idle: true, writing: true, mends: true,
			there: func(p *patient) { p.mayWrite(); p.set(by, "client_encoding = 'LATIN1'") },
		})
	}
	add(situation{
		name: "read-only: connection string", writing: true,
		there: func(p *patient) { p.dsn = p.connection() + " options='-c default_transaction_read_only=on'" },
		mend:  func(p *patient, _ []string) { p.dsn = "" },
	})
	add(situation{
		name: "client_encoding: connection string", idle: true, writing: true,
		there: func(p *patient) { p.dsn = p.connection() + " client_encoding=LATIN1" },
		mend:  func(p *patient, run []string) { p.dsn += " " + run[0] },
	})
	add(situation{
		name: "an SQL_ASCII database", idle: true, writing: true, mends: true,
		there: func(p *patient) { p.replace("encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0") },
	})
	add(situation{
		name: "a standby", writing: true,
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
		there: func(p *patient) {
			p.move()
			p.bouncer("pool_mode=statement")
		},
		mend: func(p *patient, run []string) {
			p.bouncer(strings.ReplaceAll(run[0], " ", ""))
		},
	})
	add(situation{
		name:  "a pooler of transactions",
		there: func(p *patient) { p.move(); p.bouncer() },
	})
	add(situation{
		name: "no EXECUTE on pg_notify", writing: true, mends: true,
		there: func(p *patient) {
			p.mayWrite()
			p.exec("revoke execute on function pg_catalog.pg_notify(text, text) from public")
		},
	})
	add(situation{
		name: "somebody holds the lock", writing: true, mends: true,
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
		mend: func(p *patient, _ []string) { p.lock = 0 }, // a commit can wait for those of other tests, which notify too
	})
	add(situation{
		name: "a server that does not answer", idle: true, writing: true,
		there: func(p *patient) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(p.t, err)
			p.t.Cleanup(func() { _ = listener.Close() })
			p.dsn = fmt.Sprintf("host=127.0.0.1 port=%d user=app dbname=db sslmode=disable connect_timeout=1", listener.Addr().(*net.TCPAddr).Port)
		},
	})
	add(situation{
		name: "no such role", idle: true, writing: true,
		there: func(p *patient) { p.dsn = p.move().DSN("") + " user=nobody" },
	})
	add(situation{
		name: "a connection string in quotes", idle: true, writing: true,
		there: func(p *patient) { p.dsn = `"postgres://app:secret@127.0.0.1:1/db"` },
	})

	// The tables.
	add(situation{
		name: "two of four tables restored", idle: true, writing: true,
		there: func(p *patient) { p.exec("drop table ai_provider_keys, ai_provider_audits") },
	})
	add(situation{
		name: "the table of the audits is missing", idle: true, writing: true,
		there: func(p *patient) { p.exec("drop table ai_provider_audits") },
	})
	add(situation{
		name: "a sequence behind its rows", mends: true,
		there: func(p *patient) { p.exec("select setval('ai_provider_audits_seq_seq', 1)") },
	})
	add(situation{
		name: "a sequence behind its rows, in a schema with an odd name, and audits that wait", mends: true,
		there: func(p *patient) {
			p.schema = `O'Neil "x"`
			require.NoError(p.t, aiseed.Migrate(context.Background(), p.owner, p.schema))
			require.NoError(p.t, p.start())
			p.exec("update " + identifier(p.schema, "ai_provider_audits") + " set delivered_at = null")
			p.exec(`select setval('"O''Neil ""x""".ai_provider_audits_seq_seq', 1)`)
		},
	})
	add(situation{
		name: "tables of somebody else", idle: true, writing: true,
		there: func(p *patient) {
			p.schema = "shop"
			p.exec("create schema shop")
			p.exec("create table shop.ai_providers (id int)")
		},
	})
	add(situation{
		name: "an aiseed_schema of somebody else", idle: true, writing: true,
		there: func(p *patient) {
			p.schema = "shop"
			p.exec("create schema shop")
			p.exec("create table shop.aiseed_schema (version text)")
		},
	})
	add(situation{
		name: "one table is another one", idle: true, writing: true,
		there: func(p *patient) {
			p.exec("alter table ai_encryption_keys rename column canary to bird")
		},
	})
	add(situation{
		name: "tables in another schema", idle: true, writing: true,
		there: func(p *patient) { p.schema = "aiseed" },
	})
	add(situation{
		name: "no tables", idle: true, writing: true,
		there: func(p *patient) { p.exec("drop schema public cascade"); p.exec("create schema public") },
	})
	for _, exists := range []bool{false, true} {
		add(situation{
			name: map[bool]string{false: "no schema, and a role that may not make one", true: "no tables, in a schema that the role may not use"}[exists], idle: true, writing: true, mends: true, mend: applies,
			there: func(p *patient) {
				p.exec("drop schema public cascade")
				p.exec("create schema public")
				if p.schema = "fresh"; exists {
					p.exec("create schema fresh")
				}
				p.login("app_")
			},
		})
	}
	add(situation{
		name: "an older schema of another owner", idle: true, writing: true,
		there: func(p *patient) {
			p.mayWrite()
			p.exec("revoke create on schema public from public") // before PostgreSQL 15
			p.exec("delete from aiseed_schema where version > 2")
		},
	})
	add(situation{
		name: "an older schema", idle: true, writing: true,
		there: func(p *patient) { p.exec("delete from aiseed_schema where version > 2") },
	})
	add(situation{
		name:  "a newer schema",
		there: func(p *patient) { p.exec("insert into aiseed_schema (version) values (99)") },
	})
	add(situation{
		name: "a newer schema that a writer has to know", idle: true, writing: true,
		there: func(p *patient) { p.exec("insert into aiseed_schema (version, oldest_writer) values (99, 98)") },
	})

	// Keys and values.
	add(situation{
		name: "a key that values are sealed with is not in the keyring", idle: true, writing: true,
		there: func(p *patient) { p.keys = secondKey },
	})
	add(situation{
		name:  "a key that the database never saw",
		there: func(p *patient) { p.keys = firstKey + "," + secondKey },
	})
	add(situation{
		name:  "a first key that the database never saw",
		there: func(p *patient) { p.keys = secondKey + "," + firstKey },
	})
	add(situation{
		name: "a first key that is revoked", idle: true, writing: true,
		there: func(p *patient) {
			p.keys = secondKey + "," + firstKey
			_, err := p.store().Rotate(context.Background())
			require.NoError(p.t, err)
			p.keys = firstKey + "," + secondKey
		},
	})
	add(situation{
		name: "a canary that cannot be decrypted", idle: true, writing: true,
		there: func(p *patient) { p.exec("update ai_encryption_keys set canary = 'bird'") },
	})
	add(situation{
		name: "a value that is damaged", idle: true, writing: true,
		there: func(p *patient) { p.exec("update ai_provider_keys set api_key = left(api_key, -4) || 'AAAA'") },
	})
	add(situation{
		name: "a value that is damaged, of a provider that only the database has", idle: true, writing: true,
		there: func(p *patient) {
			p.created("own")
			p.damage("own")
		},
	})
	add(situation{
		name: "a value that is damaged, of a disabled provider",
		there: func(p *patient) {
			p.created("own")
			p.damage("own")
			p.exec("update ai_providers set enabled = false where name = 'own'")
		},
	})
	add(situation{
		name: "a value that is damaged, of a disabled provider that the environment names", idle: true, writing: true,
		there: func(p *patient) {
			p.damage("openai")
			p.exec("update ai_providers set enabled = false where name = 'openai'")
		},
	})
	add(situation{
		name: "a value that is damaged, of a deleted provider",
		there: func(p *patient) {
			p.damage("openai")
			p.exec("update ai_providers set deleted = true where name = 'openai'")
		},
	})
	add(situation{
		name: "plaintext where there is a keyring", idle: true, writing: true,
		there: func(p *patient) { p.exec("update ai_provider_keys set api_key = 'sk-plain', api_key_key_id = null") },
	})
	add(situation{
		name: "plaintext of a deleted provider",
		there: func(p *patient) {
			p.exec("update ai_provider_keys set api_key = 'sk-plain', api_key_key_id = null")
			p.exec("update ai_providers set deleted = true")
		},
	})

	// The environment, and what a start makes of it.
	add(situation{
		name: "a value that cannot be right", idle: true, writing: true,
		there: func(p *patient) { p.environ = append(p.environ, "CODER_AIBRIDGE_OPENAI_BASE_URL=gateway") },
	})
	add(situation{
		name: "a placeholder",
		there: func(p *patient) {
			p.environ = append(p.environ, "CODER_AIBRIDGE_PROVIDER_0_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_0_NAME=mine", "CODER_AIBRIDGE_PROVIDER_0_KEY=changeme")
		},
	})
	add(situation{
		name: "a drift", idle: true, writing: true,
		there: func(p *patient) {
			p.environ = append(p.environ, "CODER_AIBRIDGE_OPENAI_BASE_URL=https://gateway.example.com/v1/")
		},
		mend: func(p *patient, run []string) { p.environ = append(p.environ, run[1]) },
	})
	add(situation{
		name: "two drifts, and another that is settled", idle: true, writing: true,
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
		there: func(p *patient) {
			p.exec("update ai_providers set deleted = true where name = 'openai'")
		},
	})
	add(situation{
		name:  "audit entries that are not delivered",
		there: func(p *patient) { p.exec("update ai_provider_audits set delivered_at = null") },
	})
	return all
}
