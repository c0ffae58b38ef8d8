package testkit

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"
)

// LogRecorder is a sink that keeps each log entry as one line.
type LogRecorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *LogRecorder) Logger() slog.Logger { return slog.Make(r).Leveled(slog.LevelDebug) }

func (r *LogRecorder) LogEntry(_ context.Context, e slog.SinkEntry) {
	line := e.Level.String() + " " + e.Message
	for _, f := range e.Fields {
		line += fmt.Sprintf(" %s=%v", f.Name, f.Value)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

func (r *LogRecorder) Sync() {}

// Warnings returns the lines of level WARN and above.
func (r *LogRecorder) Warnings() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, line := range r.lines {
		if !strings.HasPrefix(line, "DEBUG") && !strings.HasPrefix(line, "INFO") {
			out = append(out, line)
		}
	}
	return out
}

func (r *LogRecorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// Environ reads an environment file: KEY=value lines and comments.
func Environ(tb testing.TB, path string) []string {
	tb.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(tb, err)
	var environ []string
	for _, line := range strings.Split(string(raw), "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			environ = append(environ, line)
		}
	}
	return environ
}

// RequireNoSecret fails if out contains 8 consecutive characters of the value of a
// key variable, or of a password in a URL.
func RequireNoSecret(tb testing.TB, environ []string, out string) {
	tb.Helper()
	checked := 0
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if _, after, ok := strings.Cut(value, "user:"); ok {
			value, _, _ = strings.Cut(after, "@")
		} else if !strings.Contains(name, "KEY") {
			continue
		}
		for i := 0; i+8 <= len(value); i++ {
			require.NotContains(tb, out, value[i:i+8], name)
			checked++
		}
	}
	require.NotZero(tb, checked)
}

var update = flag.Bool("update", false, "rewrite the golden files")

// Updating reports whether -update is set.
func Updating() bool { return *update }

// Golden compares got with a file in testdata, or rewrites the file.
func Golden(tb testing.TB, name, got string) {
	tb.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		require.NoError(tb, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(tb, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(tb, err, "run with -update to write it")
	require.Equal(tb, string(want), got)
}
