package aiseedcli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/testkit"
)

func TestO7_ColoursAreForATerminalThatHasThem(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	for name, tt := range map[string]struct {
		environ, flag string
		coloured      bool
	}{
		"a terminal":    {"TERM=xterm", "-plaintext", true},
		"NO_COLOR":      {"NO_COLOR=1", "-plaintext", false},
		"NO_COLOR=":     {"NO_COLOR=", "-plaintext", true},
		"a dumb one":    {"TERM=dumb", "-plaintext", false},
		"-no-color":     {"TERM=xterm", "-no-color", false},
		"what -json is": {"TERM=xterm", "-json", false},
	} {
		term := testkit.NewTerminal(t)
		var stderr bytes.Buffer
		require.Equal(t, exitWrites, Run(t.Context(), []string{"plan", "-plaintext", tt.flag}, Options{
			Environ: []string{"DATABASE_URL=" + o.DSN(), tt.environ, "CODER_AIBRIDGE_PROVIDER_0_TYPE=copilot"}, Stdout: term.File, Stderr: &stderr,
		}), name+stderr.String())
		term.AwaitShown("copilot")
		require.Equal(t, tt.coloured, strings.Contains(term.Shown(), "\x1b[32mcreate"), name)
		require.Equal(t, tt.coloured, strings.Contains(term.Shown(), "\x1b"), name)
	}
}

// Each stream has its own width, and COLUMNS goes before both.
func TestO7_TextsHaveTheWidthOfTheTerminal(t *testing.T) {
	t.Parallel()
	show := func(environ []string, args ...string) (stdout, stderr int) {
		out, errs := testkit.NewTerminal(t), testkit.NewTerminal(t)
		out.Resize(70)
		errs.Resize(50)
		Run(t.Context(), args, Options{Environ: append(environ, "CODER_AIBRIDGE_PROVIDER_0_TPYE=openai"), Stdout: out.File, Stderr: errs.File})
		for _, term := range []*testkit.Terminal{out, errs} {
			_, err := io.WriteString(term.File, "the end")
			require.NoError(t, err)
			term.AwaitShown("the end")
		}
		return longest(out.Shown()), longest(errs.Shown())
	}
	between := func(least, most, n int) {
		t.Helper()
		require.True(t, least < n && n <= most, n)
	}
	for _, args := range []string{"help", "plan -h"} {
		stdout, _ := show(nil, strings.Fields(args)...)
		between(50, 70, stdout)
		stdout, _ = show([]string{"COLUMNS=100"}, strings.Fields(args)...)
		between(70, 100, stdout)
	}
	for _, args := range []string{"plan", "key remove a b c"} { // a warning with an error, and a mistake
		_, stderr := show(nil, strings.Fields(args)...)
		between(40, 50, stderr)
		_, stderr = show([]string{"COLUMNS=100"}, strings.Fields(args)...)
		between(70, 100, stderr)
		_, stderr = show([]string{"COLUMNS=0"}, strings.Fields(args)...) // of a terminal that does not know
		between(40, 50, stderr)
	}
}

func longest(text string) (n int) {
	for line := range strings.Lines(text) {
		n = max(n, utf8.RuneCountInString(strings.TrimRight(line, "\r\n")))
	}
	return n
}
