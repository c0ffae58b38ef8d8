package aiseed_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

// with appends words to an environment.
func with(environ []string, words ...string) []string { return append(slices.Clone(environ), words...) }

func (f *fixture) adoptWords(cfg aiseed.Config) string {
	f.t.Helper()
	return wordsFor(f.t, f.driftOf(cfg), "DRIFT_ADOPT")
}

func TestO3_AdoptedOnceTheWordsNeverComeBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	bearer, bedrock := []string{"ANTHROPIC_KEY=key"}, []string{"BEDROCK_REGION=r"}
	f.seeded(bearer...)
	forgotten := f.adoptWords(f.parse(slices.Clone(bedrock)...))
	require.NoError(t, f.seed(f.parse(with(bedrock, forgotten)...)))
	back := f.adoptWords(f.parse(with(bearer, forgotten)...))
	require.NoError(t, f.seed(f.parse(with(bearer, back)...)))
	providers, err := f.store.Providers(context.Background())
	require.NoError(t, err)
	require.Nil(t, providers[0].Bedrock, "adopting a bearer provider takes the settings away")
	require.Equal(t, "https://api.anthropic.com/", providers[0].BaseURL)

	before := f.state()
	f.driftOf(f.parse(with(bedrock, forgotten)...))
	require.Equal(t, before, f.state())
}

func TestO3_AdoptTakesTheType(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x")
	environ := []string{"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x"}
	words := f.adoptWords(f.parse(slices.Clone(environ)...))
	require.NoError(t, f.seed(f.parse(with(environ, words)...)))
	require.Equal(t, []string{`x anthropic ""`}, f.shapes())

	// In SQL there and back is a change too.
	f.exec(`update ai_providers set type = 'openai'`)
	words = f.adoptWords(f.parse(slices.Clone(environ)...))
	f.exec(`update ai_providers set type = 'anthropic'`)
	f.exec(`update ai_providers set type = 'openai'`)
	f.driftOf(f.parse(with(environ, words)...))
}

func TestO3_AdoptNeverOverwritesWhatChangedSince(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, change := range map[string]func(*fixture, aiseed.Provider){
		"credentials that were rotated, also after the sealing key": func(f *fixture, p aiseed.Provider) {
			f.keyring = keyring(f.t, 2, 1)
			f.store, _ = f.open()
			_, err := f.store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{AccessKey: ptr(aiseed.NewSecret("rotated")), AccessKeySecret: ptr(aiseed.NewSecret("rotated"))})
			require.NoError(f.t, err)
		},
		"a model that was tuned": func(f *fixture, p aiseed.Provider) {
			_, err := f.store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{Model: ptr("tuned")})
			require.NoError(f.t, err)
		},
		"a provider that was deleted and restored": func(f *fixture, p aiseed.Provider) {
			require.NoError(f.t, f.store.DeleteProvider(ctx, "a", p.ID))
			_, err := f.store.RestoreProvider(ctx, "a", p.ID)
			require.NoError(f.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.keyring = keyring(t, 1)
			f.store, _ = f.open()
			pair := []string{"BEDROCK_ACCESS_KEY=access", "BEDROCK_ACCESS_KEY_SECRET=secret"}
			f.seeded(with(pair, "BEDROCK_REGION=old")...)
			environ := with(pair, "BEDROCK_REGION=new")
			drift := f.driftOf(f.parse(slices.Clone(environ)...))
			providers, err := f.store.Providers(ctx)
			require.NoError(t, err)
			change(f, providers[0])
			before := f.state()
			f.driftOf(f.parse(with(environ, wordsFor(t, drift, "DRIFT_ADOPT"))...))
			require.Equal(t, before, f.state())
			require.NoError(t, f.seed(f.parse(with(environ, wordsFor(t, drift, "DRIFT_KEEP"))...)), "the shapes are the same, so what was kept stays kept")
		})
	}
}

func TestO3_AdoptBindsToWhatItWrites(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("settings that the environment got since", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.seeded("BEDROCK_REGION=old")
		words := f.adoptWords(f.parse("BEDROCK_REGION=new"))
		f.driftOf(f.parse("BEDROCK_REGION=new", "BEDROCK_MODEL=m", words))
		f.driftOf(f.parse("BEDROCK_REGION=new", "BEDROCK_ACCESS_KEY=a", "BEDROCK_ACCESS_KEY_SECRET=s", words))
	})
	t.Run("a key that an operator removed since", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old", "PROVIDER_0_KEY=compromised")
		environ := []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://new", "PROVIDER_0_KEY=compromised"}
		words := f.adoptWords(f.parse(slices.Clone(environ)...))
		providers, err := f.store.Providers(ctx)
		require.NoError(t, err)
		require.NoError(t, f.store.RemoveProviderKey(ctx, "a", providers[0].ID, providers[0].Keys[0].ID))
		f.driftOf(f.parse(with(environ, words)...))
		require.Empty(t, f.rows(`select id from ai_provider_keys`))
	})
	t.Run("what else differs is said beforehand", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.seeded("BEDROCK_REGION=old", "BEDROCK_ACCESS_KEY=access", "BEDROCK_ACCESS_KEY_SECRET=secret")
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, f.store, f.parse("BEDROCK_REGION=new"), slog.Logger{})
		require.NoError(t, err)
		require.Contains(t, strings.Join(plan.Steps[0].Warnings, "\n"), "beside the drift, environment and database differ in Bedrock access key (database ")
	})
}

func TestO3_NothingIsSaidOfAnAdoptionThatDidNotHappen(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b")
	environ := []string{"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=a", "PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=b"}
	drift := f.driftOf(f.parse(slices.Clone(environ)...))
	f.driftOf(f.parse(with(environ, "DRIFT_ADOPT=a@"+drift.Providers[0].Digest)...))
	require.NotContains(t, f.logs.String(), "takes the environment's values")
}

func TestN11_AuditsOfAStartAreInOrderOfName(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=b")
	environ := []string{"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=b", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=a", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=c", "PROVIDER_2_KEY=k"}
	words := f.adoptWords(f.parse(slices.Clone(environ)...))
	require.NoError(t, f.seed(f.parse(with(environ, words)...)))
	var order []string
	for _, e := range f.audits.Entries()[1:] {
		order = append(order, string(e.Action)+" "+e.ProviderName)
	}
	require.Equal(t, []string{"create a", "update b", "create c", "create c"}, order)
}

// Someone changes the row in SQL, between our reading under the lock and writing.
func TestL4_AChangeInSQLIsNotOverwritten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.seeded("OPENAI_KEY=key", "OPENAI_BASE_URL=https://old/")
	environ := []string{"OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"}
	words := f.adoptWords(f.parse(slices.Clone(environ)...))
	f.wire.reset(once(pass, "keep_settings", func() { f.exec(`update ai_providers set base_url = 'https://operator/'`) }))
	f.driftOf(f.parse(with(environ, words)...))
	require.Equal(t, []string{`openai openai "https://operator/"`}, f.shapes())
	require.Empty(t, f.rows(`select id from ai_provider_audits where action = 'update'`))

	providers, err := f.store.Providers(ctx)
	require.NoError(t, err)
	f.wire.reset(once(pass, "keep_settings", func() { f.exec(`update ai_providers set base_url = 'https://operator-2/'`) }))
	_, err = f.store.UpdateProvider(ctx, "a", providers[0].ID, aiseed.ProviderUpdate{DisplayName: ptr("x")})
	require.NoError(t, err)
	require.Equal(t, []string{`openai openai "https://operator-2/"`}, f.shapes())
	require.Contains(t, f.lastAudit(), `"base_url": "https://operator-2/", "display_name": "openai"}`, "the audit tells what was there")
}

func TestO4_WhatWasNotWrittenIsNotAudited(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("k")}})
	f.exec(`create function ignore() returns trigger language plpgsql as 'begin return null; end'`)
	f.exec(`create trigger ignore before update or delete on ai_providers for each row execute function ignore()`)
	f.exec(`create trigger ignore before update or delete on ai_provider_keys for each row execute function ignore()`)
	before := f.rows(`select id from ai_provider_audits`)
	for name, err := range map[string]error{
		"update": second(f.store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: ptr("https://h/")})),
		"delete": f.store.DeleteProvider(ctx, "a", p.ID),
		"remove": f.store.RemoveProviderKey(ctx, "a", p.ID, p.Keys[0].ID),
	} {
		require.ErrorIs(t, err, aiseed.ErrDatabase, name)
		require.ErrorContains(t, err, "1 of 1 row of ai_provider", name)
	}
	require.Equal(t, before, f.rows(`select id from ai_provider_audits`))
}

func TestR3_DriftIsToldEvenIfItCannotBeExplained(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seeded("OPENAI_KEY=key")
	f.wire.reset(func(sent []byte) action {
		if strings.Contains(string(sent), "as drifted (id)") {
			return cutBefore
		}
		return pass
	})
	drift := f.driftOf(f.parse("OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"))
	require.Equal(t, aiseed.SideUnknown, drift.Providers[0].Moved)
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.store, f.parse("OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"), slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, aiseed.SideUnknown, plan.Steps[0].Moved)
	require.Equal(t, drift.Providers[0].Digest, plan.Steps[0].Digest)
}

func TestO2_WhatIsMaskedIsNotGuessed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://h/a?token=first")
	f.exec(`update ai_providers set base_url = 'https://h/a?token=second'`)
	drift := f.driftOf(f.parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://h/b?token=first"))
	require.Equal(t, aiseed.SideUnknown, drift.Providers[0].Moved, "the database moved too, and that cannot be seen")
}

func TestA5_LeaveAuditsLeavesThem(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.parse("OPENAI_KEY=key")
	f.wire.reset(nil)
	f.seedWith(aiseed.LeaveAudits, cfg)
	n, _ := f.wire.count()
	require.LessOrEqual(t, n, 3)
	require.Equal(t, []string{"2"}, f.rows(undelivered))
	require.Empty(t, f.logs.Warnings())
	_, err := f.store.DeliverAudits(context.Background(), aiseed.LeaveAudits)
	require.ErrorContains(t, err, "left for the next start")
	require.NoError(t, f.seed(cfg))
	require.Len(t, f.audits.Entries(), 2)
}

// What is kept is one row's shape: neither another row of its name nor another
// shape of the same row.
func TestO3_KeepBindsToTheRowAndItsShape(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string][]string{
		"the database moved on": {`update ai_providers set base_url = 'https://other/'`},
		"the provider was created anew": {
			`update ai_providers set deleted = true`,
			`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://old/')`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.seeded("OPENAI_KEY=key", "OPENAI_BASE_URL=https://old/")
			environ := []string{"OPENAI_KEY=key", "OPENAI_BASE_URL=https://new/"}
			words := wordsFor(t, f.driftOf(f.parse(slices.Clone(environ)...)), "DRIFT_KEEP")
			for _, statement := range sql {
				f.exec(statement)
			}
			before := f.state()
			f.driftOf(f.parse(with(environ, words)...))
			require.Equal(t, before, f.state())
			require.Contains(t, strings.Join(f.logs.Warnings(), "\n"), "CODER_AIBRIDGE_"+strings.Replace(words, "=", ": ", 1)+" applies to no drift that there is now, and has no effect; remove it")
		})
	}
}

func TestO3_AdoptBindsToTheRow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old/")
	environ := []string{"PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://new/"}
	words := f.adoptWords(f.parse(slices.Clone(environ)...))
	f.exec(`update ai_providers set deleted = true`)
	f.exec(`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://old/')`)
	before := f.state()
	f.driftOf(f.parse(with(environ, words)...)) // all is equal but the id
	require.Equal(t, before, f.state())
}

func TestO3_AdoptBindsToTheSmallModel(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seeded("BEDROCK_REGION=old")
	words := f.adoptWords(f.parse("BEDROCK_REGION=new"))
	f.driftOf(f.parse("BEDROCK_REGION=new", "BEDROCK_SMALL_FAST_MODEL=m", words))
}

func TestO2_TheAuditOfTheCreationIsWhatCounts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("not that of a later update", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old/")
		providers, err := f.store.Providers(ctx)
		require.NoError(t, err)
		_, err = f.store.UpdateProvider(ctx, "a", providers[0].ID, aiseed.ProviderUpdate{BaseURL: ptr("https://new/")})
		require.NoError(t, err)
		drift := f.driftOf(f.parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://old/"))
		require.Equal(t, aiseed.SideDatabase, drift.Providers[0].Moved)
	})
	t.Run("its type too", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x")
		drift := f.driftOf(f.parse("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x"))
		require.Equal(t, aiseed.SideEnvironment, drift.Providers[0].Moved)
	})
	t.Run("each provider's own", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=https://a/", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_1_BASE_URL=https://b/")
		f.exec(`update ai_providers set base_url = 'https://moved/' where name = 'b'`)
		drift := f.driftOf(f.parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=https://moved/", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_1_BASE_URL=https://b/"))
		require.Equal(t, aiseed.SideEnvironment, drift.Providers[0].Moved)
		require.Equal(t, aiseed.SideDatabase, drift.Providers[1].Moved)
	})
}

// To seal the settings with another key is no change; to give a row some is.
func TestO3_WhatCountsAsAChangeOfTheSettings(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("not a rotation", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.keyring = keyring(t, 1)
		f.store, _ = f.open()
		f.seeded("BEDROCK_REGION=old")
		words := f.adoptWords(f.parse("BEDROCK_REGION=new"))
		f.keyring = keyring(t, 2, 1)
		f.store, _ = f.open()
		report, err := f.store.Rotate(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, report.Changed)
		require.NoError(t, f.seed(f.parse("BEDROCK_REGION=new", words)))
		// It is the statement that says so, not the connection from then on.
		f.exec(`update ai_providers set settings = 'damaged'`)
		require.Equal(t, []string{"3"}, f.rows(`select revision from ai_providers`), "one for the adoption, one for this")
	})
	t.Run("the first settings of a row", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		f.seeded("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_BASE_URL=https://old/")
		environ := []string{"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_BASE_URL=https://new/"}
		words := f.adoptWords(f.parse(slices.Clone(environ)...))
		providers, err := f.store.Providers(ctx)
		require.NoError(t, err)
		_, err = f.store.UpdateProvider(ctx, "a", providers[0].ID, aiseed.ProviderUpdate{AccessKey: ptr(aiseed.NewSecret("access")), AccessKeySecret: ptr(aiseed.NewSecret("secret"))})
		require.NoError(t, err)
		require.Equal(t, []string{"2"}, f.rows(`select revision from ai_providers`))
		before := f.state()
		f.driftOf(f.parse(with(environ, words)...))
		require.Equal(t, before, f.state())
	})
}

func TestE1_TheWordsHaveTheCallersPrefix(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.seeded("OPENAI_KEY=key")
	cfg, err := aiseed.ParseEnviron(context.Background(), []string{"X_OPENAI_KEY=key", "X_OPENAI_BASE_URL=https://new/"}, f.logs.Logger(), aiseed.WithPrefix("X_"))
	require.NoError(t, err)
	err = f.seed(cfg)
	require.ErrorIs(t, err, aiseed.ErrDrift)
	require.ErrorContains(t, err, "X_DRIFT_ADOPT=openai@")
	require.NotContains(t, err.Error(), aiseed.DefaultPrefix)
}
