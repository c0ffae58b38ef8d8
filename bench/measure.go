package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"time"
)

// A contender is one way to do an operation.
type contender struct {
	name    string
	prepare func(context.Context) error // before each run, and not measured; nil for nothing
	run     func(context.Context) error
	rounds  int // at most; 0 is as many as the others
	repeat  int // runs in one measurement, where one is too short for the clock; 0 is 1
}

// A key says what was measured.
type key struct {
	operation, contender string
	n                    int // providers
	latency              time.Duration
}

// of is the same of another contender.
func (k key) of(contender string) key {
	k.contender = contender
	return k
}

// A result is the median of each figure over the rounds, for one run.
type result struct {
	rounds        int
	time          time.Duration
	allocs, bytes float64
	peak          uint64 // see peakMemory
}

// race lets every contender run once in each round, so that what else the machine
// does meets all of them alike, each time another one first.
func race(ctx context.Context, rounds int, contenders []contender) ([]result, error) {
	samples := make([][]result, len(contenders))
	for round := range rounds {
		for i := range contenders {
			i = (i + round) % len(contenders)
			c := contenders[i]
			if c.rounds > 0 && round >= c.rounds {
				continue
			}
			sample, err := measure(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", c.name, round+1, err)
			}
			samples[i] = append(samples[i], sample)
		}
	}
	results := make([]result, len(contenders))
	for i, s := range samples {
		results[i] = result{
			rounds: len(s),
			time:   median(s, func(r result) time.Duration { return r.time }),
			allocs: median(s, func(r result) float64 { return r.allocs }),
			bytes:  median(s, func(r result) float64 { return r.bytes }),
		}
	}
	return results, nil
}

func measure(ctx context.Context, c contender) (r result, err error) {
	if err := prepare(ctx, c); err != nil {
		return r, err
	}
	repeat := max(1, c.repeat)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for range repeat {
		if err := c.run(ctx); err != nil {
			return r, err
		}
	}
	r.time = time.Since(start) / time.Duration(repeat)
	runtime.ReadMemStats(&after)
	r.allocs = float64(after.Mallocs-before.Mallocs) / float64(repeat)
	r.bytes = float64(after.TotalAlloc-before.TotalAlloc) / float64(repeat)
	return r, nil
}

// prepare also sees to it that no run pays for the garbage of another one. The
// preparation comes last: it leaves the connection warm.
func prepare(ctx context.Context, c contender) error {
	runtime.GC()
	if c.prepare == nil {
		return nil
	}
	if err := c.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return nil
}

// peakMemory is the largest size of the objects on the heap, garbage that was not
// collected yet included, over the size before the run: looked at every 200
// microseconds during the run, and at its end. It is a run of its own, so that
// looking does not slow down one that is timed.
func peakMemory(ctx context.Context, c contender) (uint64, error) {
	if err := prepare(ctx, c); err != nil {
		return 0, err
	}
	base := heapSize()
	done, peak := make(chan struct{}), make(chan uint64)
	go func() {
		tick := time.NewTicker(200 * time.Microsecond)
		defer tick.Stop()
		var largest uint64
		for {
			largest = max(largest, heapSize())
			select {
			case <-tick.C:
			case <-done:
				peak <- max(largest, heapSize())
				return
			}
		}
	}()
	err := c.run(ctx)
	close(done)
	return max(<-peak, base) - base, err
}

func heapSize() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func median[T float64 | time.Duration | uint64](samples []result, of func(result) T) T {
	values := make([]T, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}
