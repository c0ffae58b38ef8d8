package ephemeral

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func startPgBouncer(t *testing.T, server *Server, settings ...string) *PgBouncer {
	t.Helper()

	bouncer, err := StartPgBouncer(t.Context(), server, settings...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bouncer.Close()) })
	return bouncer
}

func TestPgBouncerPoolsTransactions(t *testing.T) {
	t.Parallel()
	server := shared(t)
	bouncer := startPgBouncer(t, server, "default_pool_size=1")

	// In session mode the second client would wait for the first to disconnect.
	first, second := connect(t, bouncer.DSN("")), connect(t, bouncer.DSN(""))
	backend := func(conn *pgx.Conn) (pid int) {
		err := conn.QueryRow(t.Context(), "select pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid)
		require.NoError(t, err)
		return pid
	}
	require.Equal(t, backend(first), backend(second))

	var database string
	err := connect(t, bouncer.DSN("template1")).QueryRow(t.Context(), "select current_database()", pgx.QueryExecModeExec).Scan(&database)
	require.NoError(t, err)
	require.Equal(t, "template1", database)
}

func TestPgBouncerCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	server := shared(t)
	bouncer := startPgBouncer(t, server)
	connect(t, bouncer.DSN("")) // An open connection does not delay Close.
	require.FileExists(t, bouncer.LogFile())

	require.NoError(t, bouncer.Close())
	require.Empty(t, processesOf(t, bouncer.keeper.dir))
	require.NoDirExists(t, bouncer.keeper.dir)
	require.NoError(t, bouncer.Close())
}

func TestPgBouncerLogsInWithThePasswordOfTheDSN(t *testing.T) {
	t.Parallel()
	private := shared(t)
	server, err := find(t.Context(), environ("DATABASE_URL", private.base+` user=guest dbname=postgres password='it\'s right'`))
	require.NoError(t, err)
	bouncer := startPgBouncer(t, server)

	var user string
	err = connect(t, bouncer.DSN("")).QueryRow(t.Context(), "select current_user", pgx.QueryExecModeExec).Scan(&user)
	require.NoError(t, err)
	require.Equal(t, "guest", user)
}

func TestPgBouncerFailures(t *testing.T) {
	t.Parallel()
	server := shared(t)

	_, err := StartPgBouncer(t.Context(), server, "pool_mode=nonsense")
	require.ErrorContains(t, err, "pool_mode")
	_, err = StartPgBouncer(t.Context(), server, "nonsense")
	require.ErrorContains(t, err, "want name=value")
	_, err = StartPgBouncer(t.Context(), server, "pool_mode=session\n[users]")
	require.ErrorContains(t, err, "line break")
	_, err = findPgBouncer(environ("PGBOUNCER", "/nowhere/pgbouncer"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "PGBOUNCER is")
	_, err = findPgBouncer(environ(), "/nowhere/pgbouncer")
	require.ErrorContains(t, err, "apt-get install pgbouncer, brew install pgbouncer")
}

func TestPgBouncerUsesTheTLSModeOfTheDSN(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"disable", "prefer", "require", "verify-ca", "verify-full"} {
		config, err := parse("host=127.0.0.1 sslmode=" + mode)
		require.NoError(t, err)
		require.Equal(t, mode, tlsMode(config))
	}
}
