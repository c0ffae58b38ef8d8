package aiseed_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

func TestS6_PlaintextIsAnErrorWhereThereIsAKeyring(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tamper := range map[string]string{
		"a key":    `update ai_provider_keys set api_key = 'plain-secret-0123456789', api_key_key_id = null`,
		"settings": `update ai_providers set settings = '{"_type":"bedrock","_version":1,"region":"r"}', settings_key_id = null where settings is not null`,
	} {
		t.Run(name, func(t *testing.T) {
			f := f.emptied(t)
			cfg := f.Seeded("OPENAI_KEY=key", "BEDROCK_REGION=r")
			f.Exec(tamper)
			before := f.State()
			_, err := f.Store.Providers(context.Background())
			require.ErrorIs(t, err, aiseed.ErrPlaintext)
			var decrypt *aiseed.DecryptError
			require.ErrorAs(t, err, &decrypt)
			require.Empty(t, decrypt.KeyID)
			require.ErrorContains(t, err, "is not sealed")
			require.NotContains(t, err.Error(), "plain-secret")
			require.ErrorIs(t, f.Seed(cfg), aiseed.ErrPlaintext)
			require.Equal(t, before, f.State())
		})
	}
}

func TestS6_SealingDoesNotSendThePlaintextAgain(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("OPENAI_KEY=plain-secret-0123456789", "BEDROCK_REGION=plain-region-0123456789")
	sealing := f.With(1)
	f.Wire.Reset(nil)
	_, err := sealing.SealPlaintext(context.Background())
	require.NoError(t, err)
	_, sent := f.Wire.Count()
	require.Contains(t, sent, "set \"api_key\"")
	require.NotContains(t, sent, "plain-")
}

func TestS6_SealingThatIsForbiddenEnds(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("OPENAI_KEY=key")
	f.Exec(`create rule forbidden as on update to ai_provider_keys do instead nothing`)
	_, err := f.With(1).SealPlaintext(context.Background())
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	require.ErrorContains(t, err, "ai_provider_keys")
}

func TestS6_SettingsOfATombstoneAreSealed(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("BEDROCK_REGION=r")
	f.Exec(`update ai_providers set deleted = true`)
	n, err := f.With(1).SealPlaintext(context.Background())
	require.NoError(t, err)
	require.Equal(t, 1, n.Changed)
	require.Equal(t, []string{"1"}, f.Rows(`select count(*) from ai_providers where settings like 'aiseed:v1:%' and settings_key_id is not null`))
}

// O4: equal keys keep their row and what is sealed in it; the order becomes the given one.
func TestO4_ReplacedKeysKeepTheirRows(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secretsOf("one-long-enough-to-show-0001", "two-long-enough-to-show-0002", "three-long-enough-to-show-03")})
	row := func(secret string) string {
		i := slices.IndexFunc(p.Keys, func(k aiseed.ProviderKey) bool { return k.APIKey.Reveal() == secret })
		return f.Rows(`select id, created_at, updated_at, api_key from ai_provider_keys where id = $1`, p.Keys[i].ID)[0]
	}
	positions := func() []string { return f.Rows(`select position from ai_provider_keys order by position`) }
	two, three := row("two-long-enough-to-show-0002"), row("three-long-enough-to-show-03")
	audits := func() []string {
		return f.Rows(`select concat_ws(' ', actor, action, resource, coalesce(old::text, '-'), coalesce(new::text, '-')) from ai_provider_audits where actor = 'bob' order by seq`)
	}

	p, err := f.Store.ReplaceProviderKeys(ctx, "bob", p.ID, secretsOf("three-long-enough-to-show-03", "four", "two-long-enough-to-show-0002"))
	require.NoError(t, err)
	stored, err := f.Store.Provider(ctx, p.ID)
	require.NoError(t, err)
	require.Equal(t, stored, p)
	require.Equal(t, secretsOf("three-long-enough-to-show-03", "four", "two-long-enough-to-show-0002"),
		[]aiseed.Secret{p.Keys[0].APIKey, p.Keys[1].APIKey, p.Keys[2].APIKey})
	require.Equal(t, []string{two, three}, []string{row("two-long-enough-to-show-0002"), row("three-long-enough-to-show-03")})
	require.Equal(t, []string{"2", "3", "4"}, positions())
	require.Equal(t, []string{
		`bob delete ai_provider_key {"api_key": "****0001", "position": 0} -`,
		`bob create ai_provider_key - {"api_key": "****", "position": 3}`,
		`bob update ai_provider_key {"api_key": "****0002", "position": 1} {"api_key": "****0002", "position": 4}`,
	}, audits())

	before := f.State()
	_, err = f.Store.ReplaceProviderKeys(ctx, "bob", p.ID, secretsOf("three-long-enough-to-show-03", "four", "two-long-enough-to-show-0002"))
	require.NoError(t, err)
	_, err = f.Store.UpdateProvider(ctx, "bob", p.ID, aiseed.ProviderUpdate{})
	require.NoError(t, err)
	for want, keys := range map[string][]aiseed.Secret{
		"keys (provider x): 6 elements; at most 5 are allowed":            secretsOf("1", "2", "3", "4", "5", "6"),
		"keys (provider x): element 2: the same as element 1":             secretsOf("four", "four"),
		"keys (provider x): element 2: a mask, as this library prints it": secretsOf("four", "****0002"),
		"keys (provider x): element 1: empty":                             {{}, aiseed.NewSecret("four")},
		"keys (provider x): element 2: a space in it":                     secretsOf("four", "f our"),
	} {
		_, err := f.Store.ReplaceProviderKeys(ctx, "bob", p.ID, keys)
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
		require.ErrorContains(t, err, want)
	}
	require.Equal(t, before, f.State())

	p, err = f.Store.ReplaceProviderKeys(ctx, "bob", p.ID, nil)
	require.NoError(t, err)
	require.Empty(t, p.Keys)
	require.Empty(t, positions())

	for _, keys := range [][]aiseed.Secret{secretsOf("1", "2"), secretsOf("3", "1", "2")} {
		_, err = f.Store.ReplaceProviderKeys(ctx, "bob", p.ID, keys)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"2", "3", "4"}, positions(), "no position that was in use is given away")
}

// O4: what cannot be decrypted can be replaced or removed.
func TestO4_WhatIsReplacedNeedNotBeDecrypted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secretsOf("one", "two")})
	aws := f.Created(aiseed.ProviderSpec{Type: "anthropic", Name: "aws", BaseURL: "https://bedrock/", Bedrock: &aiseed.BedrockSettings{Region: "r"}})
	f.Exec(`update ai_provider_keys set api_key = 'damaged' where position = 0`)
	f.Exec(`update ai_providers set settings = 'damaged' where settings is not null`)
	before := f.State()
	_, err := f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{DisplayName: new("X")})
	require.ErrorIs(t, err, aiseed.ErrUndecryptable)
	_, err = f.Store.UpdateProvider(ctx, "a", aws.ID, aiseed.ProviderUpdate{Region: new("r2")})
	require.ErrorIs(t, err, aiseed.ErrUndecryptable)
	_, err = f.Store.ReplaceProviderKeys(ctx, "a", p.ID, []aiseed.Secret{{}, aiseed.NewSecret("two")})
	require.ErrorContains(t, err, "element 1: empty", "the damaged one is not the empty one")
	require.Equal(t, before, f.State())

	p, err = f.Store.ReplaceProviderKeys(ctx, "a", p.ID, secretsOf("two", "three"))
	require.NoError(t, err)
	aws, err = f.Store.UpdateProvider(ctx, "a", aws.ID, aiseed.ProviderUpdate{RemoveBedrock: true, BaseURL: new(""), Keys: secretsOf("key")})
	require.NoError(t, err)
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	require.Equal(t, []aiseed.Provider{aws, p}, providers)
}

func TestO4_BedrockSettingsAreTakenAway(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	region := aiseed.BedrockSettings{Region: "r"}
	url := f.Created(aiseed.ProviderSpec{Type: "anthropic", Name: "url", BaseURL: "https://bedrock/", Bedrock: &region})
	none := f.Created(aiseed.ProviderSpec{Type: "anthropic", Name: "none", Bedrock: &region})
	bedrock := f.Created(aiseed.ProviderSpec{Type: "bedrock", Name: "bedrock", BaseURL: "https://bedrock/", Bedrock: &region})
	plain := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "plain", BaseURL: "https://h/"})
	before := f.State()
	for want, err := range map[string]error{
		"base_url (provider url): required with remove_bedrock, because":             second(f.Store.UpdateProvider(ctx, "a", url.ID, aiseed.ProviderUpdate{RemoveBedrock: true, Keys: secretsOf("k")})),
		"remove_bedrock (provider bedrock): not for type bedrock, which":             second(f.Store.UpdateProvider(ctx, "a", bedrock.ID, aiseed.ProviderUpdate{RemoveBedrock: true, BaseURL: new("")})),
		"remove_bedrock, bedrock_region, bedrock_access_key, bedrock_access_key_sec": second(f.Store.UpdateProvider(ctx, "a", none.ID, aiseed.ProviderUpdate{RemoveBedrock: true, Region: new("s"), AccessKey: new(aiseed.NewSecret("a")), AccessKeySecret: new(aiseed.NewSecret("b"))})),
	} {
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
		require.ErrorContains(t, err, "1 problem")
		require.ErrorContains(t, err, want)
	}
	_, err := f.Store.UpdateProvider(ctx, "a", plain.ID, aiseed.ProviderUpdate{RemoveBedrock: true})
	require.NoError(t, err, "it has none")
	require.Equal(t, before, f.State())

	for id, update := range map[string]aiseed.ProviderUpdate{
		url.ID.String():  {RemoveBedrock: true, BaseURL: new("https://bedrock/")}, // said on purpose
		none.ID.String(): {RemoveBedrock: true, Keys: secretsOf("k")},
	} {
		p, err := f.Store.UpdateProvider(ctx, "a", uuid.MustParse(id), update)
		require.NoError(t, err)
		require.Nil(t, p.Bedrock)
		require.Equal(t, []string{"<nil> <nil>"}, f.Rows(`select settings, settings_key_id from ai_providers where id = $1`, p.ID))
	}
}

func idOf(t *testing.T, key byte) string { return storetest.Keyring(t, key).IDs()[0] }

// rotatedTo rotates to a key, as another process does.
func (f *fixture) rotatedTo(key, old byte) {
	f.T.Helper()
	rotating, err := aiseed.Open(context.Background(), f.Pool, aiseed.StoreOptions{Keyring: storetest.Keyring(f.T, key, old), LockTimeout: testkit.Patience})
	require.NoError(f.T, err)
	_, err = rotating.Rotate(context.Background())
	require.NoError(f.T, err)
}

func TestS4_ARevokedKeyIsNoFirstKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, lines := range map[string][]string{"with something to seal again": {"OPENAI_KEY=key"}, "with nothing": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.Rekey(1)
			key := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secretsOf("k")})
			if lines == nil {
				require.NoError(t, f.Store.RemoveProviderKey(ctx, "a", key.ID, key.Keys[0].ID))
			} else {
				f.Seeded(lines...)
			}
			f.rotatedTo(2, 1)
			before := f.State()
			first, second := idOf(t, 1), idOf(t, 2)
			for want, ring := range map[string]*aiseed.Keyring{
				"put " + second + " first, and the other, if at all, after it":           storetest.Keyring(t, 1, 2),
				"give the keyring that has " + second + ", and put that first":           storetest.Keyring(t, 1),
				"its first key, " + first + ", is revoked: a rotation has put " + second: storetest.Keyring(t, 1, 3, 2),
			} {
				_, err := aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: ring})
				require.ErrorIs(t, err, aiseed.ErrKeyring)
				require.ErrorContains(t, err, want)
				var keyring *aiseed.KeyringError
				require.ErrorAs(t, err, &keyring)
				require.Equal(t, first, keyring.Revoked)
				require.Equal(t, len(ring.IDs()) == 1, slices.Equal(keyring.Missing, []string{second}), "missing: %q", keyring.Missing)
			}
			for _, ring := range []*aiseed.Keyring{storetest.Keyring(t, 2), storetest.Keyring(t, 2, 1), storetest.Keyring(t, 3, 2)} {
				_, err := aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: ring})
				require.NoError(t, err, "the key in use, or a new one")
			}
			require.Equal(t, before, f.State())

			// After an unseal no key is in use.
			_, err := f.Store.Unseal(ctx)
			if lines != nil {
				require.ErrorIs(t, err, aiseed.ErrUndecryptable, "the old keyring lacks the key")
			}
			_, err = f.With(2, 1).Unseal(ctx)
			require.NoError(t, err)
			_, err = f.With(1).SealPlaintext(ctx)
			require.NoError(t, err)
			require.Equal(t, []string{first}, f.Rows(`select id from ai_encryption_keys where revoked_at is null`))
		})
	}
}

// Where the lock locks nothing, a write can end after a rotation that it did not see. It does not
// undo the revocation: the next one is refused.
func TestS4_L4_AWriteDoesNotUndoARevocation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, storetest.WithoutLock)
	f.CreateNoLock()
	f.Rekey(1, 2)
	f.Seeded("OPENAI_KEY=key")
	f.Wire.Reset(testkit.Once(testkit.Pass, "insert into", func() { f.rotatedTo(2, 1) }))
	_, err := f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secretsOf("k")})
	require.NoError(t, err)
	require.Equal(t, []string{idOf(t, 1) + " true", idOf(t, 2) + " false"}, f.Rows(`select id, revoked_at is not null from ai_encryption_keys order by revoked_at`))
	_, err = f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "y", Keys: secretsOf("k")})
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: storetest.Keyring(t, 1, 2)})
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	_, err = aiseed.Open(ctx, f.Pool, aiseed.StoreOptions{Keyring: storetest.Keyring(t, 2, 1)})
	require.NoError(t, err)
}

func TestS4_AStoreThatWasOpenSealsNothingAfterARotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	f.Rekey(1, 2)
	cfg := f.Seeded("OPENAI_KEY=key", "BEDROCK_REGION=r")
	more := f.Parse("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=more", "PROVIDER_0_KEY=key")
	providers, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	aws, openai := providers[0], providers[1]
	// The rotation ends after the start has read without the lock, and before it has the lock.
	f.Wire.Reset(testkit.Once(testkit.Pass, "pg_advisory_xact_lock", func() { f.rotatedTo(2, 1) }))
	err = f.Seed(more)
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	require.ErrorContains(t, err, "put "+idOf(t, 2)+" first")

	before := f.State()
	for name, do := range map[string]func() error{
		"a start": func() error { return f.Seed(more) },
		"create": func() error {
			return second(f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: secretsOf("k")}))
		},
		"add":     func() error { return second(f.Store.AddProviderKey(ctx, "a", openai.ID, aiseed.NewSecret("k"))) },
		"replace": func() error { return second(f.Store.ReplaceProviderKeys(ctx, "a", openai.ID, secretsOf("k"))) },
		"settings": func() error {
			return second(f.Store.UpdateProvider(ctx, "a", aws.ID, aiseed.ProviderUpdate{Model: new("m")}))
		},
	} {
		require.ErrorIs(t, do(), aiseed.ErrKeyring, name)
	}
	require.Equal(t, before, f.State())
	sealed := f.keyIDs()
	for name, reseal := range map[string]func(context.Context) (aiseed.RotateResult, error){"Rotate": f.Store.Rotate, "SealPlaintext": f.Store.SealPlaintext} {
		_, err := reseal(ctx)
		require.ErrorIs(t, err, aiseed.ErrKeyring, name)
		require.Equal(t, sealed, f.keyIDs(), name)
	}

	require.NoError(t, f.Seed(cfg), "it writes nothing")
	for name, do := range map[string]func() error{
		"read":    func() error { return second(f.Store.Provider(ctx, openai.ID)) },
		"disable": func() error { return f.Store.SetProviderEnabled(ctx, "a", openai.ID, false) },
		"enable":  func() error { return f.Store.SetProviderEnabled(ctx, "a", openai.ID, true) },
		"rename": func() error {
			return second(f.Store.UpdateProvider(ctx, "a", openai.ID, aiseed.ProviderUpdate{DisplayName: new("x")}))
		},
		"remove settings": func() error {
			return second(f.Store.UpdateProvider(ctx, "a", aws.ID, aiseed.ProviderUpdate{RemoveBedrock: true}))
		},
		"delete": func() error {
			return errors.Join(f.Store.DeleteProvider(ctx, "a", aws.ID), second(f.Store.RestoreProvider(ctx, "a", aws.ID)))
		},
	} {
		require.NoError(t, do(), name)
	}
	require.NoError(t, f.Store.RemoveProviderKey(ctx, "a", openai.ID, openai.Keys[0].ID))
	require.Equal(t, []string{idOf(t, 2)}, f.Rows(`select id from ai_encryption_keys where revoked_at is null`))
}

// S10, E9: what an API shows in place of a secret does not come back as one.
func TestS10_E9_NoMaskComesBackAsAValue(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t)
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", BaseURL: "https://h/v1?token=secret", Keys: secretsOf("a-long-key-0123456789-tail")})
	aws := f.Created(aiseed.ProviderSpec{Type: "anthropic", Name: "aws", Bedrock: &aiseed.BedrockSettings{Region: "r"}})
	before := f.State()
	shownURL, shownKey := aiseed.MaskURL(p.BaseURL), aiseed.NewSecret(p.Keys[0].APIKey.String())
	for _, mask := range []aiseed.Secret{shownKey, aiseed.NewSecret("****")} {
		pair := aiseed.BedrockSettings{AccessKey: mask, AccessKeySecret: aiseed.NewSecret("s")}
		for want, err := range map[string]error{
			"keys (provider y)":                      second(f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "y", Keys: []aiseed.Secret{mask}})),
			"bedrock_access_key (provider z)":        second(f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "bedrock", Name: "z", Bedrock: &pair})),
			"keys (provider x): element 2":           second(f.Store.AddProviderKey(ctx, "a", p.ID, mask)),
			"keys (provider x): a mask":              second(f.Store.ReplaceProviderKeys(ctx, "a", p.ID, []aiseed.Secret{mask})),
			"bedrock_access_key_secret (provider aw": second(f.Store.UpdateProvider(ctx, "a", aws.ID, aiseed.ProviderUpdate{AccessKey: new(aiseed.NewSecret("a")), AccessKeySecret: &mask})),
		} {
			require.ErrorIs(t, err, aiseed.ErrInvalidConfig, want)
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, "a mask, as this library prints it in place of a secret; want the secret")
		}
	}
	for name, err := range map[string]error{
		"create": second(f.Store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "y", BaseURL: shownURL})),
		"update": second(f.Store.UpdateProvider(ctx, "a", p.ID, aiseed.ProviderUpdate{BaseURL: &shownURL})),
	} {
		require.ErrorIs(t, err, aiseed.ErrInvalidConfig, name)
		require.ErrorContains(t, err, "base_url (provider ", name)
	}
	require.Equal(t, before, f.State())
}
