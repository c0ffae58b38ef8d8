package ephemeral

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFindStartsAServerWhereNoneIsNamed(t *testing.T) {
	t.Parallel()
	bin, err := findBinaries(t.Context(), os.Getenv, installations)
	require.NoError(t, err)
	server, err := find(t.Context(), environ("PGBIN", bin, "PGUSER", "somebody", "PGDATABASE", "something"))
	require.NoError(t, err)
	require.True(t, server.Ephemeral())
	require.NoError(t, server.Close())
}

func TestDatabaseURLWinsOverVariables(t *testing.T) {
	t.Parallel()
	private := shared(t)
	server, err := find(t.Context(), environ(
		"DATABASE_URL", private.DSN("")+" application_name='of the URL'",
		"PGHOST", "/nowhere", "PGPORT", "1", "PGSERVICE", "none"))
	require.NoError(t, err)
	require.False(t, server.Ephemeral())
	require.Equal(t, private.Version(), server.Version())
	require.Empty(t, server.LogFile())
	require.Zero(t, server.PID())
	require.ErrorContains(t, server.Restart(t.Context()), "only a private server")

	var name, database string
	err = connect(t, server.DSN("template1")).QueryRow(t.Context(), "select current_setting('application_name'), current_database()").Scan(&name, &database)
	require.NoError(t, err)
	require.Equal(t, "of the URL", name)
	require.Equal(t, "template1", database)

	require.NoError(t, server.Close())
	require.NoError(t, connect(t, private.DSN("")).Ping(t.Context()), "closing a found server must leave it alone")
}

func TestVariablesNameTheServer(t *testing.T) {
	t.Parallel()
	private := shared(t)
	server, err := find(t.Context(), environ(
		"PGHOST", private.keeper.dir, "PGUSER", "postgres", "PGDATABASE", "postgres", "PGAPPNAME", `a 'quoted' \ name`))
	require.NoError(t, err)
	require.False(t, server.Ephemeral())

	var name, database string
	err = connect(t, server.DSN("")).QueryRow(t.Context(), "select current_setting('application_name'), current_database()").Scan(&name, &database)
	require.NoError(t, err)
	require.Equal(t, `a 'quoted' \ name`, name)
	require.Equal(t, "postgres", database)
}

// Not parallel: pgx reads PGSERVICEFILE from the environment of the process.
func TestServiceNamesTheServer(t *testing.T) {
	private := shared(t)
	file := filepath.Join(t.TempDir(), "services")
	content := "[testing]\nhost=" + private.keeper.dir + "\nport=5432\nuser=postgres\ndbname=postgres\n"
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	t.Setenv("PGSERVICEFILE", file)

	// PGHOST has a lower rank than the service.
	server, err := find(t.Context(), environ("PGSERVICE", "testing", "PGHOST", "/nowhere"))
	require.NoError(t, err)
	require.False(t, server.Ephemeral())
	require.NoError(t, connect(t, server.DSN("template1")).Ping(t.Context()))
}

func TestServerThatDoesNotAnswerIsAnErrorWithoutSecrets(t *testing.T) {
	t.Parallel()
	private := shared(t)
	socket := private.keeper.dir

	for name, test := range map[string]struct {
		url, want string
	}{
		"nobody listens":          {"postgres://guest:hunter2hunter2@127.0.0.1:1/db", "refused"},
		"socket is missing":       {"host=/nowhere user=guest password=hunter2hunter2", "no such file"},
		"password is wrong":       {"host=" + socket + " port=5432 user=guest dbname=postgres password=hunter2hunter2", "28P01"},
		"database is missing":     {"host=" + socket + " port=5432 user=postgres dbname=hunter2hunter2", "3D000"},
		"password is not encoded": {"postgres://guest:hunter2/hunter2@127.0.0.1/db", "want postgres://"},
		"password taken for port": {"postgres://guest:1/hunter2hunter2@127.0.0.1:1/db?host=/nowhere", "no such file"},
		"not a connection string": {"hunter2hunter2", "want postgres://"},
		"mode that is none":       {"host=127.0.0.1 sslmode=hunter2hunter2", "want postgres://"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, err := find(t.Context(), environ("DATABASE_URL", test.url))
			require.Nil(t, server)
			require.ErrorContains(t, err, "DATABASE_URL is set, but")
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestCancelledFind(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := find(ctx, environ("DATABASE_URL", "postgres://127.0.0.1:1/db"))
	require.ErrorIs(t, err, context.Canceled)
}

func TestOldServerIsRefused(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkVersion(140000))
	require.ErrorContains(t, checkVersion(130014), "want PostgreSQL 14 or later, found 13 ")
}
