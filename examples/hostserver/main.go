// Command hostserver is a small server that starts as a host of aiseed should. It
// starts everything in one sequence, closes each thing by a defer where it is opened,
// and passes one context from the signal down to the database. So Ctrl-C leaves
// nothing behind at any moment.
//
//	export DATABASE_URL=postgres://user:password@localhost:5432/database
//	# Keep this key: it decrypts what it sealed.
//	export CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS=$(openssl rand -base64 32)
//	export CODER_AIBRIDGE_OPENAI_KEY=sk-example-0123456789abcdef
//	go run ./examples/hostserver &
//	curl http://127.0.0.1:8080/providers
//
// HOSTSERVER_ADDRESS sets another address. The server speaks plain HTTP and shows
// /providers to everybody, so leave it on the loopback interface.
//
// If HOSTSERVER_TOKEN is set, operators can change providers, and every instance
// follows without a restart:
//
//	curl -H "Authorization: Bearer $HOSTSERVER_TOKEN" -H "X-Actor: $USER" \
//	  http://127.0.0.1:8080/api/providers -d '{"type": "openai", "name": "second", "keys": ["sk-..."]}'
//
// GET /api/providers lists all providers, and ?name= or an id in the path reads one. The reply
// about one has an ETag, which PATCH and PUT …/keys take as If-Match.
//
// Exit codes: 0 after a signal while serving, once the running requests are
// answered; 130 after a signal during start-up; 1 after an error, which is
// printed unchanged. A second signal ends the process at once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/xerrors"

	"example.com/aiseed"
	"example.com/aiseed/stdslog"
)

const (
	databaseVariable = "DATABASE_URL"
	keysVariable     = "CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS"
	addressVariable  = "HOSTSERVER_ADDRESS"
	tokenVariable    = "HOSTSERVER_TOKEN"

	defaultAddress = "127.0.0.1:8080"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal is not caught
	os.Exit(report(run(ctx, os.Environ(), os.Stderr), os.Stderr))
}

// report prints an error for the operator and returns the exit code. The
// library's errors have several lines and no secrets, and say what to do.
func report(err error, stderr io.Writer) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled): // only a signal causes it here
		fmt.Fprintln(stderr, "hostserver: interrupted")
		return 130
	}
	fmt.Fprintln(stderr, err)
	return 1
}

// run starts the server and returns when ctx has ended and everything is closed.
// tune changes the pool's configuration before it is used.
func run(ctx context.Context, environ []string, stderr io.Writer, tune ...func(*pgxpool.Config)) error {
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	seedLogger := stdslog.New(logger)

	pool, err := openPool(ctx, lookup(environ, databaseVariable), tune...)
	if err != nil {
		return err
	}
	defer pool.Close()

	keyring, err := aiseed.ParseKeyring(lookup(environ, keysVariable))
	if err != nil {
		return xerrors.Errorf("%s: %w", keysVariable, err)
	}
	cfg, err := aiseed.ParseEnviron(ctx, environ, seedLogger)
	if err != nil {
		return err
	}
	if lookup(environ, tokenVariable) != "" { // what operators change stops no later start
		cfg.DriftKeep = append(cfg.DriftKeep, "*@database")
	}

	auditor := newAuditor(logger)
	// The store seals from the start: at no moment, and with no order of calls, can
	// anything unsealed be written.
	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{
		Keyring: keyring, Migrate: true, LockTimeout: lockTimeout, Auditor: auditor, Logger: seedLogger,
	})
	if err != nil {
		return err
	}
	if err := aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, auditor, seedLogger); err != nil {
		return err
	}

	// From here on the database is the only source.
	providers, err := store.Providers(ctx)
	current := &live{}
	if err := current.set(ctx, logger, providers, err); err != nil {
		return err
	}

	address := lookup(environ, addressVariable)
	if address == "" {
		address = defaultAddress
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return xerrors.Errorf("%s: %w", addressVariable, err)
	}
	defer listener.Close()
	handler := newHandler(pool, current)
	if token := lookup(environ, tokenVariable); token != "" {
		operators := &api{store: store, logger: logger}
		handler.Handle("/api/", operators.handler(token))
	}
	defer current.follow(ctx, store, logger)()
	return serve(ctx, listener, jsonErrors(handler), logger)
}

// openPool makes the pool. It connects when the pool is first used.
func openPool(ctx context.Context, url string, tune ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	if url == "" {
		return nil, xerrors.Errorf("%s is not set; want postgres://user:password@host:port/database", databaseVariable)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// pgx quotes what it cannot read, which can contain a password.
		return nil, xerrors.Errorf("%s cannot be read; want postgres://user:password@host:port/database, with special characters percent-encoded", databaseVariable)
	}
	// Processes that wait for the lock of a seed see this name.
	if params := config.ConnConfig.RuntimeParams; params["application_name"] == "" {
		params["application_name"] = "hostserver"
	}
	for _, f := range tune {
		f(config)
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// newAuditor makes an auditor that logs. Secrets in an entry are masked.
func newAuditor(logger *slog.Logger) aiseed.Auditor {
	return aiseed.AuditorFunc(func(ctx context.Context, e aiseed.AuditEntry) error {
		logger.InfoContext(ctx, "audit", "id", e.ID, "actor", e.Actor, "action", e.Action,
			"resource", e.Resource, "provider", e.ProviderName, "old", string(e.Old), "new", string(e.New))
		return nil
	})
}

// lookup is os.Getenv for the given environment.
func lookup(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}
