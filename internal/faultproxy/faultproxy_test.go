package faultproxy_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// through returns a proxy in front of a fresh database, and how to connect to each.
func through(t *testing.T) (proxy *faultproxy.Proxy, proxied, direct *pgx.ConnConfig) {
	t.Helper()
	direct = aiseedtest.NewPool(t).Config().ConnConfig
	proxy, err := faultproxy.Start(pgconn.NetworkAddress(direct.Host, direct.Port))
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

// What an insert says, after the connection is there.
const (
	parse, execute, synchronise = 2, 5, 6 // of the client; 1 is the StartupMessage
)

func count(t *testing.T, conn *pgconn.PgConn) string {
	t.Helper()
	return string(conn.ExecParams(context.Background(), `select count(*) from t`, nil, nil, nil, nil).Read().Rows[0][0])
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
				require.Eventually(t, func() bool {
					r := looking.ExecParams(context.Background(), `select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`, nil, nil, nil, nil).Read()
					return len(r.Rows) == 0
				}, 10*time.Second, time.Millisecond)
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
	ctx, cancel := context.WithCancel(context.Background())
	proxy.Arm(faultproxy.Fault{Direction: faultproxy.ToServer, Message: synchronise, Kind: faultproxy.Hold}, cancel)
	require.ErrorIs(t, insert(ctx, connect(t, proxied)), context.Canceled)
	require.Equal(t, "0", count(t, looking))
	proxy.Release()
	require.Eventually(t, func() bool { return count(t, looking) == "1" }, 10*time.Second, time.Millisecond, "although the client is gone")
}
