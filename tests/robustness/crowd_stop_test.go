//go:build unix

package robustness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/faultproxy"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// The answers that a start on a fresh connection gets, one for each round trip.
const (
	answerOfLogin = iota
	answerOfOpen
	answerOfRead
	answerOfLock
	answerOfCommit // and the entries to deliver
	answerOfMark
	answers
)

// A process that is stopped with SIGSTOP keeps its connections, and sends nothing.
// Wherever it is stopped, other processes can start, and it finishes when it continues.
func TestF3_StoppedProcess(t *testing.T) {
	t.Parallel()
	contents, messages := undisturbed(t)
	require.Len(t, messages, answers)

	rounds := map[int]int{answerOfLock: full(1, 6), answerOfCommit: full(1, 3)}
	for answer := range answers {
		kind := "F3 stopped process"
		if answer == answerOfLock {
			kind = "F3 stopped lock holder"
		}
		for round := range max(rounds[answer], full(0, 3)) {
			name := fmt.Sprintf("answer %d, round %d", answer, round)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := setup(t)
				cases.check(t, kind, "TestF3_StoppedProcess/"+name, f.stopAt(answer, messages[answer], contents))
			})
		}
	}
}

// undisturbed starts like the processes, and returns the contents of the tables after it,
// and the numbers of the messages to the client that end an answer.
func undisturbed(t *testing.T) (contents string, messages []int) {
	t.Helper()
	ctx, f := context.Background(), setup(t)
	proxy, dsn := f.behindProxy()
	config, err := pgxpool.ParseConfig(dsn)
	require.NoError(t, err)
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // as in the processes
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	defer pool.Close()
	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: f.Keyring})
	require.NoError(t, err)
	cfg := f.ParseEnviron(testkit.Environ(t, "../../testdata/gateway.env"))
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, f.Audits, f.Logs.Logger()))
	for _, match := range regexp.MustCompile(`(?m)to client (\d+) ReadyForQuery$`).FindAllStringSubmatch(proxy.Record(), -1) {
		number, err := strconv.Atoi(match[1])
		require.NoError(t, err)
		messages = append(messages, number)
	}
	return f.contents(), messages
}

// behindProxy returns a proxy to the server, and a connection string that goes through it.
func (f *fixture) behindProxy() (*faultproxy.Proxy, string) {
	f.T.Helper()
	config := f.Pool.Config().ConnConfig
	proxy, err := faultproxy.Start(pgconn.NetworkAddress(config.Host, config.Port))
	require.NoError(f.T, err)
	f.T.Cleanup(func() { require.NoError(f.T, proxy.Close()) })
	return proxy, f.DSN() + fmt.Sprintf(" host='%s' port=5432 sslmode=disable", proxy.Host())
}

// stopAt runs a start that is stopped before it gets an answer, and that continues after
// other starts have ended.
func (f *fixture) stopAt(answer, message int, contents string) error {
	f.T.Helper()
	f.Keyring = storetest.Keyring(f.T, 4)
	f.Store, f.Wire = f.Open()
	proxy, dsn := f.behindProxy()

	processes := make(crowd, 5)
	defer processes.disband()
	for i := range processes {
		s := start{DSN: f.DSN(), Environ: testkit.Environ(f.T, "../../testdata/gateway.env"), Key: bytes.Repeat([]byte{4}, aiseed.KeySize)}
		if i == 0 {
			// The server ends this process's transaction while it holds the lock. The other
			// processes have all the time that they need.
			s.DSN, s.HoldsHasty = dsn+" application_name=first", answer == answerOfLock
		}
		processes[i] = launch(f.T, s)
	}
	first, rest := processes[0], processes[1:]
	stopped := make(chan error, 1)
	proxy.Arm(faultproxy.Fault{Direction: faultproxy.ToClient, Message: message, Kind: faultproxy.None},
		func() {
			err := first.Process.Signal(syscall.SIGSTOP)
			if err == nil {
				// It can run on for a moment, and must be stopped before the answer arrives.
				_, err = syscall.Wait4(first.Process.Pid, nil, syscall.WUNTRACED, nil)
			}
			stopped <- err
		})
	first.release()
	select {
	case err := <-stopped:
		require.NoError(f.T, err)
	case <-time.After(testkit.Patience):
		f.T.Fatalf("the answer did not come:\n%s", proxy.Record())
	}
	defer func() { _ = first.Process.Signal(syscall.SIGCONT) }()
	rest.start()

	// Check that it was stopped at that place.
	var missed error
	switch answer {
	case answerOfLock: // the server closed its connection, and so released the lock
		// The others had the lock by now. The backend itself takes a moment longer to end.
		missed = errors.New("the server did not end the holder")
		for deadline := time.Now().Add(testkit.Patience); missed != nil && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if len(f.Rows(`select pid from pg_stat_activity where datname = current_database() and application_name = 'first'`)) == 0 {
				missed = nil
			}
		}
	case answerOfCommit:
		if len(f.Rows(`select id from ai_provider_audits where delivered_at is null`)) == 0 {
			missed = errors.New("another one delivered")
		}
	}
	require.NoError(f.T, first.Process.Signal(syscall.SIGCONT))
	first.awaitResult()
	return errors.Join(processes.check(f, contents), missed)
}
