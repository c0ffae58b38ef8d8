package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
)

func TestTheEnvironmentIsServed(t *testing.T) {
	t.Setenv("CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	t.Setenv("CODER_AIBRIDGE_OPENAI_KEY", "sk-readme")
	database := aiseedtest.NewPool(t).Config().ConnString() // of this test only
	for range 2 {
		ctx, stop := context.WithCancel(t.Context())
		var served []aiseed.Provider
		err := run(ctx, database, func(providers []aiseed.Provider) { served = providers; stop() })
		require.ErrorIs(t, err, context.Canceled)
		require.Len(t, served, 1)
		require.Equal(t, "sk-readme", served[0].Keys[0].APIKey.Reveal())
	}
}

func TestAConnectionStringIsNotQuoted(t *testing.T) {
	t.Setenv("CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	err := run(t.Context(), "postgres://user:head@tail@host:port/database", nil)
	require.NotContains(t, err.Error(), "tail")
}

func TestAKeyringThatIsMissingNamesItsVariable(t *testing.T) {
	t.Setenv(keysVariable, "")
	require.ErrorContains(t, run(t.Context(), "", nil), "CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS: aiseed: keyring: there is no key")
}
