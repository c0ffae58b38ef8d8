// Command aiseed shows operators what a start of their server would do to its AI
// providers. It also does by hand what the server would do or needs: apply, rotate and
// seal keys, look for trouble. It reads the same environment and database as the server.
//
//	aiseed help
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal is not caught
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
