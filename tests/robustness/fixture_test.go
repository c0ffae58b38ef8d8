package robustness

import (
	"testing"

	"example.com/aiseed/internal/storetest"
)

// fixture is a store on a database of its own.
type fixture struct{ *storetest.Fixture }

func setup(t *testing.T, opts ...storetest.Option) *fixture {
	t.Helper()
	return &fixture{storetest.Setup(t, opts...)}
}
