package aiseedcli

import (
	"encoding/base64"
	"errors"
	"flag"
	"io"
	"regexp"
	"slices"
	"strings"

	"example.com/aiseed"
	"example.com/aiseed/internal/terminal"
	"example.com/aiseed/internal/text"
)

// flags are the values of the flags.
type flags struct {
	database, keysVariable, schema, notifyChannel, actor string
	prefixes                                             prefixList
	acceptPlaintext, json, noColor                       bool

	// Each of these is for some verbs only.
	discardAudits, migrate, yes, print, apply, names bool
	tool, dir, keyFile                               string
}

// ownFlags are the flags that are not for all verbs. Every verb reads all flags, but one of these
// in the wrong place is an error: it would not do what it says.
var ownFlags = []string{"discard-audits", "migrate", "yes", "print", "apply", "tool", "dir", "names", "key-file"}

// flagSet returns the flags, with the values that the host built in.
func (a *app) flagSet() *flag.FlagSet {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	to := &a.flags
	f.StringVar(&to.database, "database", "", "connection `string`; else "+a.DatabaseVariable+" or "+a.DatabaseVariable+"_FILE, else the PG* variables")
	f.StringVar(&to.keysVariable, "keys-variable", a.KeysVariable, "`name` of the variable with the keyring: base64 keys, comma-separated; with the suffix _FILE, of the one that names a file with them")
	f.BoolVar(&to.acceptPlaintext, "plaintext", false, "accept that there is no keyring")
	f.StringVar(&to.schema, "schema", a.Schema, "`name` of the Postgres schema with the tables")
	f.StringVar(&to.notifyChannel, "notify-channel", a.NotifyChannel, "`name` of the channel on which the servers hear of changes; else that of the schema")
	f.Var(&to.prefixes, "prefix", "`start` of the names of the server's variables; it can be repeated")
	f.StringVar(&to.actor, "actor", "", "`name` for the audit of whoever changes something; else the login")
	f.BoolVar(&to.json, "json", to.json, "print one JSON document, for machines")
	f.BoolVar(&to.noColor, "no-color", false, "no colours; NO_COLOR and TERM=dumb do the same")
	f.BoolVar(&to.discardAudits, "discard-audits", false, "mark all waiting audit entries as delivered, those from before too, instead of leaving them to the server's own audit log")
	f.BoolVar(&to.migrate, "migrate", false, "apply the schema first, if it is missing or older")
	f.BoolVar(&to.yes, "yes", false, "really do it")
	f.BoolVar(&to.print, "print", false, "print SQL that makes them in an empty schema, or with -dir write files")
	f.BoolVar(&to.apply, "apply", false, "apply those that are missing")
	f.StringVar(&to.tool, "tool", "", "write the files in the form of a migration `tool`: goose, golang-migrate or tern")
	f.StringVar(&to.dir, "dir", "", "`path` of a folder for the files; those that it has stay as they are")
	f.BoolVar(&to.names, "names", false, "print only the names, one on a line")
	f.StringVar(&to.keyFile, "key-file", "", "`path` of a file with the key; else it is read from standard input, and a terminal is asked")
	return f
}

// parseFlags reads flags before, between and behind the other arguments, which it returns. "--"
// ends the flags.
func parseFlags(set *flag.FlagSet, args []string) (others []string, err error) {
	for {
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		rest := set.Args()
		if used := len(args) - len(rest); used > 0 && args[used-1] == "--" {
			return append(others, rest...), nil
		}
		if len(rest) == 0 {
			return others, nil
		}
		others, args = append(others, rest[0]), rest[1:]
	}
}

var (
	prefixPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,39}_$`)
	// A key in base64 ends in an equals sign, and one in hex is longer.
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,59}$`)
	secretPattern   = regexp.MustCompile(`^(sk|pk|rk|xai|gsk)-|^AKIA|^AIza|://`)
)

// isIdentifier reports whether a text can be the name of a schema or a channel, and is not a secret in
// the place of one: names are printed.
func isIdentifier(name string) bool {
	const maxBytes = 63
	key, err := base64.StdEncoding.DecodeString(name)
	return name != "" && len(name) <= maxBytes && text.Check(name) == "" && !secretPattern.MatchString(name) && (err != nil || len(key) < aiseed.KeySize)
}

// checkFlags completes the flags, and refuses those that cannot be right. It does not show a value,
// which can be a key that was given to the wrong flag.
func (a *app) checkFlags(set *flag.FlagSet) (err error) {
	given := map[string]bool{} // what the host built in is its own matter
	set.Visit(func(f *flag.Flag) {
		given[f.Name] = true
		if slices.Contains(ownFlags, f.Name) && !slices.Contains(a.verb.own, f.Name) {
			err = a.usage("-" + f.Name + " is not for " + a.verb.name + ", but for " + strings.Join(verbsWith(f.Name), ", "))
		}
	})
	if len(a.flags.prefixes) == 0 {
		a.flags.prefixes = a.Prefixes
	}
	switch {
	case err != nil:
		return err
	case given["prefix"] && slices.ContainsFunc(a.flags.prefixes, func(prefix string) bool { return !prefixPattern.MatchString(prefix) }):
		return a.usage("-prefix takes the start of the names of variables: letters, digits and underscores, an underscore at the end")
	case a.flags.schema == "", given["schema"] && !isIdentifier(a.flags.schema), strings.HasPrefix(a.flags.schema, "pg_"):
		return a.usage("-schema takes the name of a schema, of at most 63 bytes and not one of Postgres's own")
	case given["notify-channel"] && !isIdentifier(a.flags.notifyChannel):
		return a.usage("-notify-channel takes the name of a channel, of at most 63 bytes")
	case given["keys-variable"] && !variablePattern.MatchString(a.flags.keysVariable):
		return a.usage("-keys-variable takes the name of a variable, not the keys themselves")
	}
	return nil
}

// A prefixList is the value of a flag that can be repeated.
type prefixList []string

func (l *prefixList) String() string { return strings.Join(*l, " and ") }

func (l *prefixList) Set(prefix string) error {
	if prefix != "" {
		*l = append(*l, prefix)
	}
	return nil
}

// prefix returns the first prefix that a variable has, or else the first.
func (a *app) prefix() string {
	i := slices.IndexFunc(a.flags.prefixes, func(prefix string) bool {
		return slices.ContainsFunc(a.Environ, func(entry string) bool { return strings.HasPrefix(entry, prefix) })
	})
	return a.flags.prefixes[max(i, 0)]
}

// flagProblem describes an error of package flag without quoting a value.
func flagProblem(err error) string {
	_, name, undefined := strings.Cut(err.Error(), "flag provided but not defined: ")
	_, missing, needed := strings.Cut(err.Error(), "flag needs an argument: ")
	switch {
	case undefined:
		return "unknown flag" + quoted(name)
	case needed:
		return "the flag" + quoted(missing) + " needs a value"
	}
	return "invalid flag value"
}

var plainWord = regexp.MustCompile(`^[A-Za-z-]{1,20}$`)

// quoted shows what was typed, unless it could be a connection string or a key.
func quoted(arg string) string {
	if !plainWord.MatchString(arg) {
		return ""
	}
	return ` "` + arg + `"`
}

// A usageError is a mistake on the command line.
type usageError struct {
	text string
	verb verb // the zero verb if it was not found
}

func (e *usageError) Error() string { return e.text }

func (a *app) usage(problem string) error { return &usageError{problem, a.verb} }

func isUsage(err error) bool {
	var usage *usageError
	return errors.As(err, &usage)
}

// colour reports whether to use colours on standard output.
func (a *app) colour() bool {
	return !a.flags.noColor && a.lookup("NO_COLOR") == "" && a.lookup("TERM") != "dumb" && terminal.Is(a.Options.Stdout)
}
