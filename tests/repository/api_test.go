package repository

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/testkit"
)

// docs/api.txt has every exported declaration of the packages that others import, so that a
// change of one is seen. "go test ./tests/repository -run TestAPI -update" writes it.
func TestAPIIsTheOneThatIsWrittenDown(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, room := range []string{".", "aiseedcli", "aiseedtest", "stdslog"} {
		declarations := exportedIn(t, room)
		require.NotEmpty(t, declarations)
		got.WriteString("package " + strings.Replace("example.com/aiseed/"+room, "/.", "", 1) + "\n\n" + strings.Join(declarations, "\n") + "\n")
	}
	const path = "docs/api.txt"
	if testkit.Updating() {
		require.NoError(t, os.WriteFile(path, []byte(got.String()), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got.String(), "the API changed: is that meant, and in CHANGELOG.md?")
}

// exportedIn returns the exported declarations of a package without comments and bodies, sorted.
func exportedIn(t *testing.T, dir string) (declarations []string) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	files := token.NewFileSet()
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.FileExports(file)
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil && !ast.IsExported(receiver(d.Recv.List[0].Type)) {
					continue
				}
				d.Body = nil
			case *ast.GenDecl:
				if d.Tok == token.IMPORT {
					continue
				}
			}
			var text bytes.Buffer
			require.NoError(t, format.Node(&text, files, declaration))
			declarations = append(declarations, text.String()+"\n")
		}
	}
	slices.Sort(declarations)
	return declarations
}

// receiver returns the name of a method's type.
func receiver(e ast.Expr) string {
	if pointer, ok := e.(*ast.StarExpr); ok {
		e = pointer.X
	}
	if name, ok := e.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}
