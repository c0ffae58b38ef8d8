package pg

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	maxAttempts = 8
	firstPause  = 10 * time.Millisecond

	// MaxPause is the longest pause.
	MaxPause = time.Second
)

// Retry calls do until it succeeds, fails for good, has failed 8 times, or ctx ends. again
// tells whether a failure of this attempt, counted from 1, is worth another one.
func Retry(ctx context.Context, again func(err error, attempt int) bool, do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil || !again(err, attempt) || attempt == maxAttempts || Pause(ctx, attempt) != nil {
			return err
		}
	}
}

// Pause waits longer after each attempt, up to [MaxPause], each time for a random while, so
// that processes that collided do not collide again. Its error is the context's.
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
