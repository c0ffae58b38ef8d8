package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"example.com/aiseed"
)

const (
	exitDone        = 0
	exitError       = 1
	exitChange      = 2 // plan only
	exitInterrupted = 130

	defaultKeysVariable = "CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS"
	databaseVariable    = "DATABASE_URL"
)

// app is one run of the command.
type app struct {
	environ        []string
	stdout, stderr io.Writer
	command        string

	database, keysVariable, schema, notifyChannel string
	prefixes                                      prefixList

	acceptPlaintext, json, noColor, discardAudits, migrate, yes, print, apply bool
}

// A command is selected by the first argument of the command line.
type command struct {
	name, summary string
	about         string // what -h shows after the summary
	exits         string
	example       string
	flags         []string // the names of the flags that it accepts
	run           func(ctx context.Context, a *app) (code int, err error)
}

// commands is a function because the command help lists them.
func commands() []command {
	const exits = "0 done, 1 an error, 130 interrupted"
	connection := []string{"database", "schema"}
	store := append(slices.Clone(connection), "keys-variable")
	seed := append(slices.Clone(store), "plaintext", "prefix", "json")
	reseal := append(slices.Clone(store), "json", "notify-channel")
	return []command{
		{
			name: "plan", summary: "show what a start of the server would do", run: runPlan,
			about:   "It writes nothing and takes no lock. A table on the terminal's width (COLUMNS, or 100).",
			exits:   "0 a start would change nothing and succeed\n2 it would create or adopt something, or stop over a drift\n1 an error, and a start would most likely stop over it\n130 interrupted",
			example: "aiseed plan -json | jq '.steps[] | select(.action == \"drifted\")'", flags: append(slices.Clone(seed), "no-color"),
		},
		{
			name: "apply", summary: "do what a start of the server would do", run: runApply,
			about:   "A drift stops it, as it stops a start; the error prints the token that settles it. Audit\nentries wait for the server, which delivers them when it starts next.",
			exits:   "0 environment and database agree, or were settled\n1 an error, a drift included; nothing was changed\n130 interrupted",
			example: "CODER_AIBRIDGE_DRIFT_KEEP=openai@0123456789abcdef aiseed apply", flags: append(slices.Clone(seed), "discard-audits", "migrate", "notify-channel"),
		},
		{
			name: "rotate", summary: "seal every value again with the first key", run: runRotate,
			about:   "Give every server the new key behind the old one first: OLD,NEW. Then in front: NEW,OLD. Servers\ngo on meanwhile. After an interruption run it again: it does the rest.",
			exits:   "0 complete\n1 something is left, or an error\n130 interrupted",
			example: "CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS=$NEW,$OLD aiseed rotate", flags: reseal,
		},
		{
			name: "seal", summary: "seal what was stored before there was a keyring", run: runSeal,
			about:   "Stop the servers that run without the keyring first: they cannot read what is sealed.\nAfter an interruption run it again: it does the rest.",
			exits:   "0 complete\n1 something is left, or an error\n130 interrupted",
			example: "aiseed seal", flags: reseal,
		},
		{
			name: "unseal", summary: "store every secret as plaintext again", run: runUnseal,
			about:   "Stop the servers that have a keyring first: they refuse plaintext. After an interruption\nrun it again: it does the rest.",
			exits:   "0 complete\n1 something is left, or an error, or -yes is missing\n130 interrupted",
			example: "aiseed unseal -yes", flags: append(slices.Clone(reseal), "yes"),
		},
		{
			name: "doctor", summary: "look for trouble, and say what to do about it", run: runDoctor,
			about:   "One line for each thing that it finds: ok, warn, FAIL, or skip for what cannot be looked at\nwhile something else fails. It writes nothing and takes no lock.",
			exits:   "0 all is well, warnings aside\n1 something fails\n130 interrupted",
			example: "aiseed doctor", flags: append(slices.Clone(seed), "no-color"),
		},
		{
			name: "schema", summary: "print the tables' SQL, or apply it", run: runSchema,
			about:   "Give one of -print, which needs no database, and -apply.",
			exits:   exits,
			example: "aiseed schema -print >aiseed.sql", flags: append(slices.Clone(connection), "print", "apply"),
		},
		{
			name: "env", summary: "list the environment's variables, and which are set", run: runEnv,
			about: "Secrets are never shown.", exits: exits,
			example: "aiseed env", flags: []string{"keys-variable", "prefix", "json"},
		},
		{name: "help", summary: "show this, or with the name of a command what it does"},
	}
}

// run runs the command with the given environment and streams, and returns its exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	out := &checkedWriter{w: stdout}
	a := &app{environ: environ, stdout: out, stderr: stderr}
	code, err := a.dispatch(ctx, args, a.flagSet(stdout))
	if err == nil && out.err != nil {
		code, err = exitError, errors.New("aiseed: the output could not be written in full")
	}
	if err == nil {
		return code
	}
	interrupted := ctx.Err() != nil
	if !interrupted || errors.Is(err, aiseed.ErrCommitUnknown) {
		fmt.Fprintln(stderr, "aiseed: "+bare(err)+a.hint(err))
	}
	if interrupted {
		fmt.Fprintln(stderr, "aiseed: interrupted; nothing is half done, and running the same command again does the rest")
		return exitInterrupted
	}
	return cmp.Or(code, exitError)
}

func (a *app) dispatch(ctx context.Context, args []string, all *flag.FlagSet) (int, error) {
	if len(args) == 0 {
		return exitError, errors.New("there is no command. " + commandNames())
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return exitDone, a.help(args[1:], all)
	}
	c, err := findCommand(args[0])
	if err != nil {
		return exitError, err
	}
	a.command = c.name
	own := flag.NewFlagSet(c.name, flag.ContinueOnError)
	own.SetOutput(io.Discard)
	for _, name := range c.flags {
		f := all.Lookup(name)
		own.Var(f.Value, f.Name, f.Usage)
	}
	switch err := own.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return exitDone, a.help(args[:1], all)
	case err != nil:
		return exitError, fmt.Errorf("%s: %s; see aiseed %s -h. %s", c.name, flagProblem(err), c.name, commandNames())
	case own.NArg() > 0:
		return exitError, fmt.Errorf("%s: unexpected argument%s; it takes flags only, see aiseed %s -h. %s", c.name, quoted(own.Arg(0)), c.name, commandNames())
	}
	a.schema = cmp.Or(a.schema, "public")
	if len(a.prefixes) == 0 {
		a.prefixes = defaultPrefixes
	}
	if err := a.checkNames(); err != nil {
		return exitError, err
	}
	return c.run(ctx, a)
}

var prefixPattern = regexp.MustCompile(`^[A-Z][A-Z0-9_]*_$`)

// checkNames refuses an invalid prefix or schema name. It does not show the name, which
// can be a key that was given to the wrong flag.
func (a *app) checkNames() error {
	if slices.ContainsFunc(a.prefixes, func(prefix string) bool { return !prefixPattern.MatchString(prefix) }) {
		return errors.New("-prefix takes the start of the names of variables: upper-case letters, digits and underscores, an underscore at the end")
	}
	const maxIdentifierBytes = 63
	key, err := base64.StdEncoding.DecodeString(a.schema)
	if err == nil && len(key) >= aiseed.KeySize || len(a.schema) > maxIdentifierBytes || strings.HasPrefix(a.schema, "pg_") {
		return errors.New("-schema takes the name of a schema, of at most 63 bytes and not one of Postgres's own")
	}
	return nil
}

// A prefixList is the value of a flag that can be repeated.
type prefixList []string

var defaultPrefixes = prefixList{aiseed.DefaultPrefix, aiseed.GatewayPrefix}

func (l *prefixList) String() string { return strings.Join(*l, " and ") }

func (l *prefixList) Set(prefix string) error {
	if prefix != "" {
		*l = append(*l, prefix)
	}
	return nil
}

// prefix returns the first prefix that a variable has, or else the first.
func (a *app) prefix() string {
	i := slices.IndexFunc(a.prefixes, func(prefix string) bool {
		return slices.ContainsFunc(a.environ, func(entry string) bool { return strings.HasPrefix(entry, prefix) })
	})
	return a.prefixes[max(i, 0)]
}

// flagSet returns the flags of all commands.
func (a *app) flagSet(stdout io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("aiseed", flag.ContinueOnError)
	f.StringVar(&a.database, "database", "", "connection `string`; else "+databaseVariable+", else the PG* variables")
	f.StringVar(&a.keysVariable, "keys-variable", defaultKeysVariable, "`name` of the variable with the keyring: base64 keys, comma-separated;\nwith the suffix _FILE, of the one that names a file with them")
	f.BoolVar(&a.acceptPlaintext, "plaintext", false, "accept that there is no keyring")
	f.StringVar(&a.schema, "schema", "public", "`name` of the Postgres schema with the tables")
	f.StringVar(&a.notifyChannel, "notify-channel", "", "`name` of the servers' notification channel, if they set StoreOptions.NotifyChannel\n(default that of the schema)")
	f.Var(&a.prefixes, "prefix", "`start` of the names of the server's variables; it can be repeated (default "+defaultPrefixes.String()+")")
	f.BoolVar(&a.json, "json", false, "print JSON, for machines")
	f.BoolVar(&a.noColor, "no-color", !isTerminal(stdout), "no colours; NO_COLOR does the same")
	f.BoolVar(&a.discardAudits, "discard-audits", false, "mark all waiting audit entries as delivered, those from before too,\ninstead of leaving them to the server's own audit log")
	f.BoolVar(&a.migrate, "migrate", false, "apply the schema first, where it is missing or older")
	f.BoolVar(&a.yes, "yes", false, "store the secrets as plaintext, really")
	f.BoolVar(&a.print, "print", false, "print the SQL files in order")
	f.BoolVar(&a.apply, "apply", false, "apply those that are missing")
	return f
}

func findCommand(name string) (command, error) {
	all := commands()
	if i := slices.IndexFunc(all, func(c command) bool { return c.name == name }); i >= 0 {
		return all[i], nil
	}
	if strings.HasPrefix(name, "-") {
		return command{}, errors.New("the first argument is a flag; the command comes before its flags. " + commandNames())
	}
	return command{}, errors.New("unknown command" + quoted(name) + ". " + commandNames())
}

func commandNames() string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return "Commands: " + strings.Join(names, ", ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z-]{1,20}$`)

// quoted shows what was typed, unless it could be a connection string or a key.
func quoted(arg string) string {
	if !plainWord.MatchString(arg) {
		return ""
	}
	return fmt.Sprintf(" %q", arg)
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

func (a *app) help(args []string, all *flag.FlagSet) error {
	if len(args) == 0 || args[0] == "help" {
		a.overview()
		return nil
	}
	c, err := findCommand(args[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "aiseed %s: %s\n\n%s\n\nFlags:\n", c.name, c.summary, c.about)
	for _, name := range c.flags {
		printFlag(a.stdout, all.Lookup(name))
	}
	fmt.Fprintf(a.stdout, "\nExit codes:\n  %s\n\nExample:\n  %s\n", strings.ReplaceAll(c.exits, "\n", "\n  "), c.example)
	return nil
}

func printFlag(w io.Writer, f *flag.Flag) {
	value, usage := flag.UnquoteUsage(f)
	fmt.Fprintf(w, "  %-21s %s\n", strings.TrimSpace("-"+f.Name+" "+value), strings.ReplaceAll(usage, "\n", "\n"+strings.Repeat(" ", 24)))
	if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "true" {
		fmt.Fprintf(w, "  %-21s (%s)\n", "", f.DefValue)
	}
}

func (a *app) overview() {
	fmt.Fprint(a.stdout, "aiseed works on a server's AI providers: its environment, and its database.\n\nUsage: aiseed <command> [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(a.stdout, "  %-8s %s\n", c.name, c.summary)
	}
	fmt.Fprintf(a.stdout, `
aiseed <command> -h tells about one of them, its flags and exit codes.

Run it with the server's environment. The database is that of -database, of
%s, or of the PG* variables; the keyring that of
%s (or ..._FILE). Results go to
stdout, errors to stderr. Secrets are never shown.

Exit codes: 0 done, 1 an error, 2 (plan only) a start would change something,
130 interrupted.
`, databaseVariable, defaultKeysVariable)
}
