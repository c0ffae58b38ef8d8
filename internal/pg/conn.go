package pg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/text"
)

// CleanupTimeout limits the cleanup after the caller's context ended or after a failure. It
// is a variable because tests can run on a very slow machine.
var CleanupTimeout = 5 * time.Second

// Acquire takes a connection from the pool. Give it back with [Release].
func Acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, &connectError{err}
	}
	if encoding := conn.Conn().PgConn().ParameterStatus("client_encoding"); encoding != "UTF8" {
		conn.Release()
		return nil, &Error{Reason: "the client_encoding of the connection is " + text.Printable(encoding) + "; it has to be UTF8"}
	}
	return conn, nil
}

// WaitForNotification returns when a notification has arrived on the connection.
func WaitForNotification(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.WaitForNotification(ctx)
	if err != nil {
		return lostIfClosed(conn, err)
	}
	return nil
}

// Release rolls back any open transaction and returns the connection to its pool. When it
// returns, the connection has no transaction and no lock, and no goroutine is still closing it.
func Release(ctx context.Context, conn *pgxpool.Conn) {
	defer conn.Release()
	pg := conn.Conn().PgConn()
	if !pg.IsClosed() && pg.TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CleanupTimeout)
	defer cancel()
	if !pg.IsClosed() {
		_ = RoundTrip(ctx, conn.Conn(), Query{SQL: `rollback`}) // else the pool closes it
	}
	if pg.IsClosed() {
		select {
		case <-pg.CleanupDone():
		case <-ctx.Done(): // the network drops everything; pgx gives up by itself
			_ = pg.Conn().Close()
		}
	}
}
