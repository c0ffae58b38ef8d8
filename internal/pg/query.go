package pg

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"example.com/aiseed/internal/text"
)

// A Query is one statement with its parameters in text format.
type Query struct {
	SQL  string
	Args [][]byte
	Rows func(pgx.Rows) error // nil if the result does not matter

	written *rowsError // what it means that the server refuses it
}

// Write is a statement that has to write n rows of a table. If it writes another number, because
// somebody changed the rows meanwhile or a trigger forbids it, the server itself refuses it, and so
// the commit that is sent behind it. Servers take no such statement on a table with a rule for it;
// see https://www.postgresql.org/docs/current/queries-with.html.
func Write(table string, n int, sql string, args ...[]byte) Query {
	return Query{
		SQL:     "with written as (" + sql + "\nreturning 1)\nselect 1 / (count(*) = " + strconv.Itoa(n) + ")::int from written",
		Args:    args,
		written: &rowsError{table, n},
	}
}

// JSON encodes a parameter. Nil slices become empty lists. It panics on a value that JSON
// cannot encode.
func JSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	if string(b) == "null" {
		return []byte("[]")
	}
	return b
}

// Int64 encodes a parameter.
func Int64(n int64) []byte { return strconv.AppendInt(nil, n, 10) }

// Milliseconds encodes a timeout for the server, at least one millisecond: 0 would mean no
// timeout at all.
func Milliseconds(d time.Duration) []byte { return Int64(max(1, d.Milliseconds())) }

// One scans the only row of a result. Any other number of rows is an error.
func One(into ...any) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		_, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) {
			return struct{}{}, row.Scan(into...)
		})
		return err
	}
}

type rowsError struct {
	table string
	want  int
}

func (e *rowsError) Error() string {
	return fmt.Sprintf("want %s of %s written, and the server wrote another number; someone keeps changing the table, or a trigger forbids it",
		text.Count(e.want, "row"), e.table)
}

// explain returns what the error of a [Write] means. An error in a trigger has a context.
func (e *rowsError) explain(err error) error {
	var answer *pgconn.PgError
	switch {
	case !errors.As(err, &answer) || answer.Where != "":
	case answer.Code == stateDivisionByZero:
		return e
	case answer.Code == stateFeatureNotSupported:
		return &Error{SQLState: answer.Code, Table: e.table, Reason: "SQLSTATE " + answer.Code + ": a rule on " + e.table +
			" hides from the client what it writes; drop the rule, or make it a trigger"}
	}
	return err
}

// SelectLockHolder finds who holds the advisory lock of the key $1 in this database: the pid,
// application name and address ("" if there is none), and the start of the transaction.
// pg_locks shows a 64-bit key as two halves. A role without pg_read_all_stats sees nulls for
// the sessions of other roles.
const SelectLockHolder = `
select a.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), ''), a.xact_start
  from pg_locks l join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted and l.objsubid = 1
   and l.database = (select oid from pg_database where datname = current_database())
   and (l.classid::bigint << 32 | l.objid::bigint) = $1`

// DescribeSession names what SelectLockHolder finds. It leaves out what is zero.
func DescribeSession(pid int, application, address string, since time.Time) string {
	said := fmt.Sprintf("pid %d", pid)
	if application != "" {
		said += fmt.Sprintf(", application %q", application)
	}
	if address != "" {
		said += ", from " + address
	}
	if !since.IsZero() {
		said += ", since " + since.UTC().Format(time.RFC3339)
	}
	return said
}
