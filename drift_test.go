package aiseed_test

import (
	"context"
	"errors"
	"fmt"
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

func (f *fixture) shapes() []string {
	f.T.Helper()
	return f.Rows(`select name, type, '"' || base_url || '"' from ai_providers order by name`)
}

func TestO3_TheWordsOfTheErrorSettleIt(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key", "OPENAI_BASE_URL=https://old/", "PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=other", "PROVIDER_0_BEDROCK_REGION=old", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=same")
	environ := []string{
		"OPENAI_KEY=rotated", "OPENAI_BASE_URL=https://new/", "PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=other", "PROVIDER_0_BEDROCK_REGION=new",
		"PROVIDER_0_BEDROCK_MODEL=m", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=same",
	}
	drift := f.DriftOf(f.Parse(slices.Clone(environ)...))
	require.Len(t, drift.Providers, 2)

	t.Run("keep leaves the rows, for as long as both sides stay", func(t *testing.T) {
		before := f.State()
		kept := f.Parse(append(slices.Clone(environ), storetest.WordsFor(t, drift, "DRIFT_KEEP"))...)
		for range 2 {
			require.NoError(t, f.Seed(kept))
			require.Equal(t, before, f.State())
		}
		require.Contains(t, f.Logs.String(), "settled by CODER_AIBRIDGE_DRIFT_KEEP: the database's values stay in use provider=openai")
	})
	t.Run("adopt takes the environment's shape, settings and credentials", func(t *testing.T) {
		audits := len(f.Audits.Entries())
		adopting := f.Parse(append(slices.Clone(environ), storetest.WordsFor(t, drift, "DRIFT_ADOPT"))...)
		f.Wire.Reset(nil)
		require.NoError(t, f.Seed(adopting))
		n, _ := f.Wire.Count()
		require.LessOrEqual(t, n, 6, "one more than a first start: an update is looked at before it is committed")
		require.Equal(t, []string{`openai openai "https://new/"`, `other anthropic ""`, `same openai ""`}, f.shapes())
		providers, err := f.Store.Providers(context.Background())
		require.NoError(t, err)
		require.Equal(t, "new", providers[1].Bedrock.Region)
		require.Equal(t, "m", providers[1].Bedrock.Model)
		require.Equal(t, "rotated", providers[0].Keys[0].APIKey.Reveal())

		entries := f.Audits.Entries()[audits:]
		require.Len(t, entries, 4, "two providers, a key removed and a key added")
		require.Equal(t, aiseed.AuditUpdate, entries[0].Action)
		require.Contains(t, string(entries[0].Old), `"base_url": "https://old/"`)
		require.Contains(t, string(entries[0].New), `"base_url": "https://new/"`)

		// The same tokens again only cause a warning.
		before := f.State()
		require.NoError(t, f.Seed(adopting))
		require.Equal(t, before, f.State())
		require.Contains(t, f.Logs.String(), "CODER_AIBRIDGE_DRIFT_ADOPT: openai@"+drift.Providers[0].Digest+" matches no current difference")
	})
}

func TestO3_AdoptGivesKeysToARowThatHasNone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old/")
	environ := []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://new/", "PROVIDER_0_KEYS=a,b"}
	drift := f.DriftOf(f.Parse(slices.Clone(environ)...))
	require.NoError(t, f.Seed(f.Parse(append(slices.Clone(environ), storetest.WordsFor(t, drift, "DRIFT_ADOPT"))...)))
	providers, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	require.Len(t, providers[0].Keys, 2)
	require.Equal(t, "b", providers[0].Keys[1].APIKey.Reveal())
}

func TestO3_AdoptIsAllOrNothingWithWhatIsStillUnsettled(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=https://old/", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_1_BASE_URL=https://old/")
	environ := []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=https://new/", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_1_BASE_URL=https://new/", "ANTHROPIC_KEY=k"}
	drift := f.DriftOf(f.Parse(slices.Clone(environ)...))
	before := f.State()
	half := f.Parse(append(slices.Clone(environ), "DRIFT_ADOPT=a@"+drift.Providers[0].Digest)...)
	again := f.DriftOf(half)
	require.Len(t, again.Providers, 1)
	require.Equal(t, "b", again.Providers[0].Name)
	require.Equal(t, before, f.State())
	mixed := f.Parse(append(slices.Clone(environ), "DRIFT_ADOPT=a@"+drift.Providers[0].Digest, "DRIFT_KEEP=b@"+drift.Providers[1].Digest)...)
	require.NoError(t, f.Seed(mixed))
	require.Equal(t, []string{`a openai "https://new/"`, `anthropic anthropic "https://api.anthropic.com/"`, `b openai "https://old/"`}, f.shapes())
}

func TestO3_TheWordsNeverApplyToALaterDifference(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, change := range map[string]func(*fixture, []string) []string{
		"the environment moved on": func(_ *fixture, environ []string) []string {
			environ[1] = "OPENAI_BASE_URL=https://newer/"
			return environ
		},
		"the database went there and back": func(f *fixture, environ []string) []string {
			f.Exec(`update ai_providers set base_url = 'https://new/'`)
			f.Exec(`update ai_providers set base_url = 'https://old/'`)
			return environ
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Seeded("OPENAI_KEY=key", "OPENAI_BASE_URL=https://old/")
			environ := []string{"OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"}
			drift := f.DriftOf(f.Parse(slices.Clone(environ)...))
			words := storetest.WordsFor(t, drift, "DRIFT_ADOPT")
			environ = change(f, environ)
			before := f.State()
			f.DriftOf(f.Parse(append(environ, words)...))
			require.Equal(t, before, f.State())
			require.Contains(t, strings.Join(f.Logs.Warnings(), "\n"), "matches no current difference and has no effect; remove it")
		})
	}
}

func TestO3_Typos(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		line, want string
	}{
		"no digest":             {"DRIFT_ADOPT=openai", "CODER_AIBRIDGE_DRIFT_ADOPT: element 1: not a name@digest; copy the token that the drift error or the warning prints"},
		"a short digest":        {"DRIFT_KEEP=openai@0123456789abcdef,x@0123", "CODER_AIBRIDGE_DRIFT_KEEP: element 2: not a name@digest"},
		"a long digest":         {"DRIFT_KEEP=openai@0123456789abcdef0", "CODER_AIBRIDGE_DRIFT_KEEP: element 1: not a name@digest"},
		"upper-case digits":     {"DRIFT_ADOPT=openai@0123456789ABCDEF", "not a name@digest"},
		"a bad name":            {"DRIFT_ADOPT=Open@0123456789abcdef", "not a name@digest"},
		"an empty element":      {"DRIFT_ADOPT=openai@0123456789abcdef,", "element 2: not a name@digest"},
		"the choice made twice": {"DRIFT_KEEP=openai@0123456789abcdef", "CODER_AIBRIDGE_DRIFT_ADOPT, CODER_AIBRIDGE_DRIFT_KEEP: openai@0123456789abcdef is in both; choose one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			environ := []string{"CODER_AIBRIDGE_OPENAI_KEY=key", "CODER_AIBRIDGE_" + tt.line}
			if strings.Contains(tt.want, "both") {
				environ = append(environ, "CODER_AIBRIDGE_DRIFT_ADOPT=openai@0123456789abcdef")
			}
			_, err := aiseed.ParseEnviron(context.Background(), environ, slog.Logger{})
			require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
			require.ErrorContains(t, err, tt.want)
		})
	}
	t.Run("E10: a secret in both is not shown", func(t *testing.T) {
		t.Parallel()
		const secret = "sk-a-key-in-the-wrong-place"
		_, err := aiseed.ParseEnviron(context.Background(),
			[]string{"CODER_AIBRIDGE_DRIFT_ADOPT=" + secret, "CODER_AIBRIDGE_DRIFT_KEEP=" + secret}, slog.Logger{})
		var config *aiseed.ConfigError
		require.ErrorAs(t, err, &config)
		require.Len(t, config.Problems, 2)
		require.NotContains(t, err.Error(), secret)
	})
	t.Run("an unknown name is a warning, as is a variable of another name", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.Seeded("OPENAI_KEY=key", "DRIFT_ADOPT=opneai@0123456789abcdef", "DRIFT_ADPOT=x")
		warnings := strings.Join(f.Logs.Warnings(), "\n")
		require.Contains(t, warnings, "opneai@0123456789abcdef matches no current difference")
		require.Contains(t, warnings, "CODER_AIBRIDGE_DRIFT_ADPOT: unknown environment variable is ignored; want CODER_AIBRIDGE_DRIFT_ADOPT?")
	})
}

func TestO2_WhoMovedSinceTheRowWasSeeded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tt := range map[string]struct {
		environ, sql string
		want         aiseed.Side
	}{
		"environment":                     {"https://new/", "", aiseed.SideEnvironment},
		"database":                        {"https://old/", `update ai_providers set base_url = 'https://new/'`, aiseed.SideDatabase},
		"both":                            {"https://new/", `update ai_providers set base_url = 'https://newer/'`, aiseed.SideBoth},
		"unknown without the audit":       {"https://new/", `delete from ai_provider_audits`, aiseed.SideUnknown},
		"a row that was no seed's":        {"https://new/", `update ai_providers set id = gen_random_uuid() where not exists (select from ai_provider_keys)`, aiseed.SideUnknown},
		"environment, told by its query":  {"https://old/?a=1", "", aiseed.SideEnvironment},
		"equal but for spelling is equal": {"https://new/", `update ai_providers set base_url = 'HTTPS://OLD'`, aiseed.SideEnvironment},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old/")
			if tt.sql != "" {
				f.Exec(tt.sql)
			}
			cfg := f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL="+tt.environ)
			plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, cfg, slog.Logger{})
			require.NoError(t, err)
			require.Equal(t, tt.want, plan.Steps[0].Moved)
			drift := f.DriftOf(cfg)
			require.Equal(t, tt.want, drift.Providers[0].Moved)
			require.Equal(t, plan.Steps[0].Digest, drift.Providers[0].Digest)
		})
	}
}

// world is a random environment over few names and values, so that they collide.
type world struct {
	*fixture
	values []string
}

func (w *world) environ(t *rapid.T, settings []string) []string {
	environ := slices.Clone(settings)
	for i := range rapid.IntRange(0, 3).Draw(t, "providers") {
		p := fmt.Sprintf("PROVIDER_%d_", i)
		environ = append(environ, p+"TYPE="+rapid.SampledFrom([]string{"openai", "anthropic", "cohere"}).Draw(t, "type"),
			p+"NAME="+string(rune('a'+i)), p+"BASE_URL=https://"+rapid.SampledFrom(w.values).Draw(t, "url")+"/",
			p+"KEY="+rapid.SampledFrom(w.values).Draw(t, "key"))
	}
	return environ
}

// tamper is what an operator does in SQL.
func (w *world) tamper(t *rapid.T) {
	name := string(rune('a' + rapid.IntRange(0, 2).Draw(t, "name")))
	switch rapid.IntRange(0, 3).Draw(t, "tamper") {
	case 0:
		w.Exec(`update ai_providers set deleted = true where name = $1`, name)
	case 1:
		w.Exec(`update ai_providers set base_url = 'https://' || $2 || '/' where name = $1 and not deleted`, name, rapid.SampledFrom(w.values).Draw(t, "url"))
	case 2:
		w.Exec(`update ai_providers set enabled = not enabled where name = $1`, name)
	case 3:
		w.Exec(`delete from ai_provider_keys k using ai_providers p where p.id = k.provider_id and p.name = $1`, name)
	}
}

// O1: over random states, settled drifts among them, a plan says what the start
// then does.
func TestO1_APlanIsWhatTheStartDoes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := context.Background()
	// The random states may contain no adoption, so the first one is fixed.
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://x/")
	moved := []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://y/"}
	cfg := f.Parse(append(moved, storetest.WordsFor(t, f.Seed(f.Parse(moved...)), "DRIFT_ADOPT"))...)
	plan, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, cfg, slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, aiseed.ActionAdopt, plan.Steps[0].Action)
	require.NoError(t, f.Seed(cfg))
	require.Equal(t, []string{"https://y/"}, f.Rows(`select base_url from ai_providers`))

	rapid.Check(t, func(rt *rapid.T) {
		// Otherwise every name has a tombstone after a while, and nothing happens any more.
		f.Exec(`truncate ai_providers, ai_provider_keys, ai_provider_audits`)
		w := &world{fixture: f, values: []string{"x", "y"}}
		var environ, settings []string
		steps := rapid.IntRange(1, 6).Draw(rt, "steps")
		for i := 0; i < steps || i == steps && settings != nil; i++ { // the last difference is settled
			if settings == nil || i < steps && rapid.Bool().Draw(rt, "move on") {
				w.tamper(rt)
				environ = w.environ(rt, nil)
			}
			cfg := f.Parse(append(slices.Clone(environ), settings...)...)
			before := f.State()
			rows := f.liveRows()
			plan, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, cfg, slog.Logger{})
			require.NoError(rt, err)
			require.Equal(rt, before, f.State(), "a plan writes nothing")
			f.Logs = &testkit.LogRecorder{}
			err = f.Seed(cfg)

			var wantDrifted, drifted, words []string
			writes := 0
			for _, s := range plan.Steps {
				switch s.Action {
				case aiseed.ActionDrifted, aiseed.ActionDiverged:
					words = append(words, s.Name+"@"+s.Digest)
					if s.Action == aiseed.ActionDrifted {
						wantDrifted = append(wantDrifted, s.Name)
					}
				case aiseed.ActionCreate, aiseed.ActionAdopt:
					writes++
				}
				if s.Action != aiseed.ActionAdopt {
					for _, warning := range s.Warnings {
						require.Contains(rt, f.Logs.String(), warning.String())
					}
				}
			}
			var drift *aiseed.DriftError
			if errors.As(err, &drift) {
				for _, p := range drift.Providers {
					drifted = append(drifted, p.Name)
				}
			} else {
				require.NoError(rt, err)
			}
			require.Equal(rt, wantDrifted, drifted)
			settings = nil
			if len(words) > 0 {
				settings = []string{rapid.SampledFrom([]string{"DRIFT_ADOPT=", "DRIFT_KEEP="}).Draw(rt, "settle") + strings.Join(words, ",")}
			}
			if len(drifted) > 0 || writes == 0 {
				require.Equal(rt, before, f.State())
				continue
			}
			after := f.liveRows()
			for _, s := range plan.Steps {
				was, is := rows[s.Name], after[s.Name]
				switch s.Action {
				case aiseed.ActionCreate:
					require.Empty(rt, was)
					require.NotEmpty(rt, is)
				case aiseed.ActionAdopt:
					require.NotEqual(rt, was, is)
				default:
					require.Equal(rt, was, is, string(s.Action))
				}
			}
		}
	})
}

// liveRows are the live providers by name, with their keys, as text.
func (f *fixture) liveRows() map[string]string {
	f.T.Helper()
	out := map[string]string{}
	for _, row := range f.Rows(`select name, to_jsonb(p)::text, (select jsonb_agg(k order by position) from ai_provider_keys k where provider_id = p.id)::text from ai_providers p where not deleted`) {
		name, text, _ := strings.Cut(row, " ")
		out[name] = text
	}
	return out
}

// O3: no sequence of starts with stale settings ever changes a row or a key.
func TestO3_StaleSettingsNeverChangeARow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	rapid.Check(t, func(rt *rapid.T) {
		// Otherwise every name has a tombstone after a while, and nothing happens any more.
		f.Exec(`truncate ai_providers, ai_provider_keys, ai_provider_audits`)
		w := &world{fixture: f, values: []string{"x", "y"}}
		var stale []string // tokens that were printed and whose difference no longer exists
		for range rapid.IntRange(1, 5).Draw(rt, "steps") {
			plan, _ := f.Store.Seed(context.Background(), f.Parse(w.environ(rt, nil)...), f.Audits, f.Logs.Logger())
			for _, s := range plan.Steps {
				if s.Digest != "" { // a drift, or other keys
					stale = append(stale, s.Name+"@"+s.Digest)
				}
			}
			// One side changes: the row, through a change and back.
			f.Exec(`update ai_providers set base_url = base_url || 'z' where not deleted`)
			f.Exec(`update ai_providers set base_url = left(base_url, -1) where not deleted`)
			w.tamper(rt)
			if len(stale) == 0 {
				continue
			}
			const rows = `select 'row', id, type, base_url, settings, revision::text from ai_providers union all select 'key', id, provider_id::text, position::text, api_key, '' from ai_provider_keys`
			before := f.Rows(rows)
			_ = f.Seed(f.Parse(append(w.environ(rt, nil), "DRIFT_ADOPT="+strings.Join(stale, ","))...))
			after := f.Rows(rows)
			for _, row := range before {
				require.Contains(rt, after, row)
			}
		}
	})
}

func TestO3_WhichEntryGoesFirst(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=" + keyA)
	diverged := "OPENAI_KEY=" + keyB
	step := f.stepOf(diverged)
	require.Equal(t, aiseed.ActionAdopt, f.stepOf(diverged, "DRIFT_KEEP=*", settling("DRIFT_ADOPT", step)).Action)
	exact := f.stepOf(diverged, "DRIFT_KEEP=*,openai@"+step.Digest)
	require.Equal(t, aiseed.ActionKeep, exact.Action)
	require.Len(t, exact.Warnings, 1, "the token goes before the standing choice, and warns")

	f.Seeded("OPENAI_KEY="+keyA, "DRIFT_KEEP=*,*@database,openai@*,openai@database,absent@*")
	require.Equal(t, []string{"WARN AI providers: CODER_AIBRIDGE_DRIFT_KEEP: absent@* matches no current difference and has no effect; remove it"}, f.Logs.Warnings())

	for entry, reason := range map[string]string{
		"ADOPT=*": "a standing choice", "ADOPT=openai@*": "a standing choice", "ADOPT=*@database": "a standing choice", "ADOPT=openai@database": "a standing choice",
		"KEEP=@*": "not a name@digest", "KEEP=*@*": "not a name@digest", "KEEP=openai@": "not a name@digest", "KEEP=Open@*": "not a name@digest", "KEEP=*@environment": "a choice that stands is *, name@*, *@database or name@database",
	} {
		_, err := aiseed.ParseEnviron(context.Background(), []string{aiseed.DefaultPrefix + "DRIFT_" + entry}, slog.Logger{})
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
		require.ErrorContains(t, err, reason, entry)
	}
}
