package connections

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/testkit"
)

func TestO11_AServerThatRefuses(t *testing.T) {
	t.Parallel()
	server := start(t, "local all peer_role peer\nlocal all all scram-sha-256\n", `
		create role peer_role login;
		create role locked nologin password '`+canary+`';
		create role crowded login password '`+canary+`' connection limit 0;
		create database limited connection limit 0;
		create database closed allow_connections false;
		create database private;
		revoke connect on database private from public`)
	host := hostOf(t, server.DSN(""))
	guest := server.DSN("") + " user=guest password=" + canary
	const at = "cannot connect to HOST, port 5432, database postgres, user "
	for _, s := range []situation{
		{"a wrong password", guest + "x", "28P01", at + "guest: SQLSTATE 28P01: the server refused the login: wrong password, or no such user; check user and password; in a URL, special characters have to be percent-encoded"},
		{"no password", server.DSN("") + " user=guest passfile=/nowhere", "28P01", at + "guest: SQLSTATE 28P01: the server refused the login: it asks for a password, and there is none; add the password to the connection string, or set PGPASSWORD"},
		{"a role that may not log in", guest + " user=locked", "28000", at + "locked: SQLSTATE 28000: the server refused the login: the role does not exist, or may not log in; check the user, or: create role … login, alter role … login"},
		{"another user of the operating system", guest + " user=peer_role", "28000", at + "peer_role: SQLSTATE 28000: the server lets this user in only from the operating-system user of that name; run as that user, or ask for a password in pg_hba.conf (scram-sha-256)"},
		{"no such database", guest + " dbname=none", "3D000", "cannot connect to HOST, port 5432, database none, user guest: SQLSTATE 3D000: the database does not exist; create it, or check the connection string"},
		{"a database without connections", guest + " dbname=closed", "55000", "cannot connect to HOST, port 5432, database closed, user guest: SQLSTATE 55000: the database does not allow connections; alter database … allow_connections true, or check the connection string"},
		{"a private database", guest + " dbname=private", "42501", "cannot connect to HOST, port 5432, database private, user guest: SQLSTATE 42501: the role may not connect to the database; grant connect on database … to it, or check the user"},
		{"a limit of the role", guest + " user=crowded", "53300", at + "crowded: SQLSTATE 53300: the role has no connection left; alter role … connection limit, or make the pools smaller"},
		{"a limit of the database", guest + " dbname=limited", "53300", "cannot connect to HOST, port 5432, database limited, user guest: SQLSTATE 53300: the database has no connection left; alter database … connection limit, or make the pools smaller"},
		{"no such setting", guest + " foo=bar", "42704", at + "guest: SQLSTATE 42704: foo in the connection string is no setting of the server; correct or remove it: what the driver does not know is sent to the server as a setting"},
		{"no such setting, with a digit", guest + " foo1=bar", "42704", at + "guest: SQLSTATE 42704: a setting in the connection string is no setting of the server; correct or remove it: what the driver does not know is sent to the server as a setting"},
		{"no such setting in options", guest + " options='-c foo=bar'", "42704", at + "guest: SQLSTATE 42704: foo in the connection string is no setting of the server; correct or remove it: what the driver does not know is sent to the server as a setting"},
		{"a value that is none", guest + " statement_timeout=soon", "22023", at + "guest: SQLSTATE 22023: the server does not accept the value of statement_timeout in the connection string; correct or remove it"},
		{"a value that is none, of another spelling", guest + " timezone=Nowhere", "22023", at + "guest: SQLSTATE 22023: the server does not accept the value of TimeZone in the connection string; correct or remove it"},
		{"a role that is none", guest + " role=nobody_there", "22023", at + "guest: SQLSTATE 22023: the server does not accept the value of role in the connection string; correct or remove it"},
		{"a setting of the whole server", guest + " max_connections=3", "55P02", at + "guest: SQLSTATE 55P02: the server does not let a connection set max_connections, as the connection string does; remove it"},
		{"a setting of superusers", guest + " log_statement=none", "42501", at + "guest: SQLSTATE 42501: the role may not set log_statement, which the connection string sets; remove it, or let a superuser: alter role … set it"},
		{"options that are none", guest + " options=-x", "42601", at + "guest: SQLSTATE 42601: options in the connection string cannot be read; want options='-c name=value', in a URL options=-c%20name%3Dvalue"},
		// The at sign of the password is not encoded.
		{"a string that was misread", "postgres://guest:" + canary[:4] + "@" + canary[4:] + "/x@nowhere/db?host=" + host + "&user=guest&password=" + canary, "3D000", "cannot connect to the server: SQLSTATE 3D000: the database does not exist; create it, or check the connection string"},
	} {
		s.check(t, host)
	}
}

func TestO11_AServerWithoutASlot(t *testing.T) {
	t.Parallel()
	server := start(t, "local all all scram-sha-256\n", "", "max_connections=5", "superuser_reserved_connections=2")
	guest := server.DSN("") + " user=guest password=" + canary
	const want = "SQLSTATE 53300: the server has no connection slot left; raise max_connections, make the pools smaller, or put a pooler between"
	take := func(dsn string) {
		var conn *pgx.Conn
		require.Eventually(t, func() bool {
			var err error
			conn, err = pgx.Connect(t.Context(), dsn)
			return err == nil
		}, testkit.Patience, time.Millisecond, "a client that is gone, or was refused, keeps its slot until its process has ended")
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
	for range 3 {
		take(guest)
	}
	require.ErrorContains(t, refused(t, guest), want, "the others are reserved")
	for range 2 {
		take(server.DSN(""))
	}
	require.ErrorContains(t, refused(t, guest), want)
}

func TestO11_AServerThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	primary := start(t, "local all all trust\nlocal replication all trust\n", "")
	standby, err := primary.Standby(t.Context(), "hot_standby=on")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })
	host := hostOf(t, standby.DSN(""))
	guest := standby.DSN("") + " user=guest password=" + canary
	for attributes, is := range map[string]string{"read-write": "read-only, as a standby is", "primary": "a standby"} {
		require.Equal(t, "aiseed: opening the store: cannot connect to "+host+", port 5432, database postgres: the server is not of the kind that target_session_attrs asks for: it is "+is+
			"; give the hosts of all servers, or another target_session_attrs", refused(t, guest+" target_session_attrs="+attributes).Error())
	}
	for attributes, is := range map[string]string{"read-only": "not read-only", "standby": "the primary"} {
		require.ErrorContains(t, refused(t, primary.DSN("")+" password="+canary+" target_session_attrs="+attributes), "it is "+is+"; ")
	}
	// Both, and a host that is not there.
	gone := t.TempDir()
	require.Equal(t, "aiseed: opening the store: cannot connect to "+gone+", port 5432, database postgres: no such file or directory; check that the server runs there, and that its unix_socket_directories has this directory; nor to "+
		host+", port 5432: the server is not of the kind that target_session_attrs asks for: it is read-only, as a standby is; give the hosts of all servers, or another target_session_attrs",
		refused(t, guest+" host="+gone+","+host+","+host+" target_session_attrs=read-write").Error())
}

func TestO11_AServerThatTakesNoConnectionsYet(t *testing.T) {
	t.Parallel()
	server := start(t, "local all all trust\n", "", "hot_standby=off")
	guest := server.DSN("") + " user=guest password=" + canary
	write(t, server, "standby.signal", "")
	ctx, cancel := context.WithCancel(t.Context())
	restarted := make(chan error)
	go func() { restarted <- server.Restart(ctx) }() // which never succeeds
	config, err := pgxpool.ParseConfig(guest)
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	require.Eventually(t, func() bool {
		_, err := aiseed.Open(t.Context(), pool, aiseed.StoreOptions{AllowPlaintext: true})
		return err != nil && strings.HasSuffix(err.Error(), "SQLSTATE 57P03: the server is a standby that takes no connections; connect to the primary, or set hot_standby=on there and wait until it has caught up")
	}, testkit.Patience, 10*time.Millisecond)
	cancel()
	require.Error(t, <-restarted)
}

func TestO11_NoServer(t *testing.T) {
	t.Parallel()
	for _, s := range []situation{
		{"nobody listens", "host=127.0.0.1 port=1", "", "cannot connect to 127.0.0.1, port 1, database app: connection refused; check that the server runs there"},
		{"no socket", "host=/nowhere", "", "cannot connect to /nowhere, port 5432, database app: no such file or directory; check that the server runs there, and that its unix_socket_directories has this directory"},
		{"several", "host=127.0.0.1,127.0.0.2,/nowhere port=1,1,2", "", "cannot connect to 127.0.0.1, port 1, database app: connection refused; nor to 127.0.0.2, port 1: connection refused; check that the server runs there; nor to /nowhere, port 2: no such file or directory; check that the server runs there, and that its unix_socket_directories has this directory"},
	} {
		s.dsn += " dbname=app user=guest password=" + canary
		s.check(t, "nothing")
	}
	// Some name servers take seconds, or resolve every name.
	noSuchHost := func(c *pgxpool.Config) {
		c.ConnConfig.LookupFunc = func(_ context.Context, host string) ([]string, error) {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
	}
	require.Equal(t, "aiseed: opening the store: cannot connect to db.example, port 5432, database app: the host name cannot be resolved; check the host in the connection string, and the name server",
		refused(t, "host=db.example dbname=app user=guest password="+canary, noSuchHost).Error())
}
