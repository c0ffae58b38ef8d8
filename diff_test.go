package aiseed

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A seed decides twice about the same providers: before it has the lock, and
// under it.
func TestR1_DecisionsDoNotTouchOneAnother(t *testing.T) {
	t.Parallel()
	want := []desired{{Provider: Provider{Name: "a", Type: TypeOpenAI}, warnings: append(make([]string, 0, 4), "of the environment")}}
	fingerprint := func(Secret) string { return "f" }
	deleted := diff(want, map[string]*storedProvider{"a": {Provider: want[0].Provider, deleted: true}}, settlement{}, fingerprint)
	diverged := diff(want, map[string]*storedProvider{"a": {Provider: Provider{Name: "a", Type: TypeOpenAI, Keys: []ProviderKey{{APIKey: NewSecret("k")}}}}}, settlement{}, fingerprint)
	require.Contains(t, deleted.Steps[0].Warnings[1], "an operator deleted it")
	require.Contains(t, diverged.Steps[0].Warnings[1], "differ in API key 1")
	require.Equal(t, []string{"of the environment"}, want[0].warnings)
}
