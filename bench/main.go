// Command bench measures what a start costs, beside the usual way to do it and
// the least that it can cost, and writes docs/performance.md with its pictures and data.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

func main() {
	docs := flag.String("docs", "", "the `directory` to write performance.md, its pictures and performance.csv to; none is written without")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if _, err := run(ctx, full, os.Stdout, *docs); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// run measures, and writes what was measured to out, and to docs unless that is "".
func run(ctx context.Context, scale scale, out io.Writer, docs string) (s *suite, err error) {
	started := time.Now()
	lab, err := newLaboratory(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	sealer, err := newSealer(lab.secret)
	if err != nil {
		return nil, err
	}
	s = &suite{laboratory: lab, scale: scale, sealer: sealer, progress: os.Stderr, results: map[key]result{}}
	if err := s.all(ctx); err != nil {
		return nil, err
	}
	targets := s.targets()
	for _, t := range targets {
		fmt.Fprintf(out, "%-80s %-24s %-20s %s\n", t.what, t.wanted(), t.measured(), t.verdict())
	}
	fmt.Fprintf(out, "lock waits of concurrent no-op starts: %d in %d looks\n", s.locks.waits, s.locks.looks)
	fmt.Fprintf(os.Stderr, "took %v\n", time.Since(started).Round(time.Second))
	if docs == "" {
		return s, nil
	}
	return s, s.write(docs, targets)
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}
