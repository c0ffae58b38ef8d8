// Command aiseed shows operators what a start of their server would do to its AI
// providers. It also does by hand what the server would do or needs: apply, edit providers,
// rotate and seal keys, look for trouble. It reads the same environment and database as the
// server.
//
//	aiseed help
//
// A host ships it under its own name, with its own settings built in: see
// [example.com/aiseed/aiseedcli].
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"example.com/aiseed/aiseedcli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal is not caught
	os.Exit(aiseedcli.Run(ctx, os.Args[1:], aiseedcli.Options{}))
}
