package aiseed

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/seal"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Migrations returns the schema as plain SQL files, for a host with its own migration
// tool. The files are numbered in the order to apply them. They do not qualify names:
// apply each in a transaction with search_path set to the schema. Each file records
// its number in the table aiseed_schema.
func Migrations() fs.FS {
	sub, err := fs.Sub(schemaFS, "schema")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// migration is one file of the schema.
type migration struct {
	version int
	sql     string
}

// migrations are the files in order. A test checks that their numbers have no gap.
var migrations = readMigrations()

func readMigrations() []migration {
	var out []migration
	names, err := fs.Glob(Migrations(), "*.sql") // sorted
	for _, name := range names {
		var raw []byte
		raw, err = fs.ReadFile(Migrations(), name)
		number, _, _ := strings.Cut(name, "_")
		version, convErr := strconv.Atoi(number)
		out = append(out, migration{version: version, sql: string(raw)})
		if err = errors.Join(err, convErr); err != nil {
			break
		}
	}
	if err != nil || len(out) == 0 {
		panic("aiseed: the embedded schema is broken") // any test would find it
	}
	return out
}

// schemaVersion is the version that this library needs. A later one is fine.
func schemaVersion() int { return migrations[len(migrations)-1].version }

// Migrate applies the missing parts of the schema. It creates the Postgres schema
// that holds the tables if it does not exist. schema "" is "public". Everything
// happens in one transaction, under the same lock as a seed, so any number of
// processes may call it at once. If the schema is current, it changes nothing.
//
// Errors match [ErrLockTimeout], [ErrSchema] or [ErrDatabase].
func Migrate(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	if pool == nil {
		return errors.New("aiseed: Migrate needs a pool, and got nil")
	}
	d := &database{pool: pool, schema: schema, lockTimeout: defaultLockTimeout}
	if schema == "" {
		d.schema = defaultSchema
	}
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
		if errors.As(err, &db) && slices.Contains(migratedMeanwhile, db.SQLState) {
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
	var exists, versioned bool
	var version int
	conn, err := d.acquire(ctx, operation)
	if err != nil {
		return err
	}
	defer pg.Release(ctx, conn)

	// Do not use to_regclass or similar: they read a cache, which can be older than the lock.
	look := pg.Query{
		SQL: `
select count(n.oid) > 0, count(c.oid) > 0
  from pg_namespace n left join pg_class c on c.relnamespace = n.oid and c.relname = 'aiseed_schema'
 where n.nspname = $1`,
		Args: [][]byte{[]byte(d.schema)},
		Rows: pg.One(&exists, &versioned),
	}
	if err := d.beginLocked(ctx, operation, conn.Conn(), look); err != nil {
		return err
	}
	if versioned {
		if err := pg.RoundTrip(ctx, conn.Conn(), pg.Query{SQL: d.sql(selectSchemaVersion), Rows: pg.One(&version)}); err != nil {
			return d.failed(ctx, conn.Conn(), operation, err)
		}
	}
	if version >= schemaVersion() {
		return nil
	}
	var writes []pg.Query
	if !exists { // "if not exists" requires a privilege that may not be needed
		writes = append(writes, pg.Query{SQL: d.sql(`create schema {schema}`)})
	}
	writes = append(writes, pg.Query{
		SQL:  `select set_config('search_path', $1, true)`,
		Args: [][]byte{[]byte(d.sql("{schema}"))},
	})
	if err := pg.RoundTrip(ctx, conn.Conn(), writes...); err != nil {
		return d.failed(ctx, conn.Conn(), operation, err)
	}
	for _, m := range migrations {
		if m.version <= version {
			continue
		}
		if err := pg.ExecScript(ctx, conn.Conn(), m.sql); err != nil {
			return d.failed(ctx, conn.Conn(), operation, err)
		}
	}
	if committed, err := pg.Commit(ctx, conn.Conn(), nil); !committed {
		return d.failed(ctx, conn.Conn(), operation, err)
	}
	return nil
}

const selectSchemaVersion = `select coalesce(max(version), 0) from {schema}.aiseed_schema`

// checkSchema checks tables and keyring in one round trip.
func (d *database) checkSchema(ctx context.Context, ring seal.Ring, migrate bool) error {
	err := d.checkStored(ctx, ring)
	if migrate && errors.Is(err, ErrSchema) {
		if err := d.migrate(ctx); err != nil {
			return err
		}
		err = d.checkStored(ctx, ring)
	}
	return err
}

func (d *database) checkStored(ctx context.Context, ring seal.Ring) error {
	version := -1
	var keys []storedKey
	var successor string
	err := d.read(ctx, "opening the store",
		pg.Query{SQL: d.sql(selectSchemaVersion), Rows: pg.One(&version)},
		pg.Query{SQL: d.sql(selectStoredKeys), Rows: func(rows pgx.Rows) (err error) {
			keys, err = pgx.CollectRows(rows, pgx.RowToStructByPos[storedKey])
			return err
		}}, d.selectSuccessor(ring, &successor))
	const remedy = "call aiseed.Migrate or set StoreOptions.Migrate, or apply the files of aiseed.Migrations with your own tool"
	var db *DatabaseError
	switch {
	case errors.As(err, &db) && db.SQLState == stateUndefinedTable && version < 0:
		return schemaErrorf(ErrSchemaOutdated, "there are no aiseed tables in the schema %q; %s", d.schema, remedy)
	case errors.As(err, &db) && db.SQLState == stateUndefinedTable:
		return schemaErrorf(ErrSchema, "the schema %q says that it is at version %d, but tables are missing; restore them from a backup", d.schema, version)
	case err != nil:
		return err
	}
	if err := revokedKey(ring, successor); err != nil {
		return err
	}
	if err := checkKeys(ring, keys); err != nil {
		return err
	}
	if version < schemaVersion() {
		return schemaErrorf(ErrSchemaOutdated, "the tables in %q are at version %d, and this library needs %d; %s", d.schema, version, schemaVersion(), remedy)
	}
	return nil
}

// storedKey is a row of ai_encryption_keys, and the columns with values that need it.
type storedKey struct {
	ID, Canary string
	Needed     []string
}

// selectStoredKeys reads the keys in one statement, since opening takes one round trip.
var selectStoredKeys = func() string {
	var needed []string
	for _, c := range sealedCells {
		needed = append(needed, fmt.Sprintf(`case when exists (select from {schema}.%[1]s where %[2]s_key_id = k.id) then '%[1]s.%[2]s' end`, c.Table, c.Column))
	}
	return `select k.id, k.canary, array_remove(array[` + strings.Join(needed, ", ") + `], null) from {schema}.ai_encryption_keys k order by k.created_at, k.id`
}()

// selectSuccessor finds the key that is in use in place of the first key of a keyring, or sets
// *successor to "" if the first may seal: it was not revoked, or no key is in use, as after an
// unseal.
func (d *database) selectSuccessor(ring seal.Ring, successor *string) pg.Query {
	var first string
	if len(ring) > 0 {
		first = ring[0].ID
	}
	return pg.Query{
		SQL: d.sql(`
select coalesce((select u.id from {schema}.ai_encryption_keys u where u.revoked_at is null order by u.created_at desc, u.id limit 1), '')
 where exists (select from {schema}.ai_encryption_keys k where k.id = $1 and k.revoked_at is not null)`),
		Args: [][]byte{[]byte(first)},
		Rows: func(rows pgx.Rows) error {
			*successor = ""
			_, err := pgx.ForEachRow(rows, []any{successor}, func() error { return nil })
			return err
		},
	}
}

// revokedKey is the error of a keyring whose first key has a successor.
func revokedKey(ring seal.Ring, successor string) error {
	if successor == "" {
		return nil
	}
	text := "its first key, %s, is revoked: a rotation has put %s in its place, so it must seal nothing more; "
	if _, has := ring.ByID(successor); has {
		text += "put %[2]s first, and the other, if at all, after it"
	} else {
		text += "give the keyring that has %[2]s, and put that first"
	}
	return keyringErrorf(text, ring[0].ID, successor)
}

// checkKeys compares the keyring with the keys that sealed the values in the tables.
func checkKeys(ring seal.Ring, stored []storedKey) error {
	var missing []string
	for _, k := range stored {
		key, ok := ring.ByID(k.ID)
		switch {
		case ok && !key.OpensCanary(k.Canary):
			return keyringErrorf("key %s cannot decrypt its own canary in ai_encryption_keys; the row was changed, restore it from a backup", k.ID)
		case !ok && len(k.Needed) > 0:
			missing = append(missing, k.ID+" (for "+strings.Join(k.Needed, " and ")+")")
		}
	}
	switch {
	case len(missing) == 0:
		return nil
	case len(ring) == 0:
		return keyringErrorf("there is none, and the tables hold values that are sealed with %s; give the keyring that sealed them", strings.Join(missing, ", "))
	}
	return keyringErrorf("it lacks %s, which stored values are sealed with; append it to the keyring, after the key that seals", strings.Join(missing, ", "))
}
