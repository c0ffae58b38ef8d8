// Package aiseedcli is the operator's command as a package, so that a host ships it under its own
// name, with its own prefixes, schema, channel and variables built in.
//
//	os.Exit(aiseedcli.Run(ctx, os.Args[2:], aiseedcli.Options{
//		Name: "gateway providers", Prefixes: []string{"GATEWAY_"}, Schema: "gateway",
//	}))
//
// The command works on the same environment and database as the server. "help" as the first
// argument lists its verbs; docs/operators.md says when to use which, and describes the documents
// that -json prints.
package aiseedcli

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"example.com/aiseed"
)

// Options are what a host builds into its command. The zero Options are those of the command
// aiseed. Flags of the command line go before Prefixes, Schema, NotifyChannel and KeysVariable.
type Options struct {
	Name    string // how operators call the command, of one or more words; "" is "aiseed"
	Version string // "" is the version that the Go toolchain recorded for the main module

	Prefixes         []string // of variables, as for [aiseed.WithPrefix]; nil is [aiseed.DefaultPrefix] and [aiseed.GatewayPrefix]
	Schema           string   // of the tables; "" is "public"
	NotifyChannel    string   // as in [aiseed.StoreOptions]; "" is that of the schema
	DatabaseVariable string   // names the variable with the connection string; "" is "DATABASE_URL"
	KeysVariable     string   // names the variable with the keyring; "" is "CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS"

	Environ        []string  // as [os.Environ] returns it; nil is that of the process
	Stdin          io.Reader // nil is [os.Stdin]; a key is read from it, after a question if it is a terminal
	Stdout, Stderr io.Writer // nil is [os.Stdout] and [os.Stderr]
}

func (o Options) withDefaults() Options {
	o.Name = cmp.Or(o.Name, "aiseed")
	if info, ok := debug.ReadBuildInfo(); ok {
		o.Version = cmp.Or(o.Version, info.Main.Version)
	}
	o.Version = cmp.Or(o.Version, "(unknown)")
	if len(o.Prefixes) == 0 {
		o.Prefixes = []string{aiseed.DefaultPrefix, aiseed.GatewayPrefix}
	}
	o.Schema = cmp.Or(o.Schema, "public")
	o.DatabaseVariable = cmp.Or(o.DatabaseVariable, "DATABASE_URL")
	o.KeysVariable = cmp.Or(o.KeysVariable, "CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS")
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	if o.Stdin == nil {
		o.Stdin = os.Stdin
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	return o
}

// The exit codes.
const (
	exitDone        = 0
	exitError       = 1
	exitWrites      = 2 // plan: a start would write
	exitStops       = 3 // plan: a start would stop
	exitInterrupted = 130
)

// app is one run of the command.
type app struct {
	Options
	verb   verb
	flags  flags
	args   []string // after the verb, without flags
	stdout *checkedWriter

	sessions sync.Map // the pids of this process's sessions
}

// Run runs the operator's command and returns its exit code: 0 done, 1 an error, 130 interrupted,
// which is what it returns when ctx ends; of the verb plan also 2, a start would write, and 3, a
// start would stop. args are those behind the command's name. Results go to Stdout, errors to
// Stderr; with -json, everything is one document on Stdout, except the question for a key at a
// terminal. No secret is printed.
//
// It handles no signals: cancel ctx at the first. It is safe for concurrent use, if the
// streams are.
func Run(ctx context.Context, args []string, opts Options) int {
	opts = opts.withDefaults()
	a := &app{Options: opts, stdout: &checkedWriter{w: opts.Stdout}}
	result, err := a.dispatch(ctx, args)
	if ctx.Err() != nil && err != nil && !errors.Is(err, aiseed.ErrCommitUnknown) && !errors.Is(err, errDone) {
		err = errInterrupted
	}
	code := a.show(result, err)
	if a.stdout.err != nil {
		fmt.Fprintf(a.Stderr, "%s: the output could not be written in full\n", a.Name)
		return exitError
	}
	if ctx.Err() != nil && err != nil {
		return exitInterrupted
	}
	return code
}

var errInterrupted = errors.New("interrupted; nothing is half done, and running the same command again does the rest")

// dispatch finds the verb, reads the flags, and runs it.
func (a *app) dispatch(ctx context.Context, args []string) (result, error) {
	a.flags.json = slices.ContainsFunc(args, func(arg string) bool { return arg == "-json" || arg == "--json" })
	if len(args) == 0 {
		return result{}, a.noVerb()
	}
	if args[0] == "-version" || args[0] == "--version" {
		args = append([]string{"version"}, args[1:]...) // the caller's stay as they are
	}
	set := a.flagSet()
	var err error
	if strings.HasPrefix(args[0], "-") || args[0] == "help" { // the verb, or what help is about, is somewhere behind
		switch args, err = parseFlags(set, args); {
		case errors.Is(err, flag.ErrHelp):
			return a.help(nil)
		case err != nil:
			return result{}, a.usage(flagProblem(err))
		case len(args) > 0 && args[0] == "help":
			return a.help(args[1:])
		}
	}
	if a.verb, args, err = a.findVerb(args); err != nil {
		return result{}, err
	}
	switch a.args, err = parseFlags(set, args); {
	case errors.Is(err, flag.ErrHelp):
		return a.help(strings.Fields(a.verb.name))
	case err != nil:
		return result{}, a.usage(flagProblem(err))
	}
	if err := a.checkFlags(set); err != nil {
		return result{}, err
	}
	if n := len(strings.Fields(a.verb.takes)); len(a.args) != n {
		return result{}, a.wrongArguments()
	}
	return a.verb.run(ctx, a)
}

// wrongArguments says which arguments the verb takes.
func (a *app) wrongArguments() error {
	switch {
	case a.verb.takes == "":
		return a.usage("unexpected argument" + quoted(a.args[0]) + "; " + a.verb.name + " takes flags only")
	case len(a.args) < len(strings.Fields(a.verb.takes)):
		return a.usage(a.verb.name + " needs " + strings.ReplaceAll(a.verb.takes, " ", " and "))
	}
	return a.usage(a.verb.name + " takes " + strings.ReplaceAll(a.verb.takes, " ", " and ") + ", and nothing else; a key is never an argument")
}
