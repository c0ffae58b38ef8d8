package ephemeral

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/xerrors"
)

// installations are the directories outside PATH in which packages install the
// server.
var installations = []string{
	"/usr/lib/postgresql/*/bin", // Debian
	"/usr/pgsql-*/bin",          // Red Hat
	"/opt/homebrew/opt/postgresql@*/bin",
	"/opt/homebrew/opt/postgresql/bin",
	"/usr/local/opt/postgresql@*/bin", // Homebrew on Intel
	"/usr/local/opt/postgresql/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// findBinaries returns the directory of initdb and postgres. It looks last into
// the directories that match patterns.
func findBinaries(ctx context.Context, getenv func(string) string, patterns []string) (string, error) {
	if dir := getenv("PGBIN"); dir != "" {
		if !hasServer(dir) {
			return "", xerrors.Errorf("PGBIN is %q, where initdb and postgres are not both to be found; set it to the directory that has them or unset it", dir)
		}
		return filepath.Abs(dir)
	}

	var dirs []string
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	var packaged []string
	for _, pattern := range patterns {
		// Glob fails only on a bad pattern, and these are valid.
		found, _ := filepath.Glob(pattern)
		packaged = append(packaged, found...)
	}
	dirs = append(dirs, newestFirst(packaged)...)

	if i := slices.IndexFunc(dirs, hasServer); i >= 0 {
		return dirs[i], nil
	}
	if err := ctx.Err(); err != nil {
		return "", xerrors.Errorf("look for a PostgreSQL server: %w", err)
	}
	return "", xerrors.Errorf("no PostgreSQL server to start: no directory with both initdb and postgres in PGBIN (not set), pg_config --bindir, PATH, %s; "+
		"install one (apt-get install postgresql, brew install postgresql), or set DATABASE_URL to one that runs",
		strings.Join(patterns, ", "))
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

var versionInPath = regexp.MustCompile(`\d+(\.\d+)*`)

// newestFirst sorts paths by the last version number in each, as numbers: 16
// before 14 before 9.6. Paths without one come last; otherwise the order stays.
func newestFirst(paths []string) []string {
	sorted := slices.Clone(paths)
	slices.SortStableFunc(sorted, func(a, b string) int {
		return slices.Compare(version(b), version(a))
	})
	return sorted
}

func version(path string) []int {
	found := versionInPath.FindAllString(path, -1)
	if len(found) == 0 {
		return nil
	}
	var version []int
	for part := range strings.SplitSeq(found[len(found)-1], ".") {
		// A number too large for an int compares as the largest one.
		n, _ := strconv.Atoi(part)
		version = append(version, n)
	}
	return version
}
