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

// A database is where the tables are, and how statements get there.
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

// query runs queries outside of a transaction of ours.
func (d *database) query(ctx context.Context, operation string, queries ...pg.Query) error {
	conn, err := d.acquire(ctx, operation)
	if err != nil {
		return err
	}
	defer pg.Release(ctx, conn)
	return databaseError(ctx, operation, pg.RoundTrip(ctx, conn.Conn(), queries...))
}

// read is query for what can be done again: a connection that is lost does not
// show.
func (d *database) read(ctx context.Context, operation string, queries ...pg.Query) error {
	return retry(ctx, func() error { return d.query(ctx, operation, queries...) })
}

// notification is the statement that tells the watchers of a write, in its
// transaction: they hear of it when, and only if, it was committed.
func (d *database) notification() pg.Query {
	return pg.Query{SQL: `select pg_notify($1, '')`, Args: [][]byte{[]byte(d.notifyChannel)}}
}

// maxIdentifierBytes is what Postgres cuts names to.
const maxIdentifierBytes = 63

// checkSchemaName refuses what Postgres would cut short, expand, or not create.
func checkSchemaName(schema string) error {
	if len(schema) > maxIdentifierBytes || !utf8.ValidString(schema) || strings.ContainsRune(schema, 0) ||
		schema == "$user" || strings.HasPrefix(schema, "pg_") {
		return schemaErrorf(ErrSchema, "its name is longer than 63 bytes, starts with pg_, is $user, or holds something that is not UTF-8 or a NUL; choose another one")
	}
	return nil
}
