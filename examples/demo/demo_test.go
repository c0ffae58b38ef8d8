package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
)

func sample(t *testing.T, name string) []string {
	t.Helper()
	environ, err := readEnviron(filepath.Join("..", "..", "testdata", name))
	require.NoError(t, err)
	return environ
}

// found is an input with a server that belongs to somebody.
func found(pool *pgxpool.Pool, environ []string) input {
	return input{environ: environ, from: "a test", dsn: pool.Config().ConnString(), where: "a server that was found"}
}

// requireUntouched fails if the demo left something on the server, or used the tables that
// already existed.
func requireUntouched(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	var schemas, rows int
	require.NoError(t, pool.QueryRow(context.Background(), `
		select (select count(*) from pg_namespace where nspname like 'aiseed\_demo\_%'),
		       (select count(*) from ai_providers) + (select count(*) from ai_encryption_keys) + (select count(*) from ai_provider_audits)`).Scan(&schemas, &rows))
	require.Zero(t, schemas, "the schema is still there")
	require.Zero(t, rows, "somebody's tables were written to")
}

var secretEntry = regexp.MustCompile(`^[A-Z0-9_]+(?:KEYS?|SECRETS?)=(.*)$|\?token=(.*)$`)

// requireNoSecret fails if output has 8 characters of a secret of environ.
func requireNoSecret(t *testing.T, environ []string, output string) {
	t.Helper()
	for _, entry := range environ {
		match := secretEntry.FindStringSubmatch(entry)
		if match == nil {
			continue
		}
		for _, secret := range strings.Split(match[1]+match[2], ",") {
			secret = strings.TrimSpace(secret)
			for i := 0; i+8 <= len(secret); i++ {
				require.NotContains(t, output, secret[i:i+8], entry)
			}
		}
	}
}

func TestDemoTellsEveryScene(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ []string
		want    []string // in this order
	}{
		"gateway.env": {sample(t, "gateway.env"), []string{
			"create  copilot-business",
			"created AI provider", "ai_provider_key  anthropic-corp     {\"api_key\":\"****a1Sd\"",
			"anthropic-corp     ai_provider_keys.api_key", "aiseed:v1:",
			"first   4            1\n  second  1            0\n",
			"gives anthropic-corp another key", "differ in API key 1 (database ",
			"sets CODER_AIBRIDGE_PROVIDER_2_BASE_URL to", "environment:  https://elsewhere.example/v1/",
			"deletes anthropic-bedrock", "an operator deleted it",
			"(the rotated one)", "Bedrock with the AWS environment",
		}},
		"legacy.env": {sample(t, "legacy.env"), []string{
			"create  openai",
			"gives anthropic another key", "differ in API key 1",
			"sets CODER_AIBRIDGE_OPENAI_BASE_URL to", "database:     https://api.openai.com/v1/",
			"deletes openai", "an operator deleted it",
			"(the rotated one)",
		}},
		"Bedrock only": {[]string{
			"CODER_AIBRIDGE_BEDROCK_REGION=us-east-1",
			"CODER_AIBRIDGE_BEDROCK_ACCESS_KEY=AKIAQ7ZT5N2LEXAMPLE1",
			"CODER_AIBRIDGE_BEDROCK_ACCESS_KEY_SECRET=q1W2e3R4t5Y6u7I8o9P0aSdFgHjKlZxCvBnM/EXA",
		}, []string{
			"ai_providers.settings", "Skipped: this scene rotates a bearer key",
			"sets CODER_AIBRIDGE_BEDROCK_BASE_URL to", "database:     (none)",
			"deletes anthropic", "an operator deleted it", "(none)",
		}},
		"a provider that is named twice, without keys": {[]string{
			"CODER_AIBRIDGE_PROVIDER_0_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_0_BASE_URL=https://host.example/v1?token=hunter2hunter2",
			"CODER_AIBRIDGE_PROVIDER_1_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_1_BASE_URL=https://host.example/v1?token=hunter2hunter2",
			"CODER_AIBRIDGE_PROVIDER_1_KYE=oops",
		}, []string{
			"want CODER_AIBRIDGE_PROVIDER_1_KEY?", "Skipped: this scene rotates a bearer key",
			"sets CODER_AIBRIDGE_PROVIDER_0_BASE_URL and CODER_AIBRIDGE_PROVIDER_1_BASE_URL to", "environment:  https://elsewhere.example/v1/",
			"deletes openai", "an operator deleted it",
		}},
		"unsupported types only": {[]string{
			"CODER_AIBRIDGE_PROVIDER_0_TYPE=watsonx", "CODER_AIBRIDGE_PROVIDER_0_BASE_URL=not a URL",
		}, []string{
			"unsupported  watsonx", "(none)", "first   1\n  second  1\n", "Skipped", "Skipped", "Skipped", "(none)",
		}},
		"nothing at all": {nil, []string{
			"The environment names no AI providers.", "(none)", "Skipped", "Skipped", "Skipped", "(none)",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := aiseedtest.NewPool(t)
			var out bytes.Buffer
			require.NoError(t, run(context.Background(), found(pool, test.environ), &out))
			requireUntouched(t, pool)
			requireNoSecret(t, test.environ, out.String())
			require.NotContains(t, out.String(), "\x1b")

			rest := out.String()
			for _, s := range scenes {
				var ok bool
				_, rest, ok = strings.Cut(rest, "── "+s.title+" ─")
				require.True(t, ok, "scene %q is missing in\n%s", s.title, out.String())
			}
			rest = strings.Join(strings.Fields(out.String()), " ") // wherever lines were wrapped
			for _, want := range test.want {
				var ok bool
				_, rest, ok = strings.Cut(rest, strings.Join(strings.Fields(want), " "))
				require.True(t, ok, "%q is missing, or not in its place, in\n%s", want, out.String())
			}
			for line := range strings.Lines(out.String()) {
				require.LessOrEqual(t, utf8.RuneCountInString(line), width+10, line)
			}
		})
	}
}

func TestMistakesEndTheDemoWithTheirError(t *testing.T) {
	t.Parallel()
	environ, pool := sample(t, "mistakes.env"), aiseedtest.NewPool(t)
	_, want := aiseed.ParseEnviron(context.Background(), environ, slog.Logger{})
	var out bytes.Buffer
	err := run(context.Background(), found(pool, environ), &out)
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	require.EqualError(t, err, want.Error())
	require.NotContains(t, out.String(), scenes[0].title)
	requireNoSecret(t, environ, out.String()+err.Error())
	requireUntouched(t, pool)
}

// A saboteur is a writer that does something as soon as a text was written.
type saboteur struct {
	text string
	do   func()
}

func (s saboteur) Write(p []byte) (int, error) {
	if strings.Contains(string(p), s.text) {
		s.do()
	}
	return len(p), nil
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, s := range scenes {
		t.Run(s.title, func(t *testing.T) {
			t.Parallel()
			pool := aiseedtest.NewPool(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			err := run(ctx, found(pool, sample(t, "gateway.env")), saboteur{s.title, cancel})
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorContains(t, err, "the demo was interrupted")
			requireUntouched(t, pool)
		})
	}
}

func TestFailedDemoLeavesNothing(t *testing.T) {
	t.Parallel()
	pool := aiseedtest.NewPool(t)
	err := run(context.Background(), found(pool, sample(t, "gateway.env")), saboteur{"3. The second start", func() {
		var schema string
		require.NoError(t, pool.QueryRow(context.Background(), `select nspname from pg_namespace where nspname like 'aiseed\_demo\_%'`).Scan(&schema))
		_, err := pool.Exec(context.Background(), "drop table "+schema+".ai_providers cascade")
		require.NoError(t, err)
	}})
	require.ErrorIs(t, err, aiseed.ErrDatabase)
	requireUntouched(t, pool)
}

func TestChooseEnviron(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	host := []string{"HOME=/", "CODER_AIBRIDGE_ENABLED=true", "CODER_AIBRIDGE_OPENAI_KEY="}
	own := append([]string{"CODER_AIBRIDGE_PROVIDER_0_TYPE=openai"}, host...)
	file := filepath.Join("testdata", "legacy.env")
	for name, test := range map[string]struct {
		process []string
		file    string
		from    string
		want    string // is part of the environment
	}{
		"a process without provider variables": {host, "", "testdata/gateway.env (this process names no provider)", "CODER_AIBRIDGE_PROVIDER_0_NAME=anthropic-corp"},
		"a process with provider variables":    {own, "", "the provider variables of this process", own[0]},
		"a file goes before the process":       {own, file, file, "CODER_AIBRIDGE_ANTHROPIC_BASE_URL=https://llm-proxy.corp.internal:8443/anthropic/"},
	} {
		t.Run(name, func(t *testing.T) {
			environ, from, err := chooseEnviron(test.process, test.file)
			require.NoError(t, err)
			require.Equal(t, test.from, from)
			require.Contains(t, environ, test.want)
		})
	}

	t.Chdir(t.TempDir())
	_, _, err := chooseEnviron(host, "")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "name a file with -env")
	_, _, err = chooseEnviron(own, "missing.env")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestColourIsForTerminalsOnly(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer file.Close()
	require.False(t, wantsColour(file))

	for colour, want := range map[bool]string{true: "\x1b[31mtext\x1b[0m\n", false: "text\n"} {
		var out bytes.Buffer
		(&screen{&out, colour}).line(failure, "text")
		require.Equal(t, want, out.String())
	}
}
