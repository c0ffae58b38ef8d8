package pg

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A trace tells the tracer of a connection's configuration about the statements of one round
// trip: as a batch, or one by one to a tracer that knows no batches. It shows no parameter, and
// of the server's errors nothing that can quote one.
type trace struct {
	conn   *pgx.Conn
	batch  pgx.BatchTracer // nil for a tracer that knows no batches
	single pgx.QueryTracer // nil if there is no tracer
	sql    []string
	ctxs   []context.Context // of the statements, or of the batch
	next   int               // the statement whose result comes next
	since  time.Time         // when it was asked for
}

// startTrace returns the context for the round trip, as [pgx.BatchTracer] asks for, and nil if
// there is no tracer.
func startTrace(ctx context.Context, conn *pgx.Conn, sql ...string) (context.Context, *trace) {
	tracer := conn.Config().Tracer
	if tracer == nil {
		return ctx, nil
	}
	t := &trace{conn: conn, single: tracer, sql: sql, since: time.Now()}
	if t.batch, _ = tracer.(pgx.BatchTracer); t.batch != nil {
		shown := &pgx.Batch{}
		for _, text := range sql {
			shown.Queue(text)
		}
		ctx = t.batch.TraceBatchStart(ctx, conn, pgx.TraceBatchStartData{Batch: shown})
		t.ctxs = []context.Context{ctx}
		return ctx, t
	}
	for _, text := range sql {
		t.ctxs = append(t.ctxs, tracer.TraceQueryStart(ctx, conn, pgx.TraceQueryStartData{SQL: text}))
	}
	return ctx, t
}

// result reports the result of the next statement.
func (t *trace) result(tag pgconn.CommandTag, err error) {
	if t == nil || t.next == len(t.sql) {
		return
	}
	if err = shownError(err); t.batch != nil {
		t.batch.TraceBatchQuery(t.ctxs[0], t.conn, pgx.TraceBatchQueryData{SQL: t.sql[t.next], CommandTag: tag, Err: err, ReadStartTime: t.since})
	} else {
		t.single.TraceQueryEnd(t.ctxs[t.next], t.conn, pgx.TraceQueryEndData{CommandTag: tag, Err: err})
	}
	t.next, t.since = t.next+1, time.Now()
}

// end reports the end of the round trip. The statement that failed ends with err, and so do
// those that were not executed because of it.
func (t *trace) end(err error) {
	if t == nil {
		return
	}
	for err != nil && t.next < len(t.sql) {
		t.result(pgconn.CommandTag{}, err)
	}
	if t.batch != nil {
		t.batch.TraceBatchEnd(t.ctxs[0], t.conn, pgx.TraceBatchEndData{Err: shownError(err)})
	}
}

// shownError is what a tracer is shown of an error. Most tracers look for a [pgconn.PgError].
func shownError(err error) error {
	var server *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &server):
		return &pgconn.PgError{
			Severity: server.Severity, Code: server.Code, Message: "the message is left out, since it can quote a value",
			SchemaName: server.SchemaName, TableName: server.TableName, ConstraintName: server.ConstraintName,
		}
	}
	for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, ended) {
			return ended
		}
	}
	return errors.New(networkReason(err))
}
