package robustness

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// manyProviders is an environment of n providers with three keys each.
func manyProviders(n int) []string {
	var lines []string
	for i := range n {
		at := fmt.Sprintf("PROVIDER_%d_", i)
		lines = append(lines, at+"TYPE=openai", at+fmt.Sprintf("NAME=provider-%d", i), at+fmt.Sprintf("BASE_URL=https://api-%d.example.com/v1", i),
			at+fmt.Sprintf("KEYS=sk-%[1]d-first-of-three,sk-%[1]d-second-of-three,sk-%[1]d-third-of-three", i))
	}
	return lines
}

// Q1, Q2, L8: a start costs the same round trips at any number of providers, in any
// query-exec mode, through a proxy, and on a connection that has seen no statement
// yet. Without -torture, the test does not try each combination of these.
func TestQ1_RoundTrips(t *testing.T) {
	t.Parallel()
	server, proxy := storetest.BehindPgBouncer(t)
	admin, err := pgxpool.New(context.Background(), server.DSN(""))
	require.NoError(t, err)
	t.Cleanup(admin.Close)

	modes := []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}
	for _, n := range []int{1, 10, 100, 1000} {
		for _, mode := range modes {
			for _, through := range []struct{ name, dsn string }{{"direct", server.DSN("")}, {"through PgBouncer", proxy.DSN("")}} {
				for _, connection := range []string{"warm", "fresh"} {
					if n > 10 && mode != modes[0] {
						continue // a few providers show what depends on a mode
					}
					// Each mode and each size on a fresh connection, and each of the others once.
					some := n == 10 && connection == "fresh" ||
						n == 1 && mode == modes[0] && (through.name == "direct") == (connection == "warm") ||
						n == 1000 && mode == modes[0] && through.name == "direct" && connection == "fresh"
					if !some && !*torture {
						continue
					}
					t.Run(fmt.Sprintf("%d providers, %s, %s, %s", n, mode, through.name, connection), func(t *testing.T) {
						config, err := pgxpool.ParseConfig(through.dsn)
						require.NoError(t, err)
						w := &testkit.Wire{}
						config.ConnConfig.DialFunc = w.Dial
						config.ConnConfig.DefaultQueryExecMode = mode
						config.MaxConns = 1
						config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
						pool, err := pgxpool.NewWithConfig(context.Background(), config)
						require.NoError(t, err)
						defer pool.Close()
						_, err = admin.Exec(context.Background(), `drop schema if exists counted cascade`)
						require.NoError(t, err)
						require.NoError(t, aiseed.Migrate(context.Background(), admin, "counted"))
						ring, audits := aiseedtest.NewKeyring(t), &aiseedtest.AuditRecorder{}
						cfg, err := aiseed.ParseEnviron(context.Background(), storetest.Prefixed(append(manyProviders(n), "BEDROCK_REGION=eu-central-1")), slog.Logger{})
						require.NoError(t, err)

						handshake := 0
						trips := func(do func() error) (int, string) {
							if connection == "fresh" {
								pool.Reset()
							}
							w.Reset(nil)
							require.NoError(t, do())
							count, sent := w.Count()
							return count - handshake, sent
						}
						handshake, _ = trips(func() error {
							conn, err := pool.Acquire(context.Background())
							if err == nil {
								conn.Release()
							}
							return err
						})
						if connection == "warm" {
							handshake = 0
						}
						var store *aiseed.Store
						count, _ := trips(func() (err error) {
							store, err = aiseed.Open(context.Background(), pool, aiseed.StoreOptions{
								Keyring: ring, Schema: "counted", LockTimeout: testkit.Patience, AuditTimeout: testkit.Patience,
							})
							return err
						})
						require.Equal(t, 1, count, "Open")
						start := func() error {
							return aiseed.SeedAIProvidersFromEnv(context.Background(), store, cfg, audits, slog.Logger{})
						}
						count, _ = trips(start)
						require.LessOrEqual(t, count, 4+4*n/1000, "a first start: one more for each further 1,000 audit entries")
						require.Len(t, audits.Entries(), 4*n+1, "with delivery")
						count, sent := trips(start)
						require.Equal(t, 1, count, "a start that changes nothing")
						require.NotContains(t, sent, "lock")
						require.NotContains(t, sent, "begin")
						var providers []aiseed.Provider
						count, _ = trips(func() (err error) {
							providers, err = store.Providers(context.Background())
							return err
						})
						require.Equal(t, 1, count, "Providers")
						require.Len(t, providers, n+1)
						require.Equal(t, "eu-central-1", providers[0].Bedrock.Region)
						for _, p := range providers[1:] {
							require.Len(t, p.Keys, 3)
							require.Equal(t, strings.Replace(p.Name, "provider", "sk", 1)+"-first-of-three", p.Keys[0].APIKey.Reveal())
						}
						cases.add("Q1 round trips", 1)
					})
				}
			}
		}
	}
}

// Q3: the work is in proportion to the providers of the environment, and does not depend on
// other providers. The test counts allocations, because times are not reliable. The count is
// for the whole process, so this test runs alone.
func TestQ3_WorkGrowsWithTheEnvironmentOnly(t *testing.T) {
	ctx := context.Background()
	count := func(n, foreign, deleted int) map[string]float64 {
		f := setup(t)
		environ := storetest.Prefixed(manyProviders(n))
		cfg := f.Seeded(manyProviders(n)...)
		f.Exec(`insert into ai_providers (id, type, name, enabled) select gen_random_uuid(), 'openai', 'foreign-' || n, false from generate_series(1, $1) n`, foreign)
		f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 0, 'foreign' from ai_providers where name like 'foreign-%'`)
		f.Exec(`insert into ai_providers (id, type, name, deleted) select gen_random_uuid(), 'openai', name, true from ai_providers, generate_series(1, $1) where name like '%-0'`, deleted)
		counts := map[string]float64{}
		for operation, do := range map[string]func() error{
			"parse":     func() error { _, err := aiseed.ParseEnviron(ctx, environ, slog.Logger{}); return err },
			"plan":      func() error { _, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, cfg, slog.Logger{}); return err },
			"start":     func() error { return aiseed.SeedAIProvidersFromEnv(ctx, f.Store, cfg, f.Audits, slog.Logger{}) },
			"Providers": func() error { _, err := f.Store.Providers(ctx); return err },
		} {
			counts[operation] = testing.AllocsPerRun(3, func() { require.NoError(t, do()) })
			// The least of many runs: pgx keeps buffers of up to 64 kB in a pool, which a garbage
			// collection empties, and the race detector at random.
			least := math.Inf(1)
			for range 2000 / n {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				require.NoError(t, do())
				runtime.ReadMemStats(&after)
				least = min(least, float64(after.TotalAlloc-before.TotalAlloc))
			}
			counts[operation+", bytes"] = least
		}
		return counts
	}
	few, many, beside, deleted := count(100, 0, 0), count(1000, 0, 0), count(100, 5000, 0), count(100, 0, 5000)
	for operation := range few {
		require.Less(t, many[operation], 12*few[operation], operation)
		require.InEpsilon(t, few[operation], beside[operation], 0.1, "%s beside other providers", operation)
		require.InEpsilon(t, few[operation], deleted[operation], 0.1, "%s beside deleted providers of one name", operation)
	}
}

// A batch that is larger than the buffers of the connection is sent while the server reads
// it. The server does not answer from the middle of a message, and nobody waits for that.
func TestL7_CancelledWhileABatchIsPartlyWritten(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Parse(manyProviders(2000)...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	blocking, err := f.Pool.Begin(context.Background())
	require.NoError(t, err)
	f.Wire.Reset(testkit.Once(testkit.Pass, "insert into", func() {
		// The server stops reading at the insert of providers, with the keys still to come.
		_, err := blocking.Exec(context.Background(), `lock table ai_providers in share mode`)
		assert.NoError(t, err)
	}))
	done := make(chan error, 1)
	go func() {
		done <- aiseed.SeedAIProvidersFromEnv(ctx, f.Store, cfg, f.Audits, slog.Logger{})
	}()
	require.Eventually(t, func() bool {
		return len(f.Rows(`
			select from pg_stat_activity
			 where datname = current_database() and backend_type = 'client backend' and wait_event_type = 'Lock'`)) > 0
	}, time.Minute, time.Millisecond)
	cancel()
	err = <-done
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, blocking.Rollback(context.Background()))
	require.Empty(t, f.Rows(storetest.LeftOver), "at the moment of return")
	require.Empty(t, f.Rows(`select id from ai_providers`))
	require.Equal(t, 1, f.Wire.HalfClosed(), "the server is told that the rest of the message does not come")
}
