package connections

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// canary is the password of guest, and in each connection string of these tests.
const canary = "c4n9ryW0fThisPassw7rd"

// start starts a server with these rules of pg_hba.conf, after whatever setUp does.
func start(t *testing.T, rules, setUp string, settings ...string) *ephemeral.Server {
	t.Helper()
	server, err := ephemeral.Start(t.Context(), settings...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Close()) })
	for sql := range strings.SplitSeq("create role guest login password '"+canary+"';"+setUp, ";") {
		exec(t, server, sql)
	}
	write(t, server, "pg_hba.conf", "local all postgres trust\n"+rules)
	require.NoError(t, server.Restart(t.Context()))
	return server
}

func exec(t *testing.T, server *ephemeral.Server, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.DSN(""))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err, sql)
}

// write lets the server write a file of its own, since it runs as another user.
func write(t *testing.T, server *ephemeral.Server, name, content string) {
	t.Helper()
	exec(t, server, fmt.Sprintf("copy (select '%s') to program 'umask 077; base64 -d > %s'", base64.StdEncoding.EncodeToString([]byte(content)), name))
}

// readable writes a file that every user can read.
func readable(t *testing.T, name, content string) string {
	t.Helper()
	parent, err := ephemeral.ParentDir()
	require.NoError(t, err)
	dir, err := os.MkdirTemp(parent, "aiseed-test-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// listening serves each connection in place of a server, one after the other, and returns the port.
func listening(t *testing.T, serve func(net.Conn)) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, listener.Close()) })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

// refused opens a store with a pool of a connection string, and returns the error.
func refused(t *testing.T, dsn string, change ...func(*pgxpool.Config)) *aiseed.DatabaseError {
	t.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	require.NoError(t, err)
	for _, f := range change {
		f(config)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	return refusedBy(t, pool)
}

func refusedBy(t *testing.T, pool *pgxpool.Pool) *aiseed.DatabaseError {
	t.Helper()
	_, err := aiseed.Open(t.Context(), pool, aiseed.StoreOptions{AllowPlaintext: true})
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	var database *aiseed.DatabaseError
	require.ErrorAs(t, err, &database)
	requireNoCanary(t, err)
	requireNoCanary(t, database)
	return database
}

// S11: no 8 characters of the password are shown, by the error and by those that it wraps.
func requireNoCanary(t *testing.T, err error) {
	t.Helper()
	for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
		shown := fmt.Sprintf(verb, err)
		for i := range len(canary) - 7 {
			require.NotContains(t, shown, canary[i:i+8], verb)
		}
	}
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		requireNoCanary(t, wrapper.Unwrap())
	case interface{ Unwrap() []error }:
		for _, wrapped := range wrapper.Unwrap() {
			requireNoCanary(t, wrapped)
		}
	}
}

// A situation is a connection string, and what is said of it.
type situation struct{ name, dsn, state, want string }

// check is a test of its own, next to others.
func (s situation) check(t *testing.T, host string) {
	t.Run(s.name, func(t *testing.T) {
		t.Parallel()
		s.now(t, host)
	})
}

func (s situation) now(t *testing.T, host string) {
	t.Helper()
	t.Log(s.name)
	err := refused(t, s.dsn)
	require.Equal(t, "aiseed: opening the store: "+s.want, strings.ReplaceAll(err.Error(), host, "HOST"), s.name)
	require.Equal(t, s.state, err.SQLState, s.name)
}

func hostOf(t *testing.T, dsn string) string {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	return config.Host
}
