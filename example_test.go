package aiseed_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	cdrslog "cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/stdslog"
)

func startUp(ctx context.Context, pool *pgxpool.Pool, auditor aiseed.Auditor) ([]aiseed.Provider, error) {
	logger := stdslog.New(slog.Default())
	keyring, err := aiseed.ParseKeyring(os.Getenv("CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS"))
	if err != nil {
		return nil, err
	}
	cfg, err := aiseed.ParseEnviron(ctx, os.Environ(), logger)
	if err != nil {
		return nil, err
	}
	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: keyring, Migrate: true})
	if err != nil {
		return nil, err
	}
	if err := aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, auditor, logger); err != nil {
		return nil, err
	}
	return store.Providers(ctx)
}

// The code of the README is the function above, which this test runs.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	blocks := strings.Split(string(readme), "```go\n")[1:]
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		code, _, _ := strings.Cut(block, "```")
		require.Contains(t, string(source), code)
	}

	t.Setenv("CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	t.Setenv("CODER_AIBRIDGE_OPENAI_KEY", "sk-readme")
	for range 2 {
		providers, err := startUp(context.Background(), aiseedtest.NewPool(t), &aiseedtest.AuditRecorder{})
		require.NoError(t, err)
		require.Len(t, providers, 1)
		require.Equal(t, "sk-readme", providers[0].Keys[0].APIKey.Reveal())
	}

	for name := range aiseed.IndexedNames {
		require.Contains(t, string(readme), strings.TrimSuffix(strings.TrimSuffix(name, "_FILE"), "S"), "a variable is missing from the README")
	}
}

func ExampleParseEnviron() {
	_, err := aiseed.ParseEnviron(context.Background(), []string{
		"CODER_AIBRIDGE_PROVIDER_0_TYPE=openai",
		"CODER_AIBRIDGE_PROVIDER_0_NAME=Team_A",
		"CODER_AIBRIDGE_PROVIDER_0_KEYS=sk-1234,,sk-5678",
	}, cdrslog.Logger{})
	fmt.Println(err)
	// Output:
	// aiseed: 2 problems in the configuration of AI providers; nothing was changed
	//    1. CODER_AIBRIDGE_PROVIDER_0_NAME (provider Team_A): not a valid name; want lower-case letters, digits and single hyphens between them, at most 255 bytes
	//    2. CODER_AIBRIDGE_PROVIDER_0_KEYS (provider Team_A): element 2: empty
}

func ExampleSecret() {
	key := aiseed.NewSecret("sk-proj-8Jx2mQvT4LrN0cWkZyB7uHdE")
	fmt.Println(key)
	fmt.Printf("%+v\n", struct{ Key aiseed.Secret }{key})
	fmt.Println(len(key.Reveal()))
	// Output:
	// ****uHdE
	// {Key:****uHdE}
	// 32
}
