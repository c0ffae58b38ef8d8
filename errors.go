package aiseed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
)

// The classes of errors, for [errors.Is]. Behind those that carry data stands a
// type of its own, for [errors.As]. No error quotes a secret.
var (
	// ErrInvalidConfig: the environment or a Config asks for something
	// impossible. See [ConfigError].
	ErrInvalidConfig = errors.New("aiseed: invalid configuration")
	// ErrDrift: environment and database disagree about what a provider does.
	// See [DriftError].
	ErrDrift = errors.New("aiseed: the environment does not match the database")
	// ErrLockTimeout: another process held the lock for too long. See
	// [LockTimeoutError].
	ErrLockTimeout = errors.New("aiseed: timed out waiting for the lock")
	// ErrSchema: the tables are missing, or older than this library needs.
	ErrSchema = errors.New("aiseed: the database schema is not the one needed")
	// ErrKeyring: a keyring cannot be built, or does not fit the database.
	ErrKeyring = errors.New("aiseed: the keyring is not the one needed")
	// ErrUndecryptable: a stored value does not open. See [DecryptError].
	ErrUndecryptable = errors.New("aiseed: a stored value cannot be opened")
	// ErrPlaintext: a keyring is in use and a stored value is not sealed. See
	// [DecryptError].
	ErrPlaintext = errors.New("aiseed: a stored value is not sealed")
	// ErrCommitUnknown: the connection was lost after the commit was sent, and
	// the server could not be asked what became of it. Either everything was
	// written or nothing was.
	ErrCommitUnknown = errors.New("aiseed: it is not known whether the transaction was committed")
	// ErrDatabase: the database could not be reached, or refused a statement.
	// See [DatabaseError].
	ErrDatabase = errors.New("aiseed: the database cannot be used")
)

// classError is an error whose text needs no more than its class.
type classError struct {
	class error
	text  string
}

func (e *classError) Error() string { return "aiseed: " + e.text }
func (e *classError) Unwrap() error { return e.class }

func keyringErrorf(format string, args ...any) error {
	return &classError{class: ErrKeyring, text: "keyring: " + fmt.Sprintf(format, args...)}
}

func schemaErrorf(format string, args ...any) error {
	return &classError{class: ErrSchema, text: "schema: " + fmt.Sprintf(format, args...)}
}

// A ConfigError lists everything that is wrong with an environment or a
// [Config], in the order of the variables. It matches [ErrInvalidConfig].
type ConfigError struct {
	Problems []Problem
}

// A Problem is one thing wrong with a configuration.
type Problem struct {
	// Variables are the full names of the variables concerned.
	Variables []string
	// Provider is the provider's name, or "" where it has none (yet).
	Provider string
	// Reason says what was wanted and what was found, without the value.
	Reason string
}

func (p Problem) String() string {
	var variables []string
	for _, v := range p.Variables {
		variables = append(variables, printable(v))
	}
	text := strings.Join(variables, ", ")
	if p.Provider != "" {
		text += " (provider " + p.Provider + ")"
	}
	return text + ": " + p.Reason
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "aiseed: %s in the configuration of AI providers; nothing was changed", count(len(e.Problems), "problem"))
	for i, p := range e.Problems {
		fmt.Fprintf(&b, "\n  %2d. %s", i+1, p)
	}
	return b.String()
}

// Unwrap returns [ErrInvalidConfig].
func (e *ConfigError) Unwrap() error { return ErrInvalidConfig }

// A DriftError lists every provider that environment and database describe
// differently. Nothing was written. It matches [ErrDrift].
type DriftError struct {
	Providers []ProviderDrift // in order of name
}

// A ProviderDrift is one provider that drifted.
type ProviderDrift struct {
	Name   string
	ID     uuid.UUID // of the stored row
	Fields []FieldDrift
}

// A FieldDrift is one field that differs. The values of a base URL's query are
// masked.
type FieldDrift struct {
	Field       string // "type", "base URL" or "Bedrock region"
	Stored      string // "" for none
	Environment string // "" for none
	Variable    string // where the environment's value comes from, or would

	note, variableNote string // for a reader
}

// write shows the field, each line with an indent.
func (f FieldDrift) write(b *strings.Builder, indent string) {
	environment := orNone(f.Environment)
	if f.note != "" {
		environment += " (" + f.note + ")"
	}
	for _, line := range [][2]string{{"database:", orNone(f.Stored)}, {"environment:", environment}, {"variable:", f.Variable + f.variableNote}} {
		fmt.Fprintf(b, "%s%-13s %s\n", indent, line[0], line[1])
	}
}

func (e *DriftError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "aiseed: the environment and the database disagree about %s; nothing was changed\n", count(len(e.Providers), "AI provider"))
	for _, p := range e.Providers {
		fmt.Fprintf(&b, "\n  %s (id %s)\n", p.Name, p.ID)
		for _, f := range p.Fields {
			fmt.Fprintf(&b, "    %s\n", f.Field)
			f.write(&b, "      ")
		}
	}
	b.WriteString(`
The database is the source of truth; the environment only creates providers that
do not exist yet. For each provider above, do one of these and start again:
  - to keep what the database has, set each variable to the database's value
    (unset it for "none"), or remove the provider's variables altogether (indexed
    providers after it move up by one: their numbers have no gap);
  - to get what the environment has, change the provider in the database, through
    a server that still runs or in SQL.`)
	return b.String()
}

// Unwrap returns [ErrDrift].
func (e *DriftError) Unwrap() error { return ErrDrift }

// A LockTimeoutError says which lock was waited for in vain, and who holds it.
// It matches [ErrLockTimeout].
type LockTimeoutError struct {
	Key    int64       // of pg_advisory_xact_lock
	Holder *LockHolder // nil when it was gone by the time of asking
	waited time.Duration
}

// A LockHolder is the session that holds an advisory lock. What the server does
// not show to our role, or cannot know, is zero.
type LockHolder struct {
	PID             int
	ApplicationName string
	ClientAddr      string    // "" for a Unix socket
	Since           time.Time // the start of its transaction
}

func (e *LockTimeoutError) Error() string {
	text := fmt.Sprintf("aiseed: waited %s for advisory lock %d, which another process holds while it seeds AI providers; nothing was changed", e.waited, e.Key)
	if e.Holder == nil {
		return text + ". The holder is gone by now: start again"
	}
	h := e.Holder
	text += fmt.Sprintf(". Holder: pid %d", h.PID)
	if h.ApplicationName != "" {
		text += fmt.Sprintf(", application %q", h.ApplicationName)
	}
	if h.ClientAddr != "" {
		text += ", from " + h.ClientAddr
	}
	if !h.Since.IsZero() {
		text += ", since " + h.Since.UTC().Format(time.RFC3339)
	}
	return text + fmt.Sprintf(". Start again; if it is still there, end it with: select pg_terminate_backend(%d)", h.PID)
}

// Unwrap returns [ErrLockTimeout].
func (e *LockTimeoutError) Unwrap() error { return ErrLockTimeout }

// A DecryptError names a stored value that cannot be handed out as a secret. It
// matches [ErrUndecryptable], or [ErrPlaintext] where the value is not sealed at
// all although a keyring is in use.
type DecryptError struct {
	Table, Column string
	RowID         uuid.UUID
	KeyID         string // the key that should open it; "" where the row names none

	plaintext, malformed bool
}

func (e *DecryptError) Error() string {
	where := fmt.Sprintf("aiseed: %s.%s of row %s", e.Table, e.Column, e.RowID)
	if e.plaintext {
		return where + " is not sealed, but a keyring is in use. If these rows were written before there was a keyring, seal them with Store.SealPlaintext; if not, someone wrote to the table behind the server's back"
	}
	if e.malformed {
		return where + " opens, but what is in it was not written by this library, or by a later version of it"
	}
	if e.KeyID == "" {
		return where + " is sealed, but the name of its key is missing beside it; restore the row from a backup"
	}
	return where + " does not open with key " + e.KeyID + ". Either the keyring lacks this key, or the value was damaged or copied from another row"
}

// Unwrap returns [ErrPlaintext] or [ErrUndecryptable].
func (e *DecryptError) Unwrap() error {
	if e.plaintext {
		return ErrPlaintext
	}
	return ErrUndecryptable
}

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
	stateUniqueViolated   = "23505"
	stateUndefinedTable   = "42P01"
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
	return fmt.Sprintf("%d of %s of %s could not be written; a row security policy, a rule or a trigger forbids it to this role", e.want-e.got, count(e.want, "row"), e.table)
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
	out.transient = errors.As(err, &lost) || errors.Is(err, errRolledBack)
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
	return fmt.Sprintf("cannot connect to %s, port %d, database %q: %s; check that the server runs there",
		c.Host, c.Port, c.Database, networkReason(err))
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

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
