package terminal

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/leak"
	"example.com/aiseed/internal/testkit"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

type answer struct {
	secret string
	err    error
}

func ask(ctx context.Context, term *testkit.Terminal) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		secret, err := ReadSecret(ctx, term.File, term.File, "secret? ")
		answers <- answer{secret, err}
	}()
	return answers
}

func TestO7_WhatIsTypedIsNotShown(t *testing.T) {
	t.Parallel()
	term := testkit.NewTerminal(t)
	require.True(t, term.Echoes())
	answers := ask(t.Context(), term)
	term.AwaitShown("secret? ")
	require.False(t, term.Echoes())
	term.Type("wrong\x15sk-typed by hand\r") // Ctrl-U takes back what was typed
	require.Equal(t, answer{"sk-typed by hand", nil}, testkit.Awaited(t, answers))
	require.True(t, term.Echoes())
	term.Type("shown again")
	term.AwaitShown("shown again")
	require.Equal(t, "secret? \r\nshown again", term.Shown())
}

func TestO7_AnInterruptedQuestionShowsInputAgain(t *testing.T) {
	t.Parallel()
	term := testkit.NewTerminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	answers := ask(ctx, term)
	term.AwaitShown("secret? ")
	require.False(t, term.Echoes())
	cancel()
	require.ErrorIs(t, testkit.Awaited(t, answers).err, context.Canceled)
	require.True(t, term.Echoes())
}

func TestO7_NoKeyStopsOrQuitsAQuestion(t *testing.T) {
	t.Parallel()
	term := testkit.NewTerminal(t)
	before := term.Modes()
	answers := ask(t.Context(), term)
	term.AwaitShown("secret? ")
	require.Equal(t, before.Cc[syscall.VINTR], term.Modes().Cc[syscall.VINTR])
	term.Type("sk-\x1a\x1c\n") // Ctrl-Z and Ctrl-\; as signals, they would drop what was typed
	require.Equal(t, answer{"sk-\x1a\x1c", nil}, testkit.Awaited(t, answers))
	require.Equal(t, before, term.Modes())
}

func TestO7_ATerminalThatAnswersNothing(t *testing.T) {
	t.Parallel()
	term := testkit.NewTerminal(t)
	answers := ask(t.Context(), term)
	term.AwaitShown("secret? ")
	term.Type("\x04") // Ctrl-D
	require.ErrorIs(t, testkit.Awaited(t, answers).err, io.EOF)
	require.True(t, term.Echoes())
}

// The terminal drops what is too much, and says nothing.
func TestO7_ASecretThatTheTerminalCutsIsRefused(t *testing.T) {
	t.Parallel()
	for length, want := range map[int]answer{maxLine - 1: {strings.Repeat("k", maxLine-1), nil}, maxLine: {"", ErrTooLong}, maxLine + 99: {"", ErrTooLong}} {
		term := testkit.NewTerminal(t)
		answers := ask(t.Context(), term)
		term.AwaitShown("secret? ")
		term.Type(strings.Repeat("k", length) + "\n")
		require.Equal(t, want, testkit.Awaited(t, answers), length)
	}
}

func TestO7_WidthIsThatOfTheTerminal(t *testing.T) {
	t.Parallel()
	term := testkit.NewTerminal(t)
	require.True(t, Is(term.File))
	term.Resize(140)
	require.Equal(t, 140, Width(term.File))
}

func TestO7_WhatIsNoTerminal(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer file.Close()
	for _, stream := range []any{nil, &bytes.Buffer{}, file} {
		require.False(t, Is(stream))
		require.Zero(t, Width(stream))
		_, err := ReadSecret(t.Context(), stream, io.Discard, "secret? ")
		require.ErrorIs(t, err, errUnsupported)
	}
}
