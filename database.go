package aiseed

import (
	"context"
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

// query runs queries outside of our own transactions.
func (d *database) query(ctx context.Context, operation string, queries ...pg.Query) error {
	conn, err := d.acquire(ctx, operation)
	if err != nil {
		return err
	}
	defer pg.Release(ctx, conn)
	return databaseError(ctx, operation, pg.RoundTrip(ctx, conn.Conn(), queries...))
}

// read is query for queries that can be repeated. It hides a lost connection by
// retrying.
func (d *database) read(ctx context.Context, operation string, queries ...pg.Query) error {
	return retry(ctx, func() error { return d.query(ctx, operation, queries...) })
}

// notification returns the statement that notifies the watchers of a write. It runs
// in the transaction of the write: watchers are notified when, and only if, the
// transaction is committed.
func (d *database) notification() pg.Query {
	return pg.Query{SQL: `select pg_notify($1, '')`, Args: [][]byte{[]byte(d.notifyChannel)}}
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
