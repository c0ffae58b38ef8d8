package aiseed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"example.com/aiseed/internal/text"
)

// A DatabaseError is what a server or a connection answered. The server's own
// message and detail are not in it, since they can quote a row. It matches
// [ErrDatabase], and the context's error where that is what ended the operation.
type DatabaseError struct {
	Operation  string // what was being done, as in "reading the providers"
	SQLState   string // PostgreSQL Appendix A; "" when it is not the server that answered
	Constraint string // that was violated, or ""
	Table      string // that is concerned, or ""

	reason      string // "" where the SQLSTATE says it
	context     error
	transient   bool // nothing was committed, and a repetition can succeed
	unreachable bool // there was no connection to begin with
}

func (e *DatabaseError) Error() string {
	text := "aiseed: " + e.Operation + ": "
	switch {
	case e.context != nil:
		return text + e.context.Error()
	case e.SQLState == "":
		return text + e.reason
	}
	text += "SQLSTATE " + e.SQLState
	if e.Table != "" {
		text += ", table " + e.Table
	}
	if e.Constraint != "" {
		text += ", constraint " + e.Constraint
	}
	if hint := sqlStateHint(e.SQLState); hint != "" {
		text += ": " + hint
	}
	return text
}

// Unwrap returns [ErrDatabase] and the context's error, if any.
func (e *DatabaseError) Unwrap() []error {
	if e.context != nil {
		return []error{ErrDatabase, e.context}
	}
	return []error{ErrDatabase}
}

// SQLSTATEs that decide something. PostgreSQL Appendix A.
const (
	stateReadOnly         = "25006"
	stateInvalidValue     = "22023"
	stateUniqueViolated   = "23505"
	stateUndefinedTable   = "42P01"
	stateUndefinedSchema  = "3F000"
	stateSerialization    = "40001"
	stateDeadlock         = "40P01"
	stateLockTimeout      = "55P03"
	stateCannotConnectNow = "57P03"
)

// sqlStateHint says in words what the operator of a server can do about it.
func sqlStateHint(state string) string {
	switch state {
	case stateReadOnly:
		return "the database is read-only; connect to the primary, or clear default_transaction_read_only"
	case stateLockTimeout:
		return "another transaction holds a lock on these rows for too long; find it in pg_stat_activity, and start again"
	case stateUniqueViolated:
		return "another process keeps writing the same rows, or a row security policy hides them from this role; start again, or check the policies"
	case "42P07", "42701", "42710", "42723":
		return "some of the schema is there already, and the table aiseed_schema does not say so; complete it by hand from the files of aiseed.Migrations"
	case stateUndefinedTable, stateUndefinedSchema, "42703", "42804":
		return "the tables are not those of aiseed's schema; compare them with the files of aiseed.Migrations"
	case "53300":
		return "the server has no connection slot left; raise max_connections, make the pools smaller, or put a pooler between"
	case "53100":
		return "the server's disk is full"
	case "53200":
		return "the server is out of memory"
	case "42501":
		return "the role lacks a privilege on the database, the schema or its tables; grant it, or connect as their owner"
	case "28P01", "28000":
		return "the server refused the login; check user, password and pg_hba.conf"
	case "3D000":
		return "the database does not exist; create it, or check the connection string"
	case "57014":
		return "the server cancelled the statement; check statement_timeout of the role and the database"
	case "57P01", "57P02", stateCannotConnectNow:
		return "the server is shutting down or starting up; start again when it is there"
	}
	return ""
}

// lostError is a failure that closed the connection.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// connectError is a failure to get a connection.
type connectError struct{ error }

func (e *connectError) Unwrap() error { return e.error }

// rowsError is a statement that did not write the rows that it should.
type rowsError struct {
	table     string
	want, got int
}

func (e *rowsError) Error() string {
	return fmt.Sprintf("%d of %s of %s could not be written; someone keeps changing them, or a row security policy, a rule or a trigger forbids it to this role", e.want-e.got, text.Count(e.want, "row"), e.table)
}

var errRolledBack = errors.New("the server answered the commit with a rollback")

// databaseError turns what pgx reports into a DatabaseError, and leaves behind
// everything that could quote a row, a parameter or a connection string. What is
// already an error of this package stays as it is.
func databaseError(ctx context.Context, operation string, err error) error {
	var (
		decrypt *DecryptError
		pgErr   *pgconn.PgError
		lost    *lostError
		connect *connectError
		written *rowsError
	)
	if err == nil || errors.As(err, &decrypt) {
		return err
	}
	out := &DatabaseError{Operation: operation, context: ctx.Err()}
	out.transient = errors.As(err, &lost) || errors.As(err, &written) || errors.Is(err, errRolledBack)
	out.unreachable = errors.As(err, &connect)
	switch {
	case errors.As(err, &pgErr):
		out.SQLState, out.Constraint, out.Table = pgErr.Code, pgErr.ConstraintName, pgErr.TableName
	case out.unreachable:
		out.reason = connectReason(err)
	case lost != nil:
		out.reason = "the connection was lost: " + networkReason(err)
	case errors.As(err, &written):
		out.Table, out.reason = written.table, written.Error()
	case errors.Is(err, errRolledBack):
		out.reason = errRolledBack.Error()
	default:
		// Scanning quotes what it scans.
		out.reason = "the server's answer was not understood; are the tables those of aiseed's schema?"
	}
	return out
}

func connectReason(err error) string {
	var config *pgconn.ConnectError
	if !errors.As(err, &config) {
		return "the pool gave no connection: it is closed, or a hook of it failed"
	}
	c := config.Config
	// In a badly encoded connection string a part of the password can pass for
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
