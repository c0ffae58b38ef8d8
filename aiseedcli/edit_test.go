package aiseedcli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/user"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// An operator runs the command on the database of a fixture without a keyring.
type operator struct {
	*storetest.Fixture
	stdin io.Reader
}

func newOperator(t *testing.T, lines ...string) *operator {
	o := &operator{Fixture: storetest.Setup(t, storetest.Plaintext)}
	o.Seeded(lines...)
	return o
}

func (o *operator) run(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	o.runTo(ctx, &out, &errs, args...)(&code)
	return code, out.String(), errs.String()
}

// runTo starts the command. The result waits for its exit code.
func (o *operator) runTo(ctx context.Context, stdout, stderr io.Writer, args ...string) (wait func(code *int)) {
	stdin := o.stdin
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	exit := make(chan int, 1)
	go func() {
		exit <- runWith(ctx, append(args, "-plaintext"), []string{"DATABASE_URL=" + o.DSN(), "LOGNAME=alice"}, stdin, stdout, stderr)
	}()
	return func(code *int) { *code = testkit.Awaited(o.T, exit) }
}

// must runs the command, which succeeds, and returns what it prints.
func (o *operator) must(args ...string) string {
	o.T.Helper()
	code, stdout, stderr := o.run(o.T.Context(), args...)
	require.Zero(o.T, code, "%s: %s%s", args, stdout, stderr)
	require.Empty(o.T, stderr, args)
	return stdout
}

// awaited is a stream that says when a text was written to it.
type awaited struct {
	mu      sync.Mutex
	text    string
	written bytes.Buffer
	seen    chan struct{}
}

func await(text string) *awaited { return &awaited{text: text, seen: make(chan struct{})} }

func (w *awaited) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.written.String(), w.text)
	w.written.Write(p)
	if !before && strings.Contains(w.written.String(), w.text) {
		close(w.seen)
	}
	return len(p), nil
}

func (w *awaited) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written.String()
}

// meanwhile runs the command while another session holds the lock, does something in that session
// once the command has said that it waits, and ends its transaction.
func (o *operator) meanwhile(sql string, args ...string) (code int, stdout, stderr string) {
	o.T.Helper()
	ctx := o.T.Context()
	tx, err := o.Pool.Begin(ctx)
	require.NoError(o.T, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, aiseed.LockKey("public"))
	require.NoError(o.T, err)
	var out bytes.Buffer
	errs := await("which holds the lock for writing AI providers")
	wait := o.runTo(ctx, &out, errs, args...)
	testkit.Awaited(o.T, errs.seen)
	_, err = tx.Exec(ctx, sql)
	require.NoError(o.T, err)
	require.NoError(o.T, tx.Commit(ctx))
	wait(&code)
	return code, out.String(), errs.String()
}

const twoKeys = "PROVIDER_0_KEYS=sk-6f1e9b07c2d84a53b1907e,sk-0b8d5f2e71c649aa83f2d0"

func TestO7_EachEditIsAuditedAndHeard(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai", twoKeys)
	conn, err := o.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Hijack().Close(context.Background())) }()
	_, err = conn.Exec(t.Context(), `listen aiseed_public; listen the_end`)
	require.NoError(t, err)
	audits := o.Rows(`select max(seq) from ai_provider_audits`)[0]

	o.must("disable", "openai")
	o.must("disable", "openai") // changes nothing
	o.must("enable", "openai", "-actor", "bob")
	o.must("delete", "openai")
	o.must("restore", "openai")
	o.must("restore", "openai")
	o.must("list")
	o.stdin = strings.NewReader("sk-5aa1c3379e6b4f20d18c42\n")
	o.must("key", "add", "openai")
	o.must("key", "remove", "openai", "1")
	o.stdin = strings.NewReader("sk-77d0c1f4a9e84b3692e5f1\n")
	o.must("key", "replace", "openai")

	require.Equal(t, []string{
		"alice update ai_provider",
		"bob update ai_provider",
		"alice delete ai_provider",
		"alice restore ai_provider",
		"alice create ai_provider_key",
		"alice delete ai_provider_key",
		"alice delete ai_provider_key", "alice delete ai_provider_key", "alice create ai_provider_key",
	}, o.Rows(`select concat_ws(' ', actor, action, resource) from ai_provider_audits where seq > $1::bigint order by seq`, audits))
	o.Exec(`notify the_end`)
	var heard []string
	for heard == nil || heard[len(heard)-1] != "the_end" {
		n, err := conn.Conn().WaitForNotification(t.Context())
		require.NoError(t, err)
		heard = append(heard, n.Channel)
	}
	require.Equal(t, append(strings.Fields(strings.Repeat("aiseed_public ", 7)), "the_end"), heard)
	p, err := o.Store.ProviderByName(t.Context(), "openai")
	require.NoError(t, err)
	require.Len(t, p.Keys, 1)
	require.Equal(t, "sk-77d0c1f4a9e84b3692e5f1", p.Keys[0].APIKey.Reveal())
}

func TestO7_AnEditSaysWhomItWaitsFor(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai", twoKeys)
	lost := strings.Repeat("0", 32)
	o.Exec(`insert into ai_encryption_keys (id, canary) values ($1, '')`, lost)
	for _, args := range [][]string{
		{"disable", "openai"},
		{"enable", "openai"},
		{"delete", "openai"},
		{"restore", "openai"},
		{"key", "remove", "openai", "2"},
		{"key", "add", "openai"},
		{"key", "replace", "openai"},
		{"forget", lost, "-yes"},
	} {
		o.stdin = strings.NewReader("sk-5aa1c3379e6b4f20d18c42")
		code, stdout, stderr := o.meanwhile(`select 1`, args...)
		require.Zero(t, code, stderr)
		require.Contains(t, stderr, "waiting for pid ")
		require.NotEmpty(t, stdout)
	}
}

func TestO7_AKeyIsReplacedOnlyIfTheProviderIsTheOneThatWasListed(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai", twoKeys)
	o.stdin = strings.NewReader("sk-77d0c1f4a9e84b3692e5f1")
	code, _, stderr := o.meanwhile(`update ai_providers set display_name = 'another'`, "key", "replace", "openai")
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, "nothing was changed; run the command again")
	require.Equal(t, []string{"2"}, o.Rows(`select count(*) from ai_provider_keys`))
}

// A position names the key that it had when the command looked, whatever changes meanwhile.
func TestO7_AKeyRemovedByPositionIsTheOneThatWasListed(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai", twoKeys)
	keys := o.Rows(`select id::text from ai_provider_keys order by position`)
	code, _, stderr := o.meanwhile(`delete from ai_provider_keys where id = '`+keys[0]+`'`, "key", "remove", "openai", "1")
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, "has no key with id "+keys[0])
	require.Equal(t, keys[1:], o.Rows(`select id::text from ai_provider_keys`))
}

func TestO7_TheActorIsTheFlagOrTheLogin(t *testing.T) {
	t.Parallel()
	login := func() (*user.User, error) { return &user.User{Username: "of the system"}, nil }
	nobody := func() (*user.User, error) { return nil, errors.New("user: unknown userid 4711") }
	for _, tt := range []struct {
		flag    string
		environ []string
		current func() (*user.User, error)
		want    string
	}{
		{"flag", []string{"LOGNAME=logname", "USER=user"}, login, "flag"},
		{"", []string{"USER=user", "LOGNAME=logname"}, login, "logname"},
		{"", []string{"USER=user", "LOGNAME="}, login, "user"},
		{"", nil, login, "of the system"},
	} {
		a := &app{Options: Options{Environ: tt.environ}, flags: flags{actor: tt.flag}}
		got, err := a.actor(tt.current)
		require.NoError(t, err)
		require.Equal(t, tt.want, got)
	}
	_, err := (&app{}).actor(nobody)
	require.ErrorContains(t, err, "give -actor")
}

// A pipe that nobody closes does not hold up Ctrl-C.
func TestO7_AnInterruptionEndsTheWaitForAKey(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai")
	read, write := io.Pipe()
	defer write.Close()
	reading := make(chan struct{})
	o.stdin = readerFunc(func(p []byte) (int, error) {
		close(reading)
		return read.Read(p)
	})
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr bytes.Buffer
	wait := o.runTo(ctx, &stdout, &stderr, "key", "add", "openai")
	testkit.Awaited(t, reading)
	cancel()
	var code int
	wait(&code)
	require.Equal(t, exitInterrupted, code)
	require.Contains(t, stderr.String(), "interrupted")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestO7_StandardInputThatCannotBeAKey(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai")
	for want, stdin := range map[string]io.Reader{
		"standard input is larger than 64 KiB":   strings.NewReader(strings.Repeat("k", 64<<10) + "\n"),
		"the key was refused: longer than 8 KiB": strings.NewReader(strings.Repeat("k", 64<<10-1) + "\n"),
		"cannot be read from standard input":     readerFunc(func([]byte) (int, error) { return 0, errors.New("sk-6f1e9b07c2d84a53b1907e") }),
	} {
		o.stdin = stdin
		code, _, stderr := o.run(t.Context(), "key", "add", "openai")
		require.Equal(t, exitError, code)
		require.Contains(t, stderr, want)
		require.NotContains(t, stderr, "sk-6f1e")
	}
	require.Equal(t, []string{"0"}, o.Rows(`select count(*) from ai_provider_keys`))
}
