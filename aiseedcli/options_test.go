package aiseedcli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/testkit"
)

// ofHost are Options of which none is the default.
func ofHost(environ []string, stdout, stderr io.Writer) Options {
	return Options{
		Name: "gateway providers", Version: "v4.5.6", Prefixes: []string{"GATEWAY_", "OLD_"}, Schema: "gateway", NotifyChannel: "fleet",
		DatabaseVariable: "GATEWAY_DB", KeysVariable: "GATEWAY_KEYS",
		Environ: append(environ, "COLUMNS=10000"), Stdin: strings.NewReader(""), Stdout: stdout, Stderr: stderr,
	}
}

func runOfHost(t *testing.T, environ []string, args string) (code int, output string) {
	t.Helper()
	var out bytes.Buffer
	code = Run(t.Context(), strings.Fields(args), ofHost(environ, &out, &out))
	return code, out.String()
}

// No text has a name of the command aiseed in the place of the host's.
func TestO7_TextsHaveTheHostsNames(t *testing.T) {
	t.Parallel()
	requests := []string{"", "help", "env", "version", "version -json", "plan", "plan -plaintext -database x", "paln", "key"}
	for _, v := range verbs() {
		requests = append(requests, v.name+" -h", v.name+" -shcema x", v.name+" one two three")
	}
	all := ""
	for _, args := range requests {
		_, output := runOfHost(t, nil, args)
		require.NotRegexp(t, `aiseed [^t]|CODER|DATABASE_URL|public|GATEWAY_GATEWAY`, output, args)
		all += output
	}
	for _, want := range []string{
		"gateway providers v4.5.6 (schema ", `"name": "gateway providers"`, `"version": "v4.5.6"`,
		"Usage: gateway providers <verb>", "gateway providers <verb> -h tells", "gateway providers: unknown verb \"paln\"", "gateway providers plan: show", "More:    gateway providers plan -h",
		"Example: GATEWAY_DRIFT_KEEP=openai@0123456789abcdef gateway providers apply", "GATEWAY_KEYS=$NEW,$OLD gateway providers rotate",
		"of GATEWAY_DB (or ..._FILE)", "that of GATEWAY_KEYS (or", "else GATEWAY_DB or GATEWAY_DB_FILE", "(GATEWAY_KEYS)", "(gateway)", "(fleet)", "(GATEWAY_ and OLD_)",
		"not set  GATEWAY_DB\n", "not set  GATEWAY_KEYS\n", "not set  GATEWAY_OPENAI_KEY\n", "neither GATEWAY_KEYS nor GATEWAY_KEYS_FILE is set",
	} {
		require.Contains(t, all, want)
	}
}

// What is to be typed has the flags that were given, unless they say what the host has built in.
func TestO7_WhatIsToBeTypedHasTheFlagsThatWereGiven(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	o.Exec(`drop schema public cascade`)
	for _, tt := range []struct{ flags, want string }{
		{"", ""},
		{"-schema gateway -notify-channel fleet -keys-variable GATEWAY_KEYS -prefix GATEWAY_ -prefix OLD_ -prefix=", ""},
		{"-database " + strings.ReplaceAll(o.DSN(), " ", "\x00"), " -database ..."},
		{"-schema other", " -schema other"},
		{"-schema it's", ` -schema 'it'\''s'`},
		{"-notify-channel other", " -notify-channel other"},
		{"-notify-channel -", " -notify-channel -"},
		{"-keys-variable OTHER", " -keys-variable OTHER"},
		{"-prefix OLD_", " -prefix OLD_"},
		{"-prefix OLD_ -prefix NEW_", " -prefix OLD_ -prefix NEW_"},
		{"-actor alice", " -actor alice"},
		{"-actor sk-6f1e9b07c2d84a53b1907e", " -actor ..."},
	} {
		var stdout, stderr bytes.Buffer
		args := strings.Fields("plan -plaintext " + tt.flags)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "\x00", " ")
		}
		code := Run(t.Context(), args, ofHost([]string{"GATEWAY_DB=" + o.DSN()}, &stdout, &stderr))
		require.Equal(t, exitWrites, code, stderr.String())
		want := "    gateway providers schema -apply -plaintext" + tt.want
		if strings.HasPrefix(tt.flags, "-database") || strings.HasPrefix(tt.flags, "-actor") {
			want = "    gateway providers schema -apply" + tt.want + " -plaintext"
		}
		require.Contains(t, stdout.String(), want+"\n", tt.flags)
	}
}

// The command works with the host's schema, its lock and its channel.
func TestO7_TheHostsSchemaLockAndChannel(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	o.Exec(`drop schema public cascade`)
	environ := []string{"GATEWAY_DB=" + o.DSN(), "GATEWAY_KEYS=" + firstKey, "OLD_OPENAI_KEY=sk-6f1e9b07c2d84a53b1907e"}
	code, output := runOfHost(t, environ, "schema -apply")
	require.Zero(t, code, output)
	conn, err := pgx.ConnectConfig(t.Context(), o.Pool.Config().ConnConfig)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `listen fleet; listen aiseed_gateway; listen aiseed_public`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)

	holder := o.begin(`select pg_advisory_xact_lock($1)`, aiseed.LockKey("gateway"))
	code, output = runOfHost(t, environ, "doctor")
	require.Equal(t, exitError, code)
	require.Contains(t, output, fmt.Sprintf("advisory lock %d is held by", aiseed.LockKey("gateway")))
	var stdout bytes.Buffer
	stderr := await("waiting for pid ")
	exit := make(chan int, 1)
	go func() { exit <- Run(t.Context(), []string{"apply"}, ofHost(environ, &stdout, stderr)) }()
	testkit.Awaited(t, stderr.seen)
	require.NoError(t, holder.Rollback(t.Context()))
	require.Zero(t, testkit.Awaited(t, exit), stderr.String())
	require.Equal(t, []string{"openai"}, o.Rows(`select name from gateway.ai_providers`))
	heard, err := conn.WaitForNotification(t.Context())
	require.NoError(t, err)
	require.Equal(t, "fleet", heard.Channel)

	code, output = runOfHost(t, environ, "doctor")
	require.Zero(t, code, output)
	require.NotContains(t, output, "CODER")
	require.Contains(t, output, "nothing is wrong with the variables GATEWAY_* and OLD_*, which make 1 provider\n")
	_, output = runOfHost(t, append(slices.Clone(environ), "GATEWAY_PROVIDER_0_TYPE=watsonx"), "doctor")
	require.Contains(t, output, "which make 1 provider\n", "a type that is skipped makes none")
	_, output = runOfHost(t, environ[:2], "doctor")
	require.Contains(t, output, "no variable GATEWAY_* or OLD_* is set")
	_, output = runOfHost(t, append(environ[:1:1], "GATEWAY_KEYS="+secondKey+","+firstKey), "rotate")
	require.Contains(t, output, "has the new key first in GATEWAY_KEYS, and")
	_, output = runOfHost(t, append(environ[:1:1], "GATEWAY_KEYS=Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M=,"+firstKey), "forget "+o.Rows(`select id from gateway.ai_encryption_keys where revoked_at is null`)[0])
	require.Contains(t, output, "append it to GATEWAY_KEYS instead")
}

// A host can use its arguments again.
func TestO7_TheCallersArgumentsStay(t *testing.T) {
	t.Parallel()
	args := []string{"-version", "-json"}
	require.Zero(t, Run(t.Context(), args, ofHost(nil, io.Discard, io.Discard)))
	require.Equal(t, []string{"-version", "-json"}, args)
}
