package aiseed_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/stdslog"
)

// canaries are secrets that must not show up anywhere.
var canaries = []string{
	"Kb3Xw9Qz7Lm2Rt8Yv4Nc", "short-9Gh2", "Pd6Jf1Ts5Wx0Hk4Zq8Bn3", "Ur7Ev2Ay9Mo4Ci6Sl1Dp8", "Fg5Nt3Kx8Vb1Wj7Qr2He",
}

func canaryEnviron() []string {
	return []string{
		"CODER_AIBRIDGE_OPENAI_KEY=" + canaries[0],
		"CODER_AIBRIDGE_PROVIDER_0_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_0_NAME=two", "CODER_AIBRIDGE_PROVIDER_0_KEYS=" + canaries[1] + "," + canaries[2],
		"CODER_AIBRIDGE_PROVIDER_1_TYPE=anthropic", "CODER_AIBRIDGE_PROVIDER_1_BEDROCK_ACCESS_KEY=" + canaries[3], "CODER_AIBRIDGE_PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET=" + canaries[4],
	}
}

// requireNoCanary looks for 8 characters in a row of any canary, in every form.
func requireNoCanary(t *testing.T, where, text string) {
	t.Helper()
	for _, canary := range canaries {
		for i := 0; i+8 <= len(canary); i++ {
			part := canary[i : i+8]
			for _, form := range []string{part, hex.EncodeToString([]byte(part)), strings.ToUpper(hex.EncodeToString([]byte(part))), url.QueryEscape(part), strings.Trim(fmt.Sprint([]byte(part)), "[]")} {
				require.NotContains(t, text, form, where)
			}
		}
		for shift := range 3 { // base64 of the whole, at any offset
			encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + canary))
			require.NotContains(t, text, encoded[4:len(encoded)-4], where)
		}
	}
}

// tracer keeps what pgx tells of.
type tracer struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (tr *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	fmt.Fprintf(&tr.out, "%+v\n", data)
	return ctx
}

func (tr *tracer) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	fmt.Fprintf(&tr.out, "%+v %#v\n", data, data)
}

func TestS11_NoSecretLeavesTheStore(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server, err := ephemeral.Start(ctx, "log_statement=all", "log_parameter_max_length=-1", "log_parameter_max_length_on_error=-1",
		"log_min_messages=debug1", "log_min_error_statement=debug1", "log_error_verbosity=verbose", "track_activity_query_size=100000")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	trace := &tracer{}
	config, err := pgxpool.ParseConfig(server.DSN("postgres"))
	require.NoError(t, err)
	config.ConnConfig.Tracer = trace
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	var out bytes.Buffer // everything that a host could print
	logger := stdslog.New(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	show := func(values ...any) {
		for _, v := range values {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			b, _ := json.Marshal(v)
			out.Write(append(b, '\n'))
		}
	}

	cfg, err := aiseed.ParseEnviron(ctx, canaryEnviron(), logger)
	require.NoError(t, err)
	ring := aiseedtest.NewKeyring(t)
	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: ring, Migrate: true})
	require.NoError(t, err)
	audits := &aiseedtest.AuditRecorder{}
	plan, err := aiseed.PlanAIProvidersFromEnv(ctx, store, cfg, logger)
	require.NoError(t, err)
	show(cfg, ring, store, plan, plan.String())

	// A failure whose detail quotes the row.
	exec := func(sql string) {
		_, err := pool.Exec(ctx, sql)
		require.NoError(t, err)
	}
	exec(`alter table ai_provider_keys add constraint quoting check (position > 5)`)
	err = aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, audits, logger)
	require.ErrorContains(t, err, "SQLSTATE 23514, table ai_provider_keys, constraint quoting")
	show(err)
	exec(`alter table ai_provider_keys drop constraint quoting`)

	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, audits, logger))
	entries := audits.Entries()
	require.Len(t, entries, 6)
	providers, err := store.Providers(ctx)
	require.NoError(t, err)
	require.Equal(t, canaries[0], providers[1].Keys[0].APIKey.Reveal())
	show(entries, providers)
	for _, e := range entries {
		out.Write(e.New)
	}

	// Divergence, drift and damage.
	other, err := aiseed.ParseEnviron(ctx, []string{"CODER_AIBRIDGE_OPENAI_KEY=" + canaries[4], "CODER_AIBRIDGE_PROVIDER_0_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_0_NAME=two"}, logger)
	require.NoError(t, err)
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, store, other, audits, logger))
	other.LegacyOpenAI.BaseURL = "https://h/?token=" + canaries[0]
	err = aiseed.SeedAIProvidersFromEnv(ctx, store, other, audits, logger)
	require.ErrorIs(t, err, aiseed.ErrDrift)
	show(err)
	bad := []string{"CODER_AIBRIDGE_OPENAI_KEY=" + canaries[0] + " ", "CODER_AIBRIDGE_OPENAI_BASE_URL=" + canaries[2], "CODER_AIBRIDGE_PROVIDER_0_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_0_KEYS=" + canaries[3] + ",," + canaries[3]}
	_, err = aiseed.ParseEnviron(ctx, bad, logger)
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	show(err)
	exec(`update ai_provider_keys set api_key = left(api_key, -3)`)
	_, err = store.Providers(ctx)
	require.ErrorIs(t, err, aiseed.ErrUndecryptable)
	show(err)
	func() {
		defer func() { show(recover()) }()
		panic(fmt.Sprint(cfg, store, providers))
	}()

	var activity string
	require.NoError(t, pool.QueryRow(ctx, `select string_agg(query, E'\n') from pg_stat_activity`).Scan(&activity))
	var dump string
	require.NoError(t, pool.QueryRow(ctx, `select string_agg(x::text, E'\n') from (select to_jsonb(t) from ai_providers t union all select to_jsonb(t) from ai_provider_keys t
		union all select to_jsonb(t) from ai_provider_audits t union all select to_jsonb(t) from ai_encryption_keys t) all_rows (x)`).Scan(&dump))
	log, err := os.ReadFile(server.LogFile())
	require.NoError(t, err)
	require.Contains(t, string(log), "insert into \"public\".ai_provider_keys", "the log is on")
	require.Contains(t, string(log), "aiseed:v1:", "and shows parameters")
	require.NotEmpty(t, trace.out.String())
	for where, text := range map[string]string{
		"what was printed": out.String(), "pg_stat_activity": activity, "the tables": dump, "the server's log": string(log), "the trace": trace.out.String(),
	} {
		require.NotEmpty(t, text, where)
		requireNoCanary(t, where, text)
	}
}

// What somebody wrote into a variable or a row must not look like a line of ours,
// nor move the cursor of who reads it.
func TestS11_HostileTextStaysInItsPlace(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const evil = "\nINJECTED\x1b[2J"
	hostile := evil + "\u202e" + strings.Repeat("x", 400)
	requireHarmless := func(where, text string) {
		t.Helper()
		require.NotEmpty(t, text, where)
		for _, s := range []string{"\nINJECTED", "\x1b", "\u202e"} {
			require.NotContains(t, text, s, where)
		}
	}
	environ := func(lines ...string) []string {
		for i, line := range lines {
			lines[i] = aiseed.DefaultPrefix + line
		}
		return lines
	}
	f := setup(t, plaintext)
	_, err := aiseed.ParseEnviron(ctx, environ("OPENAI_"+hostile+"=x", "PROVIDER_"+hostile+"_TYPE=x", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME="+hostile, "PROVIDER_0_KEY=a", "PROVIDER_0_KEYS=b",
		"PROVIDER_1_TYPE="+hostile, "PROVIDER_1_NAME="+hostile, "PROVIDER_2_TYPE=anthropic", "PROVIDER_2_BEDROCK_REGION="+hostile, "PROVIDER_2_BEDROCK_MODEL="+hostile,
		"PROVIDER_3_TYPE=openai", "PROVIDER_3_KEY_FILE=/"+hostile, "PROVIDER_4_TYPE=openai", "PROVIDER_4_BASE_URL=https://h/"+hostile, "PROVIDER_5_"+hostile+"=x"), f.logs.Logger())
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	requireHarmless("the error of an environment", err.Error())
	requireHarmless("the log", f.logs.String())

	// A type that is skipped may be anything, and so may the row of an operator.
	cfg, err := aiseed.ParseEnviron(ctx, environ("PROVIDER_0_TYPE="+hostile, "PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=a", "PROVIDER_1_BEDROCK_REGION=r\u202e", "PROVIDER_1_BEDROCK_MODEL=m\u202e",
		"PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=b", "PROVIDER_2_BASE_URL=https://h/\u202e?k=v"), f.logs.Logger())
	require.NoError(t, err)
	show := func() {
		t.Helper()
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, f.store, cfg, f.logs.Logger())
		require.NoError(t, err)
		requireHarmless("the plan", plan.String())
		requireHarmless("the steps of a plan", fmt.Sprint(plan.Steps))
		requireHarmless("the log", f.logs.String())
	}
	show()
	require.NoError(t, f.seed(cfg))
	show()
	require.Contains(t, f.logs.String(), "INFO created AI provider provider=b")
	settings := func(region string) {
		raw, err := json.Marshal(map[string]any{"_type": "bedrock", "_version": 1, "region": region, "model": hostile, "small_fast_model": hostile})
		require.NoError(t, err)
		f.exec(`update ai_providers set settings = $1 where settings is not null`, string(raw))
	}
	settings("r\u202e")
	require.NoError(t, f.seed(cfg))
	require.Contains(t, f.logs.String(), "environment and database differ in Bedrock model (database \"\\nINJECTED")
	show()
	settings(hostile)
	f.exec(`update ai_providers set base_url = $1 where name = 'b'`, "https://h/"+hostile)
	err = f.seed(cfg)
	require.ErrorIs(t, err, aiseed.ErrDrift)
	requireHarmless("a drift", err.Error())
	show()
}
