package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"example.com/aiseed"
	"example.com/aiseed/internal/pg"
)

// SQLSTATEs that the checks distinguish. PostgreSQL Appendix A.
const (
	undefinedTable        = "42P01"
	insufficientPrivilege = "42501"
)

// one reads the only row of a query. Arguments of type int64 are its parameters; the
// others are the targets of the scan.
func (d *doctor) one(ctx context.Context, sql string, args ...any) error {
	var parameters [][]byte
	var into []any
	for _, arg := range args {
		if n, ok := arg.(int64); ok {
			parameters = append(parameters, pg.Int64(n))
			continue
		}
		into = append(into, arg)
	}
	return d.ask(ctx, pg.Query{SQL: d.sql(sql), Args: parameters, Rows: pg.One(into...)})
}

func (d *doctor) list(ctx context.Context, sql string) (out []string, err error) {
	err = d.ask(ctx, pg.Query{SQL: d.sql(sql), Rows: func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}})
	return out, err
}

// ask runs a query that no row security policy hides rows from.
func (d *doctor) ask(ctx context.Context, q pg.Query) error {
	conn, err := pg.Acquire(ctx, d.pool)
	if err != nil {
		return err
	}
	defer pg.Release(ctx, conn)
	return pg.RoundTrip(ctx, conn.Conn(), pg.SeeAllRows, q)
}

func isState(err error, state string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == state
}

// trouble reports the error that prevented a check. It contains nothing of the server's
// own message, which can quote a row.
func (d *doctor) trouble(ctx context.Context, err error) []finding {
	var pgErr *pgconn.PgError
	var database *aiseed.DatabaseError
	cause := pg.Classify(ctx, err)
	switch {
	case ctx.Err() != nil:
		return fail(fmt.Sprintf("no answer within %s", checkTimeout), "Something holds a lock on the tables, or the server is overloaded: look into pg_stat_activity")
	case isState(err, undefinedTable), errors.As(err, &database) && database.SQLState == undefinedTable:
		return fail("a table is missing (SQLSTATE 42P01)", "Restore it from a backup")
	case cause.Policy:
		return fail("a row security policy applies to the role, so it could hide rows (SQLSTATE 42501)",
			"Connect as the owner of the tables, give the role BYPASSRLS, or disable row security on the tables")
	case cause.Reason != "":
		return fail(cause.Reason, "")
	case isState(err, insufficientPrivilege):
		return fail("the role lacks a privilege on the schema or its tables (SQLSTATE 42501)", "Grant it, or connect as their owner")
	case errors.As(err, &pgErr):
		return fail("the server refuses the question with SQLSTATE "+pgErr.Code, "")
	case strings.HasPrefix(err.Error(), "aiseed: "):
		return fail(d.message(err), "")
	}
	return fail("the connection was lost", "Look at the server, and run this again")
}

// cannotConnect uses the text of the library's own error, because the library knows
// what is safe to show.
func (d *doctor) cannotConnect(ctx context.Context, err error) []finding {
	_, openErr := aiseed.Open(ctx, d.pool, aiseed.StoreOptions{AllowPlaintext: true})
	var database *aiseed.DatabaseError
	if !errors.As(openErr, &database) {
		return d.trouble(ctx, err)
	}
	if ctx.Err() != nil {
		return fail(fmt.Sprintf("%s: no answer within %s", d.address(), checkTimeout), "Check host, port and firewall")
	}
	return fail(strings.TrimPrefix(bare(database), database.Operation+": "), "")
}

// address returns where the database is, and the user who connects.
func (d *doctor) address() string {
	c := d.pool.Config().ConnConfig
	return fmt.Sprintf("%s, port %d, database %q, user %q", c.Host, c.Port, c.Database, c.User)
}

// problems returns the lines of an error about the environment.
func problems(err error) []string {
	var config *aiseed.ConfigError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &config):
		return []string{bare(err)}
	}
	var lines []string
	for _, p := range config.Problems {
		lines = append(lines, p.String())
	}
	return lines
}
