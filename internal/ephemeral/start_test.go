package ephemeral

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"example.com/aiseed/internal/leak"
)

func TestPrivateServerAnswersPgxAndPsql(t *testing.T) {
	t.Parallel()
	server := shared(t)
	require.True(t, server.Ephemeral())
	require.GreaterOrEqual(t, server.Version(), 140000)

	const database = `it's a "db" \ with ü & a =?`
	conn := connect(t, server.DSN(""))
	_, err := conn.Exec(t.Context(), "create database "+pgx.Identifier{database}.Sanitize())
	require.NoError(t, err)

	var current, user string
	err = connect(t, server.DSN(database)).QueryRow(t.Context(), "select current_database(), current_user").Scan(&current, &user)
	require.NoError(t, err)
	require.Equal(t, database, current)
	require.Equal(t, "postgres", user)

	bin, err := findBinaries(t.Context(), os.Getenv, installations)
	require.NoError(t, err)
	psql := filepath.Join(bin, "psql")
	if _, err := os.Stat(psql); err != nil {
		psql = "psql" // some packages have only the server
	}
	out, err := exec.CommandContext(t.Context(), psql, "-Atd", server.DSN(database), "-c", "select current_database()").CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, database+"\n", string(out))
}

func TestSettingsOverrideOurs(t *testing.T) {
	t.Parallel()
	server := startServer(t, "log_statement=all", "max_connections=20")

	var connections string
	err := connect(t, server.DSN("")).QueryRow(t.Context(), "show max_connections").Scan(&connections)
	require.NoError(t, err)
	require.Equal(t, "20", connections)

	log, err := os.ReadFile(server.LogFile())
	require.NoError(t, err)
	require.Contains(t, string(log), "show max_connections")
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	connect(t, server.DSN("")) // An open connection does not delay Close.
	postmaster, keeper, dir := server.PID(), server.keeper.cmd.Process.Pid, server.keeper.dir
	require.True(t, exists(postmaster))
	require.True(t, exists(keeper))

	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			if err := server.Close(); err != nil {
				t.Error(err)
			}
			if exists(postmaster) || exists(keeper) {
				t.Error("Close returned while a process was there, if only as a zombie")
			}
			if _, err := os.Lstat(dir); !os.IsNotExist(err) {
				t.Error("Close returned while the directory was there")
			}
		})
	}
	calls.Wait()
	require.Empty(t, processesOf(t, dir))
	require.Zero(t, server.PID())
	require.NoError(t, server.Close())
}

// Not parallel: it looks at the goroutines of the whole process.
func TestRunningServerHasNoGoroutine(t *testing.T) {
	before := goleak.IgnoreCurrent()
	server := startServer(t)
	bouncer, err := StartPgBouncer(t.Context(), server)
	require.NoError(t, err)
	require.NoError(t, leak.Find(before))

	require.NoError(t, bouncer.Close())
	require.NoError(t, server.Close())
	require.NoError(t, leak.Find(before))
}

func TestKilledProcessLeavesNothing(t *testing.T) {
	t.Parallel()
	cmd, stdout := startChild(t)
	var dirs []string
	for range 2 {
		require.True(t, stdout.Scan())
		require.DirExists(t, stdout.Text())
		require.NotEmpty(t, processesOf(t, stdout.Text()))
		dirs = append(dirs, stdout.Text())
	}

	require.NoError(t, cmd.Process.Kill())
	for _, dir := range dirs {
		requireGone(t, dir)
	}
}

func TestProcessKilledDuringInitdbLeavesNothing(t *testing.T) {
	t.Parallel()
	bin, err := findBinaries(t.Context(), os.Getenv, installations)
	require.NoError(t, err)

	// Another user may run this initdb, so the directory is open to all. It records where it runs.
	wrapped, err := os.MkdirTemp(parent(t), "aiseed-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(wrapped)) })
	require.NoError(t, os.Chmod(wrapped, 0o777))
	script := "#!/bin/sh\npwd >" + wrapped + "/new && mv " + wrapped + "/new " + wrapped + "/started\n" +
		`exec "` + bin + `/initdb" "$@"` + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(wrapped, "initdb"), []byte(script), 0o755))
	require.NoError(t, os.Chmod(filepath.Join(wrapped, "initdb"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(bin, "postgres"), filepath.Join(wrapped, "postgres")))

	cmd, _ := startChild(t, "PGBIN="+wrapped)
	var dir []byte
	require.Eventually(t, func() bool {
		dir, err = os.ReadFile(filepath.Join(wrapped, "started"))
		return err == nil
	}, patience, time.Millisecond)

	require.NoError(t, cmd.Process.Kill())
	requireGone(t, strings.TrimSpace(string(dir)))
}

func TestTerminatedKeeperCleansUp(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	require.NoError(t, syscall.Kill(-server.keeper.cmd.Process.Pid, syscall.SIGTERM))
	// It stays as a zombie until Close.
	require.Eventually(t, func() bool {
		_, err := os.Lstat(server.keeper.dir)
		return os.IsNotExist(err)
	}, patience, 10*time.Millisecond)
	require.NoError(t, server.Close())
}

func TestRestartKeepsData(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	conn := connect(t, server.DSN(""))
	_, err := conn.Exec(t.Context(), "create table kept as select 42 as n")
	require.NoError(t, err)
	before := server.PID()

	require.NoError(t, server.Restart(t.Context()))
	require.NotEqual(t, before, server.PID())
	require.Error(t, conn.Ping(t.Context()), "the old connection must be gone")
	var n int
	require.NoError(t, connect(t, server.DSN("")).QueryRow(t.Context(), "select n from kept").Scan(&n))
	require.Equal(t, 42, n)
}

func TestRestartAfterCrash(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	postmaster := server.PID()
	require.NoError(t, syscall.Kill(postmaster, syscall.SIGKILL))
	// The server's other processes share memory with it, and end a moment later.
	require.Eventually(t, func() bool { return len(processesOf(t, server.keeper.dir)) == 1 }, patience, 10*time.Millisecond, "the keeper is left")

	require.NoError(t, server.Restart(t.Context()))
	require.NotEqual(t, postmaster, server.PID())
}

func TestFailedStartQuotesTheLog(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), "shared_buffers=nonsense")
	require.ErrorContains(t, err, "exited while it started")
	require.ErrorContains(t, err, `invalid value for parameter "shared_buffers"`)
	require.NotContains(t, err.Error(), "The files belonging to this database system", "initdb was fine")

	_, err = Start(t.Context(), "nonsense")
	require.ErrorContains(t, err, "want name=value")
}

func TestFailedInitdbIsQuoted(t *testing.T) {
	t.Parallel()
	bin, err := os.MkdirTemp(parent(t), "aiseed-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(bin)) })
	require.NoError(t, os.Chmod(bin, 0o755))
	for _, name := range []string{"initdb", "postgres"} {
		path := filepath.Join(bin, name)
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho $0 is broken\nexit 1\n"), 0o755))
		require.NoError(t, os.Chmod(path, 0o755))
	}

	_, err = start(t.Context(), environ("PGBIN", bin), nil)
	require.ErrorContains(t, err, bin+"/initdb is broken")
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	dir, err := newDir("test")
	require.NoError(t, err)
	k, err := keep(job{name: "nothing", dir: dir, script: "exec sleep 600"})
	require.NoError(t, err)
	probes := 0
	err = k.await(ctx, func(context.Context) error {
		if probes++; probes == 3 {
			cancel()
		}
		return errors.New("not yet")
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "not yet")
	require.NoError(t, k.close())
	requireGone(t, k.dir)

	server, err := Start(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Nil(t, server)
}

func TestKilledPostmasterLeavesNothing(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	pidFile, err := os.ReadFile(filepath.Join(server.keeper.dir, "data", "postmaster.pid"))
	require.NoError(t, err)
	segment := strings.Fields(strings.Split(string(pidFile), "\n")[6])[1]
	require.Contains(t, segments(t), segment)

	require.NoError(t, syscall.Kill(server.PID(), syscall.SIGKILL))
	require.NoError(t, server.Close())
	requireGone(t, server.keeper.dir)
	require.NotContains(t, segments(t), segment)
}

// segments returns the ids of the shared memory segments. Unlike a key, the id of a
// removed segment is not soon used again by another server.
func segments(t *testing.T) (ids []string) {
	t.Helper()

	out, err := exec.CommandContext(t.Context(), "ipcs", "-m").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] != "0x00000000" {
			ids = append(ids, fields[1])
		}
	}
	return ids
}

func TestQuotedLogMasksThePassword(t *testing.T) {
	t.Parallel()
	k := &keeper{job: job{dir: t.TempDir(), secret: "it's secret"}}
	require.NoError(t, os.WriteFile(k.logFile(), []byte("bad line: password='it''s secret'\nor it's secret\n"), 0o600))
	require.Equal(t, "\n\tbad line: password=********\n\tor ********", k.tail())
}

// If a process already has a server, its next server starts from what initdb made for the
// first one.
func TestInitdbRunsOnceForTheServersOfAProcess(t *testing.T) {
	t.Parallel()
	found, err := findBinaries(t.Context(), os.Getenv, installations)
	require.NoError(t, err)
	bin := open(t) // has a server that ends at once
	require.NoError(t, os.Symlink(filepath.Join(found, "initdb"), filepath.Join(bin, "initdb")))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "postgres"), []byte("#!/bin/sh\nexec cat data/PG_VERSION\n"), 0o755))
	require.NoError(t, os.Chmod(filepath.Join(bin, "postgres"), 0o755))

	first, gone := open(t), open(t)
	for _, tt := range []struct {
		dir, other string
		initdb     bool
	}{{first, "", true}, {open(t), filepath.Base(first), false}, {open(t), filepath.Base(gone), true}} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", postgresScript, "sh", bin, tt.other)
		require.NoError(t, detach(cmd))
		cmd.Dir = tt.dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NotEmpty(t, out)
		if tt.initdb {
			require.FileExists(t, filepath.Join(tt.dir, "initdb.log"))
		} else {
			require.NoFileExists(t, filepath.Join(tt.dir, "initdb.log"))
		}
	}

	var d directories
	require.Empty(t, d.first("bin", first))
	require.Equal(t, filepath.Base(first), d.first("bin", gone))
	require.Empty(t, d.first("another", gone), "another version")
	require.NoError(t, os.RemoveAll(gone))
	require.Equal(t, filepath.Base(first), d.first("bin", gone))
	require.Empty(t, d.first("another", bin), "the server is gone")
	require.Equal(t, filepath.Base(bin), d.first("another", first))
}
