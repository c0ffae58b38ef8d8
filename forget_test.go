package aiseed_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// A lostKey is a fixture whose first key is lost. The store has none of its keys.
type lostKey struct {
	*fixture
	id string
}

// loseKey seeds providers that are sealed with key 1, adds a bearer key to one of them that is sealed
// with key 2, and loses key 1.
func loseKey(t *testing.T) *lostKey {
	t.Helper()
	f := setup(t)
	f.Rekey(1)
	f.Seeded(lostEnvironment...)
	require.NoError(t, f.Store.DeleteProvider(context.Background(), "alice", f.id("gone")))
	f.Rekey(2, 1)
	_, err := f.Store.AddProviderKey(context.Background(), "alice", f.id("team"), aiseed.NewSecret("key-under-key-2-tail"))
	require.NoError(t, err)
	f.Keyring = storetest.Keyring(t, 2)
	f.Options.Keyring = f.Keyring
	return &lostKey{fixture: f, id: idOf(t, 1)}
}

var lostEnvironment = []string{
	"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=team", "PROVIDER_0_KEYS=first-key-0123456789-tail,second-key-0123456789-end2",
	"PROVIDER_1_TYPE=bedrock", "PROVIDER_1_BEDROCK_REGION=eu-central-1",
	"PROVIDER_2_TYPE=anthropic", "PROVIDER_2_NAME=claude", "PROVIDER_2_BEDROCK_BASE_URL=https://bedrock.example/", "PROVIDER_2_BEDROCK_ACCESS_KEY=access", "PROVIDER_2_BEDROCK_ACCESS_KEY_SECRET=secret",
	"PROVIDER_3_TYPE=openai", "PROVIDER_3_NAME=gone", "PROVIDER_3_KEY=key-of-the-deleted-one",
	"PROVIDER_4_TYPE=copilot",
}

func (f *fixture) id(name string) uuid.UUID {
	f.T.Helper()
	return uuid.MustParse(f.Rows(`select id::text from ai_providers where name = $1`, name)[0])
}

func (l *lostKey) forget() ([]aiseed.ProviderInfo, error) {
	return aiseed.ForgetKey(context.Background(), l.Own, l.Options, "bob", l.id)
}

// shown is what infos say of the providers, with their keys in order.
func shown(infos []aiseed.ProviderInfo) (out []string) {
	for _, p := range infos {
		text := p.Name + " " + p.Region
		if p.Deleted {
			text += " deleted"
		}
		if p.SettingsUndecryptable {
			text += " settings"
		}
		for _, key := range p.Keys {
			if text += " " + key.Mask; key.Undecryptable {
				text += "lost"
			}
		}
		out = append(out, text)
	}
	return out
}

func TestO7_WhatALostKeySealedIsForgotten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := loseKey(t)
	_, err := aiseed.Open(ctx, l.Own, l.Options)
	require.ErrorIs(t, err, aiseed.ErrKeyring)

	before := l.State()
	l.Wire.Reset(nil)
	sealed, err := aiseed.SealedWith(ctx, l.Own, l.Options, l.id)
	require.NoError(t, err)
	require.Equal(t, []string{"bedrock  settings", "claude  settings", "gone  deleted lost", "team  lost lost"}, shown(sealed))
	require.Equal(t, l.Rows(`select id::text from ai_provider_keys where api_key_key_id = $1 and provider_id = $2 order by position`, l.id, sealed[3].ID),
		[]string{sealed[3].Keys[0].ID.String(), sealed[3].Keys[1].ID.String()})
	_, sent := l.Wire.Count()
	require.NotContains(t, sent, "lock")
	require.Equal(t, before, l.State(), "a list writes nothing")

	revisions := l.Rows(`select revision + 1 from ai_providers where name <> 'copilot' order by name`)
	audits := l.Rows(`select max(seq) from ai_provider_audits`)[0]
	forgotten, err := l.forget()
	require.NoError(t, err)
	require.Equal(t, []string{"bedrock ", "claude ", "gone  deleted", "team  ****tail"}, shown(forgotten))
	require.Equal(t, []string{
		`bob update ai_provider bedrock {"keys": [], "name": "bedrock", "type": "bedrock", "bedrock": {"model": "", "region": "", "access_key": "", "small_fast_model": "", "access_key_secret": ""}, "enabled": true, "base_url": "", "display_name": "bedrock"} {"keys": [], "name": "bedrock", "type": "bedrock", "bedrock": null, "enabled": true, "base_url": "", "display_name": "bedrock"}`,
		`bob update ai_provider claude {"keys": [], "name": "claude", "type": "anthropic", "bedrock": {"model": "", "region": "", "access_key": "", "small_fast_model": "", "access_key_secret": ""}, "enabled": true, "base_url": "https://bedrock.example/", "display_name": "claude"} {"keys": [], "name": "claude", "type": "anthropic", "bedrock": null, "enabled": true, "base_url": "https://bedrock.example/", "display_name": "claude"}`,
		`bob delete ai_provider_key gone {"position": 0} -`,
		`bob delete ai_provider_key team {"position": 0} -`,
		`bob delete ai_provider_key team {"position": 1} -`,
	}, l.Rows(`select concat_ws(' ', actor, action, resource, provider_name, old::text, coalesce(new::text, '-')) from ai_provider_audits where seq > $1::bigint order by seq`, audits))
	require.Equal(t, revisions, l.Rows(`select revision from ai_providers where name <> 'copilot' order by name`))
	require.Equal(t, []string{l.id}, l.Rows(`select id from ai_encryption_keys where revoked_at is not null`))
	require.Empty(t, l.Rows(`select id from ai_providers where settings is not null or settings_key_id is not null`))

	l.Rekey(2)
	listed, err := l.Store.ListProviders(ctx)
	require.NoError(t, err)
	require.Equal(t, append(forgotten[:2:2], listed[2], forgotten[2], forgotten[3]), listed, "they are what a list shows")

	before = l.State()
	again, err := l.forget()
	require.NoError(t, err)
	require.Empty(t, again)
	require.Equal(t, before, l.State(), "a second time there is nothing to do")
}

// A start ends as for any row that differs, and the operations repair.
func TestO7_WhatIsLeftOfAProviderCanBeRepaired(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := loseKey(t)
	_, err := l.forget()
	require.NoError(t, err)
	l.Rekey(2)
	providers, err := l.Store.Providers(ctx)
	require.NoError(t, err)
	require.Len(t, providers, 4)

	drift := l.DriftOf(l.Parse(lostEnvironment...))
	require.Len(t, drift.Providers, 2)
	require.Equal(t, []string{"bedrock", "Bedrock region", "claude", "type"},
		[]string{drift.Providers[0].Name, drift.Providers[0].Fields[0].Field, drift.Providers[1].Name, drift.Providers[1].Fields[0].Field})
	region, access, secret := "us-east-1", aiseed.NewSecret("access-2"), aiseed.NewSecret("secret-2")
	repaired, err := l.Store.UpdateProvider(ctx, "bob", l.fixture.id("bedrock"), aiseed.ProviderUpdate{Region: &region})
	require.NoError(t, err)
	require.Equal(t, region, repaired.Bedrock.Region)
	require.NotEmpty(t, repaired.Bedrock.Model)
	repaired, err = l.Store.UpdateProvider(ctx, "bob", l.fixture.id("claude"), aiseed.ProviderUpdate{AccessKey: &access, AccessKeySecret: &secret})
	require.NoError(t, err)
	require.Equal(t, access, repaired.Bedrock.AccessKey)
	repaired, err = l.Store.ReplaceProviderKeys(ctx, "bob", l.fixture.id("team"), []aiseed.Secret{aiseed.NewSecret("new-key")})
	require.NoError(t, err)
	require.Len(t, repaired.Keys, 1)
	restored, err := l.Store.RestoreProvider(ctx, "bob", l.fixture.id("gone"))
	require.NoError(t, err)
	require.Empty(t, restored.Keys)

	_, err = l.Store.UpdateProvider(ctx, "bob", l.fixture.id("bedrock"), aiseed.ProviderUpdate{Region: new("eu-central-1")})
	require.NoError(t, err)
	cfg := l.Parse(lostEnvironment...)
	require.NoError(t, l.Seed(cfg))
	tokens := storetest.Tokens(t, l.Store, cfg)
	require.NoError(t, l.Seed(l.Parse(append(lostEnvironment[:len(lostEnvironment):len(lostEnvironment)], "DRIFT_ADOPT="+strings.Join(tokens, ","))...)))
	team, err := l.Store.ProviderByName(ctx, "team")
	require.NoError(t, err)
	require.Equal(t, []string{"first-key-0123456789-tail", "second-key-0123456789-end2"}, []string{team.Keys[0].APIKey.Reveal(), team.Keys[1].APIKey.Reveal()})
}

// The environment's values come back by a token.
func TestO7_O3_WhatWasForgottenIsAdoptedAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := loseKey(t)
	_, err := l.forget()
	require.NoError(t, err)
	l.Rekey(2)
	cfg := l.Parse(lostEnvironment...)
	require.NoError(t, l.Seed(l.Parse(append(lostEnvironment[:len(lostEnvironment):len(lostEnvironment)], "DRIFT_ADOPT="+strings.Join(storetest.Tokens(t, l.Store, cfg), ","))...)))
	bedrock, err := l.Store.ProviderByName(ctx, "bedrock")
	require.NoError(t, err)
	require.Equal(t, "eu-central-1", bedrock.Bedrock.Region)
	before := l.State()
	require.NoError(t, l.Seed(cfg))
	require.Equal(t, before, l.State())
}

func TestO7_WhatCannotBeForgotten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := loseKey(t)
	before := l.State()
	const someKey = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYzE="
	for name, tt := range map[string]struct {
		id    string
		class error
		want  string
	}{
		"no id":              {"", aiseed.ErrNotFound, "which is not a valid one; want 32 hex digits"},
		"a key":              {someKey, aiseed.ErrNotFound, "which is not a valid one"},
		"an id in capitals":  {strings.ToUpper(l.id), aiseed.ErrNotFound, "which is not a valid one"},
		"an id of nothing":   {strings.Repeat("0", 32), aiseed.ErrNotFound, `there is no sealing key with id 00000000000000000000000000000000 in the schema "public"`},
		"a key that we have": {l.Keyring.IDs()[0], aiseed.ErrKeyring, "it has key " + l.Keyring.IDs()[0] + ", so nothing is lost"},
	} {
		_, err := aiseed.ForgetKey(ctx, l.Own, l.Options, "bob", tt.id)
		require.ErrorIs(t, err, tt.class, name)
		require.ErrorContains(t, err, tt.want, name)
		require.NotContains(t, err.Error(), someKey[:8], name)
		_, listErr := aiseed.SealedWith(ctx, l.Own, l.Options, tt.id)
		require.EqualError(t, listErr, err.Error(), name)
	}
	for _, actor := range []string{"", " system", "a\x00b"} {
		_, err := aiseed.ForgetKey(ctx, l.Own, l.Options, actor, l.id)
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
		require.ErrorContains(t, err, "forgetting a key needs an actor")
	}
	_, err := aiseed.ForgetKey(ctx, nil, l.Options, "bob", l.id)
	require.ErrorContains(t, err, "ForgetKey needs a pool")
	_, err = aiseed.ForgetKey(ctx, l.Own, aiseed.StoreOptions{}, "bob", l.id)
	require.ErrorIs(t, err, aiseed.ErrKeyring, "without a keyring nobody knows whether the key is lost")
	_, err = aiseed.ForgetKey(ctx, l.Own, aiseed.StoreOptions{Keyring: l.Keyring, Schema: "elsewhere"}, "bob", l.id)
	require.ErrorIs(t, err, aiseed.ErrSchemaOutdated)

	for name, column := range map[string]string{
		"that is not understood":   "id uuid primary key, sealed_by text references ai_encryption_keys (id)",
		"that another version has": "id uuid primary key, provider_id uuid, token text, token_key_id text references ai_encryption_keys (id)",
	} {
		l.Exec(`create table odd (` + column + `)`)
		_, err = l.forget()
		require.ErrorIs(t, err, aiseed.ErrKeyring, name)
		require.ErrorContains(t, err, "odd.", name)
		l.Exec(`drop table odd`)
	}
	require.Equal(t, before, l.State(), "nothing was changed")
}

// Keys 1 and 2 are lost. Each is forgotten by itself, and the store opens after the second.
func TestO7_AnotherLostKeyIsNoHindrance(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := loseKey(t)
	other := l.Keyring.IDs()[0]
	l.Options.Keyring = storetest.Keyring(t, 3)
	forgotten, err := l.forget()
	require.NoError(t, err)
	require.Equal(t, []string{"bedrock ", "claude ", "gone  deleted", "team  lost"}, shown(forgotten))
	_, err = aiseed.Open(ctx, l.Own, l.Options)
	require.ErrorContains(t, err, "it lacks "+other)
	forgotten, err = aiseed.ForgetKey(ctx, l.Own, l.Options, "bob", other)
	require.NoError(t, err)
	require.Equal(t, []string{"team "}, shown(forgotten))
	_, err = aiseed.Open(ctx, l.Own, l.Options)
	require.NoError(t, err)
}

// A server that still runs with the lost key seals nothing more, and so does not stop the next start.
func TestO7_S4_AStoreThatWasOpenSealsNothingWithAForgottenKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := loseKey(t)
	l.Exec(`delete from ai_provider_keys where api_key_key_id <> $1`, l.id)
	l.Exec(`delete from ai_encryption_keys where id <> $1`, l.id)
	running := l.With(1)
	_, err := l.forget()
	require.NoError(t, err)
	_, err = running.AddProviderKey(ctx, "alice", l.fixture.id("team"), aiseed.NewSecret("late"))
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	_, err = aiseed.Open(ctx, l.Own, l.Options)
	require.NoError(t, err)
}

// A key that took over, sealed nothing and is lost is forgotten with a new key first. The older one, which a rotation has
// revoked, does not come back into use.
func TestO7_S4_AKeyThatSealedNothingIsForgottenToo(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Rekey(1)
	f.Seeded("PROVIDER_0_TYPE=openai")
	options := f.Options
	_, err := f.Store.Rotate(ctx)
	require.NoError(t, err)
	f.Rekey(2, 1)
	_, err = f.Store.Rotate(ctx)
	require.NoError(t, err)
	_, err = aiseed.Open(ctx, f.Own, options)
	require.ErrorContains(t, err, "is revoked")
	_, err = aiseed.ForgetKey(ctx, f.Own, options, "bob", idOf(t, 2))
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	require.ErrorContains(t, err, "make a new key")
	var revoked *aiseed.KeyringError
	require.ErrorAs(t, err, &revoked)
	require.Equal(t, idOf(t, 1), revoked.Revoked)
	options.Keyring = storetest.Keyring(t, 3, 1)
	forgotten, err := aiseed.ForgetKey(ctx, f.Own, options, "bob", idOf(t, 2))
	require.NoError(t, err)
	require.Empty(t, forgotten)
	_, err = aiseed.Open(ctx, f.Own, options)
	require.NoError(t, err)
}

// L6, A7, O8: like any operation.
func TestO7_L6_A7_O8_ForgettingIsAnOperation(t *testing.T) {
	t.Parallel()
	l := loseKey(t)
	l.Options.Auditor = l.Audits
	l.Store, _ = l.Open(func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Keyring = storetest.Keyring(t, 2, 1) })
	watched := l.Watch(l.Store)
	watched.Eventually("bedrock", "claude", "copilot", "team")
	l.AwaitListening(l.Store)
	told, _ := watched.Counts()
	delivered := len(l.Audits.Entries())
	l.Wire.Reset(testkit.Once(testkit.CutAfter, "commit\x00"))
	forgotten, err := l.forget()
	require.NoError(t, err)
	require.Len(t, forgotten, 4, "those of the attempt whose answer was lost")
	require.Equal(t, []string{"5"}, l.Rows(`select count(*) from ai_provider_audits where actor = 'bob'`))
	require.Len(t, l.Audits.Entries(), delivered+7, "with the two of alice")
	require.Eventually(t, func() bool { now, _ := watched.Counts(); return now > told }, testkit.Patience, time.Millisecond)
}

// O5: the name of a schema is never taken for a place to fill in.
func TestO5_O7_ASchemaWithBracesInItsName(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Schema, o.Migrate = "{schema}{table}{unused}", true })
	f.Rekey(1)
	f.Seeded("OPENAI_KEY=key", "BEDROCK_REGION=r")
	f.Rekey(2, 1)
	report, err := f.Store.Rotate(ctx)
	require.NoError(t, err)
	require.Equal(t, aiseed.RotateResult{Changed: 2, Revoked: []string{idOf(t, 1)}}, report)
	f.Options.Keyring = storetest.Keyring(t, 3)
	forgotten, err := aiseed.ForgetKey(ctx, f.Own, f.Options, "bob", idOf(t, 2))
	require.NoError(t, err)
	require.Len(t, forgotten, 2)
}

func TestO6_SealedWithWritesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	pool, options, _ := f.Connect()
	options.Schema, options.Migrate = "later", true
	_, err := aiseed.SealedWith(context.Background(), pool, options, storetest.Keyring(t, 1).IDs()[0])
	require.ErrorIs(t, err, aiseed.ErrSchema)
	require.Empty(t, f.Rows(`select nspname from pg_namespace where nspname = 'later'`))
}
