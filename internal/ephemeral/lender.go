package ephemeral

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// A Lender lends one connection to its users, one after the other, because connecting can cost more
// than what they do. The connection ends with the last user: after a slow write, pgx reads an idle
// connection in the background, which would look like a goroutine that a test left behind.
type Lender struct {
	mu    sync.Mutex
	users int
	conn  *pgx.Conn
}

// Join registers a user, until it calls leave.
func (l *Lender) Join() (leave func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
	return func(ctx context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.users--; l.users > 0 || l.conn == nil {
			return nil
		}
		conn := l.conn
		l.conn = nil
		return conn.Close(ctx)
	}
}

// Lend lets a user use the connection. It connects if there is none.
func (l *Lender) Lend(ctx context.Context, config *pgx.ConnConfig, use func(*pgx.Conn) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil || l.conn.IsClosed() {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return err
		}
		l.conn = conn
	}
	return use(l.conn)
}
