// Package leak finds goroutines that tests leave behind. It gives those that are
// about to end as long as a busy machine may need, which goleak by itself does not.
package leak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Find returns an error once a goroutine is still there after a minute.
func Find(ignored ...goleak.Option) error {
	for begun := time.Now(); ; {
		if err := goleak.Find(ignored...); err == nil || time.Since(begun) > time.Minute {
			return err
		}
	}
}

// VerifyTestMain runs the tests, and what is given in the end, and exits. It fails where they
// leave a goroutine.
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
