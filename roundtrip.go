package aiseed

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/text"
)

// jsonArg encodes a parameter. Its types cannot fail to encode.
func jsonArg(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	if string(b) == "null" {
		return []byte("[]")
	}
	return b
}

// binaryResults asks for results that do not depend on settings like DateStyle.
var binaryResults = []int16{pgx.BinaryFormatCode}

// A query is one statement with its parameters in text format.
type query struct {
	sql  string
	args [][]byte
	rows func(pgx.Rows) error // nil where the result does not matter

	checked bool // a write that must not be committed before rows accepted it
}

// roundTrip sends queries at once and waits once, as unnamed statements: that
// needs one round trip on a fresh connection too, and nothing of a
// transaction-pooling proxy. It goes below pgx's own batch because that takes
// its way of sending from the pool's configuration.
func roundTrip(ctx context.Context, conn *pgx.Conn, queries ...query) error {
	batch := &pgconn.Batch{}
	for _, q := range queries {
		batch.ExecParams(q.sql, q.args, nil, nil, binaryResults)
	}
	var rowsErr error
	results := conn.PgConn().ExecBatch(ctx, batch)
	endPartialWrite(conn)
	for _, q := range queries {
		if !results.NextResult() {
			break
		}
		rows := pgx.RowsFromResultReader(conn.TypeMap(), results.ResultReader())
		if q.rows != nil && rowsErr == nil {
			rowsErr = q.rows(rows)
		}
		rows.Close()
	}
	if err := results.Close(); err != nil {
		return lostIfClosed(conn, err)
	}
	return rowsErr
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

func lostIfClosed(conn *pgx.Conn, err error) error {
	if conn.IsClosed() {
		return &lostError{err}
	}
	return err
}

// one scans the one row that there is.
func one(into ...any) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		_, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) {
			return struct{}{}, row.Scan(into...)
		})
		return err
	}
}

// acquire takes a connection from the pool.
func (s *Store) acquire(ctx context.Context, operation string) (*pgxpool.Conn, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, databaseError(ctx, operation, &connectError{err})
	}
	if encoding := conn.Conn().PgConn().ParameterStatus("client_encoding"); encoding != "UTF8" {
		conn.Release()
		return nil, &DatabaseError{Operation: operation, reason: "the client_encoding of the connection is " + text.Printable(encoding) + "; it has to be UTF8"}
	}
	return conn, nil
}

// query runs queries outside of a transaction of ours.
func (s *Store) query(ctx context.Context, operation string, queries ...query) error {
	conn, err := s.acquire(ctx, operation)
	if err != nil {
		return err
	}
	defer release(ctx, conn)
	return databaseError(ctx, operation, roundTrip(ctx, conn.Conn(), queries...))
}

// read is query for what can be done again: a connection that is lost does not
// show.
func (s *Store) read(ctx context.Context, operation string, queries ...query) error {
	return retry(ctx, func() error { return s.query(ctx, operation, queries...) })
}

func int64Arg(n int64) []byte { return strconv.AppendInt(nil, n, 10) }

func milliseconds(d time.Duration) []byte {
	return int64Arg(max(1, d.Milliseconds())) // 0 would mean forever
}
