package robustness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/testkit"
)

// A queryRecorder is a tracer that knows no batches.
type queryRecorder struct {
	mu      sync.Mutex
	open    int
	queries []tracedQuery
}

type tracedQuery struct {
	sql  string
	args []any
	tag  pgconn.CommandTag
	err  error
}

type traceKey struct{}

func (r *queryRecorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open++
	return context.WithValue(ctx, traceKey{}, tracedQuery{sql: data.SQL, args: data.Args})
}

func (r *queryRecorder) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	q := ctx.Value(traceKey{}).(tracedQuery)
	q.tag, q.err = data.CommandTag, data.Err
	r.queries = append(r.queries, q)
}

// A batchRecorder is a tracer that knows batches, as those of observability libraries do.
type batchRecorder struct {
	queryRecorder
	batches []*tracedBatch
}

type tracedBatch struct {
	sql     []string
	results []tracedQuery
	ended   int
	err     error
}

func (r *batchRecorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &tracedBatch{}
	for _, q := range data.Batch.QueuedQueries {
		b.sql = append(b.sql, q.SQL)
		if q.Arguments != nil {
			panic("a parameter")
		}
	}
	r.batches = append(r.batches, b)
	return context.WithValue(ctx, traceKey{}, b)
}

func (r *batchRecorder) TraceBatchQuery(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := ctx.Value(traceKey{}).(*tracedBatch)
	b.results = append(b.results, tracedQuery{data.SQL, data.Args, data.CommandTag, data.Err})
}

func (r *batchRecorder) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := ctx.Value(traceKey{}).(*tracedBatch)
	b.ended++
	b.err = data.Err
}

func traced(t pgx.QueryTracer) func(*aiseed.StoreOptions, *pgxpool.Config) {
	return func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.ConnConfig.Tracer = t }
}

// L9: a tracer sees each statement that is sent, with its result, and never a parameter.
func TestL9_TracerSeesEveryStatement(t *testing.T) {
	t.Parallel()
	batches, queries := &batchRecorder{}, &queryRecorder{}
	var seen [2][]string
	// The store looks for its tables before it makes them.
	missing := func(err error) bool {
		var server *pgconn.PgError
		return errors.As(err, &server) && server.Code == "42P01"
	}
	for _, tracer := range []pgx.QueryTracer{batches, queries} {
		f := setup(t, traced(tracer), func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Schema, o.Migrate = "traced", true })
		f.Seeded("OPENAI_KEY=key")
		_, sent := f.Wire.Count()
		for _, b := range batches.batches {
			for _, sql := range b.sql {
				require.Contains(t, sent, sql)
			}
		}
	}
	for _, b := range batches.batches {
		require.Equal(t, 1, b.ended)
		require.True(t, b.err == nil || missing(b.err), "%v", b.err)
		require.Len(t, b.results, len(b.sql))
		for i, q := range b.results {
			require.Equal(t, b.sql[i], q.sql)
			require.Nil(t, q.args)
			require.True(t, q.err == nil && q.tag.String() != "" || missing(q.err), "%v", q)
			seen[0] = append(seen[0], q.sql+": "+q.tag.String())
		}
	}
	require.Empty(t, batches.queries)
	for _, q := range queries.queries {
		require.Nil(t, q.args)
		require.True(t, q.err == nil || missing(q.err), "%v", q)
		seen[1] = append(seen[1], q.sql+": "+q.tag.String())
	}
	require.Zero(t, queries.open, "each was ended")
	require.Equal(t, seen[0], seen[1])
	require.Contains(t, seen[0], "commit: COMMIT")
	require.Contains(t, fmt.Sprint(seen[0]), "insert into")
	require.Contains(t, fmt.Sprint(seen[0]), "create table ai_providers", "the scripts of a migration too")
}

// L9: a failure is seen with its SQLSTATE, and without what the server says about values.
func TestL9_TracerSeesFailures(t *testing.T) {
	t.Parallel()
	batches, queries := &batchRecorder{}, &queryRecorder{}
	for _, tracer := range []pgx.QueryTracer{batches, queries} {
		f := setup(t, traced(tracer))
		f.Exec(`alter table ai_provider_audits add constraint refused check (provider_name <> 'openai')`)
		require.Error(t, f.Seed(f.Parse("OPENAI_KEY=key")))
	}
	failed := batches.batches[len(batches.batches)-2] // the last is the rollback
	require.Equal(t, 1, failed.ended)
	require.Len(t, failed.results, len(failed.sql), "those behind the failed one were not executed, and end with its error")
	for _, err := range []error{failed.err, failed.results[len(failed.results)-1].err, queries.queries[len(queries.queries)-2].err} {
		var server *pgconn.PgError
		require.ErrorAs(t, err, &server)
		require.Equal(t, "23514", server.Code)
		require.Equal(t, "refused", server.ConstraintName)
		require.Empty(t, server.Detail)
		require.NotContains(t, fmt.Sprintf("%+v %#v", err, server), "openai")
	}
	require.Zero(t, queries.open)

	f := setup(t, traced(queries))
	holder := f.Hold("public")
	ctx, cancel := context.WithCancel(context.Background())
	f.Wire.Reset(f.Wire.OnceWritten(testkit.Pass, "pg_advisory_xact_lock", cancel))
	queries.queries = nil
	require.ErrorIs(t, aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), f.Audits, slog.Logger{}), context.Canceled)
	require.NoError(t, holder.Close(context.Background()))
	require.Zero(t, queries.open)
	require.Equal(t, context.Canceled, queries.queries[len(queries.queries)-1].err)
}
