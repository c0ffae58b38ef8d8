package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// quick checks that everything works, not how fast it is.
var quick = scale{
	sizes:     []int{1, 10, 100},
	latencies: []time.Duration{0, time.Millisecond},
	rounds:    func(int) int { return 5 },
	patience:  2 * time.Second,
}

// Q4: starts of 1 to 10,000 providers at 0 to 5 ms are measured.
func TestQ4_TheScaleIsWhole(t *testing.T) {
	if want := []int{1, 10, 100, 1_000, 10_000}; !slices.Equal(full.sizes, want) {
		t.Errorf("sizes are %v, want %v", full.sizes, want)
	}
	if want := []time.Duration{0, time.Millisecond, 5 * time.Millisecond}; !slices.Equal(full.latencies, want) {
		t.Errorf("latencies are %v, want %v", full.latencies, want)
	}
	for _, n := range full.sizes {
		if full.rounds(n) < 5 {
			t.Errorf("%d rounds of %d providers, want at least 5", full.rounds(n), n)
		}
	}
}

// Q4: each start is measured next to row at a time and next to its limit, in one run, and
// drawn. The run fails unless all end with the same rows.
func TestQ4_MeasuredSideBySideAndDrawn(t *testing.T) {
	dir := t.TempDir()
	s, err := run(context.Background(), quick, io.Discard, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range quick.sizes {
		for _, latency := range quick.latencies {
			for operation, contenders := range map[string][]string{
				firstStart: {ours, reference, serverPart},
				noOpStart:  {ours, reference, limit, keysApart, prepared},
			} {
				for _, c := range contenders {
					if r := s.results[key{operation, c, n, latency}]; r.time == 0 || r.rounds < 5 || r.allocs == 0 && c != serverPart {
						t.Errorf("%s of %d providers at %v by %s: %+v", operation, n, latency, c, r)
					}
				}
			}
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.pictures() {
		for _, l := range p.lines {
			if len(l.points) == 0 {
				t.Errorf("%s has no line of %s", p.file, l.contender)
			}
		}
		if !strings.Contains(string(page), "]("+p.file+")") {
			t.Errorf("the page does not show %s", p.file)
		}
		if drawn, err := os.ReadFile(filepath.Join(dir, p.file)); err != nil || !strings.Contains(string(drawn), "</svg>") {
			t.Errorf("%s is not drawn: %v", p.file, err)
		}
	}
}
