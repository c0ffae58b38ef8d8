package repository

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rooms are the packages of the module, and what each may import besides the standard
// library. Library code that knows what a provider is belongs in the root, other library
// code in internal/. docs/architecture.md says what each room holds.
var rooms = map[string]string{
	".": "internal/baseurl internal/environ internal/pg internal/seal internal/secretfile internal/text " +
		"cdr.dev/slog/v3 github.com/google/uuid github.com/jackc/pgx/v5 golang.org/x/xerrors",

	"internal/text":       "",
	"internal/secretfile": "internal/text",
	"internal/terminal":   "",
	"internal/environ":    "internal/text",
	"internal/baseurl":    "internal/text",
	"internal/seal":       "github.com/google/uuid",
	"internal/pg":         "internal/text github.com/jackc/pgx/v5",

	"stdslog":             "cdr.dev/slog/v3",
	"aiseedcli":           ". internal/environ internal/pg internal/secretfile internal/terminal internal/text cdr.dev/slog/v3 github.com/google/uuid github.com/jackc/pgx/v5",
	"cmd/aiseed":          "aiseedcli",
	"examples/demo":       ". internal/ephemeral stdslog cdr.dev/slog/v3 github.com/jackc/pgx/v5 golang.org/x/xerrors",
	"examples/gateway":    ". aiseedcli stdslog github.com/jackc/pgx/v5",
	"examples/minimal":    ". stdslog github.com/jackc/pgx/v5",
	"examples/hostserver": ". stdslog github.com/google/uuid github.com/jackc/pgx/v5 golang.org/x/xerrors",

	"aiseedtest":          ". internal/ephemeral github.com/jackc/pgx/v5",
	"internal/ephemeral":  "github.com/jackc/pgx/v5 golang.org/x/xerrors",
	"internal/faultproxy": "internal/ephemeral github.com/jackc/pgx/v5",
	"internal/leak":       "go.uber.org/goleak",
	"internal/testkit":    "cdr.dev/slog/v3 github.com/jackc/pgx/v5 github.com/stretchr/testify",
	"internal/storetest":  ". aiseedtest internal/ephemeral internal/pg internal/testkit cdr.dev/slog/v3 github.com/jackc/pgx/v5 github.com/stretchr/testify",
	"tests/robustness":    "",
	"tests/connections":   "",
	"tests/matrix":        "internal/ephemeral github.com/jackc/pgx/v5",
	"tests/repository":    "",
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	t.Parallel()
	const module = "example.com/aiseed"
	own := func(path string) string { return strings.TrimPrefix(strings.Replace(path, module, ".", 1), "./") }
	// If the checkout belongs to another user, git refuses to look into it.
	list := exec.Command("go", "list", "-buildvcs=false", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	var problem strings.Builder
	list.Stderr = &problem
	out, err := list.Output()
	require.NoError(t, err, problem.String())
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		room := own(fields[0])
		seen[room] = true
		allowed, known := rooms[room]
		assert.True(t, known, "the package %s is in no room: add it to rooms, with what it may import", room)
		for _, imported := range fields[1:] {
			if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			may := slices.ContainsFunc(strings.Fields(allowed), func(path string) bool {
				return own(imported) == path || strings.HasPrefix(imported, path+"/") && path != "."
			})
			assert.True(t, may, "%s imports %s, which its room does not allow", room, imported)
		}
	}
	for room := range rooms {
		assert.True(t, seen[room], "there is no package %s: take it out of rooms", room)
	}
}

// docs/architecture.md lists the modules that a host links with the library, and has no other list like it.
func TestModulesThatComeWithTheLibraryAreWrittenDown(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-buildvcs=false", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}`, "example.com/aiseed", "example.com/aiseed/stdslog", "example.com/aiseed/aiseedcli").Output()
	require.NoError(t, err)
	linked := slices.Compact(slices.Sorted(slices.Values(strings.Fields(string(out)))))
	require.NotEmpty(t, linked)
	page, err := os.ReadFile("docs/architecture.md")
	require.NoError(t, err)
	_, table, _ := strings.Cut(string(page), "## What a host links")
	table, _, _ = strings.Cut(table, "\n\n| binary")
	var listed []string
	for _, module := range regexp.MustCompile("`([^`]+/[^`]+)`").FindAllStringSubmatch(table, -1) {
		listed = append(listed, module[1])
	}
	require.ElementsMatch(t, linked, listed)
}
