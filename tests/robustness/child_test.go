package robustness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// A start tells a child process what to do: the same as a host's main function.
type start struct {
	DSN        string
	Environ    []string
	Key        []byte // of the keyring; no key means plaintext
	OpenFirst  bool   // open the store before it says that it is ready
	HoldsHasty bool   // it lets the server end its first transaction after a second of silence
}

const childVariable = "AISEED_TEST_CHILD"

func isChild() bool { return os.Getenv(childVariable) != "" }

// child is the main function of a child process. It reads a start from standard
// input, says "ready", waits for a line, starts, and says how that ended. It repeats
// this until a start fails or the input ends.
func child() {
	in := bufio.NewReader(os.Stdin)
	for _, err := in.Peek(1); err == nil; _, err = in.Peek(1) {
		if err := runChild(in); err != nil {
			fmt.Println("result", outcome(err), strings.ReplaceAll(err.Error(), "\n", " "))
			return
		}
		fmt.Println("result", told("done"))
	}
}

func runChild(in *bufio.Reader) error {
	ctx := context.Background()
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var s start
	if err := json.Unmarshal(line, &s); err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(s.DSN)
	if err != nil {
		return err
	}
	// The tests count messages, and on a busy machine the pool would add pings.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	wire := &testkit.Wire{}
	if s.HoldsHasty {
		config.ConnConfig.DialFunc = wire.Dial
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	cfg, err := aiseed.ParseEnviron(ctx, s.Environ, slog.Logger{})
	if err != nil {
		return err
	}
	// A slow process must not fail: the test that waits for it has its own limit.
	options := aiseed.StoreOptions{Migrate: true, LockTimeout: time.Hour, AuditTimeout: time.Hour}
	if options.Keyring, err = aiseed.NewKeyring(s.Key); err != nil {
		return err
	}
	var store *aiseed.Store
	if s.OpenFirst {
		if store, err = aiseed.Open(ctx, pool, options); err != nil {
			return err
		}
		pool.Reset()
	}
	fmt.Println("ready")
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	if store == nil {
		if store, err = aiseed.Open(ctx, pool, options); err != nil {
			return err
		}
	}
	if s.HoldsHasty {
		// Only the transaction gets this limit, with its first message.
		storetest.SetLockTimeout(store, time.Second)
		wire.Reset(testkit.Once(testkit.Pass, "pg_advisory_xact_lock", func() { storetest.SetLockTimeout(store, time.Hour) }))
	}
	return aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, aiseed.AuditorFunc(func(_ context.Context, e aiseed.AuditEntry) error {
		_, err := fmt.Println("audit", e.ID)
		return err
	}), slog.Logger{})
}

// told is what a caller is told about the outcome of a start.
type told string

const (
	toldDone    told = "done"    // everything is committed
	toldDrift   told = "drift"   // nothing was written
	toldUnknown told = "unknown" // all or nothing
	toldFailed  told = "failed"  // nothing was written
	toldNothing told = ""        // the process ended before it could say
)

func outcome(err error) told {
	switch {
	case err == nil:
		return toldDone
	case errors.Is(err, aiseed.ErrCommitUnknown):
		return toldUnknown
	case errors.Is(err, aiseed.ErrDrift):
		return toldDrift
	}
	return toldFailed
}

// A process is a child that was launched.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner

	Audits []string // ids of the entries that its auditor accepted
	Told   told
	Text   string // of the error
}

// launch starts a child and returns once it is ready.
func launch(tb testing.TB, s start) *process {
	tb.Helper()
	p := newProcess(tb)
	p.prepare(tb, s)
	p.awaitReady()
	return p
}

// newProcess starts a child that has nothing to do yet.
func newProcess(tb testing.TB) *process {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	// Otherwise the race detector waits a second at the end of a process. A child is
	// small: it gains nothing from a second processor or from garbage collection.
	cmd.Env = append(os.Environ(), childVariable+"=1", "GORACE=atexit_sleep_ms=0", "GOMAXPROCS=1", "GOGC=400")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(tb, err)
	out, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, cmd.Start())
	return &process{Cmd: cmd, in: in, out: bufio.NewScanner(out)}
}

// prepare tells a child what to do.
func (p *process) prepare(tb testing.TB, s start) {
	tb.Helper()
	line, err := json.Marshal(s)
	require.NoError(tb, err)
	_, err = p.in.Write(append(line, '\n'))
	require.NoError(tb, err)
	p.Audits, p.Told, p.Text = nil, toldNothing, ""
}

// awaitReady returns once a child is ready, or has failed.
func (p *process) awaitReady() { p.read(func() bool { return p.out.Text() == "ready" }) }

// awaitResult returns once a child has said how it ended.
func (p *process) awaitResult() { p.read(func() bool { return p.Told != toldNothing }) }

// release lets a child start.
func (p *process) release() { _, _ = io.WriteString(p.in, "go\n") }

// wait returns when the child has ended in any way.
func (p *process) wait() {
	_ = p.in.Close()
	p.read(func() bool { return false })
	_ = p.Wait()
}

// read reads what the child says until done. A child that says nothing for too long is
// killed, so that its caller finds it without a result.
func (p *process) read(done func() bool) {
	var silent atomic.Bool
	timer := time.AfterFunc(testkit.Patience, func() {
		silent.Store(true)
		_ = p.Process.Kill()
	})
	defer timer.Stop()
	for p.out.Scan() {
		line := p.out.Text()
		if id, ok := strings.CutPrefix(line, "audit "); ok {
			p.Audits = append(p.Audits, id)
		}
		if result, ok := strings.CutPrefix(line, "result "); ok {
			word, text, _ := strings.Cut(result, " ")
			p.Told, p.Text = told(word), text
		}
		if done() {
			return
		}
		timer.Reset(testkit.Patience)
	}
	if silent.Load() {
		p.Text = fmt.Sprintf("killed, because it said nothing for %s", testkit.Patience)
	}
}
