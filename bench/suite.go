package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// The operations and contenders, as the page calls them.
const (
	firstStart   = "first start"
	noOpStart    = "no-op start"
	readAll      = "Providers"
	plan         = "plan"
	parse        = "parse"
	freshFirst   = "first start, fresh connection"
	freshNoOp    = "no-op start, fresh connection"
	crowd        = "200 at once"
	foreignRows  = "beside foreign rows"
	ours         = "aiseed"
	reference    = "row at a time"
	serverPart   = "the server's part"
	limit        = "bare read"
	keysApart    = "bare read, keys apart"
	prepared     = "bare read, prepared"
	caarlos      = "caarlos0/env"
	shuffled     = "aiseed, in any order"
	lookOnly     = "bare look"
	lookFirst    = "bare look, first of each name"
	noForeign    = "none"
	notAnalysed  = "100,000, not analysed"
	wasAnalysed  = "100,000, analysed"
	crowdSize    = 200
	crowdN       = 10
	foreignCount = 100_000
)

// A suite is one run of all benchmarks.
type suite struct {
	*laboratory
	scale
	sealer   *sealer
	progress io.Writer
	results  map[key]result
	leftOut  []string // what would have taken too long
	locks    lockWaits
}

// A scale says how large the benchmarks are.
type scale struct {
	sizes     []int
	latencies []time.Duration
	rounds    func(n int) int
	patience  time.Duration // for all runs of the reference at one size and latency
}

var full = scale{
	sizes:     []int{1, 10, 100, 1_000, 10_000},
	latencies: []time.Duration{0, time.Millisecond, 5 * time.Millisecond},
	rounds: func(n int) int {
		switch {
		case n <= 10:
			return 101
		case n <= 100:
			return 41
		case n <= 1_000:
			return 15
		}
		return 5
	},
	patience: 20 * time.Second,
}

// run races contenders, and keeps the results.
func (s *suite) run(ctx context.Context, at key, rounds int, contenders []contender) error {
	results, err := race(ctx, rounds, contenders)
	if err != nil {
		return fmt.Errorf("%s of %d providers at %v: %w", at.operation, at.n, at.latency, err)
	}
	for i, c := range contenders {
		at.contender = c.name
		s.results[at] = results[i]
		fmt.Fprintf(s.progress, "%-30s %6d providers %4v  %-30s %12v  (%d rounds)\n", at.operation, at.n, at.latency, c.name, results[i].time.Round(time.Microsecond/10), results[i].rounds)
	}
	return nil
}

// peaks measures the peak memory of contenders whose time is known.
func (s *suite) peaks(ctx context.Context, at key, contenders []contender) error {
	for _, c := range contenders {
		var samples []result
		for range 3 {
			peak, err := peakMemory(ctx, c)
			if err != nil {
				return fmt.Errorf("peak memory of %s, %s: %w", at.operation, c.name, err)
			}
			samples = append(samples, result{peak: peak})
		}
		at.contender = c.name
		r := s.results[at]
		r.peak = median(samples, func(r result) uint64 { return r.peak })
		s.results[at] = r
	}
	return nil
}

func (s *suite) all(ctx context.Context) error {
	for _, part := range []func(context.Context) error{s.parsing, s.starts, s.freshStarts, s.foreign, s.crowds} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}
