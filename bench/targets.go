package main

import (
	"fmt"
	"time"
)

// A target is a ratio within one run, and what it is to be.
type target struct {
	what    string
	limit   float64 // the measured ratio is to be at most this, or
	faster  bool    // at least this
	ratio   float64
	missing bool // it was not measured
}

func (t target) met() bool {
	if t.faster {
		return t.ratio >= t.limit
	}
	return t.ratio <= t.limit
}

// wanted, measured and verdict are columns of the table.
func (t target) wanted() string {
	if t.faster && t.limit == 1 {
		return "not slower"
	}
	if t.faster {
		return fmt.Sprintf("at least %g times faster", t.limit)
	}
	return fmt.Sprintf("at most %g times", t.limit)
}

func (t target) measured() string {
	switch {
	case t.missing:
		return "–"
	case t.faster && t.ratio < 1:
		return ratioText(1/t.ratio) + " times slower"
	case t.faster:
		return ratioText(t.ratio) + " times faster"
	}
	return ratioText(t.ratio) + " times"
}

func ratioText(r float64) string {
	if r >= 20 {
		return fmt.Sprintf("%.0f", r)
	}
	return fmt.Sprintf("%.2f", r)
}

func (t target) verdict() string {
	switch {
	case t.missing:
		return "not measured"
	case t.met():
		return "met"
	}
	return notMet
}

const notMet = "**not met**"

// targets are those of the table in the page, in its order.
func (s *suite) targets() (list []target) {
	// over is the time of one thing over that of another.
	over := func(t target, a, b key) {
		x, okA := s.results[a]
		y, okB := s.results[b]
		if t.missing = !okA || !okB; !t.missing {
			t.ratio = float64(x.time) / float64(y.time)
		}
		list = append(list, t)
	}
	const ms = time.Millisecond
	for _, latency := range s.latencies {
		for _, n := range s.sizes {
			if n > 1_000 {
				continue
			}
			k := key{noOpStart, ours, n, latency}
			over(target{what: fmt.Sprintf("no-op start, N = %s, %s, against the bare read of the same rows", thousands(n), distance(latency)), limit: 1.5},
				k, s.faster(k.of(limit), k.of(keysApart)))
		}
	}
	for _, n := range s.sizes {
		if n > 1_000 {
			continue
		}
		k := key{noOpStart, ours, n, 0}
		over(target{what: fmt.Sprintf("no-op start, N = %s, no latency, against the bare read as a prepared statement", thousands(n)), limit: 1.5},
			k, key{noOpStart, prepared, n, 0})
	}
	first := key{firstStart, ours, 100, ms}
	over(target{what: "first start, N = 100, 1 ms, against row at a time", limit: 40, faster: true},
		key{firstStart, reference, 100, ms}, first)
	fresh := key{freshFirst, ours, 1, 0}
	one := key{firstStart, ours, 1, 0}
	over(target{what: "first start, N = 1, no latency, on a fresh connection, against row at a time", limit: 1, faster: true},
		key{freshFirst, reference, 1, 0}, fresh)
	over(target{what: "first start, N = 1, no latency, against row at a time with prepared statements", limit: 1, faster: true},
		key{firstStart, reference, 1, 0}, one)
	many := key{crowd, ours, crowdN, 0}
	over(target{what: "200 concurrent no-op starts, against 200 bare reads", limit: 1.5},
		many, key{crowd, limit, crowdN, 0})
	over(target{what: "200 concurrent no-op starts, against 200 bare reads as prepared statements", limit: 1.5},
		many, key{crowd, prepared, crowdN, 0})
	beside := key{foreignRows, noForeign, 10, 0}
	over(target{what: "no-op start beside 100,000 foreign rows, before analyze, against none", limit: 1.1}, key{foreignRows, notAnalysed, 10, 0}, beside)
	over(target{what: "no-op start beside 100,000 foreign rows, after analyze, against none", limit: 1.1}, key{foreignRows, wasAnalysed, 10, 0}, beside)
	for _, operation := range []string{firstStart, noOpStart, readAll, plan, parse} {
		large := key{operation, ours, 10_000, 0}
		over(target{what: "growth from N = 1,000 to 10,000, " + operation, limit: 12}, large, key{operation, ours, 1_000, 0})
	}
	twelve := key{parse, ours, 12, 0}
	over(target{what: "parsing 12 indexed providers, against `caarlos0/env`", limit: 3, faster: true}, key{parse, caarlos, 12, 0}, twelve)
	lots := key{parse, ours, 10_000, 0}
	over(target{what: "parsing 10,000 providers, against the bare look at every variable", limit: 6}, lots, key{parse, lookOnly, 10_000, 0})
	over(target{what: "parsing 10,000 providers, against a look that keeps the first of each name", limit: 6}, lots, key{parse, lookFirst, 10_000, 0})
	return list
}

// faster is the one of two that took less time.
func (s *suite) faster(a, b key) key {
	if x, ok := s.results[b]; ok && x.time < s.results[a].time {
		return b
	}
	return a
}

func distance(latency time.Duration) string {
	if latency == 0 {
		return "no latency"
	}
	return fmt.Sprintf("%d ms", latency.Milliseconds())
}
