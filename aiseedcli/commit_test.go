package aiseedcli

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/testkit"
)

// commits makes each commit of an edit wait for a lock of the test.
func (o *operator) commits() (release func()) {
	o.Exec(`create function wait_at_commit() returns trigger language plpgsql as 'begin perform pg_advisory_xact_lock_shared(42); return null; end'`)
	for _, table := range []string{"ai_providers", "ai_provider_keys"} {
		o.Exec(`create constraint trigger wait_at_commit after update or delete on ` + table + ` deferrable initially deferred for each row execute function wait_at_commit()`)
	}
	tx := o.begin(`select pg_advisory_xact_lock(42)`)
	return func() { require.NoError(o.T, tx.Rollback(context.Background())) }
}

// awaitWaiting returns when sessions with an application name wait for a kind of lock.
func (o *operator) awaitWaiting(application, kind string) {
	o.T.Helper()
	require.Eventually(o.T, func() bool {
		return o.Rows(`select count(*) from pg_stat_activity where datname = current_database() and application_name = $1 and wait_event_type = 'Lock' and wait_event = $2`, application, kind)[0] == "1"
	}, testkit.Patience, time.Millisecond)
}

// Run again as it was typed, a removal by position would remove the key that has moved up.
func TestO7_L6_AnEditWhoseCommitIsUnknownSaysHowToFindOut(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai", twoKeys)
	first := o.Rows(`select provider_id || ' ' || id from ai_provider_keys order by position`)[0]
	defer o.commits()()
	for _, tt := range []struct {
		args         []string
		want, wanted string
	}{
		{[]string{"disable", "openai"}, "\nRun the same command again: it finds out, and does what is left\n", ""},
		{[]string{"key", "remove", "openai", "1"}, "\nTo find out, and remove it if it is there: aiseed key remove " + first + " -plaintext\n", ""},
		{[]string{"disable", "openai", "-json"}, "", `"class": "commit_unknown"`},
	} {
		var stdout, stderr bytes.Buffer
		wait := o.runTo(t.Context(), &stdout, &stderr, tt.args...)
		o.awaitWaiting("aiseed", "advisory")
		next := o.begin(`set local application_name = 'next'`)
		locked := make(chan error, 1)
		go func() {
			_, err := next.Exec(context.Background(), `select pg_advisory_xact_lock($1)`, aiseed.LockKey("public"))
			locked <- err
		}()
		o.awaitWaiting("next", "advisory")
		// Do not choose it by its wait_event: that is null while a waiting session takes a signal, as of a database that is dropped.
		o.Exec(`select pg_terminate_backend(pid) from unnest(pg_blocking_pids($1)) as holders (pid)`, next.Conn().PgConn().PID())
		require.NoError(t, testkit.Awaited(t, locked))
		_, err := next.Exec(t.Context(), `alter table ai_provider_audits rename to elsewhere`) // so it cannot look up what became of the commit
		require.NoError(t, err)
		require.NoError(t, next.Commit(t.Context()))
		var code int
		wait(&code)
		o.Exec(`alter table elsewhere rename to ai_provider_audits`)
		require.Equal(t, exitError, code, tt.args)
		require.Contains(t, stderr.String(), tt.want)
		require.Contains(t, stdout.String(), tt.wanted)
		if tt.args[0] == "key" {
			require.NotContains(t, stderr.String(), "Run the same command again")
		}
	}
}

// An interruption does not hide what is done, also if the connection ends before it is read again: run again, a
// removal by position would remove the key that has moved up.
func TestO7_AnEditThatIsDoneSaysSo(t *testing.T) {
	t.Parallel()
	for application, args := range map[string][]string{"patient": {"disable", "openai"}, "impatient": {"key", "remove", "openai", "1"}} {
		t.Run(application, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t, "PROVIDER_0_TYPE=openai", twoKeys)
			release := o.commits()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var stdout, stderr bytes.Buffer
			wait := o.runTo(ctx, &stdout, &stderr, append(args, "-database", o.DSN()+" application_name="+application)...)
			o.awaitWaiting(application, "advisory")
			table := o.begin(`set local application_name = 'next'`)
			locked := make(chan error, 1)
			go func() {
				_, err := table.Exec(context.Background(), `lock table ai_providers`) // as soon as the edit has committed
				locked <- err
			}()
			o.awaitWaiting("next", "relation")
			release()
			require.NoError(t, testkit.Awaited(t, locked))
			o.awaitWaiting(application, "relation")
			cancel()
			var code int
			if application == "impatient" {
				wait(&code)
				require.Equal(t, exitInterrupted, code)
				require.Contains(t, stderr.String(), "the change is done, but reading the provider again failed: ")
				require.NotContains(t, stderr.String(), "running the same command again")
			}
			require.NoError(t, table.Rollback(context.Background()))
			if application == "patient" {
				wait(&code)
				require.Zero(t, code, stderr.String())
				require.Contains(t, stdout.String(), "disabled openai")
				require.Empty(t, stderr.String())
			}
		})
	}
}
