package connections

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/testkit"
)

// behind starts a PgBouncer that asks everybody but postgres for a password.
func behind(t *testing.T, server *ephemeral.Server, settings ...string) *ephemeral.PgBouncer {
	t.Helper()
	rules := readable(t, "hba", "local all postgres trust\nlocal all outsider reject\nlocal all all scram-sha-256\nhost all all 127.0.0.0/8 scram-sha-256\n")
	users := readable(t, "users", `"postgres" ""`+"\n"+`"guest" "`+canary+`"`+"\n"+`"outsider" ""`+"\n")
	bouncer, err := ephemeral.StartPgBouncer(t.Context(), server, append([]string{"auth_type=hba", "auth_hba_file=" + rules, "auth_file=" + users}, settings...)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, bouncer.Close()) })
	return bouncer
}

func TestO11_APoolerThatRefuses(t *testing.T) {
	t.Parallel()
	server := start(t, "local all all trust\n", "")
	bouncer := behind(t, server)
	host := hostOf(t, bouncer.DSN(""))
	guest := bouncer.DSN("") + " user=guest password=" + canary
	const at = "cannot connect to HOST, port 6432, database postgres, user "
	const remedy = "; remove it and use alter role … set instead, or add it to ignore_startup_parameters of the pooler, which then drops it"
	const login = "the pooler refused the login: wrong password, or no such user; check user and password, and auth_file or auth_query of the pooler"
	for _, s := range []situation{
		{"a wrong password", guest + "x", "08P01", at + "guest: SQLSTATE 08P01: " + login},
		{"no password", bouncer.DSN("") + " user=guest passfile=/nowhere", "08P01", at + "guest: SQLSTATE 08P01: " + login},
		{"no such user", guest + " user=nobody_there", "08P01", at + "nobody_there: SQLSTATE 08P01: " + login},
		{"a user that is rejected", guest + " user=outsider", "08P01", at + "outsider: SQLSTATE 08P01: the pooler's auth_hba_file has no entry for this host, user and database without TLS; set sslmode=require, or add an entry there"},
		{"search_path", guest + " search_path=app", "08P01", at + "guest: SQLSTATE 08P01: the pooler does not pass on search_path, which the connection string sets" + remedy},
		{"statement_timeout", guest + " statement_timeout=1000", "08P01", at + "guest: SQLSTATE 08P01: the pooler does not pass on statement_timeout, which the connection string sets" + remedy},
		{"options", guest + " options='-c work_mem=4MB'", "08P01", at + "guest: SQLSTATE 08P01: the pooler does not pass on options, which the connection string sets" + remedy},
		{"a setting with digits", guest + " foo1=bar", "08P01", at + "guest: SQLSTATE 08P01: the pooler does not pass on a setting, which the connection string sets" + remedy},
		{"no such database at the server", guest + " dbname=none", "08P01", "cannot connect to HOST, port 6432, database none, user guest: SQLSTATE 08P01: from behind the pooler: the database does not exist; create it, or check the connection string; for the pooler's own login, which can be another"},
	} {
		s.check(t, host)
	}
}

func TestO11_APoolerThatIsFull(t *testing.T) {
	t.Parallel()
	server := start(t, "local all all trust\n", "")
	bouncer := behind(t, server, "max_client_conn=1")
	guest := bouncer.DSN("") + " user=guest password=" + canary
	// The one that looked whether it runs can still be counted.
	require.Eventually(t, func() bool {
		conn, err := pgx.Connect(t.Context(), guest)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
		}
		return err == nil
	}, testkit.Patience, time.Millisecond)
	require.ErrorContains(t, refused(t, guest), "SQLSTATE 08P01: the pooler has no connection slot left; raise max_client_conn of the pooler, or make the pools smaller")
}

func TestO11_APoolerWithoutItsServer(t *testing.T) {
	t.Parallel()
	server := start(t, "local all all trust\n", "")
	bouncer := behind(t, server, "query_wait_timeout=0.1", "admin_users=postgres")
	guest := bouncer.DSN("") + " user=guest password=" + canary
	const console = "; SHOW POOLS and SHOW SERVERS on its console, and its log, say more"
	command(t, bouncer, "PAUSE postgres")
	require.Equal(t, "aiseed: opening the store: SQLSTATE 08P01: the pooler had no free connection to its server in time; check that the server runs, and raise default_pool_size"+console,
		refused(t, guest).Error())
	command(t, bouncer, "RESUME postgres")
	require.NoError(t, server.Kill())
	require.Eventually(t, func() bool { // it tries once before it says so
		return strings.HasSuffix(refused(t, guest).Error(), "SQLSTATE 08P01: the pooler cannot connect to its server, or log in there; check that the server runs, and the pooler's own login"+console)
	}, testkit.Patience, time.Millisecond)
}

func TestO11_APoolerThatItsServerRefuses(t *testing.T) {
	t.Parallel()
	server := start(t, "local all all trust\n", "create database app")
	bouncer := behind(t, server)
	guest := bouncer.DSN("app") + " user=guest password=" + canary
	write(t, server, "pg_hba.conf", "local all all reject\n")
	exec(t, server, "select pg_reload_conf()")
	require.Eventually(t, func() bool { // it reloads when it comes to it
		conn, err := pgx.Connect(t.Context(), server.DSN(""))
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err != nil
	}, testkit.Patience, time.Millisecond)
	require.ErrorContains(t, refused(t, guest), "database app, user guest: SQLSTATE 08P01: from behind the pooler: the server refused the login: "+
		"pg_hba.conf rejects this host, user and database; change that entry, and reload the server; for the pooler's own login, which can be another")
}

// command runs a command on the console of a pooler.
func command(t *testing.T, bouncer *ephemeral.PgBouncer, what string) {
	t.Helper()
	console, err := pgx.Connect(t.Context(), bouncer.DSN("pgbouncer"))
	require.NoError(t, err)
	defer console.Close(context.Background())
	_, err = console.Exec(t.Context(), what, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err, what)
}

func TestO11_APoolerThatRequiresTLS(t *testing.T) {
	t.Parallel()
	server := start(t, "local all all trust\n", "")
	address := ownAddress()
	certificate, key := authority(t).issue(t, address, time.Hour)
	bouncer := behind(t, server, "listen_addr="+address, "client_tls_sslmode=require",
		"client_tls_cert_file="+readable(t, "crt", certificate), "client_tls_key_file="+readable(t, "key", key))
	guest := bouncer.DSN("") + " host=" + address + " user=guest password=" + canary
	require.Equal(t, "aiseed: opening the store: cannot connect to "+address+", port 6432, database postgres, user guest: SQLSTATE 08P01: the pooler requires TLS; set sslmode=require in the connection string",
		refused(t, guest+" sslmode=disable").Error())
	require.ErrorContains(t, refused(t, guest+" sslmode=require channel_binding=require"), "channel_binding=require, and the server offers none; remove it, if ")
}

func TestO11_APoolerWithADatabaseThatIsDisabled(t *testing.T) {
	t.Parallel()
	server := start(t, "local all all trust\n", "create database app")
	bouncer := behind(t, server, "admin_users=postgres")
	guest := bouncer.DSN("app") + " user=guest password=" + canary
	conn, err := pgx.Connect(t.Context(), guest)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	command(t, bouncer, "DISABLE app")
	require.ErrorContains(t, refused(t, guest), "port 6432, database app, user guest: SQLSTATE 08P01: the pooler does not know the database; check the database, or add it to [databases] of the pooler")
}
