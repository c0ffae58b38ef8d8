package aiseed

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/seal"
	"example.com/aiseed/internal/text"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Migrations returns the schema as plain SQL files, for a host with its own migration
// tool, tern for example. The files are numbered in the order to apply them. They do not
// qualify names: apply each in a transaction with search_path set to the schema. Each file
// records its number in the table aiseed_schema, which [Open] reads. For the tools that want
// files in a form of their own there is [MigrationsFor], whose advice holds for all tools.
func Migrations() fs.FS {
	sub, err := fs.Sub(schemaFS, "schema")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// A MigrationTool is a tool that wants migrations in a form of its own. See [MigrationsFor].
type MigrationTool string

// The tools. Others, such as tern, take the files of [Migrations] as they are.
const (
	Goose         MigrationTool = "goose"          // github.com/pressly/goose
	GolangMigrate MigrationTool = "golang-migrate" // github.com/golang-migrate/migrate
)

// MigrationsFor returns the files of [Migrations] in the form of a tool, with the same SQL and the
// same numbers. For any tool but [Goose] and [GolangMigrate], "" included, reading the result
// fails with an error that says so.
//
// Give aiseed a version table of its own, so that its numbers do not meet those of the host's
// own migrations: goose.WithTableName or goose.SetTableName, x-migrations-table for golang-migrate. It
// must not be called aiseed_schema. Put the schema into the connection string, as search_path.
// Apply the files with the tool or with [Migrate], never with both: neither knows what the other did.
//
// A migration is one multi-statement text, and all or nothing. So leave x-multi-statement of
// golang-migrate off. There is no way down: migrations only add, and an older version of the
// library works on the newer schema. Taking a version back fails, and changes no table. (The record
// of golang-migrate is then dirty. The error says how to clean it.)
func MigrationsFor(tool MigrationTool) fs.FS {
	files := fstest.MapFS{}
	add := func(name, content string) { files[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o444} }
	for _, m := range migrations {
		refusal := fmt.Sprintf("aiseed: version %d is not taken back, because older versions of the library work with it; no table was changed", m.version)
		switch tool {
		case Goose:
			add(m.name+".sql", gooseSection("Up", m.sql)+gooseSection("Down", raise(refusal)))
		case GolangMigrate:
			add(m.name+".up.sql", m.sql)
			add(m.name+".down.sql", raise(fmt.Sprintf("%s; to clean the record: migrate force %d", refusal, m.version)))
		default:
			return unknownTool(tool)
		}
	}
	return files
}

// gooseSection returns sql as one statement. Goose would split it inside of functions.
func gooseSection(direction, sql string) string {
	return "-- +goose " + direction + "\n-- +goose StatementBegin\n" + sql + "-- +goose StatementEnd\n"
}

// raise returns a statement that fails. Without one, both tools take back the number of a
// migration that has no way down, and fail when they apply it again.
func raise(message string) string {
	return "do $$ begin raise exception '" + message + "'; end $$;\n"
}

// unknownTool is a file system that says what is wrong with the name of the tool.
type unknownTool MigrationTool

func (t unknownTool) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("aiseed has no migrations in the form of the tool %q; want %s or %s, "+
		"or take aiseed.Migrations", string(t), Goose, GolangMigrate)}
}

// migration is one file of the schema.
type migration struct {
	version int
	name    string // of the file, without .sql
	sql     string
	tables  []string // that it creates
}

// migrations are the files in order. A test checks that their numbers have no gap.
var migrations = readMigrations()

var createTable = regexp.MustCompile(`(?m)^create table (\w+)`)

func readMigrations() []migration {
	var out []migration
	names, err := fs.Glob(Migrations(), "*.sql") // sorted
	for _, name := range names {
		var raw []byte
		raw, err = fs.ReadFile(Migrations(), name)
		number, _, _ := strings.Cut(name, "_")
		version, convErr := strconv.Atoi(number)
		m := migration{version: version, name: strings.TrimSuffix(name, ".sql"), sql: string(raw)}
		for _, found := range createTable.FindAllStringSubmatch(m.sql, -1) {
			m.tables = append(m.tables, found[1])
		}
		out = append(out, m)
		if err = errors.Join(err, convErr); err != nil {
			break
		}
	}
	if err != nil || len(out) == 0 {
		panic("aiseed: the embedded schema is broken") // any test would find it
	}
	return out
}

// tablesAfter returns the names of the tables that the migrations after a version create.
func tablesAfter(version int) (names []string) {
	for _, m := range migrations {
		if m.version > version {
			names = append(names, m.tables...)
		}
	}
	return names
}

// schemaVersion is the version that this library needs. A later one is fine.
func schemaVersion() int { return migrations[len(migrations)-1].version }

// Migrate applies the missing parts of the schema. It creates the Postgres schema
// that holds the tables if it does not exist. schema "" is "public". Everything
// happens in one transaction, under the same lock as a seed, so any number of
// processes may call it at once. If the schema is current, it changes nothing. It refuses to
// touch tables that are somebody else's, and those that a newer version of the library made
// unfit for this one.
//
// Errors match [ErrLockTimeout], [ErrSchema] or [ErrDatabase].
func Migrate(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	if pool == nil {
		return errors.New("aiseed: Migrate needs a pool, and got nil")
	}
	d := &database{pool: pool, schema: cmp.Or(schema, defaultSchema), lockTimeout: defaultLockTimeout}
	if err := checkSchemaName(d.schema); err != nil {
		return err
	}
	return d.migrate(ctx)
}

// migrate can be repeated, whatever the outcome of an earlier attempt.
func (d *database) migrate(ctx context.Context) error {
	return retry(ctx, func() error {
		err := d.tryMigrate(ctx)
		var db *DatabaseError
		if errors.As(err, &db) && slices.Contains(migratedMeanwhile, db.SQLState) && db.lacks == "" {
			db.cause.Transient = true // the next attempt finds what another process created
		}
		return err
	})
}

// migratedMeanwhile lists the SQLSTATEs of a migration's statement if another process
// migrates at the same time and the lock does not keep them apart.
var migratedMeanwhile = []string{
	// The name of a row in a catalog, a schema, a table or an index, a column, a function,
	// or another object is taken.
	stateUniqueViolated, "42P06", "42P07", "42701", "42723", "42710",
	// The other process has committed, and this session's cache of names does not know it
	// yet: a commit becomes visible before its invalidations arrive.
	stateUndefinedTable, stateUndefinedSchema,
}

func (d *database) tryMigrate(ctx context.Context) error {
	const operation = "applying the schema"
	conn, err := d.acquire(ctx, operation)
	if err != nil {
		return err
	}
	defer pg.Release(ctx, conn)

	var found tablesFound
	if err := d.beginLocked(ctx, operation, conn.Conn(), d.lookForTables(&found)); err != nil {
		return err
	}
	var record schemaRecord
	if found.recorded {
		if err := pg.RoundTrip(ctx, conn.Conn(), d.selectRecord(&record)); err != nil {
			return d.failed(ctx, conn.Conn(), operation, err)
		}
	}
	switch {
	case record.oldestWriter > schemaVersion():
		return d.newerSchema(record)
	case record.version >= schemaVersion():
		return nil
	}
	if foreign := found.notRecorded(record.version); len(foreign) > 0 {
		return d.foreignTables(foreign)
	}
	var writes []pg.Query
	if !found.schema { // "if not exists" requires a privilege that may not be needed
		writes = append(writes, pg.Query{SQL: d.sql(`create schema {schema}`)})
	}
	if found.recorded { // fails on tables that are not ours, before they are changed
		writes = append(writes, pg.Query{SQL: d.sql(selectStoredKeys)})
	}
	writes = append(writes, pg.Query{
		SQL:  `select set_config('search_path', $1, true)`,
		Args: [][]byte{[]byte(d.sql("{schema}"))},
	})
	failed := func(err error) error { return d.lacking(ctx, conn.Conn(), d.failed(ctx, conn.Conn(), operation, err)) }
	if err := pg.RoundTrip(ctx, conn.Conn(), writes...); err != nil {
		if err = failed(err); hasState(err, statesOfOtherTables) {
			return d.otherTables(record.version)
		}
		return err
	}
	for _, m := range migrations {
		if m.version <= record.version {
			continue
		}
		if err := pg.ExecScript(ctx, conn.Conn(), m.sql); err != nil {
			return failed(err)
		}
	}
	if committed, err := pg.Commit(ctx, conn.Conn(), nil); !committed {
		return d.failed(ctx, conn.Conn(), operation, err)
	}
	return nil
}

// lacking adds to an error of a migration which privilege the role lacks, if it lacks one. (Without USAGE of a
// schema, the search_path leaves it out, and the server says that none was selected.) It ends the transaction.
func (d *database) lacking(ctx context.Context, conn *pgx.Conn, err error) error {
	var db *DatabaseError
	if errors.As(err, &db) && slices.Contains([]string{stateNoPrivilege, stateUndefinedSchema}, db.SQLState) {
		var lacks string
		_ = pg.RoundTrip(ctx, conn, pg.Query{SQL: `rollback`}, pg.Query{
			SQL:  selectLacking,
			Args: [][]byte{[]byte(d.schema), []byte("{" + strings.Join(tablesAfter(0), ",") + "}")},
			Rows: pg.One(&lacks),
		})
		if text.Printable(lacks) == lacks { // a name can hold anything
			db.lacks = lacks
		}
	}
	return err
}

const selectLacking = `
select coalesce(case
         when n.oid is null and not has_database_privilege(current_database(), 'CREATE') then
           format('the role may not create the schema; as the owner of the database or a superuser, run: grant create on database %I to %I', current_database(), current_user)
         when not (has_schema_privilege(n.oid, 'USAGE') and has_schema_privilege(n.oid, 'CREATE')) then
           format('the role may not create tables in the schema; as its owner or a superuser, run: grant usage, create on schema %I to %I', n.nspname, current_user)
         else (select format('the tables in the schema %I are not those of the role %I; connect as their owner, %I', n.nspname, current_user, min(pg_get_userbyid(c.relowner)))
                 from pg_class c where c.relnamespace = n.oid and c.relname = any($2) and not pg_has_role(c.relowner, 'USAGE') having count(*) > 0)
       end, '')
  from (select) one left join pg_namespace n on n.nspname = $1`

// A schemaRecord is what the table aiseed_schema says.
type schemaRecord struct {
	version      int // of the tables; 0 if no version is recorded
	oldestWriter int // the oldest version that a process has to know to write; 0 for any
}

// selectRecord reads aiseed_schema. Before version 3 it had no column oldest_writer, so the
// statement does not name it as one. It names applied_at so that it fails on the table of another
// tool, which can have a version too.
func (d *database) selectRecord(into *schemaRecord) pg.Query {
	return pg.Query{SQL: d.sql(`
select coalesce(max(version), 0), coalesce(max((to_jsonb(s) ->> 'oldest_writer')::int), 0)
  from {schema}.aiseed_schema s where applied_at is not null`), Rows: pg.One(&into.version, &into.oldestWriter)}
}

// tablesFound is what a schema has of our names.
type tablesFound struct {
	schema    bool     // the schema exists
	names     []string // sorted
	recorded  bool     // aiseed_schema is among them, and ours
	elsewhere []string // other schemas with an aiseed_schema of ours
}

// lookForTables reads the catalogs. Do not use to_regclass or similar: they read a cache,
// which can be older than the lock.
func (d *database) lookForTables(into *tablesFound) pg.Query {
	return pg.Query{
		SQL: `
with ours as (
  select c.oid, n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
   where c.relname = 'aiseed_schema' and 2 = (
         select count(*) from pg_attribute a where a.attrelid = c.oid and not a.attisdropped and
           (a.attname = 'version' and a.atttypid = 'int4'::regtype or a.attname = 'applied_at' and a.atttypid = 'timestamptz'::regtype)))
select count(n.oid) > 0,
       coalesce(array_agg(c.relname::text order by c.relname) filter (where c.oid is not null), '{}'),
       coalesce(bool_or(c.oid in (select oid from ours)), false),
       array(select nspname from ours where nspname <> $1 order by nspname)
  from pg_namespace n left join pg_class c on c.relnamespace = n.oid and c.relname = any($2)
 where n.nspname = $1`,
		Args: [][]byte{[]byte(d.schema), []byte("{" + strings.Join(tablesAfter(0), ",") + "}")},
		Rows: pg.One(&into.schema, &into.names, &into.recorded, &into.elsewhere),
	}
}

// notRecorded returns the tables that exist although the migrations that create them are not
// recorded. Something else created them.
func (f *tablesFound) notRecorded(version int) (names []string) {
	ours := tablesAfter(version)
	return slices.DeleteFunc(slices.Clone(f.names), func(name string) bool { return !slices.Contains(ours, name) })
}

const schemaOfItsOwn = `choose another StoreOptions.Schema, "aiseed" for example`

func (d *database) foreignTables(names []string) error {
	return schemaErrorf(ErrSchema, "the schema %q has %s, which aiseed did not create: no version in aiseed_schema says so. Nothing was changed; "+
		schemaOfItsOwn+", or restore aiseed_schema if the tables are aiseed's", d.schema, strings.Join(names, ", "))
}

// statesOfOtherTables lists the SQLSTATEs of our statements on tables that are not ours: a
// column, a type, an operator or a kind of relation is another one.
var statesOfOtherTables = []string{stateUndefinedColumn, stateDatatypeMismatch, "42883", "42809"}

func (d *database) otherTables(version int) error {
	return schemaErrorf(ErrSchema, "the schema %q says that it is at version %d, but a table there is not the one of aiseed: compare them with the files of "+
		"aiseed.Migrations, and restore it. If another product uses the name, "+schemaOfItsOwn, d.schema, version)
}

func (d *database) newerSchema(r schemaRecord) error {
	return schemaErrorf(ErrSchema, "a newer version of the library migrated the tables in %q to version %d, and a writer has to know version %d; this library knows "+
		"up to %d: update this server to that version of the library, or restore a backup from before", d.schema, r.version, r.oldestWriter, schemaVersion())
}

// A keyCheck checks the keys in the tables. successor is that of the first key of the keyring.
type keyCheck func(stored []storedKey, successor string) error

// checkSchema checks tables and keys in one round trip.
func (d *database) checkSchema(ctx context.Context, ring seal.Ring, migrate bool, check keyCheck) error {
	err := d.checkStored(ctx, ring, check)
	if migrate && errors.Is(err, ErrSchemaOutdated) {
		if err := d.migrate(ctx); err != nil {
			return err
		}
		err = d.checkStored(ctx, ring, check)
	}
	return err
}

func (d *database) checkStored(ctx context.Context, ring seal.Ring, check keyCheck) error {
	const operation = "opening the store"
	const remedy = "call aiseed.Migrate or set StoreOptions.Migrate, or apply the files of aiseed.Migrations with your own tool"
	record := schemaRecord{version: -1} // there is no aiseed_schema, or it is not ours
	var keys []storedKey
	var successor string
	err := d.read(ctx, operation,
		d.selectRecord(&record),
		pg.Query{SQL: d.sql(selectStoredKeys), Rows: func(rows pgx.Rows) (err error) {
			keys, err = pgx.CollectRows(rows, pgx.RowToStructByPos[storedKey])
			return err
		}}, d.selectSuccessor(ring, &successor))
	missing, other := hasState(err, []string{stateUndefinedTable}), hasState(err, statesOfOtherTables)
	switch {
	case record.oldestWriter > schemaVersion():
		return d.newerSchema(record)
	case err != nil && !missing && !other:
		return err
	case record.version <= 0:
		var found tablesFound
		if err := d.read(ctx, operation, d.lookForTables(&found)); err != nil {
			return err
		}
		if found.recorded {
			// A name is found behind the snapshot of a transaction, and rows are not. So the tables can
			// have been made meanwhile.
			if err := d.read(ctx, operation, d.selectRecord(&record)); err != nil {
				return err
			}
			if record.version > 0 {
				return d.checkStored(ctx, ring, check)
			}
		}
		if foreign := found.notRecorded(0); len(foreign) > 0 {
			return d.foreignTables(foreign)
		}
		if len(found.elsewhere) > 0 {
			return schemaErrorf(ErrSchemaOutdated, "there are no aiseed tables in the schema %q, but in %q; if those are meant, set StoreOptions.Schema; else %s", d.schema, strings.Join(found.elsewhere, ", "), remedy)
		}
		return schemaErrorf(ErrSchemaMissing, "there are no aiseed tables in the schema %q; %s", d.schema, remedy)
	case missing:
		return schemaErrorf(ErrSchema, "the schema %q says that it is at version %d, but tables are missing; restore them from a backup", d.schema, record.version)
	case other:
		return d.otherTables(record.version)
	}
	if err := check(keys, successor); err != nil {
		return err
	}
	if record.version < schemaVersion() {
		return schemaErrorf(ErrSchemaOutdated, "the tables in %q are at version %d, and this library needs %d; %s", d.schema, record.version, schemaVersion(), remedy)
	}
	return nil
}
