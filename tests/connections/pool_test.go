package connections

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
)

func TestO11_APoolThatWasClosed(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.NewWithConfig(t.Context(), aiseedtest.NewPool(t).Config())
	require.NoError(t, err)
	store, err := aiseed.Open(t.Context(), pool, aiseed.StoreOptions{AllowPlaintext: true, Migrate: true})
	require.NoError(t, err)
	pool.Close()
	require.Equal(t, "aiseed: opening the store: the pool is closed; close it only after the last call of the store", refusedBy(t, pool).Error())
	_, err = store.Providers(t.Context())
	require.ErrorContains(t, err, "reading the providers: the pool is closed")
}

// ownError is an error of a host, and quotes a secret.
type ownError struct{ text string }

func (e ownError) Error() string { return e.text }

func TestO11_AHookOfThePoolThatFails(t *testing.T) {
	t.Parallel()
	config := aiseedtest.NewPool(t).Config()
	sentinel := errors.New("no password " + canary)
	own := fmt.Errorf("the vault: %w", errors.Join(sentinel, ownError{canary}))
	// What another connection says, with what a server says in it.
	other, err := pgx.ParseConfig(config.ConnString())
	require.NoError(t, err)
	other.RuntimeParams[canary] = "x"
	_, ofServer := pgx.ConnectConfig(t.Context(), other)
	require.ErrorContains(t, ofServer, canary)
	wrapped := fmt.Errorf("%w, %w", ownError{"of the host"}, ofServer)
	const left = "; its text is left out, since it can hold a secret; errors.Is and errors.As find it"

	for name, tt := range map[string]struct {
		change func(*pgxpool.Config)
		want   string
		state  string
		is     error
	}{
		"BeforeConnect": {func(c *pgxpool.Config) {
			c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return own }
		}, "the hook BeforeConnect of the pool failed" + left, "", sentinel},
		"AfterConnect": {func(c *pgxpool.Config) {
			c.AfterConnect = func(context.Context, *pgx.Conn) error { return own }
		}, "the hook AfterConnect of the pool failed" + left, "", sentinel},
		"PrepareConn": {func(c *pgxpool.Config) {
			c.AfterConnect = func(context.Context, *pgx.Conn) error { return nil }
			c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return true, ownError{canary} }
		}, "the hook AfterConnect or PrepareConn of the pool failed with an error of the type connections.ownError" + left, "", ownError{canary}},
		"a statement of a hook": {func(c *pgxpool.Config) {
			c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, `select '`+canary+`'::int`)
				return err
			}
		}, "the hook AfterConnect of the pool failed with SQLSTATE 22P02" + left, "22P02", nil},
		"another connection of a hook": {func(c *pgxpool.Config) {
			c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return wrapped }
		}, "the hook BeforeConnect of the pool failed with SQLSTATE 42704" + left, "42704", ownError{"of the host"}},
		"BeforeAcquire": {func(c *pgxpool.Config) {
			//lint:ignore SA1019 A host can still use it.
			c.BeforeAcquire = func(context.Context, *pgx.Conn) bool { return false }
		}, "the pool gave no connection, because a hook refuses each one: look at its BeforeAcquire", "", nil},
		"AfterConnect of the connection": {func(c *pgxpool.Config) {
			c.ConnConfig.AfterConnect = func(context.Context, *pgconn.PgConn) error { return own }
		}, "the hook AfterConnect of the connection's configuration failed" + left, "", sentinel},
		"ValidateConnect": {func(c *pgxpool.Config) {
			c.ConnConfig.ValidateConnect = func(context.Context, *pgconn.PgConn) error { return own }
		}, "the hook ValidateConnect of the connection's configuration failed" + left, "", sentinel},
		"DialFunc": {func(c *pgxpool.Config) {
			c.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, own }
		}, "the hook DialFunc of the connection's configuration failed" + left, "", sentinel},
		"LookupFunc": {func(c *pgxpool.Config) {
			c.ConnConfig.Host = "db.example"
			c.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return nil, own }
		}, "the hook LookupFunc of the connection's configuration failed" + left, "", sentinel},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := config.Copy()
			tt.change(changed)
			pool, err := pgxpool.NewWithConfig(t.Context(), changed)
			require.NoError(t, err)
			defer pool.Close()
			got := refusedBy(t, pool)
			require.ErrorContains(t, got, tt.want)
			require.Equal(t, tt.state, got.SQLState)
			if tt.is != nil {
				require.ErrorIs(t, got, tt.is)
				var found ownError
				require.ErrorAs(t, got, &found)
			}
			var server *pgconn.PgError
			var connect *pgconn.ConnectError
			var anyOfServer interface{ SQLState() string }
			require.False(t, errors.As(got, &server) || errors.As(got, &connect) || errors.As(got, &anyOfServer), "what a server said")
		})
	}
}

func TestO11_AnotherProgram(t *testing.T) {
	t.Parallel()
	answer := func(conn net.Conn) {
		_, _ = bufio.NewReader(conn).ReadByte()
		_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request: " + canary + "\r\n\r\n"))
	}
	for _, tt := range []struct {
		name, settings, want string
		serve                func(net.Conn)
	}{
		{"it answers otherwise", "sslmode=disable", "the answer is not that of a PostgreSQL server; check host and port", answer},
		{"it hangs up", "sslmode=disable", "closed by the other side; check that a PostgreSQL server listens there, and its log", readStartup},
		{"it speaks no TLS", "sslmode=require sslnegotiation=direct", "the other side does not speak TLS; check host and port, and sslnegotiation", answer},
		{"it says nothing", "sslmode=disable connect_timeout=1", "timed out; check host, port and firewall, or raise connect_timeout", func(conn net.Conn) {
			for buffer := make([]byte, 100); ; {
				if _, err := conn.Read(buffer); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			port := listening(t, tt.serve)
			require.Equal(t, fmt.Sprintf("aiseed: opening the store: cannot connect to 127.0.0.1, port %d: %s", port, tt.want),
				refused(t, fmt.Sprintf("host=127.0.0.1 port=%d user=guest password=%s %s", port, canary, tt.settings)).Error())
		})
	}
}

// readStartup reads the first message. A connection that is closed with something unread is reset instead.
func readStartup(conn net.Conn) {
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err == nil {
		_, _ = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(length[:]))-4)
	}
}
