// Command bench measures what a start costs, beside the usual way to do it and
// the least that it can cost, and writes docs/performance.md with its pictures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	small := flag.Bool("quick", false, "measure little, to try this program out")
	docs := flag.String("docs", "", "the `directory` to write performance.md and the pictures to; none is written without")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *small, *docs); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, small bool, docs string) (err error) {
	started := time.Now()
	lab, err := newLaboratory(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	sealer, err := newSealer(lab.secret)
	if err != nil {
		return err
	}
	s := &suite{laboratory: lab, scale: full, sealer: sealer, progress: os.Stderr, results: map[key]result{}}
	if small {
		s.scale = quick
	}
	if err := s.all(ctx); err != nil {
		return err
	}
	targets := s.targets()
	profiles, err := s.profiles(ctx, targets)
	if err != nil {
		return err
	}
	for _, t := range targets {
		fmt.Printf("%-80s %-24s %-20s %s\n", t.what, t.wanted(), t.measured(), t.verdict())
	}
	fmt.Printf("lock waits of concurrent no-op starts: %d in %d looks\n", s.locks.waits, s.locks.looks)
	fmt.Fprintf(os.Stderr, "took %v\n", time.Since(started).Round(time.Second))
	if docs == "" {
		return nil
	}
	return s.write(docs, targets, profiles)
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}
