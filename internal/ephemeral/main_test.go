package ephemeral

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/leak"
)

// childVariable makes this test binary start servers, print their directories
// and wait to be killed, instead of testing.
const childVariable = "EPHEMERAL_TEST_CHILD"

// patience bounds the wait for what has to happen soon, even on a busy machine.
const patience = time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child()
	}
	leak.VerifyTestMain(m)
}

func child() {
	server, err := Start(context.Background())
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	bouncer, err := StartPgBouncer(context.Background(), server)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(server.keeper.dir)
	fmt.Println(bouncer.keeper.dir)
	// Nobody writes to this pipe. The runtime would report an empty select as a deadlock.
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(1)
}

// startChild runs this test binary as a child. The caller kills it.
func startChild(t *testing.T, env ...string) (cmd *exec.Cmd, stdout *bufio.Scanner) {
	t.Helper()

	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, childVariable+"=1")...)
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

func startServer(t *testing.T, settings ...string) *Server {
	t.Helper()

	server, err := Start(t.Context(), settings...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return server
}

// shared returns a server for tests that do not change it. It ends with the process.
// Its user guest has a password.
func shared(t *testing.T) *Server {
	t.Helper()

	server, err := sharedServer()
	require.NoError(t, err)
	return server
}

var sharedServer = sync.OnceValues(func() (*Server, error) {
	ctx := context.Background()
	server, err := Start(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, server.DSN(""))
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, `create role guest login password 'it''s right'`)
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return nil, err
	}
	rules := "local all postgres trust\nlocal all all scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(server.keeper.dir, "data", "pg_hba.conf"), []byte(rules), 0o600); err != nil {
		return nil, err
	}
	return server, server.Restart(ctx)
})

func parent(t *testing.T) string {
	t.Helper()

	dir, err := ParentDir()
	require.NoError(t, err)
	return dir
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()

	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// requireGone waits until no file and no process of the directory is left.
func requireGone(t *testing.T, dir string) {
	t.Helper()

	require.Eventually(t, func() bool {
		_, err := os.Lstat(dir)
		return os.IsNotExist(err) && len(processesOf(t, dir)) == 0
	}, patience, 10*time.Millisecond, "%s or a process of it is left", dir)
}

// processesOf returns the ids of the processes that have the directory in their
// arguments or work in it.
func processesOf(t *testing.T, dir string) []int {
	t.Helper()

	var pids []int
	if runtime.GOOS != "linux" {
		out, err := exec.Command("ps", "-A", "-o", "pid=,args=").Output()
		require.NoError(t, err)
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, dir) {
				pid, err := strconv.Atoi(strings.Fields(line)[0])
				require.NoError(t, err)
				pids = append(pids, pid)
			}
		}
		return pids
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, process := range processes {
		// Both fail if the process has just ended. The second also fails if it is not ours.
		args, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(process, "cwd"))
		if strings.Contains(string(args), dir) || strings.HasPrefix(cwd, dir) {
			pid, err := strconv.Atoi(filepath.Base(process))
			require.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func exists(pid int) bool { return syscall.Kill(pid, 0) == nil }

// environ makes a getenv of names and values.
func environ(pairs ...string) func(string) string {
	env := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return env[name] }
}
