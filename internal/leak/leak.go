// Package leak finds goroutines that tests leave behind. Unlike goleak alone, it gives
// goroutines that are about to end enough time on a busy machine.
package leak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Find returns an error if a goroutine still exists after a minute.
func Find(ignored ...goleak.Option) error {
	for begun := time.Now(); ; {
		if err := goleak.Find(ignored...); err == nil || time.Since(begun) > time.Minute {
			return err
		}
	}
}

// VerifyTestMain runs the tests, calls each atEnd and exits. It fails if the tests leave a
// goroutine.
func VerifyTestMain(m *testing.M, atEnd ...func(code int)) {
	code := m.Run()
	if code == 0 {
		if err := Find(); err != nil {
			fmt.Fprintln(os.Stderr, "a test left a goroutine:", err)
			code = 1
		}
	}
	for _, f := range atEnd {
		f(code)
	}
	os.Exit(code)
}
