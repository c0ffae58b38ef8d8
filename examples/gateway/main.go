// Command gateway is a host that ships the operator's command under its own name: "gateway" is the
// server, and "gateway providers" the command. Both have the same prefix, schema, channel and
// variables, which are written down once.
//
//	gateway providers schema -apply
//	gateway providers plan
//	gateway
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/aiseedcli"
	"example.com/aiseed/stdslog"
)

const (
	prefix           = "GATEWAY_"
	schema           = "gateway"
	channel          = "gateway_providers"
	databaseVariable = "GATEWAY_DATABASE_URL"
	keysVariable     = "GATEWAY_KEYS"
)

var version = "" // set by the build

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal is not caught
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	command := aiseedcli.Options{
		Name: "gateway providers", Version: version,
		Prefixes: []string{prefix}, Schema: schema, NotifyChannel: channel,
		DatabaseVariable: databaseVariable, KeysVariable: keysVariable,
		Environ: environ, Stdout: stdout, Stderr: stderr,
	}
	if len(args) > 0 && args[0] == "providers" {
		return aiseedcli.Run(ctx, args[1:], command)
	}
	if err := serve(ctx, environ, slog.New(slog.NewTextHandler(stderr, nil))); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "gateway: "+aiseedcli.Explain(err, command))
		return 1
	}
	return 0
}

// serve is the server: it seeds, and logs what it would serve until ctx ends.
func serve(ctx context.Context, environ []string, log *slog.Logger) error {
	logger := stdslog.New(log)
	keys, keysErr := value(environ, keysVariable)
	database, databaseErr := value(environ, databaseVariable)
	if err := errors.Join(keysErr, databaseErr); err != nil {
		return err
	}
	keyring, keyringErr := aiseed.ParseKeyring(keys)
	if keyringErr != nil {
		keyringErr = fmt.Errorf("%s: %w", keysVariable, keyringErr)
	}
	cfg, configErr := aiseed.ParseEnviron(ctx, environ, logger, aiseed.WithPrefix(prefix))
	if err := errors.Join(keyringErr, configErr); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, database)
	if err != nil { // it can quote a part of the password
		return errors.New(databaseVariable + " cannot be read")
	}
	defer pool.Close()
	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: keyring, Schema: schema, NotifyChannel: channel, Logger: logger})
	if err != nil {
		return err
	}
	if err := aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, aiseed.DiscardAudits, logger); err != nil {
		return err
	}
	return store.Watch(ctx, func(providers []aiseed.Provider, err error) {
		log.InfoContext(ctx, "serving", "providers", providers, "error", err)
	})
}

// value returns the value of a variable, or of the file that its _FILE twin names, as the command does.
func value(environ []string, name string) (string, error) {
	path := lookup(environ, name+"_FILE")
	if path == "" {
		return lookup(environ, name), nil
	}
	raw, err := os.ReadFile(path)
	if err != nil { // it quotes the path, which can be the secret in the wrong variable
		return "", errors.New(name + "_FILE: the file that it names cannot be read")
	}
	return strings.TrimSpace(string(raw)), nil
}

func lookup(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}
