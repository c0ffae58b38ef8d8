package main

import (
	"context"
	"log/slog"
	"sync/atomic"

	"example.com/aiseed"
)

// live holds the current providers, whichever process changes them.
type live struct {
	providers atomic.Pointer[[]aiseed.Provider]
}

func (l *live) set(providers []aiseed.Provider) { l.providers.Store(&providers) }

func (l *live) get() []aiseed.Provider { return *l.providers.Load() }

// follow keeps the providers up to date. stop ends this and waits until it has ended.
func (l *live) follow(ctx context.Context, store *aiseed.Store, logger *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := store.Watch(ctx, func(providers []aiseed.Provider, err error) {
			if err != nil {
				// Keep the last providers that could be read: they are better than none.
				logger.ErrorContext(ctx, "the AI providers cannot be read anew; the last ones stay in use", "reason", err.Error())
				return
			}
			l.set(providers)
			logger.InfoContext(ctx, "AI providers were read anew", "count", len(providers))
		})
		if ctx.Err() == nil {
			logger.ErrorContext(ctx, "the AI providers are not watched any more", "reason", err.Error())
		}
	}()
	return func() { cancel(); <-ended }
}
