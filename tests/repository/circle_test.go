package repository

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// No file of the library refers to another one that refers back to it, directly or through
// others. So a reader who follows references never comes back to the same file.
func TestFilesOfTheLibraryFormNoCircle(t *testing.T) {
	t.Parallel()
	references := fileReferences(t)
	require.Greater(t, len(references), 20)
	require.Contains(t, references["seed.go"], "plan.go")
	done := map[string]bool{}
	var path []string
	var visit func(file string)
	visit = func(file string) {
		if i := slices.Index(path, file); i >= 0 {
			circle := append(path[i:], file)
			var lines []string
			for i := range circle[1:] {
				lines = append(lines, circle[i]+" refers to "+circle[i+1]+" ("+references[circle[i]][circle[i+1]]+")")
			}
			require.FailNow(t, "files refer to each other in a circle; move what one of these needs:\n"+strings.Join(lines, "\n"))
		}
		if done[file] {
			return
		}
		path = append(path, file)
		for _, next := range slices.Sorted(maps.Keys(references[file])) {
			visit(next)
		}
		path, done[file] = path[:len(path)-1], true
	}
	for _, file := range slices.Sorted(maps.Keys(references)) {
		visit(file)
	}
}

// fileReferences returns, for each file of the root, the other files that it refers to, and for
// each of those one name that it uses.
func fileReferences(t *testing.T) map[string]map[string]string {
	t.Helper()
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if !strings.HasSuffix(name, "_test.go") {
			file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			files = append(files, file)
		}
	}
	// Other packages do not matter here: they are empty, and the errors about that are ignored.
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: emptyPackages{}, Error: func(error) {}}
	pkg, _ := config.Check("aiseed", fset, files, &info)
	references := map[string]map[string]string{}
	for _, file := range files {
		references[fset.Position(file.Pos()).Filename] = map[string]string{}
	}
	for id, used := range info.Uses {
		if used.Pkg() != pkg || !used.Pos().IsValid() {
			continue
		}
		from, to := fset.Position(id.Pos()).Filename, fset.Position(used.Pos()).Filename
		if from != to {
			references[from][to] = used.Name()
		}
	}
	return references
}

type emptyPackages struct{}

func (emptyPackages) Import(path string) (*types.Package, error) {
	if path == "unsafe" {
		return types.Unsafe, nil
	}
	pkg := types.NewPackage(path, filepath.Base(path))
	pkg.MarkComplete()
	return pkg, nil
}
