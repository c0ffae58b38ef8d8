// Package pg sends statements to PostgreSQL in as few round trips as there are decisions,
// gives connections back clean, and classifies what servers and networks answer.
//
// It goes below pgx's own batch, because that takes its way of sending from the
// configuration of the pool. Its statements are unnamed: they need one round trip on a
// fresh connection too, and no session behind a transaction-pooling proxy. Its errors carry
// no text of a server, since that can quote a row, a parameter or a connection string.
//
// It knows no table of ours and no provider.
package pg

import (
	"context"
	"crypto/tls"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	stateDivisionByZero      = "22012"
	stateFeatureNotSupported = "0A000"
)

// binaryResults asks for results that do not depend on settings like DateStyle.
var binaryResults = []int16{pgx.BinaryFormatCode}

// SeeAllRows makes the server refuse a statement of this transaction if a row security policy
// applies to its role, instead of hiding rows from it. Outside of a transaction block it is for
// the statements of the same round trip, which are one transaction.
// See https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-ROW-SECURITY.
var SeeAllRows = Query{SQL: `select set_config('row_security', 'off', true)`}

// UseOrderOfIndexes is [SeeAllRows], and lets the planner use an index for an order where it would
// rather read and sort a whole table. Not for statements that have to sort: they then cost so much
// that the server compiles them.
var UseOrderOfIndexes = Query{SQL: `select set_config('row_security', 'off', true), set_config('enable_sort', 'off', true)`}

// RoundTrip sends queries at once and waits once. It returns the first error: the server's,
// or else the one of a Rows.
func RoundTrip(ctx context.Context, conn *pgx.Conn, queries ...Query) error {
	batch := &pgconn.Batch{}
	texts := make([]string, len(queries))
	for i, q := range queries {
		texts[i] = q.SQL
		batch.ExecParams(q.SQL, q.Args, nil, nil, binaryResults)
	}
	var rowsErr error
	answered := 0 // without an error
	ctx, trace := startTrace(ctx, conn, texts...)
	results := conn.PgConn().ExecBatch(ctx, batch)
	endPartialWrite(conn)
	for _, q := range queries {
		if !results.NextResult() {
			break
		}
		rows := pgx.RowsFromResultReader(conn.TypeMap(), results.ResultReader())
		if q.Rows != nil && rowsErr == nil {
			rowsErr = q.Rows(rows)
		}
		rows.Close()
		trace.result(rows.CommandTag(), rows.Err())
		if rows.Err() == nil {
			answered++
		}
	}
	err := results.Close()
	trace.end(err)
	if err != nil {
		if answered < len(queries) && queries[answered].written != nil {
			err = queries[answered].written.explain(err)
		}
		return lostIfClosed(conn, err)
	}
	return rowsErr
}

// ExecScript runs a text of several statements without parameters.
func ExecScript(ctx context.Context, conn *pgx.Conn, sql string) error {
	ctx, trace := startTrace(ctx, conn, sql)
	results := conn.PgConn().Exec(ctx, sql)
	endPartialWrite(conn)
	all, err := results.ReadAll()
	if err == nil && len(all) > 0 {
		trace.result(all[len(all)-1].CommandTag, nil)
	}
	trace.end(err)
	if err != nil {
		return lostIfClosed(conn, err)
	}
	return nil
}

// Commit sends writes, commit and the queries behind it in one round trip. committed is true
// only if the server said so, whatever became of the queries behind. A false is final if the
// connection is still open; otherwise nobody knows yet.
func Commit(ctx context.Context, conn *pgx.Conn, writes []Query, behind ...Query) (committed bool, err error) {
	err = RoundTrip(ctx, conn, slices.Concat(writes, []Query{{SQL: `commit`, Rows: func(rows pgx.Rows) error {
		rows.Close()
		// The server answers the commit of a failed transaction with ROLLBACK, and
		// does not count that as an error.
		committed = rows.CommandTag().String() == "COMMIT"
		return rows.Err()
	}}}, behind)...)
	if err == nil && !committed {
		err = errRolledBack
	}
	return committed, err
}

// endPartialWrite is called after each write. If the write failed, a cancelled context
// can have ended it inside a message. The server then waits for the rest, without a
// limit and without an answer, and pgx waits for the server. Closing our direction of the
// connection tells the server that nothing more will come; it rolls back and closes its own.
func endPartialWrite(conn *pgx.Conn) {
	if !conn.IsClosed() {
		return
	}
	socket := conn.PgConn().Conn()
	if encrypted, ok := socket.(*tls.Conn); ok {
		// Its own CloseWrite sends a last record, which can block as well.
		socket = encrypted.NetConn()
	}
	if half, ok := socket.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	_ = socket.Close()
}
