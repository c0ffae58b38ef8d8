package aiseed_test

import (
	"flag"
	"testing"

	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/leak"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// fixture is a store on a database of its own.
type fixture struct{ *storetest.Fixture }

func setup(t *testing.T, opts ...storetest.Option) *fixture {
	t.Helper()
	return &fixture{storetest.Setup(t, opts...)}
}

// emptied is the fixture for the next case of a test: no provider is there, and nothing is recorded.
func (f *fixture) emptied(t *testing.T) *fixture {
	t.Helper()
	next := *f.Fixture
	next.T, next.Audits, next.Logs = t, &aiseedtest.AuditRecorder{}, &testkit.LogRecorder{}
	next.Wire.Reset(nil)
	next.Exec(`truncate ai_providers, ai_provider_keys, ai_provider_audits`)
	return &fixture{&next}
}

// F7, L7: nothing that a call started outlives it.
func TestMain(m *testing.M) {
	// -rapid.checks makes the property tests try more cases.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	leak.VerifyTestMain(m)
}
