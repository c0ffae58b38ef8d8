package aiseedcli

import (
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/text"
)

// parseString reads a connection string. problem says what is wrong with it, as the rest of a sentence, and quotes
// nothing of it: if a special character is not encoded, any part can be the password.
func parseString(dsn string) (config *pgxpool.Config, problem string) {
	if problem := shapeOf(dsn); problem != "" {
		return nil, problem
	}
	config, err := pgxpool.ParseConfig(dsn)
	isAt := func(f *pgconn.FallbackConfig) bool { return strings.Contains(f.Host, "@") }
	switch {
	case err == nil && !strings.Contains(config.ConnConfig.Host+config.ConnConfig.Database, "@") && !slices.ContainsFunc(config.ConnConfig.Fallbacks, isAt):
		return config, ""
	case isURL(dsn) && hasLooseCharacter(dsn):
		return nil, "has a special character that is not percent-encoded, most likely in the password; write @ as %40, / as %2F, : as %3A, ? as %3F, # as %23, % as %25 and a space as %20"
	case err == nil:
		return nil, "has an @ in the host or the database; want " + wantString
	}
	return nil, problemOf(err)
}

const wantString = "postgres://user:password@host:port/database with special characters percent-encoded, or host=... user=..."

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

var (
	assigned = regexp.MustCompile(`^(export\s+)?[A-Z_][A-Z0-9_]*\s*=|^export\s`)
	scheme   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.:-]*://`)
	template = regexp.MustCompile(`\$\{\w+\}|\$\(\w+\)|\{\{.*\}\}|<[\w-]+>`)
	pair     = regexp.MustCompile(`^\s*[A-Za-z_.]+\s*=`)
)

// shapeOf recognises what is no connection string, and what tools and files leave around one.
func shapeOf(dsn string) (problem string) {
	first, _ := utf8.DecodeRuneInString(dsn)
	last, _ := utf8.DecodeLastRuneInString(strings.TrimSpace(dsn))
	before := strings.ToLower(scheme.FindString(dsn))
	switch {
	case dsn == "":
		return ""
	case strings.HasPrefix(dsn, "\ufeff"):
		return "begins with a byte-order mark; save the file as UTF-8 without one"
	case text.IsQuote(first), text.IsQuote(last) && before != "":
		return "is in quotes; docker --env-file and some other readers keep them: remove them"
	case assigned.MatchString(dsn):
		return "begins with the name of a variable; want only what follows the equals sign"
	case isURL(dsn) && template.MatchString(dsn):
		return "is a template that nobody filled in; fill it in, or percent-encode $, {, < and > of a real password"
	case (before != "" || !pair.MatchString(dsn)) && strings.TrimSpace(dsn) != dsn:
		return "has white space or a line break before or after it; remove it, and write a file with printf instead of echo"
	case isURL(dsn) && strings.ContainsAny(dsn, "\r\n"):
		return "has a line break in it; want one line"
	case isURL(dsn), pair.MatchString(dsn):
		return ""
	case strings.HasPrefix(before, "jdbc:"):
		return "is one for JDBC; want " + wantString
	case strings.HasPrefix(before, "postgres+"), strings.HasPrefix(before, "postgresql+"):
		return "names a driver of another language; remove the plus sign and what follows it, up to ://"
	case before == "postgres://", before == "postgresql://":
		return "has a scheme in capital letters; want postgres:// or postgresql://"
	case before != "":
		return "is a URL of something else; want " + wantString
	case strings.HasPrefix(dsn, "postgres:"), strings.HasPrefix(dsn, "postgresql:"):
		return "lacks the two slashes of a URL; want " + wantString
	}
	return "is neither a URL nor name=value pairs, perhaps the name of a host alone; want " + wantString
}

var badEscape = regexp.MustCompile(`%($|[^0-9A-Fa-f]|.$|.[^0-9A-Fa-f])`)

// hasLooseCharacter reports whether user and password of a URL, which end at its last @, have a character that ends
// them earlier, or a percent sign that encodes nothing. An @ behind a question mark can be that of a setting.
func hasLooseCharacter(dsn string) bool {
	_, rest, _ := strings.Cut(dsn, "://")
	if front, _, _ := strings.Cut(rest, "?"); strings.Contains(front, "@") {
		rest = front
	}
	login := rest[:max(0, strings.LastIndex(rest, "@"))]
	user, password, _ := strings.Cut(login, ":")
	return strings.ContainsAny(user, "@/?#") || strings.ContainsAny(password, "@/?#: ") || badEscape.MatchString(login)
}

// unreadable are fixed words of pgx, and what they mean.
var unreadable = []struct{ words, problem string }{
	{"invalid port", "has a port that is not a number from 1 to 65535; if it is meant to be a part of the password, percent-encode special characters"},
	{"port numbers to", "has another number of ports than of hosts; want one port, or one for each host"},
	{"unable to read CA file", "names a file in sslrootcert that "},
	{"unable to read sslkey", "names a file in sslkey that "},
	{"unable to read cert", "names a file in sslcert that "},
	{"unable to add CA to cert pool", "names a file in sslrootcert that has no certificate in PEM format"},
	{"failed to decode sslkey", "names a file in sslkey that has no key in PEM format"},
	{"unable to load cert", "names files in sslcert and sslkey that are no certificate with its key"},
	{`both "sslcert" and "sslkey" are required`, "has one of sslcert and sslkey; want both or neither"},
	{"sslpassword", "has an encrypted sslkey, and no sslpassword that decrypts it"},
	{"unable to decrypt key", "has an encrypted sslkey, and no sslpassword that decrypts it"},
	{"sslmode is invalid", "has an invalid sslmode; want disable, allow, prefer, require, verify-ca or verify-full"},
	{"failed to read service file", "names a service, and the service file cannot be read; set PGSERVICEFILE or servicefile to its path"},
	{"unable to find service", "names a service that the service file does not have; add it there, or correct its name"},
	{"invalid connect_timeout", "has an invalid connect_timeout; want whole seconds"},
	{"unknown target_session_attrs", "has an invalid target_session_attrs; want any, read-write, read-only, primary, standby or prefer-standby"},
	{"unknown channel_binding", "has an invalid channel_binding; want disable, prefer or require"},
	{"invalid require_auth", "has an invalid require_auth; want scram-sha-256, or a list of methods"},
	{"invalid sslcertmode", "has an invalid sslcertmode; want disable, allow or require"},
	{"protocol_version", "has an invalid min_protocol_version or max_protocol_version; want 3.0, 3.2 or latest"},
	{"unterminated quoted string", "has a quote that is not closed; within quotes, write ' as \\'"},
	{`missing "=" after`, "has a word without an equals sign; a value with spaces goes in single quotes"},
	{"invalid keyword/value", "has a word without an equals sign; a value with spaces goes in single quotes"},
	{"pool_", "has an invalid pool_ parameter; want numbers like pool_max_conns=4, and durations like pool_max_conn_lifetime=1h"},
	{"default_query_exec_mode", "has an invalid default_query_exec_mode; want exec, or leave it out"},
	{"cache_capacity", "has an invalid cache capacity; want a number"},
}

// problemOf finds out what pgx cannot read. Its error quotes the string; the words come after it.
func problemOf(err error) string {
	words := err.Error()
	words = words[strings.LastIndex(words, "`: ")+1:]
	for _, p := range unreadable {
		if !strings.Contains(words, p.words) {
			continue
		}
		switch {
		case !strings.HasSuffix(p.problem, " "):
			return p.problem
		case errors.Is(err, fs.ErrNotExist):
			return p.problem + "does not exist"
		case errors.Is(err, fs.ErrPermission):
			return p.problem + "cannot be read: permission denied"
		}
		return p.problem + "cannot be read"
	}
	return "cannot be read; want " + wantString
}
