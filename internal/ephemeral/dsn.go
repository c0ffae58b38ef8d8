package ephemeral

import (
	"net/url"
	"slices"
	"strings"
)

// variables are the PG* variables that have a keyword in a connection string,
// in the order in which they are written there.
var variables = []struct{ name, keyword string }{
	{"PGHOST", "host"},
	{"PGPORT", "port"},
	{"PGUSER", "user"},
	{"PGPASSWORD", "password"},
	{"PGPASSFILE", "passfile"},
	{"PGDATABASE", "dbname"},
	{"PGSSLMODE", "sslmode"},
	{"PGSSLROOTCERT", "sslrootcert"},
	{"PGSSLCERT", "sslcert"},
	{"PGSSLKEY", "sslkey"},
	{"PGCONNECT_TIMEOUT", "connect_timeout"},
	{"PGTARGETSESSIONATTRS", "target_session_attrs"},
	{"PGAPPNAME", "application_name"},
	{"PGOPTIONS", "options"},
}

// fromVariables returns the PG* variables as a connection string, so that a process
// with another environment can use it too, and the names of the variables that say
// where the server is. If none of these is set, the string is empty.
//
// PGUSER and PGDATABASE do not count: they do not say where the server is, and people
// set them permanently in their shells.
func fromVariables(getenv func(string) string) (base, source string) {
	// A connection string overrides a service file, which overrides the environment.
	// Do not write out the variables, because they would override the service file.
	if service := getenv("PGSERVICE"); service != "" {
		return "service=" + quote(service), "PGSERVICE"
	}

	var words, names []string
	for _, v := range variables {
		value := getenv(v.name)
		if value == "" {
			continue
		}
		words = append(words, v.keyword+"="+quote(value))
		if v.name == "PGHOST" || v.name == "PGPORT" {
			names = append(names, v.name)
		}
	}
	if len(names) == 0 {
		return "", ""
	}
	return strings.Join(words, " "), strings.Join(names, " and ")
}

// withDatabase returns the connection string, a URL or keywords and values, with
// another database. It keeps everything else byte for byte.
func withDatabase(base, database string) string {
	if database == "" {
		return base
	}
	scheme, rest, found := strings.Cut(base, "://")
	if !found || (scheme != "postgres" && scheme != "postgresql") {
		// If a keyword appears several times, the last one wins.
		return strings.TrimSpace(base + " dbname=" + quote(database))
	}

	rest, query, _ := strings.Cut(rest, "?")
	authority, _, _ := strings.Cut(rest, "/")
	dsn := scheme + "://" + authority + "/" + url.PathEscape(database)

	// A database in the query would override the one in the path.
	parameters := slices.DeleteFunc(strings.Split(query, "&"), func(parameter string) bool {
		key, _, _ := strings.Cut(parameter, "=")
		return key == "" || key == "dbname" || key == "database"
	})
	if len(parameters) > 0 {
		dsn += "?" + strings.Join(parameters, "&")
	}
	return dsn
}

// quote writes a value for a connection string of keywords and values.
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}
