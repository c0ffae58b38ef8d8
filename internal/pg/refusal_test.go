package pg

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// O11: the texts of other versions of PgBouncer than the one that is installed. tests/connections has that.
func TestO11_TextsOfPgBouncer(t *testing.T) {
	t.Parallel()
	const login = "the pooler refused the login: wrong password, or no such user"
	for message, want := range map[string]string{
		"Auth failed":                                           login,
		"auth failed":                                           login,
		"password authentication failed":                        login,
		"SASL authentication failed":                            login,
		"PAM authentication failed":                             login,
		`"trust" authentication failed`:                         login,
		"empty password returned by client":                     login,
		"No such user: guest":                                   "the pooler does not know the user",
		"no such user":                                          "the pooler does not know the user",
		"login rejected":                                        "the pooler's auth_hba_file has no entry for this host, user and database with TLS",
		"certificate authentication failed":                     "the pooler wants a client certificate for this user",
		"TLS client certificate required":                       "the pooler wants a client certificate for this user",
		"No such database: app":                                 "the pooler does not know the database",
		`database "app" is disabled`:                            "the pooler does not know the database",
		"database does not allow connections: app":              "the pooler does not know the database",
		"Unsupported startup parameter: foo":                    "the pooler does not pass on foo, which the connection string sets",
		"unsupported startup parameter in options: work_mem":    "the pooler does not pass on work_mem, which the connection string sets",
		"unsupported startup parameter in options: of_somebody": "the pooler does not pass on options, which the connection string sets",
		"unsupported options startup parameter: only '-c config=val' is allowed": "the pooler does not pass on options, which the connection string sets",
		"no more connections allowed (max_client_conn)":                          "the pooler has no connection slot left",
		"client connections exceeded (max_db_client_connections)":                "the pooler has no connection slot left",
		"client connections exceeded (max_user_client_connections)":              "the pooler has no connection slot left",
		"SSL required":                       "the pooler requires TLS",
		"pgbouncer cannot connect to server": "the pooler cannot connect to its server, or log in there",
		"server login has been failing, try again later (server_login_retry)":              "the pooler cannot connect to its server, or log in there",
		"server login has been failing, cached error: connect failed (server_login_retry)": "the pooler cannot connect to its server, or log in there",
		"server login failed: wrong password type":                                         "the pooler cannot connect to its server, or log in there",
		"client_login_timeout (server down)":                                               "the pooler cannot connect to its server, or log in there",
		"query_wait_timeout":                                                               "the pooler had no free connection to its server in time",
		"pooler is shutting down":                                                          "the pooler is shutting down",
		"bouncer config error":                                                             "the configuration of the pooler has an error",
		`password authentication failed for user "app"`:                                    "from behind the pooler: the server refused the login: wrong password, or no such user",
		`database "app" does not exist`:                                                    "from behind the pooler: the database does not exist",
		`role "app" does not exist`:                                                        "from behind the pooler: the server refused the login: the role does not exist, or may not log in",
		`no pg_hba.conf entry for host "::1", user "a", database "b", no encryption`:       "from behind the pooler: the server refused the login: pg_hba.conf has no entry for this host, user and database",
		"sorry, too many clients already":                                                  "from behind the pooler: the server has no connection slot left",
		"the database system is starting up":                                               "from behind the pooler: the server is starting up",
		"what a later version says of c4n9ry":                                              "the server refused the connection",
	} {
		r := refusal{
			&pgconn.PgError{Code: "08P01", Message: message},
			&pgconn.Config{RuntimeParams: map[string]string{"foo": "x", "options": "-c work_mem=4MB"}}, "with TLS",
		}
		require.Equal(t, "SQLSTATE 08P01: "+want, r.explain().found, message)
		require.NotEmpty(t, r.explain().todo, message)
		r.config, r.tls = nil, ""
		if while := r.whileConnected(); !strings.Contains(message, "startup") && message != "login rejected" && !strings.Contains(message, "later version says") {
			require.Contains(t, while, want, message)
		}
	}
}

// O11: a server with another lc_messages. The routine tells what the text does not.
func TestO11_TextsInAnotherLanguage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ code, routine, message, want string }{
		{"28P01", "auth_failed", "Passwort-Authentifizierung für Benutzer »guest« fehlgeschlagen", "the server refused the login: wrong password, or no such user"},
		{"28000", "ClientAuthentication", "kein pg_hba.conf-Eintrag für Host »::1«, Benutzer »guest«, Datenbank »app«, keine Verschlüsselung", "the server refused the login: pg_hba.conf has no entry for this host, user and database without TLS"},
		{"28000", "InitializeSessionUserId", "Rolle »guest« existiert nicht", "the server refused the login: the role does not exist, or may not log in"},
		{"28000", "auth_failed", "Peer-Authentifizierung für Benutzer »guest« fehlgeschlagen", "the server refused the login"},
		{"42704", "find_option", "unbekannter Konfigurationsparameter »foo«", "foo in the connection string is no setting of the server"},
		{"22023", "parse_and_validate_value", "ungültiger Wert für Parameter »work_mem«: »foo1«", "the server does not accept the value of work_mem in the connection string"},
		{"53300", "InitProcess", "tut mir leid, schon zu viele Verbindungen", "the server has no connection slot left"},
		{"53300", "InitializeSessionUserId", "zu viele Verbindungen von Rolle »guest«", "the role has no connection left"},
		{"57P03", "ProcessStartupPacket", "das Datenbanksystem startet", "the server is shutting down or starting up"},
	} {
		r := refusal{
			&pgconn.PgError{Code: tt.code, Message: tt.message, Routine: tt.routine, File: "a.c"},
			&pgconn.Config{Password: "x", RuntimeParams: map[string]string{"foo": "x", "work_mem": "foo1"}}, "without TLS",
		}
		require.Equal(t, "SQLSTATE "+tt.code+": "+tt.want, r.explain().found)
	}
}

// O11: a socket that this process may not use. The tests can run as root, who may use each.
func TestO11_ASocketThatIsForbidden(t *testing.T) {
	t.Parallel()
	err := &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
	require.Equal(t, finding{
		"permission denied", "let the user of this process use the socket: the mode of its directory, unix_socket_permissions, unix_socket_group",
	}, network(err))
}
