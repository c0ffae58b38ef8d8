// Package bench measures what a start costs, next to the usual way to do it and next to the least
// that it can cost. It writes docs/performance.md with its pictures and data.
//
// All of it is a test: package testing measures, and closes what was opened.
package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	whole = flag.Bool("full", false, "measure at full scale; a run without only shows that everything works")
	docs  = flag.String("docs", "", "the `directory` to write performance.md, its pictures and data to; none is kept without")
)

// A scale says how large the benchmarks are.
type scale struct {
	sizes       []int // of providers; the last two are ten times apart
	latencies   []time.Duration
	least, most int           // rounds
	patience    time.Duration // for all runs of the reference at one size and latency
	foreign     int           // providers that the environment does not name
	deleted     int           // deleted providers of one name
	backlogs    []int         // audits, ten times apart
}

var (
	full = scale{
		sizes: []int{1, 10, 100, 1_000, 10_000}, latencies: []time.Duration{0, time.Millisecond, 5 * time.Millisecond},
		least: 7, most: 101, patience: 20 * time.Second, foreign: 100_000, deleted: 20_000, backlogs: []int{100_000, 1_000_000},
	}
	quick = scale{
		sizes: []int{1, 10, 100}, latencies: []time.Duration{0, time.Millisecond},
		least: 3, most: 3, patience: 2 * time.Second, foreign: 1_000, deleted: 1_000, backlogs: []int{1_000, 10_000},
	}
)

func (s scale) rounds(n int) int { return max(s.least, min(s.most, 15_000/n)) }

// Q4: starts of 1 to 10,000 providers at 0 to 5 ms are measured.
func TestQ4_TheScaleIsWhole(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []int{1, 10, 100, 1_000, 10_000}, full.sizes)
	assert.Equal(t, []time.Duration{0, time.Millisecond, 5 * time.Millisecond}, full.latencies)
}

// Q4: each start is measured next to row at a time and next to its limit, in one run, and
// drawn. The run fails unless all end with the same rows. How fast they are fails nothing.
func TestQ4_MeasuredSideBySideAndDrawn(t *testing.T) {
	scale, dir := quick, *docs
	if *whole {
		scale = full
	}
	if dir == "" {
		dir = t.TempDir()
	}
	s := newSuite(t, scale, dir)
	s.parsing()
	s.starts()
	s.growth()
	s.beside()
	s.backlog()
	s.write(dir)

	for _, n := range s.sizes {
		for _, latency := range s.latencies {
			noOp, first := key{noOpStart, ours, n, latency}, key{firstStart, ours, n, latency}
			for _, k := range []key{noOp, noOp.of(joinedRead), noOp.of(apartRead), noOp.of(reference), first.of(serverPart), first.of(reference)} {
				leftOut := k == first.of(reference) && s.referenceRounds(n, latency) == 0
				assert.True(t, leftOut || len(s.samples[k]) >= s.least, "%v was not measured", k)
			}
		}
	}
	fmt.Print(s.targets())
	page, err := os.ReadFile(filepath.Join(dir, "performance.md"))
	require.NoError(t, err)
	for _, p := range pictures {
		assert.Contains(t, string(page), "]("+p.file+")", "the page does not show a picture")
	}
}
