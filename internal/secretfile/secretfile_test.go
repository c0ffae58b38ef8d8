package secretfile

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestE8_Read(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, contents string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(contents), 0o600))
		return path
	}
	for name, tt := range map[string]struct{ path, contents, problem string }{
		"a secret":               {file("a", "secret"), "secret", ""},
		"with a line break":      {file("b", "secret\n"), "secret", ""},
		"one line break is gone": {file("c", "secret\n\n"), "secret\n", ""},
		"64 KiB":                 {file("d", strings.Repeat("x", maxBytes)), strings.Repeat("x", maxBytes), ""},
		"larger":                 {file("e", strings.Repeat("x", maxBytes+1)), "", "is larger than 64 KiB"},
		"empty":                  {file("f", "\n"), "", "is empty"},
		"missing":                {filepath.Join(dir, "missing"), "", "does not exist"},
		"a folder":               {dir, "", "is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			contents, problem := Read(tt.path)
			require.Equal(t, tt.contents, contents)
			require.Equal(t, tt.problem, problem)
		})
	}
}

// Root can read every file, so this test passes the errors directly.
func TestE8_ProblemOfAnError(t *testing.T) {
	t.Parallel()
	require.Equal(t, "cannot be read: permission denied", problemOf(&os.PathError{Err: syscall.EACCES}))
	require.Equal(t, "cannot be read", problemOf(&os.PathError{Err: syscall.EIO}))
}
