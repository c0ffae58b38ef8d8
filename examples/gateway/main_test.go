package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// O7: the command has the host's name, and its prefix, schema, channel and variables. What it
// changes, the server hears of.
func TestO7_TheCommandUnderTheHostsName(t *testing.T) {
	t.Parallel()
	pool := aiseedtest.NewPool(t)
	_, err := pool.Exec(t.Context(), "drop schema public cascade; create schema public", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	environ := []string{
		"GATEWAY_DATABASE_URL=" + pool.Config().ConnString(),
		"GATEWAY_KEYS=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
		"GATEWAY_OPENAI_KEY=sk-6f1e9b07c2d84a53b1907e",
		"COLUMNS=10000",
	}
	command := func(wantExit int, args string) string {
		var stdout, stderr bytes.Buffer
		require.Equal(t, wantExit, run(t.Context(), append([]string{"providers"}, strings.Fields(args)...), environ, &stdout, &stderr), stdout.String()+stderr.String())
		return stdout.String() + stderr.String()
	}
	require.Contains(t, command(0, "help"), "Usage: gateway providers <verb>")
	require.Contains(t, command(2, "plan"), "gateway providers schema -apply\n")
	require.Contains(t, command(1, "apply"), "gateway providers: ")
	var server bytes.Buffer
	require.Equal(t, 1, run(t.Context(), nil, environ, io.Discard, &server))
	require.Contains(t, server.String(), "gateway: schema: there are no aiseed tables")
	require.Contains(t, server.String(), "with: gateway providers schema -apply\n", "the server names the command too")
	require.Contains(t, command(0, "schema -apply"), `schema "gateway"`)
	require.Contains(t, command(2, "plan"), "create  openai")

	ctx, stop := context.WithCancel(t.Context())
	read, written := io.Pipe()
	exit := make(chan int, 1)
	go func() { exit <- run(ctx, nil, environ, io.Discard, written); written.Close() }()
	log := bufio.NewScanner(read)
	serving := func() string {
		for log.Scan() {
			if strings.Contains(log.Text(), "msg=serving") {
				return log.Text()
			}
		}
		t.Error("the server ended")
		return ""
	}
	require.Contains(t, serving(), "openai")
	command(0, "disable openai")
	require.NotContains(t, serving(), "openai")
	stop()
	for log.Scan() { // so that the server can write its last lines
	}
	require.Zero(t, <-exit)
}
