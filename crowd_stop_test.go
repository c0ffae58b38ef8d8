//go:build unix

package aiseed_test

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

// A process that is stopped with SIGSTOP keeps its connection, and says nothing. The
// others get through, and it finishes when it goes on.
func TestF3_StoppedProcess(t *testing.T) {
	t.Parallel()
	// Enough to seal for a process to be caught while it decides, and enough audits to
	// fill the pipe to which they are delivered.
	var environ []string
	for i := range 1000 {
		for _, line := range []string{"NAME=many-%[1]d", "TYPE=openai", "KEY=key-%[1]d-of-the-many-providers"} {
			environ = append(environ, fmt.Sprintf(aiseed.DefaultPrefix+"PROVIDER_%[1]d_"+line, i))
		}
	}
	reference := setup(t)
	require.NoError(t, reference.seed(reference.parseEnviron(environ)))
	contents := reference.contents()

	for _, tt := range []struct {
		kind    string
		reached func(*fixture, *process) // when to stop it
		caught  func(*fixture) bool      // whether it had not gone further when the others had ended
	}{
		{
			"F3 stopped lock holder",
			func(f *fixture, _ *process) {
				for len(f.rows(`select pid from pg_stat_activity join pg_locks using (pid)
				                 where application_name = 'first' and state = 'idle in transaction' and locktype = 'advisory' and granted
				                 union all select 1 from ai_providers`)) == 0 {
				}
			},
			// The server ended it. The backend of one that had sent its commit is still there.
			func(f *fixture) bool {
				return len(f.rows(`select pid from pg_stat_activity where application_name = 'first'`)) == 0
			},
		},
		{
			"F3 stopped deliverer",
			func(_ *fixture, p *process) {
				p.read(func() bool { return len(p.Audits) > 0 || p.Told != toldNothing })
			},
			func(f *fixture) bool {
				return len(f.rows(`select id from ai_provider_audits where delivered_at is null`)) == 2000
			},
		},
	} {
		for round := range full(1, 8) {
			name := fmt.Sprintf("%s %d", tt.kind, round)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				for range 20 {
					f := setup(t)
					caught, err := f.stopped(environ, contents, func(p *process) { tt.reached(f, p) }, func() bool { return tt.caught(f) })
					if caught || err != nil {
						cases.check(t, tt.kind, "TestF3_StoppedProcess/"+name, err)
						return
					}
				}
				t.Error("it was always too late to stop it")
			})
		}
	}
}

// stopped runs a start that is stopped once reached returns, and goes on after
// others have started and ended. It returns what caught said before it went on.
func (f *fixture) stopped(environ []string, contents string, reached func(*process), caught func() bool) (was bool, err error) {
	f.t.Helper()
	f.keyring = keyring(f.t, 4)
	f.store, f.wire = f.open()
	processes := make(crowd, 5)
	defer processes.disband()
	for i := range processes {
		// The server leaves a silent holder of the lock half of the time that the others wait.
		s := start{DSN: f.dsn(), Environ: environ, Key: bytes.Repeat([]byte{4}, aiseed.KeySize), LockTimeout: 8 * time.Second}
		if i == 0 {
			s.DSN += " application_name=first"
		}
		processes[i] = launch(f.t, s)
	}
	first, rest := processes[0], processes[1:]
	first.release()
	reached(first)
	require.NoError(f.t, first.Process.Signal(syscall.SIGSTOP))
	defer func() { _ = first.Process.Signal(syscall.SIGCONT) }()
	rest.start()
	was = caught()
	require.NoError(f.t, first.Process.Signal(syscall.SIGCONT))
	first.read(func() bool { return first.Told != toldNothing })
	return was, processes.check(f, contents)
}
