package aiseedcli

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/testkit"
)

const question = "key for openai (not shown): "

func TestO7_ATerminalIsAskedWithoutEcho(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai")
	for _, verb := range []string{"add", "replace"} {
		term := testkit.NewTerminal(t)
		o.stdin = term.File
		key := "sk-77d0c1f4a9e84b3692-" + verb
		var stdout bytes.Buffer
		wait := o.runTo(t.Context(), &stdout, term.File, "key", verb, "openai")
		term.AwaitShown(question)
		require.False(t, term.Echoes())
		term.Type(key + "\r")
		var code int
		wait(&code)
		require.Zero(t, code, term.Shown())
		require.True(t, term.Echoes())
		term.AwaitShown(question + "\r\n")
		require.Equal(t, question+"\r\n", term.Shown())
		require.NotContains(t, stdout.String(), key[:len(key)-4])
		p, err := o.Store.ProviderByName(t.Context(), "openai")
		require.NoError(t, err)
		require.Len(t, p.Keys, 1)
		require.Equal(t, key, p.Keys[0].APIKey.Reveal())
	}
}

func TestO7_AQuestionThatIsNotAnsweredChangesNothing(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "PROVIDER_0_TYPE=openai")
	for name, tt := range map[string]struct {
		do   func(term *testkit.Terminal, cancel func())
		code int
		want string
	}{
		"Ctrl-C":      {func(_ *testkit.Terminal, cancel func()) { cancel() }, exitInterrupted, "interrupted; nothing is half done"},
		"Ctrl-D":      {func(term *testkit.Terminal, _ func()) { term.Type("\x04") }, exitError, "the terminal gave no key"},
		"Return":      {func(term *testkit.Terminal, _ func()) { term.Type("\r") }, exitError, "the key was refused: empty"},
		"too long":    {func(term *testkit.Terminal, _ func()) { term.Type(string(bytes.Repeat([]byte("k"), 5000)) + "\r") }, exitError, "longer than a line that a terminal takes"},
		"placeholder": {func(term *testkit.Terminal, _ func()) { term.Type("sk-...\r") }, exitError, "a placeholder"},
	} {
		term := testkit.NewTerminal(t)
		o.stdin = term.File
		ctx, cancel := context.WithCancel(t.Context())
		var stdout bytes.Buffer
		wait := o.runTo(ctx, &stdout, term.File, "key", "add", "openai")
		term.AwaitShown(question)
		tt.do(term, cancel)
		var code int
		wait(&code)
		cancel()
		require.Equal(t, tt.code, code, name)
		term.AwaitShown(tt.want)
		require.True(t, term.Echoes(), name)
		require.Empty(t, stdout.String(), name)
	}
	require.Equal(t, []string{"0"}, o.Rows(`select count(*) from ai_provider_keys`))
}
