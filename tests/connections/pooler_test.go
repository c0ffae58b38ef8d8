package connections

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/ephemeral"
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
	const at = "cannot connect to HOST, port 6432, database postgres: SQLSTATE 08P01: "
	const remedy = "; remove it and use alter role … set instead, or add it to ignore_startup_parameters of the pooler, which then drops it"
	const login = "the pooler refused the login: wrong password, or no such user; check user and password, and auth_file or auth_query of the pooler"
	for _, s := range []situation{
		{"a wrong password", guest + "x", "08P01", at + login},
		{"no password", bouncer.DSN("") + " user=guest passfile=/nowhere", "08P01", at + login},
		{"no such user", guest + " user=nobody_there", "08P01", at + login},
		{"a user that is rejected", guest + " user=outsider", "08P01", at + "the pooler's auth_hba_file has no entry for this host, user and database without TLS; set sslmode=require, or add an entry there"},
		{"search_path", guest + " search_path=app", "08P01", at + "the pooler does not pass on search_path, which the connection string sets" + remedy},
		{"statement_timeout", guest + " statement_timeout=1000", "08P01", at + "the pooler does not pass on statement_timeout, which the connection string sets" + remedy},
		{"options", guest + " options='-c work_mem=4MB'", "08P01", at + "the pooler does not pass on options, which the connection string sets" + remedy},
		{"a setting with digits", guest + " foo1=bar", "08P01", at + "the pooler does not pass on a setting, which the connection string sets" + remedy},
		{"no such database at the server", guest + " dbname=none", "08P01", "cannot connect to HOST, port 6432, database none: SQLSTATE 08P01: from behind the pooler: the database does not exist; create it, or check the connection string; for the pooler's own login, which can be another"},
	} {
		s.check(t, host)
	}
}

