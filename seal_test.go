package aiseed_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

func TestS6_PlaintextIsAnErrorWhereThereIsAKeyring(t *testing.T) {
	t.Parallel()
	for name, tamper := range map[string]string{
		"a key":    `update ai_provider_keys set api_key = 'plain-secret-0123456789', api_key_key_id = null`,
		"settings": `update ai_providers set settings = '{"_type":"bedrock","_version":1,"region":"r"}', settings_key_id = null where settings is not null`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
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

func TestS6_SealPlaintextEndsWithNoneLeft(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := setup(t, storetest.Plaintext)
	lines := []string{"BEDROCK_REGION=r", "BEDROCK_ACCESS_KEY=access", "BEDROCK_ACCESS_KEY_SECRET=secret"}
	for i := range 150 { // more than fit into one transaction
		n := string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10))
		index := strings.TrimLeft(n[:2], "0") + n[2:]
		lines = append(lines, "PROVIDER_"+index+"_TYPE=openai", "PROVIDER_"+index+"_NAME=p"+n, "PROVIDER_"+index+"_KEY=key-"+n)
	}
	cfg := f.Seeded(lines...)
	f.Exec(`update ai_providers set deleted = true where name = 'p007'`)
	plain, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	_, err = f.Store.SealPlaintext(ctx)
	require.ErrorIs(t, err, aiseed.ErrKeyring, "without a keyring there is nothing to seal with")

	sealing, w := f.Open()
	_, err = sealing.Providers(ctx)
	require.ErrorIs(t, err, aiseed.ErrPlaintext)

	// It is interrupted after the first transaction. Values that were sealed stay sealed.
	interrupted, cancel := context.WithCancel(ctx)
	seen := 0
	w.Reset(func(sent []byte) testkit.Action {
		if bytes.Contains(sent, []byte("set \"api_key\"")) {
			if seen++; seen == 2 {
				cancel()
			}
		}
		return testkit.Pass
	})
	n, err := sealing.SealPlaintext(interrupted)
	w.Reset(nil)
	if err == nil {
		t.Fatal("the interruption came too late")
	}
	require.ErrorIs(t, err, context.Canceled)
	require.GreaterOrEqual(t, n.Changed, 100)

	rest, err := sealing.SealPlaintext(ctx)
	require.NoError(t, err)
	require.Equal(t, 151, n.Changed+rest.Changed)
	require.Equal(t, []string{"0 0"}, f.Rows(`select (select count(*) from ai_provider_keys where api_key_key_id is null), (select count(*) from ai_providers where settings is not null and settings_key_id is null)`))
	sealed, err := sealing.Providers(ctx)
	require.NoError(t, err)
	require.Equal(t, plain, sealed, "and nothing else changed")
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, sealing, cfg, f.Audits, slog.Logger{}))
	n, err = sealing.SealPlaintext(ctx)
	require.NoError(t, err)
	require.Zero(t, n.Changed)
}

func TestS6_SealingDoesNotSendThePlaintextAgain(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("OPENAI_KEY=plain-secret-0123456789", "BEDROCK_REGION=plain-region-0123456789")
	sealing, w := f.Open()
	w.Reset(nil)
	_, err := sealing.SealPlaintext(context.Background())
	require.NoError(t, err)
	_, sent := w.Count()
	require.Contains(t, sent, "set \"api_key\"")
	require.NotContains(t, sent, "plain-")
}

func TestS6_SealingThatIsForbiddenEnds(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("OPENAI_KEY=key")
	f.Exec(`create rule forbidden as on update to ai_provider_keys do instead nothing`)
	sealing, _ := f.Open()
	_, err := sealing.SealPlaintext(context.Background())
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	require.ErrorContains(t, err, "ai_provider_keys")
}

func TestS6_SettingsOfATombstoneAreSealed(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("BEDROCK_REGION=r")
	f.Exec(`update ai_providers set deleted = true`)
	sealing, _ := f.Open()
	n, err := sealing.SealPlaintext(context.Background())
	require.NoError(t, err)
	require.Equal(t, 1, n.Changed)
	require.Equal(t, []string{"1"}, f.Rows(`select count(*) from ai_providers where settings like 'aiseed:v1:%' and settings_key_id is not null`))
}

func TestL5_SealingIsTriedAgain(t *testing.T) {
	t.Parallel()
	f := setup(t, storetest.Plaintext)
	f.Seeded("OPENAI_KEY=key")
	sealing, w := f.Open()
	w.Reset(testkit.Once(testkit.CutBefore, "set \"api_key\""))
	n, err := sealing.SealPlaintext(context.Background())
	require.NoError(t, err)
	require.Equal(t, 1, n.Changed)
}
