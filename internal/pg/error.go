package pg

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// An Error is a failure of a server or a connection. It does not contain the server's own
// message and detail.
type Error struct {
	SQLState   string // PostgreSQL Appendix A; "" if the error is not the server's answer
	Constraint string // the violated constraint, or ""
	Table      string // the table concerned, or ""
	Reason     string // with the SQLSTATE; "" if SQLState says it all, or if the answer was not understood

	Context     error // the context's error, if the context ended the operation
	Hook        error // if the host's own code failed: matches its error, and does not show it
	Transient   bool  // a repetition can succeed
	Lost        bool  // the connection was lost; what was sent before can have been executed
	Unreachable bool  // no connection to a server could be made
	Policy      bool  // a row security policy applies to the role; see [SeeAllRows]
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return "SQLSTATE " + e.SQLState
	}
	return e.Reason
}

// lostError is a failure that closed the connection.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

var errRolledBack = errors.New("the server answered the commit with a rollback")

func lostIfClosed(conn *pgx.Conn, err error) error {
	if conn.IsClosed() {
		return &lostError{err}
	}
	return err
}

// Classify turns an error of this package into an [Error] and drops everything that
// could quote a row, a parameter or a connection string. ctx is the context of the
// operation that failed. err must not be nil.
func Classify(ctx context.Context, err error) Error {
	var (
		known   *Error
		pgErr   *pgconn.PgError
		lost    *lostError
		connect *connectError
		written *rowsError
	)
	if errors.As(err, &known) {
		return *known
	}
	out := Error{Context: ctx.Err()}
	out.Lost = errors.As(err, &lost)
	out.Transient = out.Lost || errors.As(err, &written) || errors.Is(err, errRolledBack)
	switch {
	case errors.As(err, &connect):
		if out.Context == nil {
			connect.explain(&out)
		}
	case errors.As(err, &pgErr):
		out.SQLState, out.Constraint, out.Table = pgErr.Code, pgErr.ConstraintName, pgErr.TableName
		// The routine of the server's source that refuses is in every version from 9.5 on.
		out.Policy = pgErr.Code == "42501" && pgErr.Routine == "check_enable_rls"
		if byPooler(pgErr) {
			out.Reason = refusal{answer: pgErr}.whileConnected()
		}
	case lost != nil:
		out.Reason = "the connection was lost: " + networkReason(err)
	case written != nil:
		out.Table, out.Reason = written.table, written.Error()
	case errors.Is(err, errRolledBack):
		out.Reason = errRolledBack.Error()
	}
	// Any other error is a scan error. Its text is dropped, because it quotes what it scans.
	return out
}

func networkReason(err error) string {
	var (
		errno  syscall.Errno
		dnsErr *net.DNSError
		netErr net.Error
	)
	switch {
	case errors.As(err, &dnsErr):
		return "the host name cannot be resolved"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &netErr) && netErr.Timeout():
		return "timed out"
	}
	return "closed by the other side"
}

// StateHint says what an operator can do about a SQLSTATE that has the same reason whatever the statement, or "".
func StateHint(state string) string {
	switch state {
	case "53100":
		return "the server's disk is full"
	case "53200":
		return "the server is out of memory"
	case "08P01":
		return "a pooler refused it, most likely one that pools statements: connect to the server itself, or set pool_mode = transaction"
	case "57014":
		return "the server cancelled the statement; check statement_timeout of the role and the database"
	}
	return ""
}
