package stdslog_test

import (
	"context"
	"errors"
	"log/slog"
	"os"

	cdrslog "cdr.dev/slog/v3"

	"example.com/aiseed/stdslog"
)

func ExampleNew() {
	host := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))

	logger := stdslog.New(host).Named("seed")
	ctx := context.Background()
	logger.Info(ctx, "provider created", cdrslog.F("provider", "openai"), cdrslog.F("keys", 2))
	logger.Critical(ctx, "keyring is unusable", cdrslog.Error(errors.New("no active key")))
	logger.Debug(ctx, "below the level of the host")
	// Output:
	// level=INFO msg="provider created" logger=seed provider=openai keys=2
	// level=ERROR+4 msg="keyring is unusable" logger=seed error="no active key"
}
