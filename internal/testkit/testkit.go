// Package testkit has helpers that tests of several packages need and that do not depend on the
// library: a limit for waiting, a wire that counts and cuts, a recorder of logs, golden files,
// and a search for secrets.
package testkit

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// Patience is how long a test waits for something that must happen. A correct library
// never reaches it, however slow the machine is; it ends tests that hang.
const Patience = 2 * time.Minute

// Awaited returns the next value from a channel, and fails if none comes.
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

// RequireRefused requires that the server refused with this SQLSTATE and constraint. It
// ignores the server's message, whose language can vary.
func RequireRefused(t *testing.T, err error, sqlState, constraint string, args ...any) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused, args...)
	require.Equal(t, []string{sqlState, constraint}, []string{refused.Code, refused.ConstraintName}, args...)
}

// With returns a copy of an environment with words appended.
func With(environ []string, words ...string) []string { return append(slices.Clone(environ), words...) }
