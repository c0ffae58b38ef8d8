package aiseed_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

func TestO3_AdoptedOnceTheWordsNeverComeBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	bearer, bedrock := []string{"ANTHROPIC_KEY=key"}, []string{"BEDROCK_REGION=r"}
	f.Seeded(bearer...)
	forgotten := f.AdoptWords(f.Parse(slices.Clone(bedrock)...))
	require.NoError(t, f.Seed(f.Parse(testkit.With(bedrock, forgotten)...)))
	back := f.AdoptWords(f.Parse(testkit.With(bearer, forgotten)...))
	require.NoError(t, f.Seed(f.Parse(testkit.With(bearer, back)...)))
	providers, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	require.Nil(t, providers[0].Bedrock, "adopting a bearer provider takes the settings away")
	require.Equal(t, "https://api.anthropic.com/", providers[0].BaseURL)

	before := f.State()
	f.DriftOf(f.Parse(testkit.With(bedrock, forgotten)...))
	require.Equal(t, before, f.State())
}

func TestO3_AdoptTakesTheType(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x")
	environ := []string{"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x"}
	words := f.AdoptWords(f.Parse(slices.Clone(environ)...))
	require.NoError(t, f.Seed(f.Parse(testkit.With(environ, words)...)))
	require.Equal(t, []string{`x anthropic ""`}, f.shapes())

	// A change in SQL and back again is a change too.
	f.Exec(`update ai_providers set type = 'openai'`)
	words = f.AdoptWords(f.Parse(slices.Clone(environ)...))
	f.Exec(`update ai_providers set type = 'anthropic'`)
	f.Exec(`update ai_providers set type = 'openai'`)
	f.DriftOf(f.Parse(testkit.With(environ, words)...))
}

func TestO3_AdoptNeverOverwritesWhatChangedSince(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	for name, change := range map[string]func(*fixture, aiseed.Provider){
		"credentials that were rotated, also after the sealing key": func(f *fixture, p aiseed.Provider) {
			f.Rekey(2, 1)
			_, err := f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{AccessKey: new(aiseed.NewSecret("rotated")), AccessKeySecret: new(aiseed.NewSecret("rotated"))})
			require.NoError(f.T, err)
		},
		"a model that was tuned": func(f *fixture, p aiseed.Provider) {
			_, err := f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{Model: new("tuned")})
			require.NoError(f.T, err)
		},
		"a provider that was deleted and restored": func(f *fixture, p aiseed.Provider) {
			require.NoError(f.T, f.Store.DeleteProvider(ctx, "a", p.ID))
			_, err := f.Store.RestoreProvider(ctx, "a", p.ID)
			require.NoError(f.T, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Rekey(1)
			pair := []string{"BEDROCK_ACCESS_KEY=access", "BEDROCK_ACCESS_KEY_SECRET=secret"}
			f.Seeded(testkit.With(pair, "BEDROCK_REGION=old")...)
			environ := testkit.With(pair, "BEDROCK_REGION=new")
			drift := f.DriftOf(f.Parse(slices.Clone(environ)...))
			providers, err := f.Store.Providers(ctx)
			require.NoError(t, err)
			change(f, providers[0])
			before := f.State()
			f.DriftOf(f.Parse(testkit.With(environ, storetest.WordsFor(t, drift, "DRIFT_ADOPT"))...))
			require.Equal(t, before, f.State())
			f.Exec(`update ai_providers set enabled = false, display_name = 'x'`)
			require.NoError(t, f.Seed(f.Parse(testkit.With(environ, storetest.WordsFor(t, drift, "DRIFT_KEEP"))...)), "the shapes are the same, so what was kept stays kept")
		})
	}
}

func TestO3_AdoptBindsToWhatItWrites(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	t.Run("settings that the environment got since", func(t *testing.T) {
		f := f.emptied(t)
		f.Seeded("BEDROCK_REGION=old")
		words := f.AdoptWords(f.Parse("BEDROCK_REGION=new"))
		f.DriftOf(f.Parse("BEDROCK_REGION=new", "BEDROCK_MODEL=m", words))
		f.DriftOf(f.Parse("BEDROCK_REGION=new", "BEDROCK_ACCESS_KEY=a", "BEDROCK_ACCESS_KEY_SECRET=s", words))
	})
	t.Run("a key that an operator removed since", func(t *testing.T) {
		f := f.emptied(t)
		f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old", "PROVIDER_0_KEY=compromised")
		environ := []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://new", "PROVIDER_0_KEY=compromised"}
		words := f.AdoptWords(f.Parse(slices.Clone(environ)...))
		providers, err := f.Store.Providers(ctx)
		require.NoError(t, err)
		require.NoError(t, f.Store.RemoveProviderKey(ctx, "a", providers[0].ID, providers[0].Keys[0].ID))
		f.DriftOf(f.Parse(testkit.With(environ, words)...))
		require.Empty(t, f.Rows(`select id from ai_provider_keys`))
	})
	t.Run("what else differs is said beforehand", func(t *testing.T) {
		f := f.emptied(t)
		f.Seeded("BEDROCK_REGION=old", "BEDROCK_ACCESS_KEY=access", "BEDROCK_ACCESS_KEY_SECRET=secret")
		drift := f.DriftOf(f.Parse("BEDROCK_REGION=new", "BEDROCK_MODEL=m"))
		require.Len(t, drift.Providers[0].Adopting, 2)
		require.Regexp(t, `(?m)^    adopting also replaces Bedrock model \(database .*, environment m\)\n    adopting also leaves the Bedrock access key \([0-9a-f]{8}\), which would then go to Amazon Bedrock in new$`, drift.Error())
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, f.Parse("BEDROCK_REGION=new", "BEDROCK_MODEL=m"), slog.Logger{})
		require.NoError(t, err)
		require.Equal(t, drift.Providers[0].Adopting, plan.Steps[0].Adopting)
		require.Contains(t, plan.String(), "\n  adopting also "+plan.Steps[0].Adopting[1]+"\n")
	})
}

func TestO3_NothingIsSaidOfAnAdoptionThatDidNotHappen(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b")
	environ := []string{"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=a", "PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=b"}
	drift := f.DriftOf(f.Parse(slices.Clone(environ)...))
	f.DriftOf(f.Parse(testkit.With(environ, "DRIFT_ADOPT=a@"+drift.Providers[0].Digest)...))
	require.NotContains(t, f.Logs.String(), "takes the environment's values")
}

func TestN11_AuditsOfAStartAreInOrderOfName(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=b")
	environ := []string{"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=b", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=a", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=c", "PROVIDER_2_KEY=k"}
	words := f.AdoptWords(f.Parse(slices.Clone(environ)...))
	require.NoError(t, f.Seed(f.Parse(testkit.With(environ, words)...)))
	var order []string
	for _, e := range f.Audits.Entries()[1:] {
		order = append(order, string(e.Action)+" "+e.ProviderName)
	}
	require.Equal(t, []string{"create a", "update b", "create c", "create c"}, order)
}

// Someone changes the row in SQL, after we read it under the lock and before we write.
func TestL4_AChangeInSQLIsNotOverwritten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key", "OPENAI_BASE_URL=https://old/")
	environ := []string{"OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"}
	words := f.AdoptWords(f.Parse(slices.Clone(environ)...))
	f.Wire.Reset(testkit.Once(testkit.Pass, "keep_settings", func() { f.Exec(`update ai_providers set base_url = 'https://operator/'`) }))
	f.DriftOf(f.Parse(testkit.With(environ, words)...))
	require.Equal(t, []string{`openai openai "https://operator/"`}, f.shapes())
	require.Empty(t, f.Rows(`select id from ai_provider_audits where action = 'update'`))

	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	f.Wire.Reset(testkit.Once(testkit.Pass, "keep_settings", func() { f.Exec(`update ai_providers set base_url = 'https://operator-2/'`) }))
	_, err = f.Store.UpdateProvider(ctx, "a", providers[0].ID, aiseed.ProviderUpdate{DisplayName: new("x")})
	require.NoError(t, err)
	require.Equal(t, []string{`openai openai "https://operator-2/"`}, f.shapes())
	require.Contains(t, f.lastAudit(), `"base_url": "https://operator-2/", "display_name": "openai"}`, "the audit tells what was there")
}

func TestO4_WhatWasNotWrittenIsNotAudited(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("k")}})
	f.Exec(`create function ignore() returns trigger language plpgsql as 'begin return null; end'`)
	f.Exec(`create trigger ignore before update or delete on ai_providers for each row execute function ignore()`)
	f.Exec(`create trigger ignore before update or delete on ai_provider_keys for each row execute function ignore()`)
	before := f.Rows(`select id from ai_provider_audits`)
	for name, err := range map[string]error{
		"update": second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: new("https://h/")})),
		"delete": f.Store.DeleteProvider(ctx, "a", p.ID),
		"remove": f.Store.RemoveProviderKey(ctx, "a", p.ID, p.Keys[0].ID),
	} {
		require.ErrorIs(t, err, aiseed.ErrDatabase, name)
		require.ErrorContains(t, err, "want 1 row of ai_provider", name)
	}
	require.Equal(t, before, f.Rows(`select id from ai_provider_audits`))
}

func TestR3_DriftIsToldEvenIfItCannotBeExplained(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	f.Wire.Reset(func(sent []byte) testkit.Action {
		if strings.Contains(string(sent), "order by seq desc limit 1") {
			return testkit.CutBefore
		}
		return testkit.Pass
	})
	drift := f.DriftOf(f.Parse("OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"))
	require.Equal(t, aiseed.SideUnknown, drift.Providers[0].Moved)
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, f.Parse("OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"), slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, aiseed.SideUnknown, plan.Steps[0].Moved)
	require.Equal(t, drift.Providers[0].Digest, plan.Steps[0].Digest)
}

func TestO2_WhatIsMaskedIsNotGuessed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://h/a?token=first")
	f.Exec(`update ai_providers set base_url = 'https://h/a?token=second'`)
	drift := f.DriftOf(f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://h/b?token=first"))
	require.Equal(t, aiseed.SideUnknown, drift.Providers[0].Moved, "the database moved too, and that cannot be seen")
}

func TestA5_LeaveAuditsLeavesThem(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Parse("OPENAI_KEY=key")
	f.Wire.Reset(nil)
	f.seedWith(aiseed.LeaveAudits, cfg)
	n, _ := f.Wire.Count()
	require.LessOrEqual(t, n, 3)
	require.Equal(t, []string{"2"}, f.Rows(undelivered))
	require.Empty(t, f.Logs.Warnings())
	_, err := f.Store.DeliverAudits(context.Background(), aiseed.LeaveAudits)
	require.ErrorContains(t, err, "left for the next start")
	require.NoError(t, f.Seed(cfg))
	require.Len(t, f.Audits.Entries(), 2)
}

// A token keeps one shape of one row. It does not keep another row with the same name, or
// another shape of the same row.
func TestO3_KeepBindsToTheRowAndItsShape(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, sql := range map[string][]string{
		"the database moved on": {`update ai_providers set base_url = 'https://other/'`},
		"the provider was created anew": {
			`update ai_providers set deleted = true`,
			`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://old/')`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Seeded("OPENAI_KEY=key", "OPENAI_BASE_URL=https://old/")
			environ := []string{"OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"}
			words := storetest.WordsFor(t, f.DriftOf(f.Parse(slices.Clone(environ)...)), "DRIFT_KEEP")
			for _, statement := range sql {
				f.Exec(statement)
			}
			before := f.State()
			f.DriftOf(f.Parse(testkit.With(environ, words)...))
			require.Equal(t, before, f.State())
			require.Contains(t, strings.Join(f.Logs.Warnings(), "\n"), "CODER_AIBRIDGE_"+strings.Replace(words, "=", ": ", 1)+" matches no current difference and has no effect; remove it")
		})
	}
}

func TestO3_AdoptBindsToTheRow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old/")
	environ := []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://new/"}
	words := f.AdoptWords(f.Parse(slices.Clone(environ)...))
	f.Exec(`update ai_providers set deleted = true`)
	f.Exec(`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://old/')`)
	before := f.State()
	f.DriftOf(f.Parse(testkit.With(environ, words)...)) // everything is equal except the id
	require.Equal(t, before, f.State())
}

func TestO3_AdoptBindsToTheSmallModel(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("BEDROCK_REGION=old")
	words := f.AdoptWords(f.Parse("BEDROCK_REGION=new"))
	f.DriftOf(f.Parse("BEDROCK_REGION=new", "BEDROCK_SMALL_FAST_MODEL=m", words))
}

func TestO2_TheAuditOfTheCreationIsWhatCounts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	t.Run("not that of a later update", func(t *testing.T) {
		f := f.emptied(t)
		f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old/")
		providers, err := f.Store.Providers(ctx)
		require.NoError(t, err)
		_, err = f.Store.UpdateProvider(ctx, "a", providers[0].ID, aiseed.ProviderUpdate{BaseURL: new("https://new/")})
		require.NoError(t, err)
		drift := f.DriftOf(f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old/"))
		require.Equal(t, aiseed.SideDatabase, drift.Providers[0].Moved)
	})
	t.Run("its type too", func(t *testing.T) {
		f := f.emptied(t)
		f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x")
		drift := f.DriftOf(f.Parse("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x"))
		require.Equal(t, aiseed.SideEnvironment, drift.Providers[0].Moved)
	})
	t.Run("each provider's own", func(t *testing.T) {
		f := f.emptied(t)
		f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=https://a/", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_1_BASE_URL=https://b/")
		f.Exec(`update ai_providers set base_url = 'https://moved/' where name = 'b'`)
		drift := f.DriftOf(f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=https://moved/", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_1_BASE_URL=https://b/"))
		require.Equal(t, aiseed.SideEnvironment, drift.Providers[0].Moved)
		require.Equal(t, aiseed.SideDatabase, drift.Providers[1].Moved)
	})
}

// Sealing the settings with another key is no change. Giving a row settings is a change.
func TestO3_WhatCountsAsAChangeOfTheSettings(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("not a rotation", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.Rekey(1)
		f.Seeded("BEDROCK_REGION=old")
		words := f.AdoptWords(f.Parse("BEDROCK_REGION=new"))
		f.Rekey(2, 1)
		report, err := f.Store.Rotate(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, report.Changed)
		require.NoError(t, f.Seed(f.Parse("BEDROCK_REGION=new", words)))
		// The rotation exempts only its own statements, not later ones on the connection.
		f.Exec(`update ai_providers set settings = 'damaged'`)
		require.Equal(t, []string{"3"}, f.Rows(`select revision from ai_providers`), "one for the adoption, one for this")
	})
	t.Run("the first settings of a row", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.Seeded("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_BASE_URL=https://old/")
		environ := []string{"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_BASE_URL=https://new/"}
		words := f.AdoptWords(f.Parse(slices.Clone(environ)...))
		providers, err := f.Store.Providers(ctx)
		require.NoError(t, err)
		_, err = f.Store.UpdateProvider(ctx, "a", providers[0].ID, aiseed.ProviderUpdate{AccessKey: new(aiseed.NewSecret("access")), AccessKeySecret: new(aiseed.NewSecret("secret"))})
		require.NoError(t, err)
		require.Equal(t, []string{"2"}, f.Rows(`select revision from ai_providers`))
		before := f.State()
		f.DriftOf(f.Parse(testkit.With(environ, words)...))
		require.Equal(t, before, f.State())
	})
}

func TestE1_TheWordsHaveTheCallersPrefix(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	cfg, err := aiseed.ParseEnviron(context.Background(), []string{"X_OPENAI_KEY=key", "X_OPENAI_BASE_URL=https://new/"}, f.Logs.Logger(), aiseed.WithPrefix("X_"))
	require.NoError(t, err)
	err = f.Seed(cfg)
	require.ErrorIs(t, err, aiseed.ErrDrift)
	require.ErrorContains(t, err, "X_DRIFT_ADOPT=openai@")
	require.NotContains(t, err.Error(), aiseed.DefaultPrefix)
}

// O9: what agrees agrees, whatever happens to the rest of its provider.
func TestO9_FatesOfVariablesThatAgreeInADrift(t *testing.T) {
	t.Parallel()
	f := setup(t)
	was := indexed("TYPE=openai", "NAME=a", "BASE_URL=https://old/", "KEY="+keyA)
	f.Seeded(was...)
	for name, is := range map[string][]string{
		"a base URL":           indexed("TYPE=openai", "NAME=a", "BASE_URL=https://new/", "KEY="+keyA),
		"a type":               indexed("TYPE=azure", "NAME=a", "BASE_URL=https://old/", "KEY="+keyA),
		"a base URL and a key": indexed("TYPE=openai", "NAME=a", "BASE_URL=https://new/", "KEY="+keyB),
		"Bedrock in its place": indexed("TYPE=anthropic", "NAME=a", "BEDROCK_BASE_URL=https://old/", "BEDROCK_REGION=r"),
	} {
		step := f.stepOf(slices.Clone(is)...)
		for variable, want := range map[string]aiseed.Fate{"": aiseed.FateStops, "DRIFT_KEEP": aiseed.FateOverruled, "DRIFT_ADOPT": aiseed.FateAdopted} {
			lines := slices.Clone(is)
			if variable != "" {
				lines = append(lines, settling(variable, step))
			}
			plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, f.Parse(lines...), slog.Logger{})
			require.NoError(t, err)
			for _, v := range plan.Variables {
				if v.Provider == "" {
					require.Equal(t, aiseed.FateSettles, v.Fate, name)
					continue
				}
				line := is[slices.IndexFunc(is, func(line string) bool { return strings.HasPrefix(aiseed.DefaultPrefix+line, v.Name+"=") })]
				switch {
				case variable != "" && (slices.Contains(was, line) || strings.Contains(line, "BEDROCK_BASE_URL")):
					require.Equal(t, aiseed.FateAgrees, v.Fate, "%s: %s", name, v.Name)
				default:
					require.Equal(t, want, v.Fate, "%s: %s", name, v.Name)
				}
			}
		}
	}
}

// O1: the credentials of a step are those in use when the plan is carried out.
func TestO1_CredentialsAreThoseInUse(t *testing.T) {
	t.Parallel()
	f := setup(t)
	end := func(key string) string { return "****" + key[len(key)-4:] }
	shows := func(want string, lines ...string) {
		t.Helper()
		step := f.stepOf(lines...)
		raw, err := json.Marshal(step)
		require.NoError(t, err)
		require.Contains(t, string(raw), `"credentials":"`+want+`"`)
		plan := aiseed.Plan{Steps: []aiseed.Step{step}}
		require.Contains(t, strings.SplitN(plan.String(), "\n\n", 2)[0], " "+want+" ")
	}
	shows(end(keyA), "OPENAI_KEY="+keyA)
	f.Seeded("OPENAI_KEY=" + keyA)
	diverged := "OPENAI_KEY=" + keyB
	step := f.stepOf(diverged)
	shows(end(keyA), diverged)
	shows(end(keyA), diverged, "OPENAI_BASE_URL=https://drifted/")
	shows(end(keyA), diverged, settling("DRIFT_KEEP", step))
	shows(end(keyB), diverged, settling("DRIFT_ADOPT", step))
	shows(end(keyA), "PROVIDER_0_TYPE=openai") // the environment sets none
	f.Exec(`update ai_providers set deleted = true`)
	shows("(none)", diverged)
}

// O3: a key that SQL gave a row twice is no difference, and what adopting does about it is said.
func TestO3_AdoptingSaysThatItRemovesARepeatedKey(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("OPENAI_KEY=" + keyA)
	f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 1, $1 from ai_providers`, keyA)
	require.Empty(t, f.stepOf("OPENAI_KEY="+keyA).Digest)
	step := f.stepOf("OPENAI_KEY="+keyA, "OPENAI_BASE_URL=https://new/")
	require.Equal(t, []string{"removes API key 2, which the row has twice"}, step.Adopting)
	require.NoError(t, f.Seed(f.Parse("OPENAI_KEY="+keyA, "OPENAI_BASE_URL=https://new/", settling("DRIFT_ADOPT", step))))
	require.Len(t, f.Rows(`select id from ai_provider_keys`), 1)
}
