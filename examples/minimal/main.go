// Command minimal is a host of aiseed with nothing but what each host needs.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"example.com/aiseed"
	"example.com/aiseed/stdslog"
	"github.com/jackc/pgx/v5/pgxpool"
)

const keysVariable = "CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Getenv("DATABASE_URL"), func(providers []aiseed.Provider) { slog.Info("serving", "providers", providers) })
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err) // written for the operator; it holds no secret
	}
}

// run seeds, and serves until ctx ends: serve gets the providers at the start and after each change.
func run(ctx context.Context, databaseURL string, serve func([]aiseed.Provider)) error {
	logger := stdslog.New(slog.Default())
	keyring, keyringErr := aiseed.ParseKeyring(os.Getenv(keysVariable))
	if keyringErr != nil {
		keyringErr = fmt.Errorf("%s: %w", keysVariable, keyringErr)
	}
	cfg, configErr := aiseed.ParseEnviron(ctx, os.Environ(), logger)
	if err := errors.Join(keyringErr, configErr); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil { // it can quote a part of the password
		return errors.New("DATABASE_URL cannot be read; want postgres://user:password@host:port/database, with special characters percent-encoded")
	}
	defer pool.Close()
	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: keyring, Migrate: true, Auditor: auditor, Logger: logger})
	if err != nil {
		return err
	}
	if err := aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, auditor, logger); err != nil {
		return err
	}
	return store.Watch(ctx, func(providers []aiseed.Provider, err error) {
		if err != nil { // it names the providers that cannot be used
			slog.Error("not all AI providers can be used", "error", err)
		}
		if providers != nil { // those that can be used; nil if none could be read, and the last ones stay
			serve(providers)
		}
	})
}

var auditor = aiseed.AuditorFunc(func(ctx context.Context, entry aiseed.AuditEntry) error {
	slog.InfoContext(ctx, "audit", "id", entry.ID, "actor", entry.Actor, "action", entry.Action, "resource", entry.Resource, "provider", entry.ProviderName)
	return nil // an error: the entry is offered again
})
