package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"example.com/aiseed"
)

// A cast says which providers the scenes are about: different ones if there are
// enough, and nil if there is none.
type cast struct{ rotated, moved, deleted *aiseed.Provider }

func assign(providers []aiseed.Provider) (c cast) {
	anyone := func(aiseed.Provider) bool { return true }
	c.rotated = pick(providers, func(p aiseed.Provider) bool { return len(p.Keys) > 0 })
	c.moved = cmp.Or(
		pick(providers, func(p aiseed.Provider) bool { return p.BaseURL != "" }, c.rotated),
		pick(providers, anyone, c.rotated))
	c.deleted = pick(providers, anyone, c.rotated, c.moved)
	return c
}

// pick returns the first provider that fits and is not taken, else the last that fits.
func pick(providers []aiseed.Provider, fits func(aiseed.Provider) bool, taken ...*aiseed.Provider) (picked *aiseed.Provider) {
	for i := range providers {
		if p := &providers[i]; fits(*p) {
			picked = p
		}
		if picked != nil && !slices.Contains(taken, picked) {
			break
		}
	}
	return picked
}

// baseURLVariables returns the variables that set, or would set, the base URL of a
// provider. There are several if the environment names the provider several times.
func baseURLVariables(cfg aiseed.Config, p *aiseed.Provider) (names []string) {
	field := aiseed.DefaultPrefix + "%sBASE_URL"
	if p.Bedrock != nil {
		field = aiseed.DefaultPrefix + "%sBEDROCK_BASE_URL"
	}
	for i, c := range cfg.Providers {
		if c.Type == string(p.Type) && cmp.Or(c.Name, c.Type) == p.Name {
			names = append(names, fmt.Sprintf(field, fmt.Sprintf("PROVIDER_%d_", i)))
		}
	}
	switch {
	case names != nil:
		return names
	case p.Bedrock != nil:
		return []string{fmt.Sprintf(field, "")}
	}
	return []string{fmt.Sprintf(field, strings.ToUpper(p.Name)+"_")}
}
