package aiseed

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"example.com/aiseed/internal/pg"
)

// A DatabaseError reports a failure of a server or a connection. It omits the
// server's own message and detail, because they can quote a row. It matches
// [ErrDatabase], the context's error if that ended the operation, and the error of a
// hook of the host's pool if that failed, whose text it omits too.
type DatabaseError struct {
	Operation  string // what was being done, such as "reading the providers"
	SQLState   string // PostgreSQL Appendix A; "" if the error is not the server's answer
	Constraint string // the violated constraint, or ""
	Table      string // the table concerned, or ""

	cause    pg.Error
	policies []string // if a row security policy caused the failure: the tables with one for our role
	lacks    string   // if a migration's role lacks a privilege: which, and the statement that grants it
}

func (e *DatabaseError) Error() string {
	text := "aiseed: " + e.Operation + ": "
	switch {
	case e.cause.Context != nil:
		return text + e.cause.Context.Error()
	case e.cause.Reason != "":
		return text + e.cause.Reason
	case e.SQLState == "":
		return text + "the server's answer was not understood; are the tables those of aiseed's schema?"
	}
	if e.cause.Policy {
		return text + policyText(e.policies)
	}
	text += "SQLSTATE " + e.SQLState
	if e.Table != "" {
		text += ", table " + e.Table
	}
	if e.Constraint != "" {
		text += ", constraint " + e.Constraint
	}
	if hint := cmp.Or(e.lacks, sqlStateHint(e.SQLState)); hint != "" {
		text += ": " + hint
	}
	return text
}

// Unwrap returns [ErrDatabase], the context's error, if any, and an error that stands for that of a hook, if any:
// [errors.Is] and [errors.As] find what the hook returned, and nothing prints it.
func (e *DatabaseError) Unwrap() []error {
	matches := []error{ErrDatabase}
	if e.cause.Context != nil {
		matches = append(matches, e.cause.Context)
	}
	if e.cause.Hook != nil {
		matches = append(matches, e.cause.Hook)
	}
	return matches
}

// SQLSTATEs that this package acts on. PostgreSQL Appendix A.
const (
	stateReadOnly         = "25006"
	stateUniqueViolated   = "23505"
	stateNoPrivilege      = "42501"
	stateUndefinedTable   = "42P01"
	stateUndefinedSchema  = "3F000"
	stateUndefinedColumn  = "42703"
	stateDatatypeMismatch = "42804"
	stateSerialization    = "40001"
	stateDeadlock         = "40P01"
	stateLockTimeout      = "55P03"
	stateCancelled        = "57014"
	stateCannotConnectNow = "57P03"
)

// sqlStateHint says what an operator can do about a SQLSTATE.
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
	case stateUndefinedTable, stateUndefinedSchema, stateUndefinedColumn, stateDatatypeMismatch:
		return "the tables are not those of aiseed's schema; compare them with the files of aiseed.Migrations"
	case stateNoPrivilege:
		return "the role lacks a privilege on the database, the schema or its tables; grant it, or connect as their owner"
	case "57P01", "57P02":
		return "the server is shutting down; start again when it is there"
	}
	return pg.StateHint(state)
}

// databaseError turns an error of internal/pg into a DatabaseError, and nil into nil.
func databaseError(ctx context.Context, operation string, err error) error {
	if err == nil {
		return nil
	}
	cause := pg.Classify(ctx, err)
	return &DatabaseError{
		Operation: operation, SQLState: cause.SQLState, Constraint: cause.Constraint, Table: cause.Table,
		cause: cause,
	}
}

// withoutOurDeadline replaces an error of a context that is ours: the caller set no such deadline. Its
// connection does not count as lost, since another one would have no time either.
func withoutOurDeadline(err error, limit string) error {
	var db *DatabaseError
	if !errors.As(err, &db) || db.cause.Context == nil {
		return err
	}
	return &DatabaseError{Operation: db.Operation, cause: pg.Error{Unreachable: true, Reason: "neither the pool nor the server answered within " + limit}}
}

// policyText says what to do about row security policies on tables.
func policyText(tables []string) string {
	where := "a table"
	if len(tables) > 0 {
		where = strings.Join(tables, " and ")
	}
	return "SQLSTATE 42501: a row security policy on " + where + " applies to this role, so it could hide rows; connect as the owner of " +
		"the tables (without force row level security), give the role BYPASSRLS, or run: alter table … disable row level security"
}

const (
	// liveNameConstraint is the index that allows one live row per name.
	liveNameConstraint = "ai_providers_live_name_key"
	// keyPositionConstraint allows one key per position of a provider.
	keyPositionConstraint = "ai_provider_keys_position_key"
)

// hasState reports whether err is the server's answer with one of the SQLSTATEs.
func hasState(err error, states []string) bool {
	var db *DatabaseError
	return errors.As(err, &db) && slices.Contains(states, db.SQLState)
}

// retry calls do until it succeeds, fails permanently, or has failed too often.
func retry(ctx context.Context, do func() error) error {
	return pg.Retry(ctx, tryAgain, do)
}

// tryAgain reports whether to repeat a failed attempt. Attempts are counted from 1. A server
// that restarts needs some time. If the first attempt already cannot reach the server, fail
// promptly, so that the operator can look at it.
func tryAgain(err error, attempt int) bool {
	return isTransient(err) || attempt > 1 && isUnreachable(err)
}

// isTransient reports whether the same call can succeed later. This covers serialization
// failures, deadlocks, another process's row of the same name or at the same position, and
// connections that were lost.
func isTransient(err error) bool {
	var db *DatabaseError
	if !errors.As(err, &db) || db.cause.Context != nil {
		return false
	}
	switch db.SQLState {
	case stateSerialization, stateDeadlock:
		return true
	case stateUniqueViolated:
		return db.cause.Transient || db.Constraint == liveNameConstraint || db.Constraint == keyPositionConstraint
	}
	return db.cause.Transient
}

// isTimeLimit reports whether the server ended a statement because it took too long.
func isTimeLimit(err error) bool {
	var db *DatabaseError
	return errors.As(err, &db) && db.cause.Context == nil && (db.SQLState == stateCancelled || db.SQLState == stateLockTimeout)
}

func isUnreachable(err error) bool {
	var db *DatabaseError
	return errors.As(err, &db) && db.cause.Context == nil && (db.cause.Unreachable || db.SQLState == stateCannotConnectNow)
}

// isLost reports whether the connection was lost for another reason than a cancelled operation.
func isLost(err error) bool {
	var db *DatabaseError
	return errors.As(err, &db) && db.cause.Context == nil && db.cause.Lost
}
