package aiseedcli

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
)

var seedFlag = flag.Uint64("seed", 0, "of the situations of TestO9; 0 is a new one")

// O9: in random situations, a start without all that retire lists writes and ends as with it, and so does one without all
// of one provider that is listed.
func TestO9_WhatRetireListsChangesNothing(t *testing.T) {
	t.Parallel()
	f := storetest.Setup(t, storetest.Plaintext)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	random := rand.New(rand.NewPCG(seed, 0))
	listed, stayed := 0, 0
	for range 25 {
		before, environ := someEnviron(random), someEnviron(random)
		f.Exec(`delete from ai_providers`)
		f.Exec(`delete from ai_provider_audits`)
		if cfg, err := aiseed.ParseEnviron(t.Context(), before, f.Logs.Logger()); err == nil {
			require.NoError(t, f.Seed(cfg))
		}
		if random.IntN(2) == 0 {
			environ = slices.Clone(before)
		}
		f.Exec([]string{
			`select 1`, `update ai_providers set base_url = 'https://edited.example/v1' where name in ('openai', 'b')`,
			`update ai_providers set deleted = true where name in ('anthropic', 'a')`, `update ai_providers set enabled = false`,
		}[random.IntN(4)])
		environ = append(environ, "DATABASE_URL="+f.DSN())
		environ = append(environ, someSettlement(t, random, environ)...)

		var r retirement
		if code := runJSON(t, &r, environ, "retire"); code != exitDone {
			_, err := aiseed.ParseEnviron(t.Context(), environ, f.Logs.Logger(), aiseed.WithPrefix(aiseed.DefaultPrefix, aiseed.GatewayPrefix))
			require.Error(t, err, "-seed %d: %q", seed, environ)
			continue
		}
		sets := [][]string{nil}
		for _, v := range r.Removable {
			sets[0] = append(sets[0], v.Name)
		}
		for _, v := range r.Removable {
			if v.Provider == "" {
				continue
			}
			var whole []string
			for _, other := range r.Removable {
				if other.Provider == v.Provider {
					whole = append(whole, other.Name)
				}
			}
			if _, n := indexOf(v.Name); n < 0 { // else the numbers of those behind have to move
				sets = append(sets, whole)
			}
		}
		want := end(t, environ)
		for _, without := range sets {
			rest := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
				name, _, _ := strings.Cut(entry, "=")
				return slices.Contains(without, name)
			})
			require.Equal(t, want, end(t, rest), "-seed %d: %q without %q", seed, environ, without)
		}
		listed, stayed = listed+len(r.Removable), stayed+len(r.Staying)
	}
	require.NotZero(t, listed)
	require.NotZero(t, stayed)
}

func runJSON(t *testing.T, into any, environ []string, verb string) (code int) {
	var stdout, stderr bytes.Buffer
	code = runWith(t.Context(), []string{verb, "-plaintext", "-json"}, environ, strings.NewReader(""), &stdout, &stderr)
	require.Empty(t, stderr.String())
	require.NoError(t, json.Unmarshal(stdout.Bytes(), into), stdout.String())
	return code
}

// end returns what a start with an environment writes and over what it stops, and the exit code of plan.
func end(t *testing.T, environ []string) map[string]any {
	var plan struct {
		Steps []struct{ Name, Action string }
	}
	end := map[string]any{"exit": runJSON(t, &plan, environ, "plan")}
	for _, s := range plan.Steps {
		if slices.Contains([]string{"create", "adopt", "drifted"}, s.Action) {
			end[s.Name] = s.Action
		}
	}
	return end
}

// someEnviron returns some variables of some providers, of old and new prefixes.
func someEnviron(random *rand.Rand) (environ []string) {
	prefix := []string{aiseed.DefaultPrefix, aiseed.GatewayPrefix}[random.IntN(2)]
	maybe := func(n int, name string, values ...string) {
		if random.IntN(n) == 0 {
			environ = append(environ, prefix+name+"="+values[random.IntN(len(values))])
		}
	}
	keys := []string{"sk-6f1e9b07c2d84a53b1907e", "sk-0b8d5f2e71c649aa83f2d0"}
	maybe(2, "OPENAI_KEY", keys...)
	maybe(4, "OPENAI_BASE_URL", "https://one.example/v1", "https://two.example/v1")
	maybe(4, "ANTHROPIC_KEY", keys...)
	maybe(5, "BEDROCK_REGION", "eu-central-1", "us-east-1")
	maybe(6, "OPENAI_BASEURL", "https://typo.example/v1")
	for i, name := range []string{"a", "b", "c", "d"}[:random.IntN(5)] {
		p := fmt.Sprintf("%sPROVIDER_%d_", prefix, i)
		environ = append(environ, p+"NAME="+name, p+"TYPE="+[]string{"openai", "openai", "copilot", "watsonx"}[random.IntN(4)])
		if strings.HasSuffix(environ[len(environ)-1], "openai") {
			environ = append(environ, p+"KEY="+keys[random.IntN(2)], p+"BASE_URL=https://"+[]string{"one", "two"}[random.IntN(2)]+".example/v1")
		}
	}
	return environ
}

// someSettlement returns what settles some of the differences, one way or another.
func someSettlement(t *testing.T, random *rand.Rand, environ []string) []string {
	var plan struct{ Choices []aiseed.Choice }
	runJSON(t, &plan, environ, "plan")
	switch random.IntN(4) {
	case 0:
		return nil
	case 1:
		return []string{aiseed.DefaultPrefix + "DRIFT_KEEP=" + []string{"*", "*@database", "b@*", "a@0123456789abcdef"}[random.IntN(4)]}
	}
	if len(plan.Choices) == 0 {
		return nil
	}
	choice := plan.Choices[random.IntN(len(plan.Choices))]
	tokens := strings.Split(choice.Value, ",")
	return []string{choice.Variable + "=" + strings.Join(tokens[:1+random.IntN(len(tokens))], ",")}
}
