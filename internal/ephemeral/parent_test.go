package ephemeral

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// open makes a directory that every user can use, whatever user runs the server.
func open(t *testing.T) string {
	t.Helper()

	dir, err := os.MkdirTemp(parent(t), "aiseed-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o777))
	return dir
}

func TestServersGoWhereADirectoryCanBeMade(t *testing.T) {
	t.Parallel()
	good, another := open(t), open(t)
	file := filepath.Join(good, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	long := filepath.Join(good, strings.Repeat("long", 20))
	require.NoError(t, os.Mkdir(long, 0o777))
	require.NoError(t, os.Chmod(long, 0o777))
	forbidden := filepath.Join(good, "forbidden")
	require.NoError(t, os.Mkdir(forbidden, 0o500))
	inside := filepath.Join(forbidden, "inside")
	if os.Getuid() == 0 {
		// Root makes it, and the user who runs the server cannot reach it.
		require.NoError(t, os.Mkdir(inside, 0o777))
		require.NoError(t, os.Chmod(inside, 0o777))
	}
	useless := []string{"/nowhere", "relative", file, long, forbidden, inside, "/proc"}

	dir, err := parentDir(append(useless, good, another)...)
	require.NoError(t, err)
	require.Equal(t, good, dir)
	entries, err := os.ReadDir(another)
	require.NoError(t, err)
	require.Empty(t, entries, "the trial is gone")

	_, err = parentDir(useless...)
	require.ErrorContains(t, err, "/nowhere, relative, ")
	require.ErrorContains(t, err, "set TMPDIR")
	require.ErrorContains(t, err, "set DATABASE_URL")
}

func TestUserWithoutANameIsToldWhatToDo(t *testing.T) {
	t.Parallel()
	bin, err := findBinaries(t.Context(), os.Getenv, installations)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", postgresScript, "sh", bin, "")
	cmd.Dir = open(t)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 3_141_592, Gid: 3_141_592}}
	} else {
		// A replacement for such a user: an id command that answers as it does for one.
		require.NoError(t, os.WriteFile(filepath.Join(cmd.Dir, "id"), []byte("#!/bin/sh\necho 3141592\nexit 1\n"), 0o755))
		cmd.Env = append(os.Environ(), "PATH="+cmd.Dir+":"+os.Getenv("PATH"))
	}
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	for _, part := range []string{"3141592", "/etc/passwd", "run this as a user who is there", "set DATABASE_URL"} {
		require.Contains(t, string(out), part)
	}
}
