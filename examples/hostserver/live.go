package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"example.com/aiseed"
)

// live holds the current providers, whichever process changes them.
type live struct{ atomic.Pointer[snapshot] }

// A snapshot is what /providers shows. It prints without secrets.
type snapshot struct {
	Providers []aiseed.Provider `json:"providers"`
	Unusable  []string          `json:"unusable,omitempty"` // names of those that cannot be decrypted
}

// set serves providers. An error that only some of them have does not stop the others.
func (l *live) set(ctx context.Context, logger *slog.Logger, providers []aiseed.Provider, err error) error {
	now := &snapshot{Providers: providers}
	var unusable *aiseed.ProvidersError
	switch {
	case providers == nil || err != nil && !errors.As(err, &unusable):
		return err
	case err != nil:
		for _, p := range unusable.Providers {
			now.Unusable = append(now.Unusable, p.Name)
		}
		logger.ErrorContext(ctx, "some AI providers cannot be used; the others can", "unusable", now.Unusable, "reason", err.Error())
	}
	l.Store(now)
	logger.InfoContext(ctx, "AI providers are ready", "count", len(providers))
	return nil
}

// follow keeps the providers up to date. stop ends this and waits until it has ended.
func (l *live) follow(ctx context.Context, store *aiseed.Store, logger *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := store.Watch(ctx, func(providers []aiseed.Provider, err error) {
			if err := l.set(ctx, logger, providers, err); err != nil {
				// Keep the last providers that could be read: they are better than none.
				logger.ErrorContext(ctx, "the AI providers cannot be read anew; the last ones stay in use", "reason", err.Error())
			}
		})
		if ctx.Err() == nil {
			logger.ErrorContext(ctx, "the AI providers are not watched any more", "reason", err.Error())
		}
	}()
	return func() { cancel(); <-ended }
}
