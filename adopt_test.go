package aiseed_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

const (
	keyA = "key-a-0123456789-aaaa"
	keyB = "key-b-0123456789-bbbb"
	keyC = "key-c-0123456789-cccc"
)

// firstProvider describes what the only provider is and authenticates with.
func (f *fixture) firstProvider() string {
	f.T.Helper()
	providers, err := f.Store.Providers(context.Background())
	require.NoError(f.T, err)
	p := providers[0]
	text := string(p.Type) + " " + p.BaseURL
	if b := p.Bedrock; b != nil {
		text += fmt.Sprintf(" [%s %s %s]", b.Region, strings.TrimSuffix(b.Model, "-20250929-v1:0"), b.AccessKey.Reveal())
	}
	for _, key := range p.Keys {
		text += " " + key.APIKey.Reveal()
	}
	return text
}

// stepOf is the only step of a plan.
func (f *fixture) stepOf(environ ...string) aiseed.Step {
	f.T.Helper()
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, f.Parse(environ...), slog.Logger{})
	require.NoError(f.T, err)
	return plan.Steps[0]
}

// settling is the line that settles a step.
func settling(variable string, s aiseed.Step) string { return variable + "=" + s.Name + "@" + s.Digest }

func indexed(lines ...string) []string {
	for i := range lines {
		lines[i] = "PROVIDER_0_" + lines[i]
	}
	return lines
}

func TestO3_R6_AdoptingMakesTheRowWhatTheEnvironmentSays(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	const model = "global.anthropic.claude-sonnet-4-5"
	for name, tt := range map[string]struct {
		was, is  []string
		want     string
		adopting string // what is said beforehand, with fingerprints as f
		audits   string // of this adoption
		kept     int    // rows of keys
	}{
		"a key that was wrong at the first start": {
			indexed("TYPE=openai", "KEY="+keyA), indexed("TYPE=openai", "KEY="+keyB),
			"openai  " + keyB, "replaces API key 1 (database f, environment f)", "update ai_provider, delete ai_provider_key, create ai_provider_key", 0,
		},
		"equal keys keep their rows, others go, and the order is the environment's": {
			indexed("TYPE=openai", "KEYS="+keyA+","+keyB), indexed("TYPE=openai", "KEYS="+keyC+","+keyA),
			"openai  " + keyC + " " + keyA, "replaces API key 2 (database f, environment f)",
			"update ai_provider, delete ai_provider_key, create ai_provider_key, update ai_provider_key", 1,
		},
		"fewer keys": {
			indexed("TYPE=openai", "KEYS="+keyA+","+keyB), indexed("TYPE=openai", "KEY="+keyA),
			"openai  " + keyA, "removes API key 2 (f)", "update ai_provider, delete ai_provider_key", 1,
		},
		"more keys": {
			indexed("TYPE=openai", "KEY="+keyA), indexed("TYPE=openai", "KEYS="+keyA+","+keyB),
			"openai  " + keyA + " " + keyB, "adds API key 2 (f)", "update ai_provider, create ai_provider_key", 1,
		},
		"a model": {
			indexed("TYPE=bedrock", "BEDROCK_REGION=r", "BEDROCK_MODEL=m1"), indexed("TYPE=bedrock", "BEDROCK_REGION=r", "BEDROCK_MODEL=m2"),
			"bedrock  [r m2 ]", "replaces Bedrock model (database m1, environment m2)", "update ai_provider", 0,
		},
		"bearer keys for Bedrock": {
			indexed("TYPE=anthropic", "KEYS="+keyA+","+keyB), indexed("TYPE=anthropic", "BEDROCK_REGION=r"),
			"anthropic  [r " + model + " ]",
			"removes API key 1 (f), removes API key 2 (f), adds Bedrock model (" + model + "-20250929-v1:0), adds Bedrock small fast model (global.anthropic.claude-haiku-4-5-20251001-v1:0)",
			"update ai_provider, delete ai_provider_key, delete ai_provider_key", 0,
		},
		"Bedrock for bearer keys": {
			indexed("TYPE=anthropic", "BEDROCK_REGION=r", "BEDROCK_MODEL=m", "BEDROCK_SMALL_FAST_MODEL=s", "BEDROCK_ACCESS_KEY="+keyA, "BEDROCK_ACCESS_KEY_SECRET="+keyB), indexed("TYPE=anthropic", "KEY="+keyC),
			"anthropic  " + keyC, "adds API key 1 (f), removes Bedrock access key (f), removes Bedrock access key secret (f), removes Bedrock model (m), removes Bedrock small fast model (s)",
			"update ai_provider, create ai_provider_key", 0,
		},
		"a base URL and a key": {
			indexed("TYPE=openai", "BASE_URL=https://old/", "KEY="+keyA), indexed("TYPE=openai", "BASE_URL=https://new/", "KEY="+keyB),
			"openai https://new/ " + keyB, "replaces API key 1 (database f, environment f)", "update ai_provider, delete ai_provider_key, create ai_provider_key", 0,
		},
		"not what is only written in another way": {
			indexed("TYPE=openai", "BASE_URL=HTTPS://h", "KEY="+keyA), indexed("TYPE=openai", "BASE_URL=https://h/", "KEY="+keyB),
			"openai HTTPS://h " + keyB, "replaces API key 1 (database f, environment f)", "update ai_provider, delete ai_provider_key, create ai_provider_key", 0,
		},
		"keys that the environment does not set stay": {
			indexed("TYPE=openai", "BASE_URL=https://old/", "KEYS="+keyA+","+keyB), indexed("TYPE=openai", "BASE_URL=https://new/?k=v"),
			"openai https://new/?k=v " + keyA + " " + keyB, "leaves 2 API keys (f, f), which would then go to https://new/?k=****", "update ai_provider", 2,
		},
		"an access key and a model that the environment does not set stay": {
			indexed("TYPE=bedrock", "BEDROCK_REGION=r1", "BEDROCK_MODEL=m", "BEDROCK_ACCESS_KEY="+keyA, "BEDROCK_ACCESS_KEY_SECRET="+keyB), indexed("TYPE=bedrock", "BEDROCK_REGION=r2"),
			"bedrock  [r2 m " + keyA + "]", "leaves the Bedrock access key (f), which would then go to Amazon Bedrock in r2", "update ai_provider", 0,
		},
		"keys that the type does not take": {
			indexed("TYPE=openai", "NAME=x", "KEY="+keyA), indexed("TYPE=copilot", "NAME=x"),
			"copilot ", "removes API key 1 (f)", "update ai_provider, delete ai_provider_key", 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Seeded(slices.Clone(tt.was)...)
			rows := f.Rows(`select id from ai_provider_keys`)
			step := f.stepOf(slices.Clone(tt.is)...)
			said := regexp.MustCompile(`([ (])[0-9a-f]{8}([,)])`).ReplaceAllString(strings.Join(step.Adopting, ", "), "${1}f${2}")
			require.Equal(t, tt.adopting, said)
			audits := len(f.Audits.Entries())
			adopting := testkit.With(tt.is, settling("DRIFT_ADOPT", step))
			require.NoError(t, f.Seed(f.Parse(slices.Clone(adopting)...)))
			require.Equal(t, tt.want, f.firstProvider())
			var entries []string
			for _, e := range f.Audits.Entries()[audits:] {
				require.Equal(t, aiseed.SystemActor, e.Actor)
				entries = append(entries, string(e.Action)+" "+e.Resource)
			}
			require.Equal(t, tt.audits, strings.Join(entries, ", "))
			now := f.Rows(`select id from ai_provider_keys`)
			kept := slices.DeleteFunc(rows, func(row string) bool { return !slices.Contains(now, row) })
			require.Len(t, kept, tt.kept, "an equal key keeps its row")

			// The row agrees from now on, the token is stale, and every operation takes the row.
			require.Equal(t, aiseed.ActionUnchanged, f.stepOf(slices.Clone(tt.is)...).Action)
			before := f.State()
			require.NoError(t, f.Seed(f.Parse(slices.Clone(adopting)...)))
			require.Equal(t, before, f.State())
			require.Contains(t, strings.Join(f.Logs.Warnings(), "\n"), "matches no current difference")
			providers, err := f.Store.Providers(ctx)
			require.NoError(t, err)
			_, err = f.Store.UpdateProvider(ctx, "a", providers[0].ID, aiseed.ProviderUpdate{DisplayName: new("x")})
			require.NoError(t, err)
		})
	}
}

// What a seed left half adopted in an earlier version, a bearer key beside Bedrock settings, is a
// difference, and adopting ends it.
func TestO3_AdoptingLeavesNoProviderWithBothCredentials(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_BEDROCK_REGION=r")
	f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 0, '` + keyA + `' from ai_providers`)
	step := f.stepOf("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_BEDROCK_REGION=r")
	require.Equal(t, aiseed.ActionDiverged, step.Action)
	require.Len(t, step.Adopting, 1)
	require.NoError(t, f.Seed(f.Parse("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_BEDROCK_REGION=r", settling("DRIFT_ADOPT", step))))
	require.Empty(t, f.Rows(`select id from ai_provider_keys`))
}

func TestO3_R7_TheWarningOfADivergenceSaysWhatSettlesIt(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=" + keyA)
	require.NoError(t, f.Seed(f.Parse("OPENAI_KEY="+keyB)))
	warning := f.Logs.Warnings()[0]
	require.Regexp(t, `If it is right, remove CODER_AIBRIDGE_OPENAI_KEY, or add openai@[0-9a-f]{16} to CODER_AIBRIDGE_DRIFT_KEEP; if the environment is, add it to CODER_AIBRIDGE_DRIFT_ADOPT provider=openai$`, warning)
	token := regexp.MustCompile(`openai@[0-9a-f]{16}`).FindString(warning)
	keep, adopt := "DRIFT_KEEP="+token, "DRIFT_ADOPT="+token

	before := f.State()
	require.NoError(t, f.Seed(f.Parse("OPENAI_KEY="+keyB, keep)))
	require.Equal(t, before, f.State())
	require.Contains(t, f.Logs.Warnings()[1], "settled by CODER_AIBRIDGE_DRIFT_KEEP: the database's values stay in use")

	// Another key is another difference, for both tokens.
	for _, stale := range []string{keep, adopt} {
		step := f.stepOf("OPENAI_KEY="+keyC, stale)
		require.Equal(t, aiseed.ActionDiverged, step.Action)
	}
	require.NoError(t, f.Seed(f.Parse("OPENAI_KEY="+keyB, adopt)))
	require.Equal(t, "openai https://api.openai.com/v1/ "+keyB, f.firstProvider())
	require.Contains(t, f.Logs.Warnings()[2], "settled by CODER_AIBRIDGE_DRIFT_ADOPT: the database takes the environment's values; this replaces API key 1 (database ")
	require.NotContains(t, f.Logs.String(), "0123456789")
}

func TestO3_R7_WhatTheEnvironmentDoesNotSetIsNoDifference(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	for name, tt := range map[string]struct {
		was, is []string
		note    bool
	}{
		"all keys":      {indexed("TYPE=openai", "KEYS="+keyA+","+keyB), indexed("TYPE=openai"), true},
		"an access key": {indexed("TYPE=bedrock", "BEDROCK_REGION=r", "BEDROCK_ACCESS_KEY="+keyA, "BEDROCK_ACCESS_KEY_SECRET="+keyB), indexed("TYPE=bedrock", "BEDROCK_REGION=r"), true},
		"models":        {indexed("TYPE=bedrock", "BEDROCK_REGION=r", "BEDROCK_MODEL=m", "BEDROCK_SMALL_FAST_MODEL=s"), indexed("TYPE=bedrock", "BEDROCK_REGION=r"), false},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Seeded(tt.was...)
			before := f.State()
			plan, err := f.Store.Seed(ctx, f.Parse(tt.is...), f.Audits, f.Logs.Logger())
			require.NoError(t, err)
			require.Equal(t, aiseed.ActionUnchanged, plan.Steps[0].Action)
			require.Equal(t, "", plan.Steps[0].Digest)
			require.Equal(t, before, f.State())
			require.Empty(t, f.Logs.Warnings())
			require.Equal(t, tt.note, strings.Contains(f.Logs.String(), "INFO AI provider: the environment sets no credentials, and those of the database stay in use"))
		})
	}
}

func TestO3_StandingKeeps(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	drifted, diverged := "PROVIDER_0_BASE_URL=https://new/", "PROVIDER_0_KEY="+keyB
	database := `update ai_providers set base_url = 'https://moved/'`
	for name, tt := range map[string]struct {
		keep, change string // change is a line of the environment, or SQL
		want         aiseed.Action
	}{
		"all, drift":                          {"*", drifted, aiseed.ActionKeep},
		"all, divergence":                     {"*", diverged, aiseed.ActionKeep},
		"all, the database moved":             {"*", database, aiseed.ActionKeep},
		"a name, drift":                       {"openai@*", drifted, aiseed.ActionKeep},
		"a name, divergence":                  {"openai@*", diverged, aiseed.ActionKeep},
		"another name":                        {"anthropic@*", drifted, aiseed.ActionDrifted},
		"the database alone moved":            {"*@database", database, aiseed.ActionKeep},
		"the database of a name alone moved":  {"openai@database", database, aiseed.ActionKeep},
		"the database of another name":        {"anthropic@database", database, aiseed.ActionDrifted},
		"not the database, drift":             {"*@database", drifted, aiseed.ActionDrifted},
		"not the database, divergence":        {"*@database", diverged, aiseed.ActionDiverged},
		"nobody moved":                        {"*@database", "", aiseed.ActionUnchanged},
		"the keys of the database alone":      {"*@database", "replace the key", aiseed.ActionKeep},
		"who moved is not known":              {"*@database", database + `; delete from ai_provider_audits`, aiseed.ActionDrifted},
		"after an adoption, the database":     {"*@database", "adopt; " + database, aiseed.ActionKeep},
		"after an adoption, the environment":  {"*@database", "adopt", aiseed.ActionDrifted},
		"a masked part of the base URL moved": {"*@database", `update ai_providers set base_url = 'https://old/?k=2'`, aiseed.ActionDrifted},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			environ := indexed("TYPE=openai", "BASE_URL=https://old/", "KEY="+keyA)
			if strings.Contains(name, "masked") {
				environ[1] += "?k=1"
			}
			f.Seeded(slices.Clone(environ)...)
			change, adopted := strings.CutPrefix(tt.change, "adopt")
			if adopted { // what the environment says later is what the row was written from
				later := testkit.With(environ[:1:1], "PROVIDER_0_BASE_URL=https://adopted/", "PROVIDER_0_KEY="+keyB)
				require.NoError(t, f.Seed(f.Parse(testkit.With(later, settling("DRIFT_ADOPT", f.stepOf(slices.Clone(later)...)))...)))
				if change != "" {
					environ = later
				}
			}
			switch {
			case change == "replace the key":
				providers, err := f.Store.Providers(ctx)
				require.NoError(t, err)
				require.NoError(t, f.Store.RemoveProviderKey(ctx, "a", providers[0].ID, providers[0].Keys[0].ID))
				_, err = f.Store.AddProviderKey(ctx, "a", providers[0].ID, aiseed.NewSecret(keyC))
				require.NoError(t, err)
				_, err = f.Store.DeliverAudits(ctx, f.Audits)
				require.NoError(t, err)
			case strings.HasPrefix(change, "PROVIDER_0_BASE_URL"):
				environ[1] = change
			case strings.HasPrefix(change, "PROVIDER_0_KEY"):
				environ[2] = change
			case change != "":
				for sql := range strings.SplitSeq(change, "; ") {
					if sql != "" {
						f.Exec(sql)
					}
				}
			}
			before := f.State()
			f.Logs = &testkit.LogRecorder{}
			f.Wire.Reset(nil)
			plan, err := f.Store.Seed(ctx, f.Parse(testkit.With(environ, "DRIFT_KEEP="+tt.keep)...), f.Audits, f.Logs.Logger())
			trips, _ := f.Wire.Count()
			require.Equal(t, tt.want, plan.Steps[0].Action)
			require.Equal(t, before, f.State())
			if tt.want == aiseed.ActionDrifted {
				require.ErrorIs(t, err, aiseed.ErrDrift)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 1, trips, "Q1: a start that changes nothing")
			if tt.want == aiseed.ActionKeep {
				require.Empty(t, f.Logs.Warnings())
				require.Equal(t, 1, strings.Count(f.Logs.String(), " and stays as it is, by CODER_AIBRIDGE_DRIFT_KEEP="+tt.keep+" provider=openai"))
				require.Regexp(t, `INFO AI provider: it differs from the environment in (base URL|API key 1|base URL, API key 1) and stays`, f.Logs.String())
			}
		})
	}
}

// An operator copies what the text says. It must not undo what is settled, nor make it worse.
func TestO3_R7_WhatTheTextsSayToDoIsEnough(t *testing.T) {
	t.Parallel()
	f := setup(t)
	two := func(a, b string) []string {
		return []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=" + a, "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_1_BASE_URL=" + b}
	}
	f.Seeded(two("https://a/", "https://b/")...)
	settled := "DRIFT_KEEP=c@*"
	for _, lines := range [][]string{two("https://a2/", "https://b/"), two("https://a2/", "https://b2/")} {
		settled = storetest.WordsFor(t, f.DriftOf(f.Parse(testkit.With(lines, settled)...)), "DRIFT_KEEP")
		require.NoError(t, f.Seed(f.Parse(testkit.With(lines, settled)...)))
	}
	require.Regexp(t, `^DRIFT_KEEP=a@[0-9a-f]{16},b@[0-9a-f]{16}$`, settled, "with what is in force, and without what is stale")

	f.Exec(`update ai_providers set base_url = 'https://c/' where name = 'b'`)
	drift := f.DriftOf(f.Parse(testkit.With(two("https://a2/", "https://b/"), settled)...))
	require.Contains(t, drift.Error(), "is right whenever it alone has changed:\n      CODER_AIBRIDGE_DRIFT_KEEP="+strings.Split(strings.TrimPrefix(settled, "DRIFT_KEEP="), ",")[0]+",*@database\n")

	g := f.emptied(t)
	pair := func(key string) []string {
		return indexed("TYPE=anthropic", "BEDROCK_ACCESS_KEY="+key, "BEDROCK_ACCESS_KEY_SECRET="+keyC)
	}
	g.Seeded(pair(keyA)...)
	require.NoError(t, g.Seed(g.Parse(pair(keyB)...)))
	require.Contains(t, g.Logs.Warnings()[0], "If it is right, add anthropic@", "without the pair, the provider would be another")

	// A placeholder would be written.
	placeholder := indexed("TYPE=anthropic", "BEDROCK_ACCESS_KEY=changeme", "BEDROCK_ACCESS_KEY_SECRET="+keyC)
	step := g.stepOf(testkit.With(placeholder, settling("DRIFT_ADOPT", g.stepOf(slices.Clone(placeholder)...)))...)
	require.Contains(t, fmt.Sprint(step.Warnings), "CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEY: a placeholder")
}

func TestO9_FatesOfVariablesThatSettle(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY="+keyA, "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=two", "PROVIDER_0_KEYS="+keyA+","+keyB)
	fewer := []string{"OPENAI_KEY=" + keyA, "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=two", "PROVIDER_0_KEY=" + keyA}
	fate := func(variable string, lines ...string) string {
		plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, f.Parse(testkit.With(fewer, lines...)...), slog.Logger{})
		require.NoError(t, err)
		i := slices.IndexFunc(plan.Variables, func(v aiseed.VariableFate) bool { return v.Name == aiseed.DefaultPrefix+variable })
		require.NotEmpty(t, plan.Variables[i].Reason)
		return string(plan.Variables[i].Fate)
	}
	token := "two@" + f.stepOf(fewer[1:]...).Digest
	require.Equal(t, "overruled", fate("PROVIDER_0_KEY"))
	require.Equal(t, "agrees", fate("PROVIDER_0_TYPE"))
	require.Equal(t, "adopted", fate("PROVIDER_0_KEY", "DRIFT_ADOPT="+token))
	require.Equal(t, "settles", fate("DRIFT_ADOPT", "DRIFT_ADOPT="+token, "DRIFT_KEEP=*"))
	require.Equal(t, "no effect", fate("DRIFT_KEEP", "DRIFT_ADOPT="+token, "DRIFT_KEEP=*"))
	require.Equal(t, "settles", fate("DRIFT_KEEP", "DRIFT_KEEP=absent@*,two@*"))
	require.Equal(t, "overruled", fate("PROVIDER_0_KEY", "DRIFT_KEEP=two@*"))
	require.Equal(t, "no effect", fate("DRIFT_KEEP", "DRIFT_KEEP=absent@database,*@database"))
}

// A token is the same on every replica: during a rotation of the keyring, and without a keyring.
func TestO3_TokensHoldOnEveryReplica(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	diverged := "OPENAI_KEY=" + keyB
	t.Run("during a rotation", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.Rekey(1)
		f.Seeded("OPENAI_KEY=" + keyA)
		old := f.stepOf(diverged)
		f.Rekey(2, 1)
		require.NotEqual(t, old.Digest, f.stepOf(diverged).Digest, "the printed one is made with the first key")
		require.Equal(t, aiseed.ActionKeep, f.stepOf(diverged, settling("DRIFT_KEEP", old)).Action)
		_, err := f.Store.Rotate(ctx)
		require.NoError(t, err)
		require.Equal(t, aiseed.ActionAdopt, f.stepOf(diverged, settling("DRIFT_ADOPT", old)).Action)
		f.Rekey(2)
		require.Equal(t, aiseed.ActionDiverged, f.stepOf(diverged, settling("DRIFT_ADOPT", old)).Action)
	})
	t.Run("in plaintext", func(t *testing.T) {
		t.Parallel()
		f := setup(t, storetest.Plaintext)
		f.Seeded("OPENAI_KEY=" + keyA)
		step := f.stepOf(diverged)
		require.NotEqual(t, step.Digest, f.stepOf("OPENAI_KEY="+keyC).Digest)
		require.NotEqual(t, step.Digest, f.stepOf("OPENAI_KEY=1"+keyB).Digest, "the length counts")
		f.Exec(`update ai_provider_keys set id = gen_random_uuid()`)
		require.Equal(t, aiseed.ActionDiverged, f.stepOf(diverged, settling("DRIFT_ADOPT", step)).Action, "the same key in another row")
		require.NoError(t, f.Seed(f.Parse(diverged, settling("DRIFT_ADOPT", f.stepOf(diverged)))))
		require.Equal(t, "openai https://api.openai.com/v1/ "+keyB, f.firstProvider())
	})
}

func TestO2_WhichSideMovedCountsWhatTheEnvironmentSets(t *testing.T) {
	t.Parallel()
	const pair = "BEDROCK_ACCESS_KEY=" + keyA + " BEDROCK_ACCESS_KEY_SECRET=" + keyB
	const bedrock = "TYPE=bedrock BEDROCK_REGION=r "
	f := setup(t)
	for name, tt := range map[string]struct {
		was, is string
		update  aiseed.ProviderUpdate
		want    aiseed.Side
	}{
		"a key of the environment":                  {"TYPE=openai KEY=" + keyA, "TYPE=openai KEY=" + keyB, aiseed.ProviderUpdate{}, aiseed.SideEnvironment},
		"keys in another order beside a base URL":   {"TYPE=openai KEYS=" + keyA + "," + keyB, "TYPE=openai KEYS=" + keyB + "," + keyA, aiseed.ProviderUpdate{BaseURL: new("https://moved/")}, aiseed.SideDatabase},
		"a short key shows nothing":                 {"TYPE=openai KEY=short", "TYPE=openai KEY=short", aiseed.ProviderUpdate{BaseURL: new("https://moved/")}, aiseed.SideUnknown},
		"a short key that moved too":                {"TYPE=openai KEY=short", "TYPE=openai KEY=" + keyA, aiseed.ProviderUpdate{BaseURL: new("https://moved/")}, aiseed.SideBoth},
		"a model of the environment":                {bedrock + "BEDROCK_MODEL=a", bedrock + "BEDROCK_MODEL=b", aiseed.ProviderUpdate{}, aiseed.SideEnvironment},
		"a model of the database":                   {bedrock + "BEDROCK_SMALL_FAST_MODEL=a", bedrock + "BEDROCK_SMALL_FAST_MODEL=a", aiseed.ProviderUpdate{SmallFastModel: new("b")}, aiseed.SideDatabase},
		"a model that the environment does not set": {bedrock + "BEDROCK_MODEL=a", "TYPE=bedrock BEDROCK_REGION=new", aiseed.ProviderUpdate{Model: new("b")}, aiseed.SideEnvironment},
		"an access key of the database": {
			bedrock + pair, bedrock + pair,
			aiseed.ProviderUpdate{AccessKey: new(aiseed.NewSecret(keyC)), AccessKeySecret: new(aiseed.NewSecret(keyC))},
			aiseed.SideDatabase,
		},
		"another model on each side": {bedrock + "BEDROCK_MODEL=a", bedrock + "BEDROCK_MODEL=b", aiseed.ProviderUpdate{Model: new("c")}, aiseed.SideBoth},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Seeded(indexed(strings.Fields(tt.was)...)...)
			providers, err := f.Store.Providers(context.Background())
			require.NoError(t, err)
			_, err = f.Store.UpdateProvider(context.Background(), "a", providers[0].ID, tt.update)
			require.NoError(t, err)
			require.Equal(t, tt.want, f.stepOf(indexed(strings.Fields(tt.is)...)...).Moved)
		})
	}
}
