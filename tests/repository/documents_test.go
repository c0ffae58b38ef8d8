package repository

import (
	"go/ast"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain makes all paths relative to the root of the repository.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// namedTest finds the names of tests and fuzz targets.
var namedTest = regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w*`)

// Every test that a document names exists.
func TestDocumentsNameTestsThatThereAre(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	forEachTest(t, func(_ *ast.File, f *ast.FuncDecl) { tests[f.Name.Name] = true })
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/decisions.md", "docs/format.md", "docs/guarantees.md", "docs/operators.md"} {
		document, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, test := range namedTest.FindAllString(string(document), -1) {
			require.True(t, tests[test], "%s names the test %s, which is not there", name, test)
		}
	}
}
