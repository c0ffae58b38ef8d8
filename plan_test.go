package aiseed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/testkit"
)

// allKinds is a plan with a step of each kind.
func allKinds(t *testing.T) (*fixture, *aiseed.Plan) {
	t.Helper()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=adopted", "PROVIDER_0_BASE_URL=https://old.example/v1",
		"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=deleted", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=diverged", "PROVIDER_2_KEY=key-of-the-database-0001",
		"PROVIDER_3_TYPE=anthropic", "PROVIDER_3_NAME=drifted", "PROVIDER_3_BEDROCK_REGION=us-east-1", "PROVIDER_4_TYPE=openai", "PROVIDER_4_NAME=kept", "PROVIDER_4_BASE_URL=https://old.example/?token=hunter2hunter2",
		"PROVIDER_5_TYPE=openai", "PROVIDER_5_NAME=unchanged")
	f.Exec(`update ai_providers set deleted = true where name = 'deleted'`)
	environ := []string{
		"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=adopted", "PROVIDER_0_BASE_URL=https://new.example/v1",
		"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=deleted", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=diverged", "PROVIDER_2_KEY=key-of-the-environment-02",
		"PROVIDER_3_TYPE=anthropic", "PROVIDER_3_NAME=drifted", "PROVIDER_3_BEDROCK_REGION=eu-central-1", "PROVIDER_4_TYPE=openai", "PROVIDER_4_NAME=kept", "PROVIDER_4_BASE_URL=https://old.example/?token=hunter3hunter3",
		"PROVIDER_5_TYPE=openai", "PROVIDER_5_NAME=unchanged",
		"PROVIDER_6_TYPE=anthropic", "PROVIDER_6_NAME=created", "PROVIDER_6_BEDROCK_BASE_URL=https://vpce-0a1b2c3d.bedrock-runtime.eu-central-1.vpce.amazonaws.com", "PROVIDER_6_BEDROCK_ACCESS_KEY=AKIAQ7ZT5N2LEXAMPLE1", "PROVIDER_6_BEDROCK_ACCESS_KEY_SECRET=q1W2e3R4t5Y6u7I8o9P0aSdFgHjKlZxCvBnM",
		"PROVIDER_7_TYPE=copilot", "PROVIDER_7_NAME=unsupported",
	}
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
	settle := func(text string) string {
		for _, s := range plan.Steps {
			if s.Digest != "" {
				text = strings.ReplaceAll(text, s.Digest, "<digest>")
			}
			for _, w := range s.Warnings {
				if s.Action == aiseed.ActionDiverged {
					for _, word := range strings.FieldsFunc(w.String(), func(r rune) bool { return strings.ContainsRune(" ,()", r) }) {
						if len(word) == 8 && strings.Trim(word, "0123456789abcdef") == "" {
							text = strings.ReplaceAll(text, word, "<finger>")
						}
					}
				}
			}
		}
		return text
	}
	for _, width := range []int{80, 140} {
		for _, colour := range []bool{false, true} {
			table := plan.Table(width, colour)
			testkit.Golden(t, fmt.Sprintf("plan.%d.%t.txt", width, colour), settle(table))
			require.NotContains(t, table, "hunter")
			if !colour {
				for _, line := range strings.Split(strings.SplitN(table, "\n\n", 2)[0], "\n") {
					require.LessOrEqual(t, len([]rune(line)), width, line)
				}
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
	require.Equal(t, []string{"adopt", "create", "deleted", "diverged", "drifted", "keep", "unchanged", "unsupported"}, kinds, "in order of name")
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

// R10: a warning consists of a code and fields, and its text is made from them. The plan repeats
// what the parser logged.
func TestR10_WarningsAreValues(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=old", "ANTHROPIC_KEY=key")
	f.Exec(`update ai_providers set deleted = true where name = 'anthropic'`)
	cfg := f.Parse("OPENAI_KEY=new", "ANTHROPIC_KEY=key", "OPENAI_KYE=x", "DRIFT_KEEP=openai@0123456789abcdef",
		"PROVIDER_0_TYPE=copilot", "PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=x", "PROVIDER_1_BEDROCK_REGION=r", "PROVIDER_1_BASE_URL=https://h/")
	const prefix = aiseed.DefaultPrefix
	unknown := aiseed.Warning{Code: aiseed.WarningUnknownVariable, Variables: []string{prefix + "OPENAI_KYE"}}
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
	require.Len(t, byName["openai"][0].Differences, 1)
	byName["openai"][0].Differences = nil
	require.Equal(t, map[string][]aiseed.Warning{
		"anthropic": {{Code: aiseed.WarningDeleted}},
		"copilot":   {{Code: aiseed.WarningUnsupportedType, Type: "copilot"}},
		"openai":    {{Code: aiseed.WarningDiverged}},
		"x":         {{Code: aiseed.WarningIgnored, Variables: []string{prefix + "PROVIDER_1_BASE_URL"}, Reason: "ignored, since the provider takes the Bedrock base URL"}},
	}, byName)
	require.Len(t, f.Logs.Warnings(), logged+5, "a seed logs its own only")
	require.Equal(t, prefix+"OPENAI_KYE: unknown environment variable is ignored; check its spelling", unknown.String())
}
