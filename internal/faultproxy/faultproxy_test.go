package faultproxy_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/faultproxy"
	"example.com/aiseed/internal/leak"
)

// patience bounds the wait for what has to happen soon, even on a busy machine.
const patience = time.Minute

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var private = sync.OnceValues(func() (*ephemeral.Server, error) { return ephemeral.Start(context.Background()) })

func mustParse(t *testing.T, dsn string) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	return config
}

// through returns a proxy in front of a fresh database, and how to connect to each.
func through(t *testing.T) (proxy *faultproxy.Proxy, proxied, direct *pgx.ConnConfig) {
	t.Helper()
	// A server that asks for a password would change the number of messages.
	server, err := private()
	require.NoError(t, err)
	admin := connect(t, mustParse(t, server.DSN("")))
	name := "proxied_" + strings.ToLower(rand.Text()[:12])
	require.NoError(t, admin.ExecParams(context.Background(), `create database `+name, nil, nil, nil, nil).Read().Err)
	direct = mustParse(t, server.DSN(name))
	proxy, err = faultproxy.Start(pgconn.NetworkAddress(direct.Host, direct.Port))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	proxied = direct.Copy()
	proxied.Host, proxied.Port, proxied.TLSConfig, proxied.Fallbacks = proxy.Host(), 5432, nil, nil
	return proxy, proxied, direct
}

func connect(t *testing.T, config *pgx.ConnConfig) *pgconn.PgConn {
	t.Helper()
	conn, err := pgx.ConnectConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close(context.Background())
		<-conn.PgConn().CleanupDone()
	})
	return conn.PgConn()
}

func insert(ctx context.Context, conn *pgconn.PgConn) error {
	return conn.ExecParams(ctx, `insert into t values (1)`, nil, nil, nil, nil).Read().Err
}

// The messages of an insert, after the connection is made.
const (
	parse, execute, synchronise = 2, 5, 6 // of the client; 1 is the StartupMessage
)

// ask returns the first column of the result of a query.
func ask(t *testing.T, conn *pgconn.PgConn, sql string) (column []string) {
	t.Helper()
	result := conn.ExecParams(context.Background(), sql, nil, nil, nil, nil).Read()
	require.NoError(t, result.Err)
	for _, row := range result.Rows {
		column = append(column, string(row[0]))
	}
	return column
}

func count(t *testing.T, conn *pgconn.PgConn) string {
	t.Helper()
	return ask(t, conn, `select count(*) from t`)[0]
}

// until waits for something that can only be polled.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for begun := time.Now(); !done(); time.Sleep(time.Millisecond) {
		require.Less(t, time.Since(begun), patience, what)
	}
}

func TestPassesEverythingAndRecordsIt(t *testing.T) {
	t.Parallel()
	proxy, proxied, direct := through(t)
	looking := connect(t, direct)
	require.NoError(t, looking.Exec(context.Background(), `create table t (i int)`).Close())
	require.NoError(t, insert(context.Background(), connect(t, proxied)))
	require.Equal(t, "1", count(t, looking))
	require.False(t, proxy.Fired())
	var sent []string
	for _, line := range strings.Split(proxy.Record(), "\n") {
		if strings.Contains(line, "to server") {
			sent = append(sent, line)
		}
	}
	require.Equal(t, []string{
		"connection 1 to server 1 StartupMessage", "connection 1 to server 2 Parse", "connection 1 to server 3 Bind",
		"connection 1 to server 4 Describe", "connection 1 to server 5 Execute", "connection 1 to server 6 Sync",
	}, sent)
	require.Contains(t, proxy.Record(), "to client 1 AuthenticationOk")
	require.Contains(t, proxy.Record(), "CommandComplete")
}

func TestFaultsAtTheInsert(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind    faultproxy.Kind
		message int
		written string
	}{
		{faultproxy.CutBefore, parse, "0"},
		{faultproxy.CutBefore, execute, "0"},
		{faultproxy.CutInside, execute, "0"},
		{faultproxy.CutAfter, parse, "0"},
		{faultproxy.CutBefore, synchronise, "0"},
		{faultproxy.DropReply, parse, "1"},
		{faultproxy.DropReply, synchronise, "1"},
	} {
		for _, forGood := range []bool{false, true} {
			fault := faultproxy.Fault{Direction: faultproxy.ToServer, Message: tt.message, Kind: tt.kind, ForGood: forGood}
			t.Run(fault.String(), func(t *testing.T) {
				t.Parallel()
				proxy, proxied, direct := through(t)
				looking := connect(t, direct)
				require.NoError(t, looking.Exec(context.Background(), `create table t (i int)`).Close())
				called := false
				proxy.Arm(fault, func() { called = true })
				require.Error(t, insert(context.Background(), connect(t, proxied)))
				require.True(t, proxy.Fired())
				require.True(t, called)
				require.Contains(t, proxy.Record(), fmt.Sprintf(": %s", tt.kind))
				until(t, "the server sees that the client is gone", func() bool {
					return len(ask(t, looking, `select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`)) == 0
				})
				require.Equal(t, tt.written, count(t, looking))
				_, err := pgx.ConnectConfig(context.Background(), proxied)
				if forGood {
					require.Error(t, err)
					proxy.Release()
				}
				require.NoError(t, insert(context.Background(), connect(t, proxied)))
			})
		}
	}
}

func TestFaultsAtTheReply(t *testing.T) {
	t.Parallel()
	for _, kind := range []faultproxy.Kind{faultproxy.CutBefore, faultproxy.CutInside, faultproxy.CutAfter, faultproxy.DropReply} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			proxy, proxied, direct := through(t)
			looking := connect(t, direct)
			require.NoError(t, looking.Exec(context.Background(), `create table t (i int)`).Close())
			conn := connect(t, proxied)
			first := strings.Count(proxy.Record(), "to client") + 1
			proxy.Arm(faultproxy.Fault{Direction: faultproxy.ToClient, Message: first, Kind: kind}, nil)
			require.NoError(t, insert(context.Background(), conn), "a connection from before is left alone")
			require.False(t, proxy.Fired())
			require.Error(t, insert(context.Background(), connect(t, proxied)))
			require.True(t, proxy.Fired())
			require.Equal(t, "2", count(t, looking))
		})
	}
}

func TestHeldMessageArrivesLate(t *testing.T) {
	t.Parallel()
	proxy, proxied, direct := through(t)
	looking := connect(t, direct)
	require.NoError(t, looking.Exec(context.Background(), `create table t (i int)`).Close())
	held := make(chan struct{})
	proxy.Arm(faultproxy.Fault{Direction: faultproxy.ToServer, Message: synchronise, Kind: faultproxy.Hold}, func() { close(held) })
	// Left to itself, pgx would send a CancelRequest, which can overtake the insert.
	conn, err := pgx.ConnectConfig(context.Background(), proxied)
	require.NoError(t, err)
	client, err := conn.PgConn().Hijack()
	require.NoError(t, err)
	client.Frontend.SendParse(&pgproto3.Parse{Query: `insert into t values (1)`})
	client.Frontend.SendBind(&pgproto3.Bind{})
	client.Frontend.SendDescribe(&pgproto3.Describe{ObjectType: 'P'})
	client.Frontend.SendExecute(&pgproto3.Execute{})
	client.Frontend.SendSync(&pgproto3.Sync{})
	require.NoError(t, client.Frontend.Flush())
	<-held
	require.NoError(t, client.Conn.Close())
	require.True(t, proxy.Fired())
	require.Equal(t, "0", count(t, looking))
	proxy.Release()
	until(t, "it arrives although the client is gone", func() bool { return count(t, looking) == "1" })
}

func TestCancelRequestIsPassedOnAndNotCounted(t *testing.T) {
	t.Parallel()
	proxy, proxied, direct := through(t)
	looking := connect(t, direct)
	sleeping := connect(t, proxied)
	proxy.Arm(faultproxy.Fault{Direction: faultproxy.ToServer, Message: 1, Kind: faultproxy.CutBefore}, nil)
	failed := make(chan error, 1)
	go func() { failed <- sleeping.Exec(context.Background(), `select pg_sleep(3600)`).Close() }()
	until(t, "the server sleeps", func() bool {
		return len(ask(t, looking, `select pid from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`)) == 1
	})
	require.NoError(t, sleeping.CancelRequest(context.Background()))
	var cancelled *pgconn.PgError
	require.ErrorAs(t, <-failed, &cancelled)
	require.Equal(t, "57014", cancelled.Code)
	require.Equal(t, "connection 1 a CancelRequest", proxy.Record())
	require.False(t, proxy.Fired())
}
