package aiseed

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/pg"
)

const (
	defaultSchema       = "public"
	defaultLockTimeout  = 30 * time.Second
	defaultAuditTimeout = 10 * time.Second
	defaultPollInterval = 30 * time.Second
	maxTimeout          = 24 * time.Hour
)

// A database says where the tables are, and runs statements there.
type database struct {
	pool          *pgxpool.Pool
	schema        string
	lockTimeout   time.Duration
	auditTimeout  time.Duration
	notifyChannel string // "" for none
}

func (d *database) sql(text string) string {
	return strings.ReplaceAll(text, "{schema}", pgx.Identifier{d.schema}.Sanitize())
}

// acquire takes a connection from the pool.
func (d *database) acquire(ctx context.Context, operation string) (*pgxpool.Conn, error) {
	conn, err := pg.Acquire(ctx, d.pool)
	return conn, databaseError(ctx, operation, err)
}

// query runs queries outside of our own transactions. first sets what holds for the others.
func (d *database) query(ctx context.Context, operation string, first pg.Query, queries ...pg.Query) error {
	conn, err := d.acquire(ctx, operation)
	if err != nil {
		return err
	}
	defer pg.Release(ctx, conn)
	err = pg.RoundTrip(ctx, conn.Conn(), append([]pg.Query{first}, queries...)...)
	return d.failed(ctx, conn.Conn(), operation, err)
}

// failed turns an error of a round trip on conn into a DatabaseError, and finds out which tables
// it is about if the server did not say. It ends the transaction of conn.
func (d *database) failed(ctx context.Context, conn *pgx.Conn, operation string, err error) error {
	wrapped := databaseError(ctx, operation, err)
	var db *DatabaseError
	if !errors.As(wrapped, &db) || !db.cause.Policy {
		return wrapped
	}
	// Best effort: without the tables the error is still correct.
	_ = pg.RoundTrip(ctx, conn, pg.Query{SQL: `rollback`}, pg.Query{
		SQL:  selectPolicies,
		Args: [][]byte{[]byte(d.schema)},
		Rows: pg.One(&db.policies),
	})
	if len(db.policies) == 1 {
		db.Table = db.policies[0]
	}
	return wrapped
}

// selectPolicies finds our tables in a schema with a row security policy that applies to the role.
const selectPolicies = `
select array(select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where n.nspname = $1 and row_security_active(c.oid) and c.relname in
                    ('ai_providers', 'ai_provider_keys', 'ai_provider_audits', 'ai_encryption_keys', 'aiseed_schema') order by c.relname)`

// read is query for queries that can be repeated. It hides a lost connection by
// retrying.
func (d *database) read(ctx context.Context, operation string, queries ...pg.Query) error {
	return retry(ctx, func() error { return d.query(ctx, operation, pg.SeeAllRows, queries...) })
}

// notification returns the statement that notifies a channel. In the transaction of a write it
// notifies the watchers when, and only if, that is committed.
func notification(channel string) pg.Query {
	return pg.Query{SQL: `select pg_notify($1, '')`, Args: [][]byte{[]byte(channel)}}
}

// maxIdentifierBytes is the length that Postgres truncates names to.
const maxIdentifierBytes = 63

// checkSchemaName rejects names that Postgres would truncate, expand, or not create.
func checkSchemaName(schema string) error {
	if len(schema) > maxIdentifierBytes || !utf8.ValidString(schema) || strings.ContainsRune(schema, 0) ||
		schema == "$user" || strings.HasPrefix(schema, "pg_") {
		return schemaErrorf(ErrSchema, "its name is longer than 63 bytes, starts with pg_, is $user, or holds something that is not UTF-8 or a NUL; choose another one")
	}
	return nil
}
