package aiseed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

var allKindsEnviron = []string{
	"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=adopted", "PROVIDER_0_BASE_URL=https://new.example/v1",
	"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=deleted", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=diverged", "PROVIDER_2_KEY=key-of-the-environment-02",
	"PROVIDER_3_TYPE=anthropic", "PROVIDER_3_NAME=drifted", "PROVIDER_3_BEDROCK_REGION=eu-central-1", "PROVIDER_4_TYPE=openai", "PROVIDER_4_NAME=kept", "PROVIDER_4_BASE_URL=https://old.example/?token=hunter3hunter3",
	"PROVIDER_5_TYPE=openai", "PROVIDER_5_NAME=unchanged",
	"PROVIDER_8_TYPE=openai", "PROVIDER_8_NAME=moved", "PROVIDER_8_BASE_URL=https://old.example/v1",
	"PROVIDER_6_TYPE=anthropic", "PROVIDER_6_NAME=created", "PROVIDER_6_BEDROCK_BASE_URL=https://vpce-0a1b2c3d.bedrock-runtime.eu-central-1.vpce.amazonaws.com", "PROVIDER_6_BEDROCK_ACCESS_KEY=AKIAQ7ZT5N2LEXAMPLE1", "PROVIDER_6_BEDROCK_ACCESS_KEY_SECRET=q1W2e3R4t5Y6u7I8o9P0aSdFgHjKlZxCvBnM",
	"PROVIDER_7_TYPE=cohere", "PROVIDER_7_NAME=unsupported",
}

// allKinds is a plan with a step of each kind.
func allKinds(t *testing.T) (*fixture, *aiseed.Plan) {
	t.Helper()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=adopted", "PROVIDER_0_BASE_URL=https://old.example/v1",
		"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=deleted", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=diverged", "PROVIDER_2_KEY=key-of-the-database-0001",
		"PROVIDER_3_TYPE=anthropic", "PROVIDER_3_NAME=drifted", "PROVIDER_3_BEDROCK_REGION=us-east-1", "PROVIDER_4_TYPE=openai", "PROVIDER_4_NAME=kept", "PROVIDER_4_BASE_URL=https://old.example/?token=hunter2hunter2",
		"PROVIDER_5_TYPE=openai", "PROVIDER_5_NAME=unchanged", "PROVIDER_5_KEYS=key-of-the-database-9991,key-of-the-database-9992",
		"PROVIDER_6_TYPE=openai", "PROVIDER_6_NAME=moved", "PROVIDER_6_BASE_URL=https://old.example/v1", "PROVIDER_6_KEY=key-of-the-database-0006")
	f.Exec(`update ai_providers set base_url = 'https://gateway.example/openai/deployments/a-name-that-is-long/and-goes-on/v1' where name = 'moved'`)
	f.Exec(`update ai_providers set deleted = true where name = 'deleted'`)
	environ := slices.Clone(allKindsEnviron)
	digests := map[string]string{}
	for _, p := range f.DriftOf(f.Parse(append([]string{}, environ...)...)).Providers {
		digests[p.Name] = p.Digest
	}
	cfg := f.Parse(append(environ, "DRIFT_ADOPT=adopted@"+digests["adopted"]+",stale@0123456789abcdef", "DRIFT_KEEP=kept@"+digests["kept"])...)
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, cfg, slog.Logger{})
	require.NoError(t, err)
	return f, plan
}

func TestO1_APlanOfEveryKind(t *testing.T) {
	t.Parallel()
	_, plan := allKinds(t)
	fingerprint := regexp.MustCompile(`((?:database|environment)\s+|\()[0-9a-f]{8}\b`)
	settle := func(text string) string {
		for _, s := range plan.Steps {
			if s.Digest != "" {
				text = strings.ReplaceAll(text, s.Digest, "<digest--digest>") // as long as one
			}
		}
		return fingerprint.ReplaceAllString(text, "$1<finger>")
	}
	for _, width := range []int{80, 140} {
		for _, colour := range []bool{false, true} {
			table := plan.Table(width, colour)
			testkit.Golden(t, fmt.Sprintf("plan.%d.%t.txt", width, colour), settle(table))
			require.NotContains(t, table, "hunter")
			if !colour {
				requireWrapped(t, table, width)
			}
		}
	}
	raw, err := json.MarshalIndent(plan, "", "  ")
	require.NoError(t, err)
	require.NotContains(t, string(raw), "hunter")
	testkit.Golden(t, "plan.json", settle(string(raw))+"\n")

	var kinds []string
	for _, s := range plan.Steps {
		kinds = append(kinds, string(s.Action))
	}
	require.Equal(t, []string{"adopt", "create", "deleted", "diverged", "drifted", "keep", "drifted", "unchanged", "unsupported"}, kinds, "in order of name")
}

// requireWrapped fails if a line is too long and could be broken. Only what is behind a label
// cannot.
func requireWrapped(t *testing.T, table string, width int) {
	t.Helper()
	for _, line := range strings.Split(table, "\n") {
		if len([]rune(line)) > width {
			words := strings.Fields(line)
			label, _, _ := strings.Cut(words[0], ":")
			require.True(t, len(words) == 1 || len(words) == 2 && slices.Contains([]string{"database", "environment", "variable"}, label), line)
		}
	}
}

// O3: what the plan says to set is enough, also with what is set already.
func TestO1_O3_WhatThePlanSaysToSetSettlesIt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f, plan := allKinds(t)
	lines := map[string]string{}
	for _, line := range strings.Split(plan.Table(80, false), "\n") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(name, aiseed.DefaultPrefix) && !strings.Contains(value, "*@") {
			lines[name] = strings.TrimSpace(line)
		}
	}
	for name, action := range map[string]aiseed.Action{"KEEP": aiseed.ActionKeep, "ADOPT": aiseed.ActionAdopt} {
		environ := slices.Clone(allKindsEnviron)
		environ = append(storetest.Prefixed(environ), lines[aiseed.DefaultPrefix+"DRIFT_"+name])
		settled, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, f.ParseEnviron(environ), slog.Logger{})
		require.NoError(t, err)
		for _, s := range settled.Steps {
			if before := plan.Steps[slices.IndexFunc(plan.Steps, func(b aiseed.Step) bool { return b.Name == s.Name })]; before.Action == aiseed.ActionDrifted || before.Action == aiseed.ActionDiverged || before.Action == action {
				require.Equal(t, action, s.Action, s.Name)
			}
		}
	}
}

func TestO1_AnEmptyPlanAndAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Wire.Reset(nil)
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, aiseed.Config{}, slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, "The environment names no AI providers.\n", plan.String())
	raw, err := json.Marshal(plan)
	require.NoError(t, err)
	require.JSONEq(t, `{"steps":[]}`, string(raw))
	plan, err = aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, f.Parse("OPENAI_KEY=key"), slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, aiseed.ActionCreate, plan.Steps[0].Action)
	_, sent := f.Wire.Count()
	require.NotContains(t, sent, "lock", "a plan takes none")
}

// A nil store is a database without tables: the plan is that of an empty one.
func TestO1_ADatabaseWithoutTables(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	cfg := f.Parse("OPENAI_KEY=key", "OPENAI_TOKEN=x", "DRIFT_KEEP=openai@0123456789abcdef", "DRIFT_ADOPT=openai@fedcba9876543210",
		"PROVIDER_0_TYPE=bedrock", "PROVIDER_0_BEDROCK_REGION=eu", "PROVIDER_1_TYPE=cohere")
	want, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, cfg, slog.Logger{})
	require.NoError(t, err)
	got, err := aiseed.PlanAIProvidersFromEnv(ctx, nil, cfg, slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, []string{"create", "unsupported", "create"}, []string{string(got.Steps[0].Action), string(got.Steps[1].Action), string(got.Steps[2].Action)})
	require.Equal(t, want.String(), got.String())
	wantJSON, err := json.Marshal(want)
	require.NoError(t, err)
	gotJSON, err := json.Marshal(got)
	require.NoError(t, err)
	require.Equal(t, string(wantJSON), string(gotJSON))
	require.NotEmpty(t, got.Variables)
	_, err = aiseed.PlanAIProvidersFromEnv(ctx, nil, aiseed.Config{Providers: []aiseed.ProviderConfig{{}}}, slog.Logger{})
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
}

// R10: a warning consists of a code and fields, and its text is made from them. The plan repeats
// what the parser logged.
func TestR10_WarningsAreValues(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=old", "ANTHROPIC_KEY=key")
	f.Exec(`update ai_providers set deleted = true where name = 'anthropic'`)
	cfg := f.Parse("OPENAI_KEY=new", "ANTHROPIC_KEY=key", "OPENAI_KYE=x", "DRIFT_KEEP=openai@0123456789abcdef",
		"PROVIDER_0_TYPE=cohere", "PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=x", "PROVIDER_1_BEDROCK_REGION=r", "PROVIDER_1_BASE_URL=https://h/")
	const prefix = aiseed.DefaultPrefix
	unknown := aiseed.Warning{Code: aiseed.WarningUnknownVariable, Variables: []string{prefix + "OPENAI_KYE"}, Meant: prefix + "OPENAI_KEY"}
	require.Equal(t, []aiseed.Warning{unknown}, cfg.Warnings)
	logged := len(f.Logs.Warnings())
	planned, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, cfg, f.Logs.Logger())
	require.NoError(t, err)
	require.Len(t, f.Logs.Warnings(), logged)
	done, err := f.Store.Seed(context.Background(), cfg, f.Audits, f.Logs.Logger())
	require.NoError(t, err)
	require.Equal(t, []aiseed.Warning{
		unknown, {Code: aiseed.WarningStaleToken, Variables: []string{prefix + "DRIFT_KEEP"}, Token: "openai@0123456789abcdef"},
	}, done.Warnings)
	require.Equal(t, planned.Warnings, done.Warnings)
	byName := map[string][]aiseed.Warning{}
	for i, step := range done.Steps {
		require.Equal(t, planned.Steps[i].Warnings, step.Warnings)
		byName[step.Name] = step.Warnings
	}
	diverged := &byName["openai"][0]
	require.Len(t, diverged.Differences, 1)
	require.Regexp(t, `^openai@[0-9a-f]{16}$`, diverged.Token)
	diverged.Differences, diverged.Token = nil, ""
	require.Equal(t, map[string][]aiseed.Warning{
		"anthropic": {{Code: aiseed.WarningDeleted}},
		"cohere":    {{Code: aiseed.WarningUnsupportedType, Type: "cohere"}},
		"openai":    {{Code: aiseed.WarningDiverged, Variables: []string{prefix + "OPENAI_KEY"}, AdoptVariable: prefix + "DRIFT_ADOPT", KeepVariable: prefix + "DRIFT_KEEP"}},
		"x":         {{Code: aiseed.WarningIgnored, Variables: []string{prefix + "PROVIDER_1_BASE_URL"}, Reason: "ignored, since the provider takes the Bedrock base URL"}},
	}, byName)
	require.Len(t, f.Logs.Warnings(), logged+5, "a seed logs its own only")
	require.Equal(t, prefix+"OPENAI_KYE: unknown environment variable is ignored; want "+prefix+"OPENAI_KEY?", unknown.String())
}

// A deliveredCase is an environment as it arrived at a server. testdata/as-delivered.json says
// what the fields mean.
type deliveredCase struct {
	ID, About  string
	Environ    []string
	File       string
	Want, Says string
	Problems   int // 0 for any number
}

func deliveredCases(t *testing.T, path string) []deliveredCase {
	t.Helper()
	var all struct{ Cases []deliveredCase }
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &all))
	require.NotEmpty(t, all.Cases)
	for i := range all.Cases {
		if c := &all.Cases[i]; c.Want == "error" && c.Problems == 0 {
			c.Problems = 1 // E5: one mistake makes one problem
		}
	}
	return all.Cases
}

// E5, E7, E8, E9, E12, E13, N7, N9: what environments really looked like. Each case is a first
// start on an empty database.
func TestE9_EnvironmentsAsTheyAreDelivered(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, path := range []string{"testdata/as-delivered.json", "testdata/as-delivered-more.json"} {
		for _, c := range deliveredCases(t, path) {
			t.Run(c.ID, func(t *testing.T) { c.run(t, f) })
		}
	}
}

func (c deliveredCase) run(t *testing.T, f *fixture) {
	ctx := context.Background()
	f.Exec(`truncate ai_providers, ai_provider_keys, ai_provider_audits`)
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(c.File), 0o600))
	secrets, names := []string{c.File}, []string{}
	environ := slices.Clone(c.Environ)
	for i := range environ {
		environ[i] = strings.ReplaceAll(environ[i], "{file}", file)
		name, value, _ := strings.Cut(environ[i], "=")
		names = append(names, name)
		if strings.Contains(name, "KEY") && !strings.Contains(name, "_FILE") {
			secrets = append(secrets, value)
		}
	}
	logs := &testkit.LogRecorder{}
	cfg, err := aiseed.ParseEnviron(ctx, environ, logs.Logger())
	if err == nil {
		_, err = f.Store.Seed(ctx, cfg, f.Audits, logs.Logger())
	}
	said := strings.Join(logs.Warnings(), "\n")
	for range 5 { // E10: the order of the environment is no matter
		shuffled := slices.Clone(environ)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again, againErr := aiseed.ParseEnviron(ctx, shuffled, slog.Logger{})
		require.Equal(t, cfg.Warnings, again.Warnings)
		if errors.Is(err, aiseed.ErrInvalidConfig) {
			require.EqualError(t, againErr, err.Error())
		}
	}
	switch c.Want {
	case "error":
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
		require.Empty(t, f.Rows(`select name from ai_providers`))
		var config *aiseed.ConfigError
		require.ErrorAs(t, err, &config)
		if c.Problems > 0 {
			require.Len(t, config.Problems, c.Problems, "%s", err)
		}
		said = err.Error()
	case "warning":
		require.NoError(t, err)
		require.NotEmpty(t, said)
	case "created":
		require.NoError(t, err)
		require.Empty(t, said)
		require.NotEmpty(t, f.Rows(`select name from ai_providers`))
	default:
		require.FailNow(t, "an outcome that the test does not know", c.Want)
	}
	require.Contains(t, said, c.Says)
	for _, secret := range secrets {
		for i := 0; i+8 <= len(secret); i++ {
			if slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, secret[i:i+8]) }) {
				continue // a template can hold the name of a variable
			}
			require.NotContains(t, said, secret[i:i+8], "nothing of a secret is shown")
		}
	}
}

// S11, E12: a key in the place of a type, of a base URL or behind a variable's name.
func TestS11_E12_ASkippedProviderShowsNoSecret(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const key = "skprojabcdefghijklmnopqrstuvwxyz0123456789"
	for _, environ := range [][]string{
		{"CODER_AIBRIDGE_PROVIDER_0_TYPE=" + key},
		{"CODER_AIBRIDGE_PROVIDER_0_TYPE=" + strings.ToUpper(key), "CODER_AIBRIDGE_PROVIDER_0_BASE_URL=" + key},
		{"CODER_AIBRIDGE_PROVIDER_0_TYPE=" + key, "CODER_AIBRIDGE_OPENAI_KEY: " + key + "==", "CODER_AIBRIDGE_PROVIDER_0_API_KEY " + key + "=x"},
	} {
		cfg := f.ParseEnviron(environ)
		plan, err := f.Store.Seed(context.Background(), cfg, f.Audits, f.Logs.Logger())
		require.NoError(t, err)
		raw, err := json.Marshal(plan)
		require.NoError(t, err)
		said := strings.ToLower(plan.String() + string(raw) + f.Logs.String())
		for i := 0; i+8 <= len(key); i++ {
			require.NotContains(t, said, key[i:i+8])
		}
	}
}

// O9: each variable has one fate, and without those that may go the next start does the same.
func TestO9_EachVariableHasOneFate(t *testing.T) {
	t.Parallel()
	f := setup(t)
	rapid.Check(t, func(rt *rapid.T) {
		f.Exec(`truncate ai_providers, ai_provider_keys, ai_provider_audits`)
		ctx := context.Background()
		first := config(rt, someEnvironment(rt))
		require.NoError(rt, f.Seed(first))
		for _, name := range f.Rows(`select name from ai_providers order by name`) {
			if rapid.IntRange(0, 4).Draw(rt, "delete "+name) == 0 {
				f.Exec(`update ai_providers set deleted = true where name = '` + name + `'`)
			}
		}
		environ := someEnvironment(rt)
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, config(rt, environ), slog.Logger{})
		require.NoError(rt, err)

		fates := map[string]aiseed.VariableFate{}
		for _, v := range plan.Variables {
			require.NotContains(rt, fates, v.Name, "one fate")
			require.NotEmpty(rt, v.Reason, v.Name)
			fates[v.Name] = v
		}
		for _, entry := range environ {
			name, value, _ := strings.Cut(entry, "=")
			require.Equal(rt, value != "" && !strings.HasSuffix(name, "_ENABLED"), fates[name].Fate != "", "%s has a fate", name)
		}
		left := withoutRemovable(environ, plan)
		after, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, config(rt, left), slog.Logger{})
		require.NoError(rt, err)
		require.Equal(rt, outcome(plan), outcome(after), "%q without %q", environ, left)
	})
}

func config(t *rapid.T, environ []string) aiseed.Config {
	cfg, err := aiseed.ParseEnviron(context.Background(), environ, slog.Logger{})
	require.NoError(t, err, "%q", environ)
	return cfg
}

// outcome is what a start writes, and where it stops.
func outcome(plan *aiseed.Plan) (out []string) {
	for _, s := range plan.Steps {
		if s.Action == aiseed.ActionCreate || s.Action == aiseed.ActionDrifted || s.Action == aiseed.ActionAdopt {
			out = append(out, string(s.Action)+" "+s.Name+" "+s.BaseURL)
		}
	}
	return out
}

// withoutRemovable takes the variables away that do nothing: those of whole providers, from the
// last index down, and those without an effect.
func withoutRemovable(environ []string, plan *aiseed.Plan) (left []string) {
	stays := map[aiseed.Fate]bool{aiseed.FateCreates: true, aiseed.FateAdopted: true, aiseed.FateStops: true, aiseed.FateSettles: true}
	fates := map[string]aiseed.Fate{}
	needed := map[string]bool{} // providers
	for _, v := range plan.Variables {
		fates[v.Name] = v.Fate
		needed[v.Provider] = needed[v.Provider] || v.Provider != "" && stays[v.Fate]
	}
	last := ""
	for _, v := range plan.Variables { // in order of the indices
		if _, index, ok := strings.Cut(v.Name, "PROVIDER_"); ok && v.Fate != aiseed.FateNoEffect && needed[v.Provider] {
			last, _, _ = strings.Cut(index, "_")
		}
	}
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		provider := ""
		for _, v := range plan.Variables {
			if v.Name == name {
				provider = v.Provider
			}
		}
		_, index, indexed := strings.Cut(name, "PROVIDER_")
		number, _, _ := strings.Cut(index, "_")
		switch {
		case fates[name] == "", stays[fates[name]], fates[name] != aiseed.FateNoEffect && needed[provider]:
			left = append(left, entry)
		case indexed && last != "" && number <= last && fates[name] != aiseed.FateNoEffect: // it would leave a gap
			left = append(left, entry)
		}
	}
	return left
}

// someEnvironment draws an environment that parses, with variables of every fate.
func someEnvironment(t *rapid.T) (environ []string) {
	set := func(name string, values ...string) {
		if value := rapid.SampledFrom(values).Draw(t, name); value != "" {
			environ = append(environ, aiseed.DefaultPrefix+name+"="+value)
		}
	}
	set("OPENAI_KEY", "", "k1", "k2")
	set("OPENAI_BASE_URL", "", "https://proxy/v1")
	set("ANTHROPIC_KEY", "", "k1")
	set("BEDROCK_REGION", "", "", "eu")
	set("BEDROCK_MODEL", "", "m1", "m2")
	set("OPENAI_TOKEN", "", "x")
	set("ENABLED", "", "true")
	for i := range rapid.IntRange(0, 4).Draw(t, "indices") {
		stem := "PROVIDER_" + string(rune('0'+i)) + "_"
		set(stem+"TYPE", "openai", "watsonx", "copilot", "azure")
		set(stem+"NAME", "p"+string(rune('0'+i)))
		set(stem+"BASE_URL", "https://a/", "https://b/")
		set(stem+"TPYE", "", "x")
	}
	return environ
}
