package pg

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"example.com/aiseed/internal/text"
)

// An Error is a failure of a server or a connection. It does not contain the server's own
// message and detail.
type Error struct {
	SQLState   string // PostgreSQL Appendix A; "" if the error is not the server's answer
	Constraint string // the violated constraint, or ""
	Table      string // the table concerned, or ""
	Reason     string // "" if SQLState says it, or if the answer was not understood

	Context     error // the context's error, if the context ended the operation
	Transient   bool  // a repetition can succeed
	Lost        bool  // the connection was lost; what was sent before can have been executed
	Unreachable bool  // no connection to a server could be made
	Policy      bool  // a row security policy applies to the role; see [SeeAllRows]
}

func (e *Error) Error() string {
	if e.SQLState != "" {
		return "SQLSTATE " + e.SQLState
	}
	return e.Reason
}

// lostError is a failure that closed the connection.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// connectError is a failure to get a connection.
type connectError struct{ error }

func (e *connectError) Unwrap() error { return e.error }

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
		config  *pgconn.ConnectError
	)
	if errors.As(err, &known) {
		return *known
	}
	out := Error{Context: ctx.Err()}
	out.Lost = errors.As(err, &lost)
	out.Transient = out.Lost || errors.As(err, &written) || errors.Is(err, errRolledBack)
	// A pool that was closed, or a hook of it, is not mended by waiting.
	out.Unreachable = errors.As(err, &connect) && errors.As(err, &config)
	switch {
	case errors.As(err, &pgErr):
		out.SQLState, out.Constraint, out.Table = pgErr.Code, pgErr.ConstraintName, pgErr.TableName
		// The routine of the server's source that refuses is in every version from 9.5 on.
		out.Policy = pgErr.Code == "42501" && pgErr.Routine == "check_enable_rls"
	case connect != nil:
		out.Reason = connectReason(err)
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

func connectReason(err error) string {
	var config *pgconn.ConnectError
	if !errors.As(err, &config) {
		return "the pool gave no connection: it is closed, or a hook of it failed"
	}
	c := config.Config
	// If the connection string is badly encoded, a part of the password can be read as
	// the host or the name of the database.
	where := "the server"
	if !strings.Contains(c.Host, "@") {
		where = fmt.Sprintf("%s, port %d", text.Printable(c.Host), c.Port)
	}
	if !strings.ContainsAny(c.Database, "@:/") && c.Database != "" {
		where += ", database " + text.Printable(c.Database)
	}
	return "cannot connect to " + where + ": " + networkReason(err) + "; check that the server runs there"
}

func networkReason(err error) string {
	var (
		errno  syscall.Errno
		dnsErr *net.DNSError
		netErr net.Error

		certificate *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &dnsErr):
		return "the host name cannot be resolved"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &certificate):
		return "the server's certificate is not accepted"
	case strings.Contains(err.Error(), "server refused TLS connection"):
		return "the server refuses TLS"
	case strings.Contains(err.Error(), "ValidateConnect failed"):
		return "the server is not of the kind that target_session_attrs asks for"
	case errors.As(err, &netErr) && netErr.Timeout():
		return "timed out"
	}
	return "closed by the other side"
}
