package aiseed_test

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

func TestS8_MissingAndOlderSchema(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	pool := aiseedtest.NewPool(t)
	options := aiseed.StoreOptions{AllowPlaintext: true}
	_, err := pool.Exec(ctx, `delete from aiseed_schema where version >= 2`)
	require.NoError(t, err)
	_, err = aiseed.Open(ctx, pool, options)
	require.ErrorIs(t, err, aiseed.ErrSchemaOutdated)
	require.ErrorContains(t, err, "are at version 1, and this library needs 4; call aiseed.Migrate or set StoreOptions.Migrate, or apply the files of aiseed.Migrations")

	_, err = pool.Exec(ctx, `insert into aiseed_schema (version) values (99)`)
	require.NoError(t, err)
	_, err = aiseed.Open(ctx, pool, options)
	require.NoError(t, err, "a later schema is fine")

	options.Schema = "nowhere"
	_, err = aiseed.Open(ctx, pool, options)
	require.ErrorContains(t, err, `there are no aiseed tables in the schema "nowhere", but in "public"; if those are meant, set StoreOptions.Schema; else call aiseed.Migrate`)
	_, err = pool.Exec(ctx, `drop schema public cascade; create schema public`)
	require.NoError(t, err)
	for _, schema := range []string{"", "nowhere"} {
		options.Schema = schema
		_, err = aiseed.Open(ctx, pool, options)
		require.ErrorIs(t, err, aiseed.ErrSchemaOutdated)
		require.ErrorIs(t, err, aiseed.ErrSchema)
		require.ErrorContains(t, err, "there are no aiseed tables in the schema")
		require.ErrorContains(t, err, "aiseed.Migrate")
	}
	options.Schema = strings.Repeat("s", 64)
	_, err = aiseed.Open(ctx, pool, options)
	require.ErrorContains(t, err, "longer than 63 bytes")
	require.NoError(t, aiseed.Migrate(ctx, pool, strings.Repeat("s", 63)))
	for _, schema := range []string{"$user", "pg_own", "bad\xff"} {
		require.ErrorIs(t, aiseed.Migrate(ctx, pool, schema), aiseed.ErrSchema)
	}
	require.ErrorContains(t, aiseed.Migrate(ctx, pool, "a\x00b"), "NUL")
}

func TestS8_MigrateIsSafeUnderConcurrentStarts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	pool := aiseedtest.NewPool(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			assert.NoError(t, aiseed.Migrate(ctx, pool, "fresh"))
			_, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, Schema: "also-fresh", Migrate: true, LockTimeout: testkit.Patience})
			assert.NoError(t, err)
		})
	}
	all.Wait()
	var versions string
	require.NoError(t, pool.QueryRow(ctx, `select (select string_agg(version::text, ',') from fresh.aiseed_schema) || ';' || (select string_agg(version::text, ',') from "also-fresh".aiseed_schema)`).Scan(&versions))
	require.Equal(t, "1,2,3,4;1,2,3,4", versions)
}

func TestS8_OpenOnACurrentSchemaTakesNoLock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Hold("public")
	f.Open(storetest.LockTimeout(50*time.Millisecond), func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Migrate = true })
}

func TestL3_MigrationThatWaitsTooLongNamesTheLock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Hold("fresh")
	_, err := aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{Keyring: f.Keyring, Schema: "fresh", Migrate: true, LockTimeout: 50 * time.Millisecond})
	var timeout *aiseed.LockTimeoutError
	require.ErrorAs(t, err, &timeout)
	require.Equal(t, aiseed.LockKey("fresh"), timeout.Key)
	require.NotNil(t, timeout.Holder)
	require.Equal(t, "the holder", timeout.Holder.ApplicationName)
}

func TestS8_MigrationIsAllOrNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	pool := aiseedtest.NewPool(t)
	_, err := pool.Exec(ctx, `create schema half; create table half.taken (id int); create index ai_provider_audits_undelivered_idx on half.taken (id)`)
	require.NoError(t, err)
	err = aiseed.Migrate(ctx, pool, "half")
	var db *aiseed.DatabaseError
	require.ErrorAs(t, err, &db)
	require.Equal(t, "42P07", db.SQLState)
	var n int
	require.NoError(t, pool.QueryRow(ctx, `select count(*) from pg_tables where schemaname = 'half'`).Scan(&n))
	require.Equal(t, 1, n)
}

func TestS8_FilesAreNumberedAndApplyByHand(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	pool := aiseedtest.NewPool(t)
	names, err := fs.Glob(aiseed.Migrations(), "*")
	require.NoError(t, err)
	require.Len(t, names, aiseed.SchemaVersion())
	_, err = pool.Exec(ctx, `create schema by_hand`)
	require.NoError(t, err)
	conn, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	for i, name := range names {
		require.True(t, strings.HasPrefix(name, "000"+string(rune('1'+i))+"_"), name)
		sql, err := fs.ReadFile(aiseed.Migrations(), name)
		require.NoError(t, err)
		_, err = conn.Conn().PgConn().Exec(ctx, "begin; set local search_path to by_hand; "+string(sql)+"; commit").ReadAll()
		require.NoError(t, err)
	}
	_, err = aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, Schema: "by_hand"})
	require.NoError(t, err)
}

// The names of our tables are taken by something else. Nothing of it is changed, and the error
// says how to keep out of its way.
func TestS8_TablesOfSomebodyElse(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tt := range map[string]struct {
		sql   string // on a schema without tables
		first bool   // apply our first file before
		want  string
	}{
		"a table of our name": {
			sql:  `create table ai_providers (id bigint primary key, name text)`,
			want: `the schema "theirs" has ai_providers, which aiseed did not create`,
		},
		"our tables without the record of them": {
			sql:   `drop table aiseed_schema`,
			first: true,
			want:  `has ai_encryption_keys, ai_provider_audits, ai_provider_keys, ai_providers, which aiseed did not create`,
		},
		"a view": {
			sql:  `create view ai_provider_keys as select 1 as id`,
			want: "has ai_provider_keys, which aiseed did not create",
		},
		"the record of another tool": {
			sql:  `create table aiseed_schema (version bigint not null primary key, dirty boolean not null); insert into aiseed_schema values (7, false)`,
			want: "has aiseed_schema, which aiseed did not create",
		},
		"the record of yet another tool": {
			sql:  `create table aiseed_schema (version int not null); insert into aiseed_schema values (0)`,
			want: "has aiseed_schema, which aiseed did not create",
		},
		"a record of text": {
			sql:  `create table aiseed_schema (version text, applied_at text); create table ai_providers ()`,
			want: "has ai_providers, aiseed_schema, which aiseed did not create",
		},
		"an empty record": {
			sql:   `delete from aiseed_schema`,
			first: true,
			want:  "has ai_encryption_keys, ai_provider_audits, ai_provider_keys, ai_providers, aiseed_schema, which aiseed did not create",
		},
		"a table of our name next to ours of an older version": {
			sql:   `drop table ai_providers cascade; create table ai_providers (id bigint primary key, name text)`,
			first: true,
			want:  `the schema "theirs" says that it is at version 1, but a table there is not the one of aiseed`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			sql := tt.sql
			if tt.first {
				first, err := fs.ReadFile(aiseed.Migrations(), "0001_providers.sql")
				require.NoError(t, err)
				sql = string(first) + sql
			}
			f.Exec(`drop schema if exists theirs, aiseed cascade`)
			f.Exec(`create schema theirs`)
			conn, err := f.Pool.Acquire(context.Background())
			require.NoError(t, err)
			_, err = conn.Conn().PgConn().Exec(context.Background(), "begin; set local search_path to theirs; "+sql+"; commit").ReadAll()
			conn.Release()
			require.NoError(t, err)
			columns := func() []string {
				return f.Rows(`select table_name, column_name, data_type from information_schema.columns where table_schema = 'theirs' order by 1, ordinal_position`)
			}
			before := columns()

			options := aiseed.StoreOptions{AllowPlaintext: true, Schema: "theirs"}
			_, opened := aiseed.Open(context.Background(), f.Pool, options)
			options.Migrate = true
			_, openedAndMigrated := aiseed.Open(context.Background(), f.Pool, options)
			for _, err := range []error{opened, openedAndMigrated, aiseed.Migrate(context.Background(), f.Pool, "theirs")} {
				require.ErrorIs(t, err, aiseed.ErrSchema)
				require.NotErrorIs(t, err, aiseed.ErrSchemaOutdated, "a migration does not mend it")
				require.ErrorContains(t, err, tt.want)
				require.ErrorContains(t, err, `StoreOptions.Schema, "aiseed" for example`)
			}
			require.Equal(t, before, columns())

			options.Schema = "aiseed"
			_, err = aiseed.Open(context.Background(), f.Pool, options)
			require.NoError(t, err, "as the error says")
		})
	}
}

// Which migration creates a table says when one that exists is somebody else's.
func TestS8_EachTableIsKnownToAMigration(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"aiseed_schema", "ai_encryption_keys", "ai_providers", "ai_provider_keys", "ai_provider_audits"}, aiseed.TablesAfter(0))
	require.Empty(t, aiseed.TablesAfter(1), "all tables are in the first file")
}

// A migration can say the oldest version that a writer has to know. A version of the library that
// does not know it opens nothing, and changes nothing.
func TestS8_AWriterHasToKnowTheVersion(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	for _, tt := range []struct {
		name, sql string
		refused   bool
	}{
		{"nothing is said", `insert into aiseed_schema (version) values (99)`, false},
		{"a version that we know", `insert into aiseed_schema (version, oldest_writer) values (98, 3), (99, 2)`, false},
		{"by an earlier migration", `insert into aiseed_schema (version, oldest_writer) values (98, 98), (99, 1)`, true},
		{"with other tables", `insert into aiseed_schema (version, oldest_writer) values (98, 98), (99, 98);
			alter table ai_providers rename settings_key_id to sealed_with; drop table ai_provider_keys`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.Exec(`delete from aiseed_schema where version >= 98`)
			for statement := range strings.SplitSeq(tt.sql, ";") {
				f.Exec(statement)
			}
			for _, migrate := range []bool{false, true} {
				_, err := aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{Keyring: f.Keyring, Migrate: migrate})
				if !tt.refused {
					require.NoError(t, err)
					require.NoError(t, aiseed.Migrate(context.Background(), f.Pool, ""))
					continue
				}
				for _, err := range []error{err, aiseed.Migrate(context.Background(), f.Pool, "")} {
					require.ErrorIs(t, err, aiseed.ErrSchema)
					require.NotErrorIs(t, err, aiseed.ErrSchemaOutdated)
					require.EqualError(t, err, fmt.Sprintf(`aiseed: schema: a newer version of the library migrated the tables in "public" to version 99, and a writer has to know version 98; `+
						`this library knows up to %d: update this server to that version of the library, or restore a backup from before`, aiseed.SchemaVersion()))
				}
			}
		})
	}
}

func TestS8_FormsForMigrationTools(t *testing.T) {
	t.Parallel()
	plain, err := fs.Glob(aiseed.Migrations(), "*")
	require.NoError(t, err)
	for tool, suffixes := range map[aiseed.MigrationTool][]string{aiseed.Goose: {".sql"}, aiseed.GolangMigrate: {".down.sql", ".up.sql"}} {
		form := aiseed.MigrationsFor(tool)
		var want []string
		for _, name := range plain {
			for _, suffix := range suffixes {
				want = append(want, strings.TrimSuffix(name, ".sql")+suffix)
			}
			sql, err := fs.ReadFile(aiseed.Migrations(), name)
			require.NoError(t, err)
			formed, err := fs.ReadFile(form, strings.TrimSuffix(name, ".sql")+suffixes[len(suffixes)-1])
			require.NoError(t, err)
			require.Contains(t, string(formed), string(sql), "the same SQL")
		}
		require.NoError(t, fstest.TestFS(form, want...))
	}
	for _, tool := range []aiseed.MigrationTool{"", "flyway", "a\x00\n"} {
		_, err := fs.ReadDir(aiseed.MigrationsFor(tool), ".")
		require.ErrorContains(t, err, fmt.Sprintf("aiseed has no migrations in the form of the tool %q; want goose or golang-migrate, or take aiseed.Migrations", string(tool)))
		require.NotErrorIs(t, err, fs.ErrNotExist, "a tool would take it for an empty folder")
	}
}

func TestS4_KeyringIsCheckedBeforeTheSchemaIsChanged(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	f.Exec(`delete from aiseed_schema where version = $1`, aiseed.SchemaVersion())
	_, err := aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{Keyring: storetest.Keyring(t, 2), Migrate: true})
	require.ErrorIs(t, err, aiseed.ErrKeyring)
}

func TestS8_MissingTablesAreASchemaError(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, table := range []string{"ai_provider_keys", "ai_providers", "ai_encryption_keys"} {
		schema := "without_" + table
		require.NoError(t, aiseed.Migrate(context.Background(), f.Pool, schema))
		f.Exec(`drop table ` + schema + `.` + table + ` cascade`)
		_, err := aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{AllowPlaintext: true, Schema: schema, Migrate: true})
		require.ErrorIs(t, err, aiseed.ErrSchema, "to create what was there would hide that it is lost")
		_, err = aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{AllowPlaintext: true, Schema: schema})
		require.ErrorIs(t, err, aiseed.ErrSchema)
		require.NotErrorIs(t, err, aiseed.ErrSchemaOutdated, "a migration does not mend it")
		require.ErrorContains(t, err, fmt.Sprintf("says that it is at version %d, but tables are missing", aiseed.SchemaVersion()), table)
	}
}

func TestL6_MigrationWithoutAnAnswerIsTriedAgain(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tt := range map[string]struct {
		act  testkit.Action
		text string
	}{"the commit": {testkit.CutAfter, "commit\x00"}, "the files": {testkit.CutBefore, "create table"}, "the lock": {testkit.CutAfter, "pg_advisory_xact_lock"}} {
		f.Wire.Reset(testkit.Once(tt.act, tt.text))
		_, err := aiseed.Open(context.Background(), f.Own, aiseed.StoreOptions{AllowPlaintext: true, Schema: "fresh for " + name, Migrate: true})
		require.NoError(t, err, name)
	}
}

// An operator cannot write by mistake what the library never writes.
func TestS8_S4_L4_TablesRefuseWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	f := setup(t)
	refused := func(sql, state, constraint string, args ...any) {
		t.Helper()
		_, err := f.Pool.Exec(context.Background(), sql, args...)
		testkit.RequireRefused(t, err, state, constraint, "%s %q", sql, args)
	}
	const insert = `insert into ai_providers (id, type, name, settings_key_id) values (gen_random_uuid(), $1, $2, $3)`
	for _, tt := range []struct {
		kind, name string
		keyID      any
		constraint string
	}{
		{"cohere", "a", nil, "ai_providers_type_check"},
		{"OpenAI", "a", nil, "ai_providers_type_check"},
		{"openai", "", nil, "ai_providers_name_check"},
		{"openai", "Team_A", nil, "ai_providers_name_check"},
		{"openai", "-a", nil, "ai_providers_name_check"},
		{"openai", "a-", nil, "ai_providers_name_check"},
		{"openai", "a--b", nil, "ai_providers_name_check"},
		{"openai", "a\n", nil, "ai_providers_name_check"},
		{"openai", strings.Repeat("a", 256), nil, "ai_providers_name_check"},
		{"openai", "a", "key", "ai_providers_settings_key_id_check"},
	} {
		refused(insert, "23514", tt.constraint, tt.kind, tt.name, tt.keyID)
	}
	for _, name := range []string{"a", "0-a-1", strings.Repeat("a", 255)} {
		f.Exec(insert, "openai", name, nil)
	}

	// S4: the key of a row is a foreign key.
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key", "PROVIDER_0_TYPE=bedrock", "PROVIDER_0_BEDROCK_REGION=r")
	refused(`update ai_provider_keys set api_key_key_id = 'unknown'`, "23503", "ai_provider_keys_api_key_key_id_fkey")
	refused(`update ai_providers set settings_key_id = 'unknown' where settings is not null`, "23503", "ai_providers_settings_key_id_fkey")
	_, err := f.Pool.Exec(context.Background(), `delete from ai_encryption_keys`)
	require.Error(t, err)
	require.Regexp(t, `"ai_provider(s_settings|_keys_api_key)_key_id_fkey".*SQLSTATE 23503`, err.Error(), "of one or the other")

	// L4: there is one live provider of a name, and a disabled one is live.
	for _, sql := range []string{`select 1`, `update ai_providers set enabled = false`} {
		f.Exec(sql)
		refused(insert, "23505", "ai_providers_live_name_key", "openai", "openai", nil)
	}
	f.Exec(`insert into ai_providers (id, type, name, deleted) values (gen_random_uuid(), 'openai', 'openai', true), (gen_random_uuid(), 'openai', 'openai', true)`)

	// Keys belong to a provider.
	refused(`insert into ai_provider_keys (id, provider_id, position, api_key) values (gen_random_uuid(), gen_random_uuid(), 0, 'key')`, "23503", "ai_provider_keys_provider_id_fkey")
	refused(`insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 0, 'key' from ai_providers`, "23505", "ai_provider_keys_position_key")
	f.Exec(`delete from ai_providers where name = 'openai'`)
	require.Equal(t, []string{"1"}, f.Rows(`select count(*) from ai_provider_keys`))
	require.Equal(t, []string{"5"}, f.Rows(`select count(*) from ai_provider_audits`), "the audits stay")

	// Names are sorted by their bytes, whatever the collation of the database, because the
	// library sorts them in this order.
	require.Equal(t, []string{"C"}, f.Rows(`select collname from pg_attribute a join pg_collation c on c.oid = attcollation where attrelid = 'ai_providers'::regclass and attname = 'name'`))
}

// A commit becomes visible in the catalogs before other sessions hear that their cached
// names are out of date. Until then they do not find a table that exists.
func TestL4_MigrationTriesAgainWhileTablesOfAnotherProcessAreNotFoundYet(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ schema, state, sql string }{
		"the version": {"public", "42P01", `
			alter table aiseed_schema rename to versions;
			create view aiseed_schema as select * from versions where found()`},
		"the schema": {"fresh", "3F000", `
			create schema fresh;
			create function on_create() returns event_trigger language plpgsql as 'begin perform public.found(); end';
			create event trigger on_create on ddl_command_start when tag in ('CREATE TABLE') execute function on_create()`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.Exec(`create sequence lookups`)
			f.Exec(`create function found() returns boolean language plpgsql as $$ begin
				if nextval('public.lookups') <= 3 then raise exception 'injected' using errcode = '` + tt.state + `'; end if;
				return true; end $$`)
			f.Exec(tt.sql)
			require.NoError(t, aiseed.Migrate(context.Background(), f.Pool, tt.schema))
			require.Equal(t, []string{"true"}, f.Rows(`select last_value > 3 from lookups`))
			_, err := aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{AllowPlaintext: true, Schema: tt.schema})
			require.NoError(t, err)
		})
	}
}

// F3: a statement finds a table that was created behind its snapshot, and none of its rows.
func TestS8_L2_TablesThatAreMadeBetweenSnapshotAndLookAreOurs(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	versions := f.Rows(`delete from aiseed_schema returning version`)
	tx, err := f.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `lock table aiseed_schema`)
	require.NoError(t, err)
	for _, version := range versions {
		_, err = tx.Exec(ctx, `insert into aiseed_schema (version) values ($1::text::int)`, version)
		require.NoError(t, err)
	}
	pool, options, _ := f.Connect(func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	})
	opened := make(chan error, 1)
	go func() {
		_, err := aiseed.Open(ctx, pool, options)
		opened <- err
	}()
	require.Eventually(t, func() bool {
		return len(f.Rows(`select pid from pg_locks where not granted and relation = 'aiseed_schema'::regclass`)) == 1
	}, testkit.Patience, time.Millisecond)
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, testkit.Awaited(t, opened))
}
