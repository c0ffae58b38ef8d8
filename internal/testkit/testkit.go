// Package testkit has what tests of several packages need and what needs to know nothing of the
// library: patience for what has to come, a wire that counts and cuts, a recorder of logs,
// golden files, and a look for secrets.
package testkit

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// Patience is how long a test waits for what has to come. A right library never
// needs it, however slow the machine is; it is there for one that hangs.
const Patience = 2 * time.Minute

// Awaited returns what comes from a channel.
func Awaited[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Patience):
		require.FailNow(t, "it never came")
		panic("unreachable")
	}
}

// RequireRefused is for what a server refuses. Its words are in its own language.
func RequireRefused(t *testing.T, err error, sqlState, constraint string, args ...any) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused, args...)
	require.Equal(t, []string{sqlState, constraint}, []string{refused.Code, refused.ConstraintName}, args...)
}

// With appends words to an environment.
func With(environ []string, words ...string) []string { return append(slices.Clone(environ), words...) }
