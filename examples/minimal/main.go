// Command minimal is a host of aiseed with nothing but what each host needs.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/stdslog"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Getenv("DATABASE_URL"), func(providers []aiseed.Provider) { slog.Info("serving", "providers", providers) })
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err) // written for the operator; it holds no secret
		os.Exit(1)
	}
}

// run seeds, and then serves until ctx ends: serve gets the providers at the start and after each change.
func run(ctx context.Context, databaseURL string, serve func([]aiseed.Provider)) error {
	logger := stdslog.New(slog.Default())
	keyring, err := aiseed.ParseKeyring(os.Getenv("CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS"))
	if err != nil {
		return err
	}
	cfg, err := aiseed.ParseEnviron(ctx, os.Environ(), logger)
	if err != nil {
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
		if err != nil {
			slog.Error("the AI providers cannot be read; the last ones stay in use", "error", err)
			return
		}
		serve(providers)
	})
}

// auditor writes audits to the log. Another one may send them elsewhere: what it does not accept is offered again.
var auditor = aiseed.AuditorFunc(func(ctx context.Context, entry aiseed.AuditEntry) error {
	slog.InfoContext(ctx, "audit", "id", entry.ID, "actor", entry.Actor, "action", entry.Action, "provider", entry.ProviderName)
	return nil
})
