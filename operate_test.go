package aiseed_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// lastAudit is the last entry: actor, action, resource, old, new.
func (f *fixture) lastAudit() string {
	f.T.Helper()
	return f.Rows(`select concat_ws(' ', actor, action, resource, coalesce(old::text, '-'), coalesce(new::text, '-')) from ai_provider_audits order by seq desc limit 1`)[0]
}

func TestO4_ALifeOfAProvider(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: aiseed.TypeOpenAI, Name: "team", BaseURL: "https://H/v1", Keys: []aiseed.Secret{aiseed.NewSecret("first-key-0123456789-tail")}})
	require.Equal(t, "team", p.DisplayName)
	require.True(t, p.Enabled)
	require.Equal(t, "first-key-0123456789-tail", p.Keys[0].APIKey.Reveal())
	require.Empty(t, f.Rows(`select id from ai_provider_keys where api_key_key_id is null`), "sealed")
	require.Equal(t, []string{
		`alice create ai_provider - {"keys": ["****tail"], "name": "team", "type": "openai", "bedrock": null, "enabled": true, "base_url": "https://H/v1", "display_name": "team"}`,
		`alice create ai_provider_key - {"api_key": "****tail", "position": 0}`,
	}, f.Rows(`select concat_ws(' ', actor, action, resource, coalesce(old::text, '-'), new::text) from ai_provider_audits order by seq`))

	p, err := f.Store.UpdateProvider(ctx, "bob", p.ID, aiseed.ProviderUpdate{DisplayName: new("The Team"), BaseURL: new("https://new/v1")})
	require.NoError(t, err)
	require.Equal(t, "The Team https://new/v1", p.DisplayName+" "+p.BaseURL)
	require.Equal(t, `bob update ai_provider {"keys": ["****tail"], "name": "team", "type": "openai", "bedrock": null, "enabled": true, "base_url": "https://H/v1", "display_name": "team"} `+
		`{"keys": ["****tail"], "name": "team", "type": "openai", "bedrock": null, "enabled": true, "base_url": "https://new/v1", "display_name": "The Team"}`, f.lastAudit())

	before := f.State()
	_, err = f.Store.UpdateProvider(ctx, "bob", p.ID, aiseed.ProviderUpdate{DisplayName: new("The Team")})
	require.NoError(t, err)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "bob", p.ID, true))
	require.Equal(t, before, f.State(), "what changes nothing is not written")

	require.NoError(t, f.Store.SetProviderEnabled(ctx, "bob", p.ID, false))
	require.Equal(t, `bob update ai_provider {"enabled": true} {"enabled": false}`, f.lastAudit())
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	require.Empty(t, providers)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "bob", p.ID, true))

	key, err := f.Store.AddProviderKey(ctx, "carol", p.ID, aiseed.NewSecret("second"))
	require.NoError(t, err)
	require.Equal(t, "second", key.APIKey.Reveal())
	require.Equal(t, `carol create ai_provider_key - {"api_key": "****", "position": 1}`, f.lastAudit())
	require.NoError(t, f.Store.RemoveProviderKey(ctx, "carol", p.ID, p.Keys[0].ID))
	require.Equal(t, `carol delete ai_provider_key {"position": 0} -`, f.lastAudit())
	third, err := f.Store.AddProviderKey(ctx, "carol", p.ID, aiseed.NewSecret("third"))
	require.NoError(t, err)
	providers, err = f.Store.Providers(ctx)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{key.ID, third.ID}, []uuid.UUID{providers[0].Keys[0].ID, providers[0].Keys[1].ID}, "after those that it has")

	require.NoError(t, f.Store.DeleteProvider(ctx, "dave", p.ID))
	require.Equal(t, `dave delete ai_provider {"deleted": false} {"deleted": true}`, f.lastAudit())
	require.NoError(t, f.Seed(f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=team", "PROVIDER_0_BASE_URL=https://elsewhere")), "a tombstone sticks")
	_, err = f.Store.UpdateProvider(ctx, "dave", p.ID, aiseed.ProviderUpdate{})
	require.ErrorIs(t, err, aiseed.ErrNotFound)
	require.ErrorContains(t, err, "is deleted; restore it first")

	restored, err := f.Store.RestoreProvider(ctx, "dave", p.ID)
	require.NoError(t, err)
	require.Len(t, restored.Keys, 2)
	require.Equal(t, `dave restore ai_provider {"deleted": true} {"deleted": false}`, f.lastAudit())

	n, err := f.Store.DeliverAudits(ctx, f.Audits)
	require.NoError(t, err)
	require.Equal(t, 1, n, "the start above delivered the others")
}

func TestO4_BedrockSettings(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: aiseed.TypeAnthropic, Name: "aws", Disabled: true, Bedrock: &aiseed.BedrockSettings{Region: "us"}})
	require.False(t, p.Enabled)
	require.Equal(t, "us global.anthropic.claude-sonnet-4-5-20250929-v1:0", p.Bedrock.Region+" "+p.Bedrock.Model)
	p, err := f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{Model: new("m"), AccessKey: new(aiseed.NewSecret("access")), AccessKeySecret: new(aiseed.NewSecret("secret"))})
	require.NoError(t, err)
	require.Equal(t, "us m access secret", strings.Join([]string{p.Bedrock.Region, p.Bedrock.Model, p.Bedrock.AccessKey.Reveal(), p.Bedrock.AccessKeySecret.Reveal()}, " "))
	require.NotContains(t, f.lastAudit(), "secret\": \"secret")
	require.Equal(t, []string{"2"}, f.Rows(`select revision from ai_providers`))
	_, err = f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("x")})
	require.NoError(t, err)
	require.Equal(t, []string{"3"}, f.Rows(`select revision from ai_providers`), "a display name counts too")
}

func TestO4_ChecksAreThoseOfTheEnvironment(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	secrets := func(values ...string) (out []aiseed.Secret) {
		for _, v := range values {
			out = append(out, aiseed.NewSecret(v))
		}
		return out
	}
	for name, tt := range map[string]struct {
		n    aiseed.ProviderSpec
		want []string
	}{
		"nothing":            {aiseed.ProviderSpec{}, []string{"aiseed: 1 problem with the call; nothing was changed", "type, name: neither a type nor a name"}},
		"a bad name":         {aiseed.ProviderSpec{Type: "openai", Name: "Bad"}, []string{"aiseed: 1 problem with the provider; nothing was changed", "name (provider Bad): not a valid name"}},
		"an unknown type":    {aiseed.ProviderSpec{Type: "cohere", Name: "x"}, []string{"type (provider x): not a supported type; want one of anthropic, azure"}},
		"a bad base URL":     {aiseed.ProviderSpec{Type: "openai", Name: "x", BaseURL: "x"}, []string{"base_url (provider x): not an absolute http or https URL"}},
		"bad keys":           {aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secrets("a b", "c", "c")}, []string{"keys (provider x): element 1: a space in it", "element 3: the same as element 2"}},
		"too many keys":      {aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secrets("1", "2", "3", "4", "5", "6")}, []string{"keys (provider x): 6 elements"}},
		"Bedrock for OpenAI": {aiseed.ProviderSpec{Type: "openai", Name: "x", Bedrock: &aiseed.BedrockSettings{Region: "r"}}, []string{"  1. bedrock_region (provider x): for the types anthropic and bedrock only"}},
		"both":               {aiseed.ProviderSpec{Type: "anthropic", Name: "x", Keys: secrets("k"), Bedrock: &aiseed.BedrockSettings{Region: "r"}}, []string{"not with both"}},
		"half a pair":        {aiseed.ProviderSpec{Type: "anthropic", Name: "x", Bedrock: &aiseed.BedrockSettings{AccessKey: aiseed.NewSecret("a")}}, []string{"1 access key and 0 secrets"}},
		"a display name":     {aiseed.ProviderSpec{Type: "openai", Name: "x", DisplayName: "a\nb"}, []string{"display_name (provider x): a line break in it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := f.Store.CreateProvider(ctx, "a", tt.n)
			require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), aiseed.DefaultPrefix)
		})
	}
	t.Run("an actor is needed", func(t *testing.T) {
		t.Parallel()
		for _, actor := range []string{" ", " system ", "a\x00b", strings.Repeat("a", 256), "\xff"} {
			_, err := f.Store.CreateProvider(ctx, actor, aiseed.ProviderSpec{Type: "openai", Name: "x"})
			require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
			require.ErrorContains(t, err, "actor: creating a provider needs an actor")
		}
	})
	t.Run("a sixth key", func(t *testing.T) {
		t.Parallel()
		p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "five", Keys: secrets("1", "2", "3", "4", "5")})
		_, err := f.Store.AddProviderKey(ctx, "a", p.ID, aiseed.NewSecret("6"))
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	})
}

func TestO4_WhatIsNotThereAndWhatIsTaken(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	_, err := f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "x"})
	require.ErrorIs(t, err, aiseed.ErrNameTaken)
	require.ErrorContains(t, err, "there is a live provider x already; choose another name, or update that one")

	nobody := uuid.New()
	for name, err := range map[string]error{
		"update":  second(f.Store.UpdateProvider(ctx, "a", nobody, aiseed.ProviderUpdate{})),
		"enable":  f.Store.SetProviderEnabled(ctx, "a", nobody, true),
		"delete":  f.Store.DeleteProvider(ctx, "a", nobody),
		"restore": second(f.Store.RestoreProvider(ctx, "a", nobody)),
		"live":    second(f.Store.RestoreProvider(ctx, "a", p.ID)),
		"add":     second(f.Store.AddProviderKey(ctx, "a", nobody, aiseed.NewSecret("k"))),
		"remove":  f.Store.RemoveProviderKey(ctx, "a", p.ID, nobody),
	} {
		require.ErrorIs(t, err, aiseed.ErrNotFound, name)
	}

	require.NoError(t, f.Store.DeleteProvider(ctx, "a", p.ID))
	f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	_, err = f.Store.RestoreProvider(ctx, "a", p.ID)
	require.ErrorIs(t, err, aiseed.ErrNameTaken)
	require.Len(t, f.Rows(`select id from ai_providers where not deleted`), 1)
}

func second[T any](_ T, err error) error { return err }

// A start and an edit at once end in one consistent state.
func TestO4_ConcurrentStartsAndEdits(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	cfg := f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x", "PROVIDER_0_BASE_URL=https://env", "PROVIDER_0_KEY=k")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			err := aiseed.SeedAIProvidersFromEnv(ctx, f.Store, cfg, aiseed.DiscardAudits, slog.Logger{})
			if err != nil { // the edit came first
				assert.ErrorIs(t, err, aiseed.ErrDrift)
			}
		})
		all.Go(func() {
			_, err := f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "x", BaseURL: "https://api"})
			if err != nil {
				assert.ErrorIs(t, err, aiseed.ErrNameTaken)
			}
		})
	}
	all.Wait()
	rows := f.Rows(`select base_url, (select count(*) from ai_provider_keys where provider_id = p.id) from ai_providers p`)
	require.Len(t, rows, 1)
	require.Contains(t, []string{"https://env 1", "https://api 0"}, rows[0])
	require.Equal(t, f.Rows(`select count(*) from ai_provider_audits`), f.Rows(`select (select count(*) from ai_providers) + (select count(*) from ai_provider_keys)`))
}

// A settled drift can leave both bearer keys and Bedrock settings. This does not prevent
// later changes.
func TestO4_ProviderWithBothCanStillBeChanged(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, storetest.Plaintext)
	f.Seeded("BEDROCK_REGION=r")
	f.Exec(`insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 0, 'of an earlier version' from ai_providers`)
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	require.NotNil(t, providers[0].Bedrock)
	require.Len(t, providers[0].Keys, 1)
	_, err = f.Store.UpdateProvider(ctx, "a", providers[0].ID, aiseed.ProviderUpdate{DisplayName: new("x")})
	require.NoError(t, err)
	_, err = f.Store.AddProviderKey(ctx, "a", providers[0].ID, aiseed.NewSecret("another"))
	require.NoError(t, err)
}

func TestO4_ANameThatIsTakenIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", p.ID))
	f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	f.Wire.Reset(nil)
	_, err := f.Store.RestoreProvider(ctx, "a", p.ID)
	require.ErrorIs(t, err, aiseed.ErrNameTaken)
	require.ErrorContains(t, err, "there is a live provider x already")
	n, _ := f.Wire.Count()
	require.LessOrEqual(t, n, 3)
}

// An operation returns what a later read finds, although it does not read the row again.
func TestO4_ResultsAreWhatIsStored(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Wire.Reset(nil)
	p, err := f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("one")}})
	require.NoError(t, err)
	n, _ := f.Wire.Count()
	require.Equal(t, 2, n)
	stored := func() aiseed.Provider {
		providers, err := f.Store.Providers(ctx)
		require.NoError(t, err)
		require.Len(t, providers, 1)
		return providers[0]
	}
	require.Equal(t, stored(), p)
	key, err := f.Store.AddProviderKey(ctx, "a", p.ID, aiseed.NewSecret("two"))
	require.NoError(t, err)
	require.Equal(t, stored().Keys[1], key)
	p, err = f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: new("https://other")})
	require.NoError(t, err)
	require.Equal(t, stored(), p)
	p, err = f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: new("https://other")})
	require.NoError(t, err)
	require.Equal(t, stored(), p, "where nothing changes")
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", p.ID))
	p, err = f.Store.RestoreProvider(ctx, "a", p.ID)
	require.NoError(t, err)
	require.Equal(t, stored(), p)
}

func TestO4_UpdatesAreChecked(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	bare := f.Created(aiseed.ProviderSpec{Type: "anthropic", Name: "y"})
	before := f.State()
	for want, err := range map[string]error{
		"base_url (provider x): not an absolute http or https URL": second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: new("x")})),
		"for the types anthropic and bedrock only":                 second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{Region: new("r")})),
		"Bedrock needs a region, a base URL or an access key":      second(f.Store.UpdateProvider(ctx, "a", bare.ID, aiseed.ProviderUpdate{Model: new("m")})),
		"display_name (provider x): longer than 255 bytes":         second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new(strings.Repeat("d", 256))})),
		"empty": second(f.Store.AddProviderKey(ctx, "a", p.ID, aiseed.Secret{})),
	} {
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig, want)
		require.ErrorContains(t, err, want)
	}
	require.ErrorContains(t, f.Store.DeleteProvider(ctx, "system", p.ID), "needs an actor")
	require.Equal(t, before, f.State())
}

func TestO4_EachSettingIsChangedByItself(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: aiseed.TypeAnthropic, Name: "aws", BaseURL: "https://h/", DisplayName: "AWS", Bedrock: &aiseed.BedrockSettings{
		Region: "r", Model: "m", SmallFastModel: "s", AccessKey: aiseed.NewSecret("a"), AccessKeySecret: aiseed.NewSecret("k"),
	}})
	want := *p.Bedrock
	for _, change := range []struct {
		update aiseed.ProviderUpdate
		apply  func()
	}{
		{aiseed.ProviderUpdate{Region: new("r2")}, func() { want.Region = "r2" }},
		{aiseed.ProviderUpdate{Model: new("m2")}, func() { want.Model = "m2" }},
		{aiseed.ProviderUpdate{SmallFastModel: new("s2")}, func() { want.SmallFastModel = "s2" }},
		{aiseed.ProviderUpdate{AccessKey: new(aiseed.NewSecret("a2"))}, func() { want.AccessKey = aiseed.NewSecret("a2") }},
		{aiseed.ProviderUpdate{AccessKeySecret: new(aiseed.NewSecret("k2"))}, func() { want.AccessKeySecret = aiseed.NewSecret("k2") }},
	} {
		before := f.Rows(`select updated_at from ai_providers`)
		change.apply()
		p, err := f.Store.UpdateProvider(ctx, "a", p.ID, change.update)
		require.NoError(t, err)
		require.Equal(t, want, *p.Bedrock)
		require.Equal(t, "AWS https://h/", p.DisplayName+" "+p.BaseURL, "the rest stays")
		require.NotEqual(t, before, f.Rows(`select updated_at from ai_providers`))
	}
	require.Equal(t, []string{"6"}, f.Rows(`select revision from ai_providers`))

	// The library does not change the values that the host passes.
	settings := aiseed.BedrockSettings{Region: "r"}
	f.Created(aiseed.ProviderSpec{Type: aiseed.TypeAnthropic, Name: "mine", Bedrock: &settings})
	require.Equal(t, aiseed.BedrockSettings{Region: "r"}, settings)
	bare := f.Created(aiseed.ProviderSpec{Type: aiseed.TypeAnthropic, Name: "bare"})
	bare, err := f.Store.UpdateProvider(ctx, "a", bare.ID, aiseed.ProviderUpdate{Region: new("r")})
	require.NoError(t, err)
	require.Equal(t, "global.anthropic.claude-sonnet-4-5-20250929-v1:0 global.anthropic.claude-haiku-4-5-20251001-v1:0", bare.Bedrock.Model+" "+bare.Bedrock.SmallFastModel)
}

func TestO4_WhatIsEnoughForBedrock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for i, n := range []aiseed.ProviderSpec{
		{Bedrock: &aiseed.BedrockSettings{Region: "r"}},
		{Bedrock: &aiseed.BedrockSettings{AccessKey: aiseed.NewSecret("a"), AccessKeySecret: aiseed.NewSecret("s")}},
		{BaseURL: "https://h/", Bedrock: &aiseed.BedrockSettings{}},
	} {
		n.Type, n.Name = aiseed.TypeAnthropic, "p"+string(rune('0'+i))
		require.NotNil(t, f.Created(n).Bedrock)
	}
	for want, n := range map[string]aiseed.ProviderSpec{
		"name (provider openai): required": {Type: aiseed.TypeOpenAI},
		"bedrock_model":                    {Type: aiseed.TypeAnthropic, Name: "x", Bedrock: &aiseed.BedrockSettings{Region: "r", Model: "a b"}},
		"small_fast_model":                 {Type: aiseed.TypeAnthropic, Name: "x", Bedrock: &aiseed.BedrockSettings{Region: "r", SmallFastModel: "a b"}},
	} {
		_, err := f.Store.CreateProvider(context.Background(), "a", n)
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
		require.ErrorContains(t, err, want)
	}
}

func TestO4_KeysOfAProviderWithGaps(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("1"), aiseed.NewSecret("2"), aiseed.NewSecret("3")}})
	require.NoError(t, f.Store.RemoveProviderKey(ctx, "a", p.ID, p.Keys[0].ID))
	added, err := f.Store.AddProviderKey(ctx, "a", p.ID, aiseed.NewSecret("4"))
	require.NoError(t, err)
	require.Equal(t, "4", added.APIKey.Reveal())
	require.Equal(t, []string{"1", "2", "3"}, f.Rows(`select position from ai_provider_keys order by position`))
	require.NoError(t, f.Store.RemoveProviderKey(ctx, "a", p.ID, p.Keys[2].ID))
	require.Equal(t, `a delete ai_provider_key {"position": 2} -`, f.lastAudit())
	require.Equal(t, []string{p.Keys[2].ID.String() + " " + p.ID.String()}, f.Rows(`select resource_id::text, provider_id::text from ai_provider_audits order by seq desc limit 1`))
	infos, err := f.Store.ListProviders(ctx)
	require.NoError(t, err)
	require.Equal(t, []aiseed.ProviderKeyInfo{{ID: p.Keys[1].ID, Mask: "****"}, {ID: added.ID, Mask: "****"}}, infos[0].Keys)
	_, err = f.Store.AddProviderKey(ctx, "a", p.ID, aiseed.NewSecret("4"))
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig, "it has that one")
}

// O4: there is no position behind the last that SQL can write.
func TestO4_AKeyAtTheLastPosition(t *testing.T) {
	t.Parallel()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("1"), aiseed.NewSecret("2")}})
	f.Exec(`update ai_provider_keys set position = 2147483647 where position = 1`)
	added, err := f.Store.AddProviderKey(context.Background(), "a", p.ID, aiseed.NewSecret("3"))
	require.NoError(t, err)
	require.Equal(t, []string{p.Keys[0].ID.String(), p.Keys[1].ID.String(), added.ID.String()}, f.Rows(`select id::text from ai_provider_keys order by position`))
}

func TestO4_ATombstoneIsNotFound(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("k")}})
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", p.ID))
	before := f.State()
	for name, err := range map[string]error{
		"update":  second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("y")})),
		"enable":  f.Store.SetProviderEnabled(ctx, "a", p.ID, true),
		"disable": f.Store.SetProviderEnabled(ctx, "a", p.ID, false),
		"delete":  f.Store.DeleteProvider(ctx, "a", p.ID),
		"add":     second(f.Store.AddProviderKey(ctx, "a", p.ID, aiseed.NewSecret("l"))),
		"remove":  f.Store.RemoveProviderKey(ctx, "a", p.ID, p.Keys[0].ID),
	} {
		require.ErrorIs(t, err, aiseed.ErrNotFound, name)
		require.ErrorContains(t, err, "is deleted; restore it first", name)
	}
	require.Equal(t, before, f.State())
}

// Someone disables it in SQL, after we read it under the lock and before we write.
func TestO4_WhatSomeoneElseDidIsNotAudited(t *testing.T) {
	t.Parallel()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	f.Wire.Reset(testkit.Once(testkit.Pass, "set enabled", func() { f.Exec(`update ai_providers set enabled = false`) }))
	require.NoError(t, f.Store.SetProviderEnabled(context.Background(), "a", p.ID, false))
	require.Len(t, f.Rows(`select id from ai_provider_audits`), 1, "that of its creation")
}

func TestO4_AKeyThatIsKnownIsNotWrittenAgain(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	before := f.Rows(`select xmin, ctid, id from ai_encryption_keys`)
	f.Created(aiseed.ProviderSpec{Type: "openai", Name: "y"})
	require.Equal(t, before, f.Rows(`select xmin, ctid, id from ai_encryption_keys`))
}

func TestO4_TheKeyThatWasAddedIsReturned(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	other, _ := f.Open()
	// Before the lock is taken: afterwards the other one would wait for it.
	f.Wire.Reset(testkit.Once(testkit.Pass, "pg_advisory_xact_lock", func() {
		assert.NoError(t, second(other.AddProviderKey(ctx, "b", p.ID, aiseed.NewSecret("theirs"))))
	}))
	key, err := f.Store.AddProviderKey(ctx, "a", p.ID, aiseed.NewSecret("mine"))
	require.NoError(t, err)
	require.Equal(t, "mine", key.APIKey.Reveal())
	p, err = f.Store.ProviderByName(ctx, "x")
	require.NoError(t, err)
	require.Len(t, p.Keys, 2)
}
