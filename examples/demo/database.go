package main

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/xerrors"
)

// A database is a schema with a random name, on a server that may belong to somebody.
type database struct {
	pool   *pgxpool.Pool
	schema string
	wire   *wire // all connections of the pool go through it
}

func openDatabase(ctx context.Context, dsn string) (*database, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, xerrors.Errorf("read the connection string: %w", err)
	}
	db := &database{schema: "aiseed_demo_" + strings.ToLower(rand.Text()[:12]), wire: &wire{}}
	config.ConnConfig.DialFunc = db.wire.dial
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // there may be a pooling proxy
	// A ping of the pool would count as a round trip of the library.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	db.pool, err = pgxpool.NewWithConfig(ctx, config)
	return db, err
}

// drop drops the schema and closes the pool, even if ctx has ended.
func (db *database) drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	defer db.pool.Close()
	if err := db.exec(ctx, `drop schema if exists {schema} cascade`); err != nil {
		return xerrors.Errorf("the schema %s may still be there, please drop it: %w", db.schema, err)
	}
	return nil
}

// exec runs a statement as an operator would, without the library.
func (db *database) exec(ctx context.Context, sql string, args ...any) error {
	_, err := db.pool.Exec(ctx, strings.ReplaceAll(sql, "{schema}", db.schema), args...)
	return err
}

// rows runs a query that returns one array of text in each row.
func (db *database) rows(ctx context.Context, sql string) ([][]string, error) {
	rows, err := db.pool.Query(ctx, strings.ReplaceAll(sql, "{schema}", db.schema))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[[]string])
}
