//go:build unix

package aiseed_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

// many is an environment that takes a while to seal, so that a process can be
// caught while it decides.
func many(n int) (environ []string) {
	for i := range n {
		for _, line := range []string{"NAME=many-%[1]d", "TYPE=openai", "KEY=key-%[1]d-of-the-many-providers"} {
			environ = append(environ, fmt.Sprintf(aiseed.DefaultPrefix+"PROVIDER_%[1]d_"+line, i))
		}
	}
	return environ
}

func TestF3_StoppedLockHolder(t *testing.T) {
	t.Parallel()
	const others = 4
	environ, rawKey := many(1000), bytes.Repeat([]byte{3}, aiseed.KeySize)
	reference := setup(t)
	require.NoError(t, reference.seed(reference.parseEnviron(environ)))
	contents := reference.contents()

	// Half of the time of those who wait is what a silent holder is left.
	const lockTimeout = 8 * time.Second
	for round := range full(1, 8) {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			for tries := 1; ; tries++ {
				f := setup(t)
				var err error
				f.keyring, err = aiseed.NewKeyring(rawKey)
				require.NoError(t, err)
				f.store, f.wire = f.open()
				processes := crowd{launch(t, start{DSN: f.dsn() + " application_name=stopped", Environ: environ, Key: rawKey, LockTimeout: lockTimeout})}
				stopped := processes[0]
				for range others {
					processes = append(processes, launch(t, start{DSN: f.dsn(), Environ: environ, Key: rawKey, LockTimeout: lockTimeout}))
				}
				stopped.release()
				// It holds the lock, the server waits for it, and it is not done.
				for len(f.rows(`select pid from pg_stat_activity join pg_locks using (pid)
					where application_name = 'stopped' and state = 'idle in transaction' and locktype = 'advisory' and granted`)) == 0 {
				}
				require.NoError(t, stopped.Process.Signal(syscall.SIGSTOP))
				for _, p := range processes[1:] {
					p.release()
				}
				for _, p := range processes[1:] {
					p.read(func() bool { return p.Told != toldNothing })
				}
				// The server took the lock from it: its backend is gone, although the process
				// did not close a connection. Otherwise it had sent its commit before it was stopped.
				caught := len(f.rows(`select pid from pg_stat_activity where application_name = 'stopped'`)) == 0
				require.NoError(t, stopped.Process.Signal(syscall.SIGCONT))
				stopped.read(func() bool { return stopped.Told != toldNothing })
				err = processes.check(f, contents)
				processes.disband()
				t.Log("caught", caught, tries)
				cases.check(t, "F3 stopped lock holder", fmt.Sprintf("TestF3_StoppedLockHolder, caught %t", caught), err)
				f.requireIdle()
				if caught || err != nil {
					return
				}
			}
		})
	}
}

// One that is stopped while it delivers keeps nobody from starting, and delivers the
// rest once it goes on.
func TestF3_StoppedDeliverer(t *testing.T) {
	t.Parallel()
	_ = errors.New
	_ = strings.Join
}
