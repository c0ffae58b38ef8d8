package aiseed_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
)

func TestS7_ProvidersAreTheRuntimesView(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=z", "PROVIDER_0_KEYS=k3,k1,k2", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=a-b",
		"PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=ab", "PROVIDER_3_TYPE=openai", "PROVIDER_3_NAME=off", "PROVIDER_4_TYPE=openai", "PROVIDER_4_NAME=gone")
	f.Exec(`update ai_providers set enabled = false where name = 'off'`)
	f.Exec(`update ai_providers set deleted = true where name = 'gone'`)
	f.Wire.Reset(nil)
	providers, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	n, _ := f.Wire.Count()
	require.Equal(t, 1, n, "one statement is one snapshot")
	var got []string
	for _, p := range providers {
		got = append(got, p.Name)
	}
	require.Equal(t, []string{"a-b", "ab", "z"}, got)
	require.Equal(t, "k3 k1 k2", providers[2].Keys[0].APIKey.Reveal()+" "+providers[2].Keys[1].APIKey.Reveal()+" "+providers[2].Keys[2].APIKey.Reveal())
	require.False(t, providers[2].CreatedAt.IsZero())
	require.Nil(t, providers[2].Bedrock)

	providers, err = f.emptied(t).Store.Providers(context.Background())
	require.NoError(t, err)
	require.NotNil(t, providers)
	require.Empty(t, providers)
}

func TestS7_R7_KeysAreInOrderOfPositionNotOfInsertion(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cfg := f.Seeded("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=a,b,c")
	f.Exec(`update ai_provider_keys set position = 10 - position`)
	providers, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	require.Equal(t, "c", providers[0].Keys[0].APIKey.Reveal())
	require.NoError(t, f.Seed(cfg))
	require.Empty(t, f.Logs.Warnings(), "R7: another order is no difference")
	require.Contains(t, f.Logs.String(), "INFO AI provider: the database has the keys of the environment in another order, which stays provider=openai")
}

func TestS7_TheTimesOfAKeyAreThoseOfItsRow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.Seeded("OPENAI_KEY=key")
	f.Exec(`update ai_provider_keys set created_at = '2001-01-01Z', updated_at = '2002-01-01Z'`)
	providers, err := f.Store.Providers(context.Background())
	require.NoError(t, err)
	key := providers[0].Keys[0]
	require.Equal(t, time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC), key.CreatedAt.UTC())
	require.Equal(t, time.Date(2002, 1, 1, 0, 0, 0, 0, time.UTC), key.UpdatedAt.UTC())
}

func TestO4_AllProvidersAreListedWithoutTheirSecrets(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	gone := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("k")}})
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", gone.ID))
	live := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Disabled: true})
	f.Exec(`update ai_provider_keys set api_key = 'damaged'`)
	infos, err := f.Store.ListProviders(ctx)
	require.NoError(t, err)
	require.Len(t, infos, 2)
	require.Equal(t, live.ID, infos[0].ID)
	require.False(t, infos[0].Enabled || infos[0].Deleted)
	require.Equal(t, gone.ID, infos[1].ID)
	require.True(t, infos[1].Deleted)
	require.Equal(t, []aiseed.ProviderKeyInfo{{ID: gone.Keys[0].ID, Undecryptable: true}}, infos[1].Keys)
}

func TestO4_TheListIsInOrderOfName(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	a := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "a", BaseURL: "https://a/", DisplayName: "A"})
	f.Created(aiseed.ProviderSpec{Type: "anthropic", Name: "b"})
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", a.ID))
	infos, err := f.Store.ListProviders(ctx)
	require.NoError(t, err)
	require.Len(t, infos, 2)
	require.Equal(t, "b", infos[1].Name)
	require.Equal(t, a.CreatedAt, infos[0].CreatedAt)
	require.False(t, infos[0].UpdatedAt.Before(infos[0].CreatedAt))
	infos[0].CreatedAt, infos[0].UpdatedAt = a.CreatedAt, a.UpdatedAt
	require.Equal(t, aiseed.ProviderInfo{
		ID: a.ID, Type: "openai", Name: "a", DisplayName: "A", Enabled: true, Deleted: true, BaseURL: "https://a/", Revision: 2, CreatedAt: a.CreatedAt, UpdatedAt: a.UpdatedAt,
	}, infos[0])
}

func TestO4_TombstonesAreListedLatestFirst(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var latestFirst, listed []string
	for range 3 {
		p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
		require.NoError(t, f.Store.DeleteProvider(context.Background(), "a", p.ID))
		latestFirst = slices.Insert(latestFirst, 0, p.ID.String())
	}
	infos, err := f.Store.ListProviders(context.Background())
	require.NoError(t, err)
	for _, info := range infos {
		listed = append(listed, info.ID.String())
	}
	require.Equal(t, latestFirst, listed)
}

func TestO4_UpdatedAtFollows(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	for name, do := range map[string]func() error{
		"disable": func() error { return f.Store.SetProviderEnabled(ctx, "a", p.ID, false) },
		"update": func() error {
			return second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: new("https://h/")}))
		},
	} {
		before := f.Rows(`select updated_at from ai_providers`)
		require.NoError(t, do(), name)
		require.NotEqual(t, before, f.Rows(`select updated_at from ai_providers`), name)
	}
	p, err := f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("shown")})
	require.NoError(t, err)
	p, err = f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: new("https://i/")})
	require.NoError(t, err)
	require.Equal(t, "shown https://i/", p.DisplayName+" "+p.BaseURL, "what is not asked for stays")
}

// If a key is lost, values that cannot be decrypted can still be taken out of use.
func TestO4_WhatDoesNotOpenCanBeDisabledAndDeleted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("k")}})
	f.Exec(`update ai_provider_keys set api_key = left(api_key, -4)`)
	_, err := f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("y")})
	require.ErrorIs(t, err, aiseed.ErrUndecryptable)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "a", p.ID, false))
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", p.ID))
	_, err = f.Store.RestoreProvider(ctx, "a", p.ID)
	require.ErrorIs(t, err, aiseed.ErrUndecryptable, "restored, but not readable")
	require.NoError(t, f.Store.RemoveProviderKey(ctx, "a", p.ID, p.Keys[0].ID))
	_, err = f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("y")})
	require.NoError(t, err)
}

func TestS5_SealedTextIsNeverTakenForASecret(t *testing.T) {
	t.Parallel()
	f := setup(t)
	options := f.Options
	storetest.Plaintext(&options, nil)
	for _, tamper := range []string{`update ai_provider_keys set api_key_key_id = null`, `update ai_providers set settings_key_id = null`} {
		f := f.emptied(t)
		f.Seeded("OPENAI_KEY=key", "BEDROCK_REGION=r")
		f.Exec(tamper)
		_, err := f.Store.Providers(context.Background())
		require.ErrorIs(t, err, aiseed.ErrUndecryptable)
		require.ErrorContains(t, err, "the id of its key is missing")
		_, err = f.Store.SealPlaintext(context.Background())
		require.ErrorIs(t, err, aiseed.ErrUndecryptable)

		f.Exec(`delete from ai_provider_keys where api_key_key_id is not null`)
		f.Exec(`update ai_providers set settings = null, settings_key_id = null where settings_key_id is not null`)
		_, err = f.Opened(options).Providers(context.Background())
		require.ErrorIs(t, err, aiseed.ErrUndecryptable)
	}
}

func TestS5_DamagedSettingsAreATypedError(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("BEDROCK_REGION=r")
	for _, settings := range []string{`no json with-a-secret`, `{"_type":"other","_version":1}`, `{"_type":"bedrock","_version":2}`, `[]`} {
		f.Exec(`update ai_providers set settings = $1`, settings)
		_, err := f.Store.Providers(context.Background())
		require.ErrorIs(t, err, aiseed.ErrUndecryptable, settings)
		require.ErrorContains(t, err, "ai_providers.settings of row ")
		require.NotContains(t, err.Error(), "with-a-secret")
	}
}

func TestO4_WhatWasReadBeforeARetryIsForgotten(t *testing.T) {
	t.Parallel()
	f := setup(t)
	p, err := f.Store.CreateProvider(context.Background(), "a", aiseed.ProviderSpec{Type: "openai", Name: "x"})
	require.NoError(t, err)
	found, err := aiseed.FoundAgain(context.Background(), f.Store, p.ID, func() {})
	require.NoError(t, err)
	require.True(t, found)
	found, err = aiseed.FoundAgain(context.Background(), f.Store, p.ID, func() { f.Exec(`delete from ai_providers`) })
	require.NoError(t, err)
	require.False(t, found)
}

// O4, S5: an operation on a deleted provider says that it is deleted, whether or not its
// secrets can be decrypted.
func TestO4_TheSecretsOfATombstoneAreNotOpened(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := context.Background()
	p, err := f.Store.CreateProvider(ctx, "op", aiseed.ProviderSpec{Type: aiseed.TypeOpenAI, Name: "a", Keys: []aiseed.Secret{aiseed.NewSecret("key")}})
	require.NoError(t, err)
	require.NoError(t, f.Store.DeleteProvider(ctx, "op", p.ID))
	f.Exec(`update ai_provider_keys set api_key = 'plaintext', api_key_key_id = null`)
	name := "x"
	_, err = f.Store.UpdateProvider(ctx, "op", p.ID, aiseed.ProviderUpdate{DisplayName: &name})
	require.ErrorIs(t, err, aiseed.ErrNotFound)
	_, err = f.Store.AddProviderKey(ctx, "op", p.ID, aiseed.NewSecret("another"))
	require.ErrorIs(t, err, aiseed.ErrNotFound)
}

func TestO4_SettingsThatDoNotOpenAreNoHindrance(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "anthropic", Name: "x", Bedrock: &aiseed.BedrockSettings{Region: "r"}})
	f.Exec(`update ai_providers set settings = 'damaged'`)
	_, err := f.Store.ListProviders(ctx)
	require.NoError(t, err)
	require.NoError(t, f.Store.SetProviderEnabled(ctx, "a", p.ID, false))
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", p.ID))
}

func secretsOf(values ...string) []aiseed.Secret {
	secrets := make([]aiseed.Secret, len(values))
	for i, value := range values {
		secrets[i] = aiseed.NewSecret(value)
	}
	return secrets
}

func TestO4_OneProviderIsReadByIDAndByName(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	gone := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secretsOf("old")})
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", gone.ID))
	_, err := f.Store.ProviderByName(ctx, "x")
	require.ErrorIs(t, err, aiseed.ErrNotFound)
	require.ErrorContains(t, err, "provider x with id "+gone.ID.String()+" is deleted; restore it first")

	want := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Disabled: true, Keys: secretsOf("one", "two")})
	f.Wire.Reset(nil)
	byID, err := f.Store.Provider(ctx, want.ID)
	require.NoError(t, err)
	n, sent := f.Wire.Count()
	require.Equal(t, 1, n, "a disabled one too, in one round trip")
	require.NotContains(t, sent, "lock")
	byName, err := f.Store.ProviderByName(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, want, byID)
	require.Equal(t, want, byName)

	nobody := uuid.New()
	for want, err := range map[string]error{
		"is deleted; restore it first": second(f.Store.Provider(ctx, gone.ID)),
		"there is no provider with id " + nobody.String() + "; list the providers to see what there is": second(f.Store.Provider(ctx, nobody)),
		"there is no provider with name y; list the providers to see what there is":                     second(f.Store.ProviderByName(ctx, "y")),
		"there is no provider with that name, which is not a valid one":                                 second(f.Store.ProviderByName(ctx, "Y")),
	} {
		require.ErrorIs(t, err, aiseed.ErrNotFound)
		require.ErrorContains(t, err, want)
	}
	f.Exec(`update ai_provider_keys set api_key = 'damaged'`)
	_, err = f.Store.ProviderByName(ctx, "x")
	require.ErrorIs(t, err, aiseed.ErrUndecryptable)
}

func TestO4_AListShowsEverythingButSecrets(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	keys := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "keys", Keys: secretsOf("a-long-key-0123456789-tail", "short")}).Keys
	bedrock := f.Created(aiseed.ProviderSpec{Type: "bedrock", Name: "aws", Bedrock: &aiseed.BedrockSettings{
		Region: "r", Model: "m", SmallFastModel: "s", AccessKey: aiseed.NewSecret("access"), AccessKeySecret: aiseed.NewSecret("secret"),
	}})
	list := func() []aiseed.ProviderInfo {
		infos, err := f.Store.ListProviders(ctx)
		require.NoError(t, err)
		return infos
	}
	want := []aiseed.ProviderKeyInfo{{ID: keys[0].ID, Mask: "****tail"}, {ID: keys[1].ID, Mask: "****"}}
	require.Equal(t, want, list()[1].Keys)
	info := list()[0]
	require.Equal(t, []any{"r", "m", "s", false}, []any{info.Region, info.Model, info.SmallFastModel, info.SettingsUndecryptable})

	f.Exec(`update ai_provider_keys set api_key = 'damaged' where position = 0`)
	f.Exec(`update ai_providers set settings = 'damaged' where id = $1`, bedrock.ID)
	want[0].Mask, want[0].Undecryptable = "", true
	require.Equal(t, want, list()[1].Keys, "the other key is shown")
	info = list()[0]
	require.Equal(t, []any{"", "", "", true}, []any{info.Region, info.Model, info.SmallFastModel, info.SettingsUndecryptable})
}

// O4: each change that a client can see is counted once, and a change that was decided on an
// earlier revision writes nothing.
func TestO4_EachChangeCountsOnceAndAStaleOneIsAConflict(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secretsOf("one", "two")})
	require.EqualValues(t, 1, p.Revision)
	var added aiseed.ProviderKey
	for i, do := range []func() error{
		func() error {
			return second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("X")}))
		},
		func() error { return f.Store.SetProviderEnabled(ctx, "a", p.ID, false) },
		func() error { return second(f.Store.ReplaceProviderKeys(ctx, "a", p.ID, secretsOf("two", "three"))) },
		func() (err error) {
			added, err = f.Store.AddProviderKey(ctx, "a", p.ID, aiseed.NewSecret("four"))
			return err
		},
		func() error { return f.Store.RemoveProviderKey(ctx, "a", p.ID, added.ID) },
		func() error {
			return second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: new("https://h/"), Keys: secretsOf("five"), Revision: 6}))
		},
		func() error { return f.Store.DeleteProvider(ctx, "a", p.ID) },
		func() error { return second(f.Store.RestoreProvider(ctx, "a", p.ID)) },
	} {
		require.NoError(t, do(), i)
		require.Equal(t, []string{strconv.Itoa(i + 2)}, f.Rows(`select revision from ai_providers`), i)
	}
	f.Exec(`update ai_providers set enabled = true`)
	p, err := f.Store.Provider(ctx, p.ID)
	require.NoError(t, err)
	require.EqualValues(t, 10, p.Revision, "in SQL too")

	before := f.State()
	for _, update := range []aiseed.ProviderUpdate{
		{Revision: 9, DisplayName: new("Y")},
		{Revision: 11, Keys: secretsOf("six")},
		{Revision: -1, BaseURL: new("not even a URL")},
		{Revision: 1},
	} {
		_, err := f.Store.UpdateProvider(ctx, "a", p.ID, update)
		require.ErrorIs(t, err, aiseed.ErrConflict)
		require.ErrorContains(t, err, fmt.Sprintf("provider x was changed meanwhile: the change was decided on revision %d, and the provider has revision 10; "+
			"nothing was changed; read the provider again and decide again", update.Revision))
	}
	require.Equal(t, before, f.State())
}

// S5, S7: one bad row does not take the others down, and a start names each bad row.
func TestS7_S5_ProvidersThatOpenAreReturnedNextToThoseThatDoNot(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	cfg := f.Seeded("BEDROCK_REGION=r", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=good", "PROVIDER_0_KEY=k",
		"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=plain", "PROVIDER_1_KEYS=k,l", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=off", "PROVIDER_2_KEY=k",
		"PROVIDER_3_TYPE=openai", "PROVIDER_3_NAME=gone", "PROVIDER_3_KEY=k")
	all, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	f.Exec(`update ai_provider_keys set api_key = 'plain-text', api_key_key_id = null where provider_id in (select id from ai_providers where name <> 'good')`)
	f.Exec(`update ai_providers set settings = 'damaged' where settings is not null`)
	f.Exec(`update ai_providers set enabled = false where name = 'off'`)
	f.Exec(`update ai_providers set deleted = true where name = 'gone'`)
	before := f.State()

	providers, err := f.Store.Providers(ctx)
	require.Equal(t, all[2:3], providers, "the good one")
	var unusable *aiseed.ProvidersError
	require.ErrorAs(t, err, &unusable)
	require.Equal(t, []string{"anthropic", "plain"}, namesOf(unusable))
	require.Equal(t, all[0].ID, unusable.Providers[0].ID)
	var decrypt *aiseed.DecryptError
	require.ErrorAs(t, unusable.Providers[1].Err, &decrypt)
	require.Equal(t, []string{"plain", "ai_provider_keys", "api_key"}, []string{decrypt.Provider, decrypt.Table, decrypt.Column})
	require.ErrorIs(t, err, aiseed.ErrUndecryptable)
	require.ErrorIs(t, err, aiseed.ErrPlaintext)

	for name, err := range map[string]error{
		"a start": f.Seed(cfg), "a plan": second(aiseed.PlanAIProvidersFromEnv(ctx, f.Store, cfg, f.Logs.Logger())),
	} {
		require.ErrorAs(t, err, &unusable, name)
		require.Equal(t, []string{"anthropic", "off", "plain"}, namesOf(unusable), "%s reads the disabled one too", name)
		require.NotContains(t, err.Error(), "plain-text")
	}
	require.NoError(t, f.Seed(f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=good", "PROVIDER_0_KEY=k")), "it does not name them")
	require.Equal(t, before, f.State())
}

func namesOf(e *aiseed.ProvidersError) (names []string) {
	for _, p := range e.Providers {
		names = append(names, p.Name)
	}
	return names
}

// A provider of type bedrock cannot lose its settings, so an update with all of them replaces those
// that do not open.
func TestO4_AllSettingsAtOnceReplaceThoseThatDoNotOpen(t *testing.T) {
	t.Parallel()
	f := setup(t)
	aws := f.Created(aiseed.ProviderSpec{Type: "bedrock", Name: "aws", Bedrock: &aiseed.BedrockSettings{Region: "r"}})
	f.Exec(`update ai_providers set settings = 'damaged'`)
	all := aiseed.ProviderUpdate{Region: new("r2"), Model: new("m"), SmallFastModel: new("s"), AccessKey: new(aiseed.NewSecret("a")), AccessKeySecret: new(aiseed.NewSecret("b"))}
	for _, some := range []aiseed.ProviderUpdate{{Region: all.Region}, {Region: all.Region, Model: all.Model, AccessKey: all.AccessKey, AccessKeySecret: all.AccessKeySecret}} {
		require.ErrorIs(t, second(f.Store.UpdateProvider(context.Background(), "a", aws.ID, some)), aiseed.ErrUndecryptable)
	}
	updated, err := f.Store.UpdateProvider(context.Background(), "a", aws.ID, all)
	require.NoError(t, err)
	read, err := f.Store.Provider(context.Background(), aws.ID)
	require.NoError(t, err)
	require.Equal(t, updated, read)
	require.Equal(t, "r2 m s a b", strings.Join([]string{read.Bedrock.Region, read.Bedrock.Model, read.Bedrock.SmallFastModel, read.Bedrock.AccessKey.Reveal(), read.Bedrock.AccessKeySecret.Reveal()}, " "))
}
