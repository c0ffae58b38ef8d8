package aiseedcli

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"

	"example.com/aiseed/internal/text"
)

// A verb is what the first argument of the command line names, or the first two.
type verb struct {
	name, takes string // takes are the names of its arguments
	summary     string
	about       string // what -h shows after the summary; {name} is the command's name
	exits       string
	example     string
	own         []string // of ownFlags, those that it reads
	writes      bool     // it can have to wait for the lock
	run         func(context.Context, *app) (result, error)
}

const (
	exits       = "0 done\n1 an error\n130 interrupted"
	aboutEdits  = "PROVIDER is a name or an id. Servers that run hear of the change at once. The audit names -actor, or the login."
	aboutKeys   = "The key comes from the file of -key-file, or from standard input; a terminal is asked, and does not show it. "
	exitsReseal = "0 complete\n1 something is left, or an error\n130 interrupted"
)

// verbs is a function because the help lists them.
func verbs() []verb {
	return []verb{
		{
			name: "plan", summary: "show what a start of the server would do", run: runPlan,
			about:   "It writes nothing and takes no lock. A database without tables is one in which everything is created.",
			exits:   "0 a start would change nothing and succeed\n2 a start would write; if there are no tables, the schema comes first\n3 a start would stop: configuration, drift, keyring, schema, or values that cannot be decrypted\n1 it could not be found out: flags, or the connection\n130 interrupted",
			example: "{name} plan -json | jq '.steps[] | select(.action == \"drifted\")'",
		},
		{
			name: "apply", summary: "do what a start of the server would do", run: runApply, writes: true, own: []string{"discard-audits", "migrate", "yes"},
			about:   "A drift stops it, as it stops a start; the error prints the token that settles it. Audit entries wait for the server, which delivers them when it starts next.",
			exits:   "0 environment and database agree, or were settled\n1 an error, a drift included; nothing was changed\n130 interrupted",
			example: "{prefix}DRIFT_KEEP=openai@0123456789abcdef {name} apply",
		},
		{
			name: "list", summary: "show all providers, with the ids of keys", run: runList,
			about: "Disabled and deleted ones too. It shows which secrets are damaged. If the keyring lacks a key, it cannot: then forget lists what that key has sealed. It writes nothing and takes no lock.",
			exits: exits, example: "{name} list -json | jq -r '.providers[] | select(.enabled | not) | .name'",
		},
		{
			name: "enable", takes: "PROVIDER", summary: "let servers use a provider", run: runEnable, writes: true,
			about: aboutEdits, exits: exits, example: "{name} enable openai",
		},
		{
			name: "disable", takes: "PROVIDER", summary: "keep servers from using a provider", run: runDisable, writes: true,
			about: aboutEdits + " A start does not enable it again.", exits: exits, example: "{name} disable openai",
		},
		{
			name: "delete", takes: "PROVIDER", summary: "delete a provider; restore undoes it", run: runDelete, writes: true,
			about: aboutEdits + " A start does not create it again. Its keys stay in the database.", exits: exits, example: "{name} delete openai",
		},
		{
			name: "restore", takes: "PROVIDER", summary: "bring a deleted provider back, with its keys", run: runRestore, writes: true,
			about: aboutEdits + " Of several deleted ones with a name, the name is the latest; an id names each.", exits: exits, example: "{name} restore openai",
		},
		{
			name: "key add", takes: "PROVIDER", summary: "give a provider one more key", run: runKeyAdd, writes: true, own: []string{"key-file"},
			about: aboutKeys + aboutEdits, exits: exits, example: "{name} key add openai -key-file /run/secrets/openai",
		},
		{
			name: "key remove", takes: "PROVIDER KEY", summary: "remove a key for good", run: runKeyRemove, writes: true,
			about: "KEY is the key's position, from 1, or its id, as list shows them. It works although secrets cannot be decrypted. " + aboutEdits, exits: exits, example: "{name} key remove openai 2",
		},
		{
			name: "key replace", takes: "PROVIDER", summary: "replace all keys of a provider by one", run: runKeyReplace, writes: true, own: []string{"key-file"},
			about: aboutKeys + "It works although the old keys cannot be decrypted. " + aboutEdits, exits: exits, example: "pass show openai | {name} key replace openai",
		},
		{
			name: "doctor", summary: "look for trouble, and say what to do about it", run: runDoctor,
			about:   "One line for each thing that it finds: ok, warn, FAIL, or skip for what cannot be looked at. Below it are the statements, commands or settings to paste. FAIL means that a start of the server would stop. It writes nothing and takes no lock.",
			exits:   "0 all is well, warnings aside\n1 something fails\n130 interrupted",
			example: "{name} doctor",
		},
		{
			name: "retire", summary: "list the variables that can be removed", run: runRetire, own: []string{"names"},
			about:   "Without them, a start writes the same and ends the same. It writes nothing.",
			exits:   exits,
			example: "{name} retire -names",
		},
		{
			name: "rotate", summary: "seal every value again with the first key", run: runRotate, writes: true,
			about:   "Give every server the new key behind the old one first: OLD,NEW. Then in front: NEW,OLD. Servers go on meanwhile. After an interruption run it again: it does the rest.",
			exits:   exitsReseal,
			example: "{keys}=$NEW,$OLD {name} rotate",
		},
		{
			name: "seal", summary: "seal what was stored before there was a keyring", run: runSeal, writes: true,
			about:   "Stop the servers that run without the keyring first: they cannot read what is sealed. After an interruption run it again: it does the rest.",
			exits:   exitsReseal,
			example: "{name} seal",
		},
		{
			name: "unseal", summary: "store every secret as plaintext again", run: runUnseal, writes: true, own: []string{"yes"},
			about:   "Stop the servers that have a keyring first: they refuse plaintext. After an interruption run it again: it does the rest.",
			exits:   "0 complete\n1 something is left, or an error, or -yes is missing\n130 interrupted",
			example: "{name} unseal -yes",
		},
		{
			name: "forget", takes: "KEY-ID", summary: "remove what a lost sealing key has sealed", run: runForget, writes: true, own: []string{"yes"},
			about:   "For a key that is lost, so that servers start again. Without -yes it lists what the key has sealed: bearer keys and Bedrock settings, also of deleted providers. With -yes it removes them. The id is that of the error which says what the keyring lacks.",
			exits:   "0 forgotten\n1 an error, or -yes is missing; nothing was changed\n130 interrupted",
			example: "{name} forget 0123456789abcdef0123456789abcdef -yes",
		},
		{
			name: "schema", summary: "print the tables' SQL, or apply it", run: runSchema, writes: true, own: []string{"print", "apply", "tool", "dir", "yes"},
			about:   "Give one of -print, which needs no database, and -apply. What -print prints is one transaction, for psql. If the database has a table in which a migration tool records what it applied, -apply asks for -yes: use the tool, if it makes these tables.",
			exits:   exits,
			example: "{name} schema -print >aiseed.sql",
		},
		{
			name: "env", summary: "list the environment's variables, and which are set", run: runEnv,
			about: "Secrets are never shown.", exits: exits,
			example: "{name} env",
		},
		{
			name: "version", summary: "print the version", run: runVersion,
			about: "With the versions of the schema that it needs and of Go.", exits: exits,
			example: "{name} version",
		},
	}
}

// findVerb finds the verb that the first arguments name, and returns the other arguments.
func (a *app) findVerb(args []string) (verb, []string, error) {
	all := verbs()
	for words := min(2, len(args)); words > 0; words-- {
		name := strings.Join(args[:words], " ")
		if i := slices.IndexFunc(all, func(v verb) bool { return v.name == name }); i >= 0 {
			return all[i], args[words:], nil
		}
	}
	if len(args) == 0 {
		return verb{}, nil, a.noVerb()
	}
	var names []string
	for _, v := range all {
		if strings.HasPrefix(v.name, args[0]+" ") {
			names = append(names, v.name)
		}
	}
	if names != nil {
		return verb{}, nil, a.usage(args[0] + " is not complete. Verbs: " + strings.Join(names, ", "))
	}
	if meant := text.Near(args[0], namesOf(all)); meant != "" {
		return verb{}, nil, a.usage("unknown verb" + quoted(args[0]) + "; want " + meant + "?")
	}
	return verb{}, nil, a.usage("unknown verb" + quoted(args[0]) + ". " + verbNames())
}

func (a *app) noVerb() error { return a.usage("there is no verb. " + verbNames()) }

func verbNames() string { return "Verbs: " + strings.Join(append(namesOf(verbs()), "help"), ", ") }

func namesOf(verbs []verb) (names []string) {
	for _, v := range verbs {
		names = append(names, v.name)
	}
	return names
}

// verbsWith returns the names of the verbs that read a flag.
func verbsWith(flag string) (names []string) {
	for _, v := range verbs() {
		if slices.Contains(v.own, flag) {
			names = append(names, v.name)
		}
	}
	return names
}

// fill writes the host's own names into a text about a verb.
func (a *app) fill(s string) string {
	return strings.NewReplacer("{name}", a.Name, "{prefix}", a.Prefixes[0], "{keys}", a.KeysVariable).Replace(s)
}

func (v verb) line() string { return strings.TrimSpace(v.name+" "+v.takes) + " [flags]" }

// brief is the help of a verb in five lines, for a mistake.
func (a *app) brief(v verb) string {
	own := "those of all verbs"
	if len(v.own) > 0 {
		own = "-" + strings.Join(v.own, ", -") + ", and " + own
	}
	return fmt.Sprintf("Usage:   %s %s\n         %s\nFlags:   %s\nExample: %s\nMore:    %s\n", a.Name, v.line(), v.summary, own, unbroken(a.fill(v.example)), unbroken(a.Name+" "+v.name+" -h"))
}

func (a *app) help(args []string) (result, error) {
	if len(args) == 0 || args[0] == "help" {
		return a.helpText(a.overview), nil
	}
	v, _, err := a.findVerb(args)
	if err != nil {
		return result{}, err
	}
	return a.helpText(func() {
		a.printf("%s %s: %s\n\n%s\n\n", a.Name, strings.TrimSpace(v.name+" "+v.takes), v.summary, a.fill(v.about))
		set := a.flagSet()
		if len(v.own) > 0 {
			a.printf("Its own flags:\n")
			for _, name := range v.own {
				a.printFlag(set.Lookup(name))
			}
			a.printf("\n")
		}
		a.printf("Flags of all verbs:\n")
		set.VisitAll(func(f *flag.Flag) {
			if !slices.Contains(ownFlags, f.Name) {
				a.printFlag(f)
			}
		})
		a.printf("\nExit codes:\n")
		for line := range strings.Lines(v.exits) {
			code, meaning, _ := strings.Cut(strings.TrimSpace(line), " ")
			a.printf("  %-4s  %s\n", code, meaning)
		}
		a.print("\nExample:\n")
		a.print("  " + a.fill(v.example) + "\n")
	}), nil
}

// helpText is a result whose document has the text.
func (a *app) helpText(print func()) result {
	if !a.flags.json {
		return result{text: print}
	}
	var b strings.Builder
	out := a.stdout
	a.stdout = &checkedWriter{w: &b}
	print()
	a.stdout = out
	return result{document: map[string]any{"help": b.String()}}
}

func (a *app) printFlag(f *flag.Flag) {
	value, usage := flag.UnquoteUsage(f)
	builtIn := f.DefValue
	if f.Name == "prefix" {
		builtIn = strings.Join(a.Prefixes, " and ")
	}
	if builtIn != "" && builtIn != "false" && builtIn != "true" {
		usage += " (" + builtIn + ")"
	}
	a.printf("  %-21s %s\n", strings.TrimSpace("-"+f.Name+" "+value), usage)
}

func (a *app) overview() {
	a.printf("%s works on a server's AI providers: its environment, and its database.\n\nUsage: %s <verb> [flags]\n\n", a.Name, a.Name)
	for _, v := range verbs() {
		a.printf("  %-24s %s\n", strings.TrimSpace(v.name+" "+v.takes), v.summary)
	}
	a.printf("\n%s <verb> -h tells about one of them, its flags and exit codes.\n\n", a.Name)
	a.printf("Run it with the server's environment. The database is that of -database, of %s (or ..._FILE), or of the PG* variables; the keyring that of %s (or ..._FILE). Results go to stdout, errors to stderr. Secrets are never shown.\n\n", a.DatabaseVariable, a.KeysVariable)
	a.printf("Exit codes: 0 done, 1 an error, 130 interrupted; plan also 2, a start would write, and 3, a start would stop.\n")
}
