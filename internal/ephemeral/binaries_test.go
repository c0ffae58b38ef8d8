package ephemeral

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewestFirstComparesVersionsAsNumbers(t *testing.T) {
	t.Parallel()
	require.Equal(t,
		[]string{
			"/usr/lib/postgresql/17/bin",
			"/usr/pgsql-16/bin",
			"/opt/homebrew/opt/postgresql@16/bin",
			"/usr/lib/postgresql/14/bin",
			"/usr/pgsql-10/bin",
			"/usr/lib/postgresql/9.6/bin",
			"/usr/lib/postgresql/9.4/bin",
			"/opt/homebrew/opt/postgresql/bin",
			"/Applications/Postgres.app/Contents/Versions/latest/bin",
		},
		newestFirst([]string{
			"/opt/homebrew/opt/postgresql/bin",
			"/usr/lib/postgresql/14/bin",
			"/usr/lib/postgresql/9.4/bin",
			"/usr/lib/postgresql/9.6/bin",
			"/usr/lib/postgresql/17/bin",
			"/usr/pgsql-16/bin",
			"/usr/pgsql-10/bin",
			"/opt/homebrew/opt/postgresql@16/bin",
			"/Applications/Postgres.app/Contents/Versions/latest/bin",
		}))
}

// Not parallel: it changes PATH.
func TestPlacesOfBinaries(t *testing.T) {
	root := t.TempDir()
	install := func(dir string, programs ...string) string {
		dir = filepath.Join(root, dir)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		for _, program := range programs {
			require.NoError(t, os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\necho "+root+"/of-pg_config\n"), 0o755))
		}
		return dir
	}
	patterns := []string{filepath.Join(root, "packages", "*", "bin")}
	t.Setenv("PATH", filepath.Join(root, "path"))
	look := func(pairs ...string) (string, error) { return findBinaries(t.Context(), environ(pairs...), patterns) }

	install("packages/18/bin", "initdb")
	_, err := look()
	require.ErrorContains(t, err, "no PostgreSQL server to start")
	require.ErrorContains(t, err, patterns[0])
	require.ErrorContains(t, err, "apt-get install postgresql, brew install postgresql")
	require.ErrorContains(t, err, "set DATABASE_URL")

	// Each place has a higher rank than the ones before it.
	for _, place := range []string{"packages/9.6/bin", "packages/16/bin", "path"} {
		want := install(place, "initdb", "postgres")
		found, err := look()
		require.NoError(t, err)
		require.Equal(t, want, found)
	}
	install("path", "pg_config")
	want := install("of-pg_config", "initdb", "postgres")
	found, err := look()
	require.NoError(t, err)
	require.Equal(t, want, found)

	want = install("of-PGBIN", "initdb", "postgres")
	found, err = look("PGBIN", want)
	require.NoError(t, err)
	require.Equal(t, want, found)

	_, err = look("PGBIN", root)
	require.ErrorContains(t, err, "PGBIN is")
}
