package pg

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// A refusal is the answer of a server or a pooler to an attempt to connect. Its text quotes names of the
// connection string, and so it is compared with texts that are known, and never shown.
type refusal struct {
	answer *pgconn.PgError
	config *pgconn.Config // nil if the connection was there before
	tls    string         // "with TLS" or "without TLS", or "" if either
}

// byPooler reports whether the answer is not PostgreSQL's own, which names the place in its source.
func byPooler(answer *pgconn.PgError) bool { return answer.Routine == "" && answer.File == "" }

// says reports whether the text begins with one of the beginnings. Texts of older versions begin with a capital.
func (r refusal) says(beginnings ...string) bool {
	for _, b := range beginnings {
		if len(r.answer.Message) >= len(b) && strings.EqualFold(r.answer.Message[:len(b)], b) {
			return true
		}
	}
	return false
}

func (r refusal) explain() finding {
	f, known := finding{}, false
	if byPooler(r.answer) {
		f, known = r.ofPooler()
	}
	if !known {
		f = r.ofServer()
	}
	if f.found == "" {
		f.found = "the server refused the connection"
		f.todo = "look into the log of the server, or of the pooler in front of it"
	}
	f.found = "SQLSTATE " + r.answer.Code + ": " + f.found
	return f
}

// whileConnected explains what a pooler says when a statement needs a server, or returns "".
func (r refusal) whileConnected() string {
	f, known := r.ofPooler()
	if !known && slices.Contains([]string{"08P01", "28000", "28P01", "3D000", "53300", "57P03"}, r.answer.Code) {
		f = r.ofServer()
	}
	if f.found == "" {
		return ""
	}
	return "SQLSTATE " + r.answer.Code + ": " + f.found + "; " + f.todo
}

// ofPooler knows the texts of PgBouncer 1.8 to 1.25, which come with SQLSTATE 08P01.
func (r refusal) ofPooler() (finding, bool) {
	const console = "; SHOW POOLS and SHOW SERVERS on its console, and its log, say more"
	switch {
	case r.says("unsupported startup parameter", "unsupported options startup parameter"):
		name := r.setting()
		return finding{
			"the pooler does not pass on " + name + ", which the connection string sets",
			"remove it and use alter role … set instead, or add it to ignore_startup_parameters of the pooler, which then drops it",
		}, true
	case r.says("no such user"):
		return finding{"the pooler does not know the user", "check the user, or add it to auth_file or auth_query of the pooler"}, true
	case r.answer.Message == "password authentication failed",
		r.says("auth failed", "SASL authentication failed", "PAM authentication failed", "empty password returned", `"trust" authentication failed`):
		return finding{"the pooler refused the login: wrong password, or no such user", "check user and password, and auth_file or auth_query of the pooler"}, true
	case r.says("login rejected", "unix socket login rejected"):
		return finding{
			"the pooler's auth_hba_file has no entry for this host, user and database" + r.way(),
			r.otherWay() + "add an entry there",
		}, true
	case r.says("certificate authentication failed", "TLS client certificate required", "TLS certificate name mismatch"):
		return finding{"the pooler wants a client certificate for this user", "set sslcert and sslkey"}, true
	case r.says("no such database", "database does not allow connections") || r.says(`database "`) && strings.HasSuffix(r.answer.Message, `" is disabled`):
		return finding{"the pooler does not know the database", "check the database, or add it to [databases] of the pooler"}, true
	case r.says("no more connections allowed", "client connections exceeded"):
		return finding{"the pooler has no connection slot left", "raise max_client_conn of the pooler, or make the pools smaller"}, true
	case r.says("SSL required", "TLS connection required"):
		return finding{"the pooler requires TLS", "set sslmode=require in the connection string"}, true
	case r.says("server login", "pgbouncer cannot connect to server", "client_login_timeout", "connect failed"):
		return finding{"the pooler cannot connect to its server, or log in there", "check that the server runs, and the pooler's own login" + console}, true
	case r.says("query_wait_timeout"):
		return finding{"the pooler had no free connection to its server in time", "check that the server runs, and raise default_pool_size" + console}, true
	case r.says("server shutting down", "pooler is shutting down"):
		return finding{"the pooler is shutting down", "start again when it is there"}, true
	case r.says("bouncer config error", "bouncer resources exhaustion"):
		return finding{"the configuration of the pooler has an error", "look into its log"}, true
	}
	return finding{}, false
}

// ofServer explains an answer of PostgreSQL. The routine of its source that refuses does not depend on
// lc_messages, the text does. A pooler passes the text on without the routine, old ones with another SQLSTATE.
func (r refusal) ofServer() finding {
	if !byPooler(r.answer) {
		return r.login()
	}
	r.tls = "" // is about the connection to the pooler
	f := r.login()
	if f.found != "" {
		f.found = "from behind the pooler: " + f.found
		f.todo += "; for the pooler's own login, which can be another"
	}
	return f
}

func (r refusal) login() finding {
	code, routine := r.answer.Code, r.answer.Routine
	switch {
	case code == "28P01", r.says("password authentication failed for user"):
		if r.config != nil && r.config.Password == "" && !byPooler(r.answer) {
			return finding{"the server refused the login: it asks for a password, and there is none", "add the password to the connection string, or set PGPASSWORD"}
		}
		return finding{"the server refused the login: wrong password, or no such user", "check user and password; in a URL, special characters have to be percent-encoded"}
	case r.says("connection requires a valid client certificate", "certificate authentication failed"):
		return finding{"the server wants a client certificate that it trusts", "set sslcert and sslkey to a certificate for this user"}
	case r.says("SCRAM channel binding check failed", "SCRAM channel binding negotiation error"):
		return finding{"the server sees another TLS connection than this one", "find out who decrypts TLS on the way; if that is meant, set channel_binding=disable"}
	case r.says("peer authentication failed", "ident authentication failed"):
		return finding{
			"the server lets this user in only from the operating-system user of that name",
			"run as that user, or ask for a password in pg_hba.conf (scram-sha-256)",
		}
	case code == "28000" && routine == "InitializeSessionUserId", byPooler(r.answer) && r.says(`role "`):
		return finding{"the server refused the login: the role does not exist, or may not log in", "check the user, or: create role … login, alter role … login"}
	case routine == "ClientAuthentication", r.says("no pg_hba.conf entry", "pg_hba.conf rejects"):
		return r.entry()
	case code == "28000":
		return finding{"the server refused the login", "check user, password and pg_hba.conf"}
	case code == "3D000", r.says(`database "`) && strings.HasSuffix(r.answer.Message, `" does not exist`):
		return finding{"the database does not exist", "create it, or check the connection string"}
	case code == "53300", r.says("sorry, too many clients", "remaining connection slots", "too many connections"):
		return r.slots()
	case code == "57P03", r.says("the database system is"):
		return r.notYet()
	case code == "42501" && strings.HasPrefix(routine, "set_config"):
		return finding{"the role may not set " + r.setting() + ", which the connection string sets", "remove it, or let a superuser: alter role … set it"}
	case code == "42501":
		return finding{"the role may not connect to the database", "grant connect on database … to it, or check the user"}
	case code == "55000":
		return finding{"the database does not allow connections", "alter database … allow_connections true, or check the connection string"}
	case code == "42704":
		return finding{
			r.setting() + " in the connection string is no setting of the server",
			"correct or remove it: what the driver does not know is sent to the server as a setting",
		}
	case code == "22023", code == "22P02":
		return finding{"the server does not accept the value of " + r.setting() + " in the connection string", "correct or remove it"}
	case code == "55P02":
		return finding{"the server does not let a connection set " + r.setting() + ", as the connection string does", "remove it"}
	case code == "42601":
		return finding{"options in the connection string cannot be read", "want options='-c name=value', in a URL options=-c%20name%3Dvalue"}
	}
	return finding{}
}

func (r refusal) entry() finding {
	if r.says("pg_hba.conf rejects") {
		return finding{
			"the server refused the login: pg_hba.conf rejects this host, user and database" + r.way(),
			r.otherWay() + "change that entry, and reload the server",
		}
	}
	return finding{
		"the server refused the login: pg_hba.conf has no entry for this host, user and database" + r.way(),
		r.otherWay() + "add an entry, and reload the server",
	}
}

func (r refusal) way() string {
	if r.tls == "" {
		return ""
	}
	return " " + r.tls
}

func (r refusal) otherWay() string {
	switch r.tls {
	case "with TLS":
		return "set sslmode=disable, or "
	case "without TLS":
		return "set sslmode=require, or "
	}
	return ""
}

func (r refusal) slots() finding {
	switch {
	case r.answer.Routine == "InitializeSessionUserId", r.says("too many connections for role"):
		return finding{"the role has no connection left", "alter role … connection limit, or make the pools smaller"}
	case r.answer.Routine == "CheckMyDatabase", r.says("too many connections for database"):
		return finding{"the database has no connection left", "alter database … connection limit, or make the pools smaller"}
	}
	return finding{"the server has no connection slot left", "raise max_connections, make the pools smaller, or put a pooler between"}
}

func (r refusal) notYet() finding {
	switch {
	case r.says("the database system is starting up"):
		return finding{"the server is starting up", "start again when it is there"}
	case r.says("the database system is shutting down"):
		return finding{"the server is shutting down", "start again when it is there"}
	case r.says("the database system is in recovery mode"):
		return finding{"the server recovers from a crash", "start again when it is there"}
	case r.says("the database system is not"):
		return finding{"the server is a standby that takes no connections", "connect to the primary, or set hot_standby=on there and wait until it has caught up"}
	}
	return finding{"the server is shutting down or starting up", "start again when it is there"}
}

// Names of settings consist of these; a number is more likely to be from a password.
var settingPattern = regexp.MustCompile(`^[A-Za-z_]+(\.[A-Za-z_]+)?$`)

// Languages quote in many ways, PgBouncer does not.
var quotedName = regexp.MustCompile(`(?:["\p{Pi}\p{Pf}\p{Ps}]\s?|: )([A-Za-z_.]+)`)

// setting names the setting of the connection string that the text is about. It shows no word that is not a name in
// there.
func (r refusal) setting() string {
	const unknown = "a setting"
	if r.config == nil || misread(r.config) {
		return unknown
	}
	if r.says(`role "`) && r.config.RuntimeParams["role"] != "" {
		return "role" // the text quotes its value only
	}
	if quoted := quotedName.FindStringSubmatch(r.answer.Message); quoted != nil && settingPattern.MatchString(quoted[1]) {
		isIt := func(name string) bool { return strings.EqualFold(name, quoted[1]) }
		if slices.ContainsFunc(slices.Collect(maps.Keys(r.config.RuntimeParams)), isIt) || slices.ContainsFunc(optionNames(r.config), isIt) {
			return quoted[1]
		}
	}
	if r.config.RuntimeParams["options"] != "" && strings.Contains(r.answer.Message, "options") {
		return "options"
	}
	return unknown
}

// optionNames returns the names in "-c name=value --name=value".
func optionNames(c *pgconn.Config) (names []string) {
	for _, word := range strings.Fields(c.RuntimeParams["options"]) {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-c"), "--"), "=")
		names = append(names, name)
	}
	return names
}
