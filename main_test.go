package aiseed_test

import (
	"flag"
	"testing"

	"example.com/aiseed/internal/leak"
)

// F7, L7: nothing that a call started outlives it.
func TestMain(m *testing.M) {
	// The properties are tried more often with -rapid.checks.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	leak.VerifyTestMain(m)
}
