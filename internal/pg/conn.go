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
		return nil, &connectError{err, hooksOf(pool.Config())}
	}
	if encoding := conn.Conn().PgConn().ParameterStatus("client_encoding"); encoding != "UTF8" {
		conn.Release()
		return nil, &Error{Reason: "the client_encoding of the connection is " + text.Printable(encoding) + "; it has to be UTF8"}
	}
	return conn, nil
}

// WaitForNotification waits at most for a time until a notification arrives on the connection, and
// returns its channel. The channel is "" if the pool's configuration handles notifications itself.
func WaitForNotification(ctx context.Context, conn *pgx.Conn, atMost time.Duration) (channel string, arrived bool, err error) {
	waiting, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	n, err := conn.WaitForNotification(waiting)
	switch {
	case err != nil && waiting.Err() != nil && ctx.Err() == nil && !conn.IsClosed():
		return "", false, nil // the time is over, and the connection still usable
	case err != nil:
		return "", false, lostIfClosed(conn, err)
	case n != nil:
		channel = n.Channel
	}
	return channel, true, nil
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
