package aiseed_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/testkit"
)

// goldenRows shows what the tables hold and what the runtime reads, without random values.
func goldenRows(f *fixture) string {
	var b strings.Builder
	b.WriteString("At rest:\n")
	for _, row := range f.Rows(`
		select p.name, p.type, p.display_name, p.enabled, p.deleted, '"' || p.base_url || '"',
		       coalesce(left(p.settings, 10) || '...', 'no settings'), p.settings_key_id is not null,
		       coalesce((select string_agg(k.position || ' ' || left(k.api_key, 10) || '...', ', ' order by k.position) from ai_provider_keys k where k.provider_id = p.id), 'no keys')
		  from ai_providers p order by p.name`) {
		b.WriteString("  " + row + "\n")
	}
	b.WriteString("As the runtime reads it:\n")
	providers, err := f.Store.Providers(context.Background())
	require.NoError(f.T, err)
	for _, p := range providers {
		fmt.Fprintf(&b, "  %s %s %q %q enabled=%t", p.Name, p.Type, p.DisplayName, p.BaseURL, p.Enabled)
		for _, k := range p.Keys {
			fmt.Fprintf(&b, " key=%s", k.APIKey.Reveal())
		}
		if s := p.Bedrock; s != nil {
			fmt.Fprintf(&b, " region=%q model=%s small=%s access=%q/%q", s.Region, s.Model, s.SmallFastModel, s.AccessKey.Reveal(), s.AccessKeySecret.Reveal())
		}
		b.WriteString("\n")
	}
	b.WriteString("Audits:\n")
	for _, row := range f.Rows(`select actor, action, resource, provider_name, new::text, delivered_at is not null from ai_provider_audits order by seq`) {
		b.WriteString("  " + row + "\n")
	}
	return b.String()
}

func TestR1_A1_N7_RealEnvironmentsBecomeRows(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, name := range []string{"legacy", "gateway", "renamed"} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			cfg := f.ParseEnviron(testkit.Environ(t, "testdata/"+name+".env"))

			plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, cfg, f.Logs.Logger())
			require.NoError(t, err)
			testkit.Golden(t, name+".plan.txt", plan.String())
			require.Empty(t, f.Rows("select id from ai_providers"), "a plan writes nothing")

			require.NoError(t, f.Seed(cfg))
			testkit.Golden(t, name+".rows.txt", goldenRows(f))
			require.Equal(t, map[string]int{"renamed": 1}[name], len(f.Logs.Warnings()), f.Logs)
		})
	}
}

func TestR2_EqualRowIsLeftAlone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key", "ANTHROPIC_BASE_URL=https://Host.example:443")
	// An operator may change these without drift. The disabled provider still counts.
	f.Exec(`update ai_providers set enabled = false, display_name = 'Ours' where name = 'openai'`)
	f.Exec(`update ai_providers set base_url = 'HTTPS://host.EXAMPLE/', display_name = null where name = 'anthropic'`)
	before := f.State()
	require.NoError(t, f.Seed(cfg))
	require.Equal(t, before, f.State())
	require.Empty(t, f.Logs.Warnings())

	providers, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	require.Len(t, providers, 1, "a disabled provider is not for the runtime")
	require.Equal(t, "HTTPS://host.EXAMPLE/", providers[0].BaseURL, "C3: stored as the operator wrote it")
}

func TestR3_DriftWritesNothingAndExplainsAll(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key-of-openai-0123456789", "BEDROCK_REGION=us-east-1", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=proxy", "PROVIDER_0_BASE_URL=https://proxy/v1?token=hunter2hunter2")
	f.Exec(`update ai_providers set base_url = 'https://moved/v1' where name = 'openai'`)
	before := f.State()

	drifted := f.Parse("OPENAI_KEY=key-of-openai-0123456789", "BEDROCK_REGION=eu-west-1",
		"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=proxy", "PROVIDER_0_BASE_URL=https://proxy/v1?token=hunter3hunter3",
		"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=brand-new", "PROVIDER_1_KEY=key")
	err := f.Seed(drifted)
	require.ErrorIs(t, err, aiseed.ErrDrift)
	var drift *aiseed.DriftError
	require.ErrorAs(t, err, &drift)
	require.Len(t, drift.Providers, 3)
	text := err.Error()
	for _, p := range drift.Providers {
		text = strings.ReplaceAll(text, p.ID.String(), "<id of "+p.Name+">")
		text = strings.ReplaceAll(text, "@"+p.Digest, "@<digest>")
	}
	testkit.Golden(t, "drift.error.txt", text+"\n")
	require.NotContains(t, text, "hunter")

	require.Equal(t, before, f.State(), "the new provider is not written either")
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, drifted, slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, []aiseed.Action{aiseed.ActionDrifted, aiseed.ActionCreate, aiseed.ActionDrifted, aiseed.ActionDrifted},
		[]aiseed.Action{plan.Steps[0].Action, plan.Steps[1].Action, plan.Steps[2].Action, plan.Steps[3].Action})
	require.Equal(t, drift.Providers[0].Fields, plan.Steps[0].Drift)
	table := plan.String()
	for _, step := range plan.Steps {
		if step.Digest != "" {
			table = strings.ReplaceAll(table, step.Digest, "<digest>")
		}
	}
	testkit.Golden(t, "drift.plan.txt", table)
	require.NotContains(t, plan.String(), "hunter")
}

// A provider that drifts after the first read and before the lock is a drift too.
func TestR3_DriftUnderTheLockWritesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Wire.Reset(testkit.Once(testkit.Pass, "pg_advisory_xact_lock", func() {
		f.Exec(`insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', 'openai', 'https://other/')`)
	}))
	require.ErrorIs(t, f.Seed(f.Parse("OPENAI_KEY=key", "ANTHROPIC_KEY=key")), aiseed.ErrDrift)
	require.Equal(t, []string{"openai"}, f.Rows(`select name from ai_providers`))
}

func TestR3_DriftOfABedrockBaseURLNamesItsVariable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("BEDROCK_BASE_URL=https://old", "PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_BEDROCK_BASE_URL=https://old")
	var drift *aiseed.DriftError
	require.ErrorAs(t, f.Seed(f.Parse("BEDROCK_BASE_URL=https://new", "PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_BEDROCK_BASE_URL=https://new")), &drift)
	require.Len(t, drift.Providers, 2)
	require.Equal(t, "CODER_AIBRIDGE_BEDROCK_BASE_URL", drift.Providers[0].Fields[0].Variable)
	require.Equal(t, "CODER_AIBRIDGE_PROVIDER_0_BEDROCK_BASE_URL", drift.Providers[1].Fields[0].Variable)
}

func TestR3_WarningsOfOtherProvidersAreLoggedBesideADrift(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key", "OPENAI_BASE_URL=https://old/", "ANTHROPIC_KEY=key")
	require.ErrorIs(t, f.Seed(f.Parse("OPENAI_KEY=key", "ANTHROPIC_KEY=rotated")), aiseed.ErrDrift)
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "provider=anthropic")
}

func TestR4_TombstoneSticks(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
	f.Exec(`update ai_providers set deleted = true where name = 'openai'`)
	before := f.State()
	require.NoError(t, f.Seed(cfg))
	require.Equal(t, before, f.State())
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "an operator deleted it")
	require.Contains(t, f.Logs.Warnings()[0], "provider=openai")
}

func TestR4_TombstoneOfAnotherShapeOrWithALostKeyIsStillOneOnly(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key", "OPENAI_BASE_URL=https://old/")
	f.Exec(`update ai_providers set deleted = true, settings = 'damaged'`)
	f.Exec(`update ai_provider_keys set api_key = 'damaged'`)
	require.NoError(t, f.Seed(f.Parse("OPENAI_KEY=key")))
	require.Len(t, f.Logs.Warnings(), 1)
}

func TestR4_LiveRowCountsBesideATombstone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Seeded("OPENAI_KEY=key")
	f.Exec(`update ai_providers set deleted = true`)
	f.Exec(`insert into ai_providers (id, type, name, base_url, updated_at) values
		(gen_random_uuid(), 'openai', 'openai', 'https://api.openai.com/v1/', '2000-01-01')`)
	f.Exec(`insert into ai_providers (id, type, name, base_url, deleted) values (gen_random_uuid(), 'openai', 'openai', 'https://other', true)`)
	before := f.State()
	require.NoError(t, f.Seed(cfg))
	require.Equal(t, before, f.State())
	require.Len(t, f.Logs.Warnings(), 1)
	require.Contains(t, f.Logs.Warnings()[0], "API key 1 (database none, environment ")
}

func TestR5_OtherRowsAreNotReadNorTouched(t *testing.T) {
	t.Parallel()
	f := setup(t)
	// A read of these would fail: their values cannot be decrypted.
	f.Exec(`insert into ai_providers (id, type, name, settings) select gen_random_uuid(), 'openai', 'foreign-' || n, 'damaged' from generate_series(1, 5000) n`)
	f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 0, 'damaged' from ai_providers`)
	f.Exec(`insert into ai_provider_audits (id, actor, action, resource, resource_id, provider_id, provider_name, delivered_at)
		select gen_random_uuid(), 'system', 'create', 'ai_provider', id, id, name, now() from ai_providers`)
	before := f.Rows(`select xmin, ctid, name from ai_providers order by ctid`)
	cfg := f.Seeded("OPENAI_KEY=key")
	require.NoError(t, f.Seed(cfg))
	require.Equal(t, before, f.Rows(`select xmin, ctid, name from ai_providers where name <> 'openai' order by ctid`))

	// The query plan does not visit them, before and after the tables are analysed.
	for _, prepare := range []string{"select 1", "analyze"} {
		f.Exec(prepare)
		plan := strings.Join(f.Rows("explain "+aiseed.LoadSQL(f.Store), `["openai","anthropic"]`), "\n")
		require.NotContains(t, plan, "Seq Scan")
	}
}

func TestR6_KeysOfAnExistingProviderStay(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=key")
	before := f.State()
	for name, keys := range map[string]string{
		"another key":  "PROVIDER_0_KEY=other",
		"more keys":    "PROVIDER_0_KEYS=key,other,more",
		"no key":       "PROVIDER_0_KEY=",
		"other orders": "PROVIDER_0_KEYS=other,key",
	} {
		require.NoError(t, f.Seed(f.Parse("PROVIDER_0_TYPE=openai", keys)), name)
		require.Equal(t, before, f.State(), name)
	}
}

func TestR7_DivergenceIsAWarningWithFingerprints(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=key-one-0123456789-0123456789,key-two-0123456789-0123456789",
		"PROVIDER_1_TYPE=anthropic", "PROVIDER_1_BEDROCK_REGION=r", "PROVIDER_1_BEDROCK_MODEL=old",
		"PROVIDER_1_BEDROCK_ACCESS_KEY=access", "PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET=secret")
	before := f.State()
	diverged := f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=key-one-0123456789-0123456789,rotated-0123456789-0123456789,third",
		"PROVIDER_1_TYPE=anthropic", "PROVIDER_1_BEDROCK_REGION=r", "PROVIDER_1_BEDROCK_MODEL=new",
		"PROVIDER_1_BEDROCK_ACCESS_KEY=access", "PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET=rotated")
	require.NoError(t, f.Seed(diverged))
	require.Equal(t, before, f.State())

	warnings := f.Logs.Warnings()
	require.Len(t, warnings, 2, "one per provider, in order of name")
	require.Regexp(t, `^WARN AI provider: environment and database differ in Bedrock access key secret \(database [0-9a-f]{8}, environment [0-9a-f]{8}\), `+
		`Bedrock model \(database old, environment new\); the database's value is the one in use\. If it is right, `+
		`remove CODER_AIBRIDGE_PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET and CODER_AIBRIDGE_PROVIDER_1_BEDROCK_MODEL, or add anthropic@[0-9a-f]{16} to CODER_AIBRIDGE_DRIFT_KEEP; `+
		`if the environment is, add it to CODER_AIBRIDGE_DRIFT_ADOPT provider=anthropic$`, warnings[0])
	require.Regexp(t, `differ in API key 2 \(database [0-9a-f]{8}, environment [0-9a-f]{8}\), API key 3 \(database none, environment [0-9a-f]{8}\); the database's .* provider=openai$`, warnings[1])
	require.NotContains(t, strings.Join(warnings, ""), "-0123") // as in each secret; a fingerprint can have the digits

	providers, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	require.Equal(t, "old", providers[0].Bedrock.Model)
	require.Equal(t, "key-two-0123456789-0123456789", providers[1].Keys[1].APIKey.Reveal())
}

func TestR7_KeyThatTheEnvironmentLacksIsNamed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=k0,k1")
	require.NoError(t, f.Seed(f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=k0")))
	require.Len(t, f.Logs.Warnings(), 1)
	require.Regexp(t, `differ in API key 2 \(database [0-9a-f]{8}, environment none\);`, f.Logs.Warnings()[0])
}

func TestN4_KeysAreComparedInOrderWhateverTheOrderOfTheRows(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=k0,k1,k2")
	// No index gives that order, and the rows in the table are in another order.
	f.Exec(`alter table ai_provider_keys drop constraint ai_provider_keys_position_key`)
	f.Exec(`update ai_provider_keys set updated_at = now() where position = 0`)
	require.NoError(t, f.Seed(cfg))
	require.Empty(t, f.Logs.Warnings())
}

// An unsupported provider may even have the name of one that is supported.
func TestN7_UnsupportedProviderIsNotHeldAgainstItsNamesake(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Seeded("OPENAI_KEY=key", "PROVIDER_0_TYPE=x", "PROVIDER_0_NAME=openai")
	before := f.State()
	require.NoError(t, f.Seed(cfg))
	require.Equal(t, before, f.State())
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, cfg, slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, []aiseed.Action{aiseed.ActionUnchanged, aiseed.ActionUnsupported}, []aiseed.Action{plan.Steps[0].Action, plan.Steps[1].Action})

	f.Exec(`update ai_providers set settings = 'damaged'`)
	require.NoError(t, f.Seed(f.Parse("PROVIDER_0_TYPE=x", "PROVIDER_0_NAME=openai")), "R5: its namesake is not even read")
}

func TestR8_LogSaysWhatWasDone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=key", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=gone")
	f.Exec(`update ai_providers set deleted = true where name = 'gone'`)
	f.Logs = &testkit.LogRecorder{}
	f.Seeded("OPENAI_KEY=key", "ANTHROPIC_KEY=rotated", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=gone", "PROVIDER_1_TYPE=x",
		"PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=new", "PROVIDER_2_KEYS=key,another", "PROVIDER_2_BASE_URL=https://h/?token=hunter2hunter2")
	require.Contains(t, f.Logs.String(), "INFO created AI provider provider=new type=openai base_url=https://h/?token=**** keys=2\n"+
		"INFO AI providers of the environment are in the database create=1 unchanged=1 diverged=1 drifted=0 adopt=0 keep=0 deleted=1 unsupported=1")
}

func TestR8_SecondRunIsOneReadWithoutALock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.ParseEnviron(testkit.Environ(t, "testdata/gateway.env"))
	f.Wire.Reset(nil)
	require.NoError(t, f.Seed(cfg))
	first, _ := f.Wire.Count()
	require.LessOrEqual(t, first, 4, "a first start, delivery included")

	before, audits := f.State(), len(f.Audits.Entries())
	f.Wire.Reset(nil)
	require.NoError(t, f.Seed(cfg))
	again, sent := f.Wire.Count()
	require.Equal(t, 1, again)
	require.NotContains(t, sent, "lock")
	require.NotContains(t, sent, "begin")
	require.Equal(t, before, f.State())
	require.Len(t, f.Audits.Entries(), audits)
}

func TestR9_EmptyConfigWritesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	before := f.State()
	require.NoError(t, f.Seed(aiseed.Config{}))
	require.Equal(t, before, f.State())
	plan, err := aiseed.PlanAIProvidersFromEnv(context.Background(), f.Store, aiseed.Config{}, f.Logs.Logger())
	require.NoError(t, err)
	require.Equal(t, "The environment names no AI providers.\n", plan.String())
	require.Contains(t, f.Logs.String(), "DEBUG planned AI providers create=0 ")
}

func TestE10_BadConfigDoesNotReachTheDatabase(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Wire.Reset(nil)
	err := f.Seed(aiseed.Config{Providers: []aiseed.ProviderConfig{{Type: "openai", Name: "Bad"}}})
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	n, _ := f.Wire.Count()
	require.Zero(t, n)
}

func TestAnotherSchemaIsAnotherWorld(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const schema = `Odd "name"`
	store, err := aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{Keyring: f.Keyring, Schema: schema, Migrate: true})
	require.NoError(t, err)
	audits := &aiseedtest.AuditRecorder{}
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(context.Background(), store, f.Parse("OPENAI_KEY=key"), audits, slog.Logger{}))
	require.Len(t, audits.Entries(), 2)
	require.Empty(t, f.Rows(`select id from public.ai_providers`))
	require.Len(t, f.Rows(`select id from "Odd ""name""".ai_providers`), 1)
	require.NotEqual(t, aiseed.LockKey("public"), aiseed.LockKey(schema))
}

func TestR10_SeedReturnsThePlanThatItCarriedOut(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	cfg := f.Parse("OPENAI_KEY=key", "OPENAI_BASE_URL=https://h/v1?token=hunter2", "PROVIDER_0_TYPE=cohere")
	plan, err := f.Store.Seed(ctx, cfg, f.Audits, slog.Logger{})
	require.NoError(t, err)
	require.Len(t, plan.Steps, 2)
	require.Equal(t, aiseed.ActionUnsupported, plan.Steps[0].Action)
	created := plan.Steps[1]
	require.Equal(t, []any{aiseed.ActionCreate, "openai", aiseed.TypeOpenAI, "https://h/v1?token=****", 1},
		[]any{created.Action, created.Name, created.Type, created.BaseURL, created.Keys})

	plan, err = f.Store.Seed(ctx, cfg, f.Audits, slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, aiseed.ActionUnchanged, plan.Steps[1].Action)

	plan, err = f.Store.Seed(ctx, f.Parse("OPENAI_KEY=key", "OPENAI_BASE_URL=https://elsewhere/"), f.Audits, slog.Logger{})
	require.ErrorIs(t, err, aiseed.ErrDrift)
	require.Equal(t, aiseed.ActionDrifted, plan.Steps[0].Action, "the plan that could not be carried out")

	plan, err = f.Store.Seed(ctx, aiseed.Config{Providers: []aiseed.ProviderConfig{{}}}, f.Audits, slog.Logger{})
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	require.Nil(t, plan)
}

func TestNilArgumentsAreErrors(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := context.Background()
	require.ErrorContains(t, aiseed.SeedAIProvidersFromEnv(ctx, nil, aiseed.Config{}, f.Audits, slog.Logger{}), "the store is nil")
	for _, auditor := range []aiseed.Auditor{nil, aiseed.AuditorFunc(nil)} { // A6
		require.ErrorContains(t, aiseed.SeedAIProvidersFromEnv(ctx, f.Store, aiseed.Config{}, auditor, slog.Logger{}), "the auditor is nil; give one, or DiscardAudits")
		_, err := f.Store.DeliverAudits(ctx, auditor)
		require.ErrorContains(t, err, "the auditor is nil")
		_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: f.Keyring, Auditor: auditor}) // A7
		if auditor == nil {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "StoreOptions: Auditor is a nil function")
		}
	}
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, f.Store, f.Parse("OPENAI_KEY=key"), aiseed.DiscardAudits, slog.Logger{}))
	require.Empty(t, f.Rows(`select id from ai_provider_audits where delivered_at is null`))
}
