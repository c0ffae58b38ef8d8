// The demo runs the library's main job on a real environment and a real
// Postgres, and shows in seven scenes what a server's operator sees.
//
//	go run ./examples/demo [-env FILE]
//
// The environment is the process's own if it has provider variables, else
// testdata/gateway.env. The database is that of DATABASE_URL or the PG* variables,
// else a private server that is removed afterwards. In both cases the demo works in its
// own schema, and drops it at the end, even after an error or Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"example.com/aiseed/internal/ephemeral"
)

func main() {
	file := flag.String("env", "", "read the environment from `FILE`, which has a KEY=value on each line")
	flag.Parse()
	// SIGPIPE too: the schema must be dropped even if nobody reads the output any more.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the demo at once
	if err := demo(ctx, *file); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, file string) (err error) {
	environ, from, err := chooseEnviron(os.Environ(), file)
	if err != nil {
		return err
	}
	server, err := ephemeral.Find(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	where := fmt.Sprintf("PostgreSQL %d, ", server.Version()/10000)
	if server.Ephemeral() {
		where += "a private one that is gone afterwards"
	} else {
		where += "named by DATABASE_URL or PG* variables"
	}
	return run(ctx, input{environ, from, server.DSN(""), where, wantsColour(os.Stdout)}, os.Stdout)
}
