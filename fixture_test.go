package aiseed_test

import (
	"flag"
	"testing"

	"example.com/aiseed/internal/leak"
	"example.com/aiseed/internal/storetest"
)

// fixture is a store on a database of its own.
type fixture struct{ *storetest.Fixture }

func setup(t *testing.T, opts ...storetest.Option) *fixture {
	t.Helper()
	return &fixture{storetest.Setup(t, opts...)}
}

// F7, L7: nothing that a call started outlives it.
func TestMain(m *testing.M) {
	// -rapid.checks makes the property tests try more cases.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	leak.VerifyTestMain(m)
}
