package bench

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchmath"

	"example.com/aiseed"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/seal"
)

// A suite is one run of all benchmarks, on a private server.
type suite struct {
	*testing.T
	scale
	server  *ephemeral.Server
	sealer  seal.Key // the one key of the keyring
	options aiseed.StoreOptions
	lines   []*line         // that are open
	peaks   map[int]float64 // bytes on the heap while a backlog is delivered, by its size
	samples map[key][]testing.BenchmarkResult
	record  *os.File // every sample, in the format of Go's benchmarks
}

func newSuite(t *testing.T, scale scale, dir string) *suite {
	// The benchmarks gather statistics themselves, at known times.
	server, err := ephemeral.Start(t.Context(), "autovacuum=off")
	require.NoError(t, err, "scripts/deps.sh postgres installs a server")
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	record, err := os.Create(filepath.Join(dir, "performance.out"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, record.Close()) })
	secret := bytes.Repeat([]byte("k"), aiseed.KeySize)
	keyring, err := aiseed.NewKeyring(secret)
	require.NoError(t, err)
	sealer, err := seal.NewKey(secret)
	require.NoError(t, err)
	s := &suite{T: t, scale: scale, server: server, sealer: sealer, record: record, samples: map[key][]testing.BenchmarkResult{}, peaks: map[int]float64{}}
	s.options = aiseed.StoreOptions{Keyring: keyring, AuditTimeout: 2 * time.Hour} // the longest delivery fits in
	for _, n := range scale.sizes {
		s.database(empty(n), "template0")
		s.database(seeded(n), "template0")
		l := s.line(seeded(n), 0)
		require.NoError(t, l.seed(n)(t.Context()))
		l.exec("vacuum analyze")
	}
	s.hangUp()
	return s
}

// A key names a benchmark: one way to do an operation.
type key struct {
	operation, by string
	n             int // providers
	latency       time.Duration
}

func (k key) String() string {
	return fmt.Sprintf("%s/n=%d/ms=%d/by=%s", k.operation, k.n, k.latency.Milliseconds(), k.by)
}

// of returns the key of another way.
func (k key) of(by string) key {
	k.by = by
	return k
}

// A contender is one way to do an operation.
type contender struct {
	key
	line    *line                       // whose round trips are counted; nil for none
	prepare func(context.Context) error // before each measurement; nil keeps the line awake
	run     func(context.Context) error
	repeat  int // runs in one measurement, if one is too short for the clock; 0 is 1
}

// race lets every contender run once in each round, so that what else the machine
// does meets all of them alike. Each round begins with another one. In the end all lines hang up.
func (s *suite) race(rounds int, contenders ...contender) {
	for round := range rounds {
		for i := range contenders {
			c := contenders[(i+round)%len(contenders)]
			r := s.measure(c)
			s.samples[c.key] = append(s.samples[c.key], r)
			_, err := fmt.Fprintf(s.record, "Benchmark%v\t%v\t%s\n", c.key, r, r.MemString())
			require.NoError(s, err)
		}
	}
	for _, c := range contenders {
		fmt.Printf("%-50v %12v (%d rounds)\n", c.key, s.median(c.key).Round(time.Microsecond/10), len(s.samples[c.key]))
	}
	s.hangUp()
}

const trips = "trips/op"

// measure takes one sample. Package testing first collects the garbage of other runs. The
// preparation comes after that: it leaves the connection warm.
func (s *suite) measure(c contender) testing.BenchmarkResult {
	require.NoError(s, flag.Set("test.benchtime", fmt.Sprintf("%dx", max(1, c.repeat))))
	if c.prepare == nil && c.line != nil {
		c.prepare = c.line.Ping
	}
	var err error
	r := testing.Benchmark(func(b *testing.B) {
		if c.prepare != nil {
			err = errors.Join(err, c.prepare(b.Context()))
		}
		if c.line != nil {
			c.line.trips.Store(0)
		}
		b.ReportAllocs()
		b.ResetTimer()
		for i := 0; i < b.N && err == nil; i++ {
			err = c.run(b.Context())
		}
		b.StopTimer()
		if c.line != nil {
			b.ReportMetric(float64(c.line.trips.Load())/float64(b.N), trips)
		}
	})
	require.NoError(s, err, "%v", c.key)
	return r
}

// warmUp runs each contender often enough for the server to settle on a plan.
func (s *suite) warmUp(contenders ...contender) []contender {
	for _, c := range contenders {
		for range 6 {
			require.NoError(s, c.run(s.Context()), "warm up %v", c.key)
		}
	}
	return contenders
}

// times returns the nanoseconds that a benchmark took in each round.
func (s *suite) times(k key) (times []float64) {
	for _, r := range s.samples[k] {
		times = append(times, float64(r.T)/float64(r.N))
	}
	return times
}

func (s *suite) median(k key) time.Duration { return time.Duration(summary(s.times(k)).Center) }

// ratio compares two benchmarks round by round: what ran at the same time is compared.
func (s *suite) ratio(a, b key) benchmath.Summary {
	ratios := s.times(a)
	for round, time := range s.times(b) {
		ratios[round] /= time
	}
	return summary(ratios)
}

// summary is the median and its confidence interval, as benchstat has them. It sorts the values.
func summary(values []float64) benchmath.Summary {
	return benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &benchmath.DefaultThresholds), 0.95)
}
