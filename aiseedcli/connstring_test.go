package aiseedcli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// O11: each string has this password, and no text about it has 8 characters of it.
func TestO11_AConnectionStringThatIsNone(t *testing.T) {
	t.Parallel()
	const password = "c4n9ryW0fThisPassw7rd"
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	const (
		wanted = "want postgres://user:password@host:port/database with special characters percent-encoded, or host=... user=..."
		loose  = "has a special character that is not percent-encoded, most likely in the password; write @ as %40, / as %2F, : as %3A, ? as %3F, # as %23, % as %25 and a space as %20"
		quoted = "is in quotes; docker --env-file and some other readers keep them: remove them"
		name   = "begins with the name of a variable; want only what follows the equals sign"
		spaces = "has white space or a line break before or after it; remove it, and write a file with printf instead of echo"
	)
	for _, tt := range []struct{ dsn, want string }{
		{"postgres://guest:PASSWORD@127.0.0.1:5432/app", ""},
		{"postgres://guest:PASSWORD@127.0.0.1:5432/app?application_name=a@b", ""},
		{"postgres://guest:PASS#$WORD@127.0.0.1/app", ""},
		{"host=127.0.0.1 user=guest password='PASS WORD' \n", ""},
		{"", ""},

		{`"postgres://guest:PASSWORD@127.0.0.1/app"`, quoted},
		{`'host=127.0.0.1 password=PASSWORD'`, quoted},
		{`“postgres://guest:PASSWORD@127.0.0.1/app”`, quoted},
		{`postgres://guest:PASSWORD@127.0.0.1/app"`, quoted},
		{"postgres://guest:PASSWORD@127.0.0.1/app\n", spaces},
		{" postgres://guest:PASSWORD@127.0.0.1/app", spaces},
		{"postgres://guest:PASSWORD@127.0.0.1/app\r\n?sslmode=disable", "has a line break in it; want one line"},
		{"\ufeffpostgres://guest:PASSWORD@127.0.0.1/app", "begins with a byte-order mark; save the file as UTF-8 without one"},
		{"export DATABASE_URL=postgres://guest:PASSWORD@127.0.0.1/app", name},
		{"DATABASE_URL=postgres://guest:PASSWORD@127.0.0.1/app", name},
		{"export host=127.0.0.1 password=PASSWORD", name},
		{"postgres://guest:${PASSWORD}@127.0.0.1/app", "is a template that nobody filled in; fill it in, or percent-encode $, {, < and > of a real password"},
		{"jdbc:postgresql://127.0.0.1/app?user=guest&password=PASSWORD", "is one for JDBC; " + wanted},
		{"postgresql+asyncpg://guest:PASSWORD@127.0.0.1/app", "names a driver of another language; remove the plus sign and what follows it, up to ://"},
		{"Postgres://guest:PASSWORD@127.0.0.1/app", "has a scheme in capital letters; want postgres:// or postgresql://"},
		{"mysql://guest:PASSWORD@127.0.0.1/app", "is a URL of something else; " + wanted},
		{"postgres:/guest:PASSWORD@127.0.0.1/app", "lacks the two slashes of a URL; " + wanted},
		{"db.example.com", "is neither a URL nor name=value pairs, perhaps the name of a host alone; " + wanted},
		{"PASSWORD", "is neither a URL nor name=value pairs, perhaps the name of a host alone; " + wanted},

		{"postgres://guest:PASS@WORD@127.0.0.1/app", loose},
		{"postgres://guest:PASS/WORD@127.0.0.1/app", loose},
		{"postgres://guest:1/PASSWORD@127.0.0.1/app", loose},
		{"postgres://guest:PASS%WORD@127.0.0.1/app", loose},
		{"postgres://guest:PASSWORD%@127.0.0.1/app", loose},
		{"postgres://guest:PASS WO/RD@127.0.0.1/app", loose},
		{"postgres://guest:PASSWORD@127.0.0.1:99999/app", "has a port that is not a number from 1 to 65535; if it is meant to be a part of the password, percent-encode special characters"},
		{"postgres://127.0.0.1:PASSWORD/app", "has a port that is not a number from 1 to 65535; if it is meant to be a part of the password, percent-encode special characters"},
		{"host=guest:PASSWORD@127.0.0.1", "has an @ in the host or the database; " + wanted},
		{"host=a,b,c port=1,2 password=PASSWORD", "has another number of ports than of hosts; want one port, or one for each host"},
		{"host=127.0.0.1 password=PASSWORD sslrootcert=" + dir + "/PASSWORD.pem", "names a file in sslrootcert that does not exist"},
		{"host=127.0.0.1 password=PASSWORD sslrootcert=" + dir, "names a file in sslrootcert that cannot be read"},
		{"host=127.0.0.1 password=PASSWORD sslrootcert=" + empty, "names a file in sslrootcert that has no certificate in PEM format"},
		{"host=127.0.0.1 password=PASSWORD sslcert=" + empty + " sslkey=" + dir + "/absent", "names a file in sslkey that does not exist"},
		{"host=127.0.0.1 password=PASSWORD sslcert=" + empty + " sslkey=" + empty, "names a file in sslkey that has no key in PEM format"},
		{"host=127.0.0.1 password=PASSWORD sslcert=" + empty + " sslkey=", "has one of sslcert and sslkey; want both or neither"},
		{"host=127.0.0.1 password=PASSWORD sslmode=PASSWORD", "has an invalid sslmode; want disable, allow, prefer, require, verify-ca or verify-full"},
		{"service=PASSWORD servicefile=" + dir + "/absent", "names a service, and the service file cannot be read; set PGSERVICEFILE or servicefile to its path"},
		{"service=PASSWORD servicefile=" + empty, "names a service that the service file does not have; add it there, or correct its name"},
		{"host=127.0.0.1 password=PASSWORD connect_timeout=PASSWORD", "has an invalid connect_timeout; want whole seconds"},
		{"host=127.0.0.1 password=PASSWORD target_session_attrs=PASSWORD", "has an invalid target_session_attrs; want any, read-write, read-only, primary, standby or prefer-standby"},
		{"host=127.0.0.1 password=PASSWORD channel_binding=PASSWORD", "has an invalid channel_binding; want disable, prefer or require"},
		{"host=127.0.0.1 password=PASSWORD require_auth=PASSWORD", "has an invalid require_auth; want scram-sha-256, or a list of methods"},
		{"host=127.0.0.1 password=PASSWORD sslcertmode=PASSWORD", "has an invalid sslcertmode; want disable, allow or require"},
		{"host=127.0.0.1 password=PASSWORD min_protocol_version=PASSWORD", "has an invalid min_protocol_version or max_protocol_version; want 3.0, 3.2 or latest"},
		{"host=127.0.0.1 password='PASSWORD", "has a quote that is not closed; within quotes, write ' as \\'"},
		{"host=127.0.0.1 password=PASS WORD user=guest", "has a word without an equals sign; a value with spaces goes in single quotes"},
		{"host=127.0.0.1 password=PASS WORD", "has a word without an equals sign; a value with spaces goes in single quotes"},
		{"host=127.0.0.1 password=PASSWORD pool_max_conns=PASSWORD", "has an invalid pool_ parameter; want numbers like pool_max_conns=4, and durations like pool_max_conn_lifetime=1h"},
		{"host=127.0.0.1 password=PASSWORD default_query_exec_mode=PASSWORD", "has an invalid default_query_exec_mode; want exec, or leave it out"},
		{"host=127.0.0.1 password=PASSWORD statement_cache_capacity=PASSWORD", "has an invalid cache capacity; want a number"},
	} {
		dsn := strings.NewReplacer("PASSWORD", password, "PASS", password[:10], "WORD", password[10:]).Replace(tt.dsn)
		if strings.Contains(tt.dsn, "${") {
			dsn = tt.dsn
		}
		_, problem := parseString(dsn)
		require.Equal(t, tt.want, problem, tt.dsn)

		if problem != "" {
			a := &app{}
			a.flags.database = dsn
			_, err := a.pool(t.Context())
			require.EqualError(t, err, "the connection string of -database "+tt.want)
			for i := range len(password) - 7 {
				require.NotContains(t, err.Error(), password[i:i+8], tt.dsn)
			}
		}
	}
}
