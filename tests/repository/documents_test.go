package repository

import (
	"go/ast"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain lets all paths be those from the root of the repository.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// Every test that a document names is there.
func TestDocumentsNameTestsThatThereAre(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	forEachTest(t, func(_ *ast.File, f *ast.FuncDecl) { tests[f.Name.Name] = true })
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/decisions.md", "docs/format.md", "docs/guarantees.md", "docs/operators.md"} {
		document, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, word := range strings.FieldsFunc(string(document), func(r rune) bool { return strings.ContainsRune(" `,.:|()\n", r) }) {
			if strings.HasPrefix(word, "Test") && strings.Contains(word, "_") {
				require.True(t, tests[word], "%s names the test %s, which is not there", name, word)
			}
		}
	}
}
