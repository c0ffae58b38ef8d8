package aiseedcli

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/testkit"
)

// begin opens a transaction that ends with the test.
func (o *operator) begin(sql string, args ...any) pgx.Tx {
	o.T.Helper()
	tx, err := o.Pool.Begin(context.Background())
	require.NoError(o.T, err)
	o.T.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if sql != "" {
		_, err = tx.Exec(context.Background(), sql, args...)
		require.NoError(o.T, err)
	}
	return tx
}

// awaitLooked returns when the command has looked for the holder of the lock, and did not find
// whom to tell about, since a time on the server's clock.
func (o *operator) awaitLooked(since string) {
	o.T.Helper()
	require.Eventually(o.T, func() bool {
		return o.Rows(`
select count(*) from pg_stat_activity
 where datname = current_database() and application_name = 'aiseed' and state = 'idle' and query like '%pg_locks%' and query_start > $1::timestamptz`, since)[0] == "1"
	}, testkit.Patience, time.Millisecond)
}

func (o *operator) clock() string { return o.Rows(`select clock_timestamp()::text`)[0] }

// While it waits for a key, it does not wait for the lock.
func TestO7_NobodyIsWaitedForBeforeTheLockIsNeeded(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai")
	holder := o.begin(`select pg_advisory_xact_lock($1)`, aiseed.LockKey("public"))
	since := o.clock()
	read, write := io.Pipe()
	o.stdin = read
	var stdout, stderr bytes.Buffer
	wait := o.runTo(t.Context(), &stdout, &stderr, "key", "add", "openai")
	o.awaitLooked(since)
	require.NoError(t, holder.Rollback(t.Context()))
	_, err := io.WriteString(write, "sk-77d0c1f4a9e84b3692e5f1\n")
	require.NoError(t, err)
	require.NoError(t, write.Close())
	var code int
	wait(&code)
	require.Zero(t, code, stderr.String())
	require.Empty(t, stderr.String())
}

// Others can wait for the command. It does not say that it waits for itself.
func TestO7_TheCommandDoesNotWaitForItself(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai")
	readers := o.begin(`lock table ai_providers in share mode`)
	var stdout, stderr bytes.Buffer
	wait := o.runTo(t.Context(), &stdout, &stderr, "disable", "openai")
	count := func(sql string) func() bool {
		return func() bool { return o.Rows(sql)[0] == "1" }
	}
	require.Eventually(t, count(`select count(*) from pg_stat_activity where datname = current_database() and application_name = 'aiseed' and wait_event = 'relation'`), testkit.Patience, time.Millisecond)
	waiter := o.begin("")
	waited := make(chan error, 1)
	go func() {
		_, err := waiter.Exec(context.Background(), `select pg_advisory_xact_lock($1)`, aiseed.LockKey("public"))
		waited <- err
	}()
	require.Eventually(t, count(`select count(*) from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`), testkit.Patience, time.Millisecond)
	o.awaitLooked(o.clock())
	require.NoError(t, readers.Rollback(t.Context()))
	var code int
	wait(&code)
	require.Zero(t, code, stderr.String())
	require.Empty(t, stderr.String())
	require.NoError(t, testkit.Awaited(t, waited))
}

// The verb waits on its only connection, and who holds the lock is asked on another one.
func TestO7_AVerbWithOneConnectionSaysWhomItWaitsFor(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai")
	code, _, stderr := o.meanwhile(`select 1`, "disable", "openai", "-database", o.DSN()+" pool_max_conns=1")
	require.Zero(t, code, stderr)
	require.Contains(t, stderr, "waiting for pid ")
}

// Where it cannot ask, it says nothing that it does not know.
func TestO7_WhomItWaitsForCanBeUnknown(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	role := o.Role("single")
	o.Exec(`alter role ` + role + ` connection limit 1`)
	var stderr bytes.Buffer
	a := &app{Options: Options{Stderr: &stderr}.withDefaults(), verb: verb{writes: true}, flags: flags{database: o.DSN() + " user=" + role}}
	pool, err := a.pool(t.Context())
	require.NoError(t, err)
	defer pool.Close()
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	gaveUp := make(chan error, 1)
	go func() {
		a.watchLock(t.Context(), pool)
		gaveUp <- t.Context().Err()
	}()
	require.NoError(t, testkit.Awaited(t, gaveUp))
	require.Empty(t, stderr.String())
}

// A cancellation can end PgBouncer 1.18 to 1.20, for all of its clients. So a verb that is done leaves the
// question who holds the lock to its end.
func TestO7_WhoHoldsTheLockIsAskedToTheEnd(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	ctx, done := context.WithCancel(t.Context())
	defer done()
	a := &app{Options: Options{}.withDefaults(), verb: verb{writes: true}, flags: flags{database: o.DSN() + " application_name=patient"}}
	made, err := a.pool(ctx)
	require.NoError(t, err)
	defer made.Close()
	config, wire := made.Config(), &testkit.Wire{}
	config.ConnConfig.DialFunc = wire.Dial
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pool.Ping(ctx))
	wire.Reset(wire.OnceWritten(testkit.Pass, "pg_locks", done))
	ended := make(chan error, 1)
	go func() {
		a.watchLock(ctx, pool)
		ended <- ctx.Err()
	}()
	require.Error(t, testkit.Awaited(t, ended))
	_, sent := wire.Count()
	require.Contains(t, sent, "pg_locks")
	require.NotContains(t, sent, "\x04\xd2\x16\x2e", "a request to cancel")
}

// The verbs that can wait for the lock are those that say for whom.
func TestO7_VerbsThatOnlyLookWaitForNobody(t *testing.T) {
	t.Parallel()
	var looking []string
	for _, v := range verbs() {
		if !v.writes {
			looking = append(looking, v.name)
		}
	}
	require.Equal(t, "plan list doctor retire env version", strings.Join(looking, " "))
}
