package aiseed_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	cdrslog "cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

// The README shows the files of examples/minimal, which a test there runs. The page for
// operators has every variable.
func TestREADME(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		raw, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(raw)
	}
	blocks := strings.Split(read("README.md"), "```go\n")[1:]
	lines := 0
	for i, name := range []string{"examples/minimal/main.go", "examples/minimal/main_test.go"} {
		require.Equal(t, read(name), strings.Split(blocks[i], "```")[0], name)
		lines += strings.Count(read(name), "\n")
	}
	require.Len(t, blocks, 2)
	require.LessOrEqual(t, lines, 120)
	for name := range aiseed.IndexedNames {
		require.Contains(t, read("docs/operators.md"), strings.TrimSuffix(strings.TrimSuffix(name, "_FILE"), "S"), "a variable is missing")
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
