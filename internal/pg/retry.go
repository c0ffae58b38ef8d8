package pg

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// MaxAttempts is how often [Retry] tries.
	MaxAttempts = 8

	firstPause = 10 * time.Millisecond

	// MaxPause is the longest pause.
	MaxPause = time.Second
)

// Retry calls do until it succeeds, again returns false, do has failed 8 times, or ctx ends.
// again reports whether to try again after a failed attempt. Attempts are counted from 1.
func Retry(ctx context.Context, again func(err error, attempt int) bool, do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil || !again(err, attempt) || attempt == MaxAttempts || Pause(ctx, attempt) != nil {
			return err
		}
	}
}

// Pause waits longer after each attempt, up to [MaxPause]. Each pause is random, so that
// processes that collided do not collide again. It returns the context's error.
func Pause(ctx context.Context, attempt int) error {
	limit := min(firstPause<<min(attempt, 10), MaxPause)
	timer := time.NewTimer(limit/2 + rand.N(limit/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
