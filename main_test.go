package aiseed_test

import (
	"testing"

	"example.com/aiseed/internal/leak"
)

// F7, L7: nothing that a call started outlives it.
func TestMain(m *testing.M) { leak.VerifyTestMain(m) }
