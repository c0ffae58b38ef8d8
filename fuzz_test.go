package aiseed

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/baseurl"
	sources "example.com/aiseed/internal/environ"
	"example.com/aiseed/internal/seal"
	"example.com/aiseed/internal/text"
)

// F6: the fuzz targets that are not in a file with the tests of the same code. Inputs
// that the fuzzer found stay in testdata/fuzz, and every run of the tests tries them.

// encodedShape reads back what canonicalEncoding wrote. An encoding that can be read back
// proves that two different shapes never have the same encoding.
func encodedShape(encoding []byte) (fields []string, err error) {
	rest, ok := strings.CutPrefix(string(encoding), "aiseed shape v1\n")
	for ok && rest != "" {
		var length uint64
		var n int
		if length, n = binary.Uvarint([]byte(rest)); n <= 0 || uint64(len(rest)-n) < length {
			break
		}
		fields = append(fields, rest[n:n+int(length)])
		rest = rest[n+int(length):]
	}
	if !ok || rest != "" || len(fields) != len(shapeFields) {
		return nil, fmt.Errorf("cannot be read back: %q", encoding)
	}
	return fields, nil
}

// F6, C2: different shapes never have the same encoding.
func FuzzCanonicalEncoding(f *testing.F) {
	f.Add("openai", "https://h", "", "openai", "HTTPS://H:443/", "")
	f.Add("openai", "ab", "c", "openai", "a", "bc")
	f.Add("anthropic", "", "eu", "anthropic", "", "\x02eu")
	f.Add("a\x01", "", "", "a", "\x01", "")
	f.Add("openai", "https://h/%7e", "", "openai", "https://h/~", "")
	f.Add("openai", "https://h/%2f", strings.Repeat("r", 200), "openai", "https://h/%2F", strings.Repeat("r", 200))
	f.Fuzz(func(t *testing.T, type1, url1, region1, type2, url2, region2 string) {
		shape := func(typ, baseURL, region string) (p Provider, compared []string) {
			p = Provider{Type: ProviderType(typ), BaseURL: baseURL, Bedrock: &BedrockSettings{Region: region}}
			if typ == "anthropic" {
				typ = "bedrock" // with Bedrock settings, it is
			}
			return p, []string{typ, baseurl.Normalise(cmp.Or(baseURL, ProviderType(typ).DefaultBaseURL())), region}
		}
		a, comparedA := shape(type1, url1, region1)
		b, comparedB := shape(type2, url2, region2)
		fields, err := encodedShape(canonicalEncoding(a))
		require.NoError(t, err)
		require.Equal(t, comparedA, fields)
		equal := slices.Equal(comparedA, comparedB)
		require.Equal(t, equal, string(canonicalEncoding(a)) == string(canonicalEncoding(b)))
		require.Equal(t, equal, canonicalHash(a) == canonicalHash(b))
		require.Equal(t, equal, shapeDrift(a, desired{Provider: b}) == nil)
	})
}

// F6, S2: a value that was not sealed with the keyring can never be decrypted.
func FuzzOpenSealed(f *testing.F) {
	const frozen = "aiseed:v1:jJ8HlZvAAfCP7zdzEKJGRCdFHLqUuBp+uZstSlRZHMp9lw==" // TestS2_FrozenSealedValueStillOpens
	older, err := NewKeyring(testKey(2))
	require.NoError(f, err)
	ring, err := NewKeyring(testKey(1), testKey(2))
	require.NoError(f, err)
	first, second := ring.keys[0].ID, ring.keys[1].ID
	f.Add(frozen, first, true)
	f.Add(frozen, second, true)
	f.Add(frozen, first, false)
	f.Add(frozen+"\n", first, true)
	f.Add("aiseed:v2:"+strings.TrimPrefix(frozen, "aiseed:v1:"), first, true)
	f.Add("plain", "", false)
	f.Add("aiseed:v1:", first, true)
	f.Add(older.keys[0].Seal(settingsCell(testCell().Provider), "elsewhere"), second, true)
	f.Fuzz(func(t *testing.T, stored, key string, hasKey bool) {
		var keyID *string
		if hasKey {
			keyID = &key
		}
		for name, v := range map[string]*vault{"with a keyring": newVault(ring), "without": newVault(nil)} {
			secret, err := v.open(testCell(), storedText{text: stored, keyID: keyID})
			switch {
			case v.ring != nil && hasKey && stored == frozen && key == first:
				require.NoError(t, err)
				require.Equal(t, "frozen", secret.Reveal())
			case len(v.ring) == 0 && !hasKey && !seal.IsSealed(stored):
				require.NoError(t, err)
				require.Equal(t, stored, secret.Reveal(), "plaintext is what it is")
			default:
				require.IsType(t, &DecryptError{}, err, "%s %q", name, stored)
				require.True(t, secret.IsZero(), name)
			}
		}
	})
}

// configSource makes a Config from a fuzzer's bytes: mostly from valid words, so that it
// passes the first check, and sometimes from arbitrary text.
type configSource []byte

func (s *configSource) number(n int) int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b) % n
}

var configWords = []string{
	"", "openai", "anthropic", "copilot", "a", "a-b", "Bad_Name", "https://h/v1", "HTTPS://H:443/%7ev1", "https://user:pass@h", "https://h/#f", "h", "eu-west-1", "key", "other", "with space",
	"with,comma", " ", "\xff", "\x00", "ü", "a@0123456789abcdef", "b@0123456789abcdef", strings.Repeat("x", 300), strings.Repeat("x", 9000),
}

func (s *configSource) word() string {
	if s.number(8) < 7 {
		return configWords[s.number(len(configWords))]
	}
	n := min(s.number(64), len(*s))
	word := string((*s)[:n])
	*s = (*s)[n:]
	return word
}

func (s *configSource) words() (words []string) {
	for range s.number(8) {
		words = append(words, s.word())
	}
	return words
}

func (s *configSource) secrets() (secrets []Secret) {
	for _, word := range s.words() {
		secrets = append(secrets, NewSecret(word))
	}
	return secrets
}

func (s *configSource) config() Config {
	cfg := Config{
		LegacyOpenAI:    OpenAIConfig{s.word(), NewSecret(s.word())},
		LegacyAnthropic: AnthropicConfig{s.word(), NewSecret(s.word())},
		LegacyBedrock:   BedrockConfig{s.word(), s.word(), NewSecret(s.word()), NewSecret(s.word()), s.word(), s.word()},
		DriftAdopt:      s.words(), DriftKeep: s.words(),
	}
	for range s.number(5) {
		cfg.Providers = append(cfg.Providers, ProviderConfig{s.word(), s.word(), s.word(), s.secrets(), s.word(), s.word(), s.secrets(), s.secrets(), s.word(), s.word()})
	}
	return cfg
}

// environOf writes a Config as the environment that parses to it. Some have no such
// environment: a comma in an element of a list, for example, would split it.
func environOf(cfg Config) (environ []string, ok bool) {
	ok = true
	set := func(name, value string) {
		if value == "" {
			return
		}
		environ = append(environ, DefaultPrefix+name+"="+value)
		// E9 is stricter about environments.
		switch {
		case strings.HasSuffix(name, "KEY"), strings.HasSuffix(name, "SECRET"):
			ok = ok && sources.CheckSecret(value, "") == text.CheckSecret(value)
		case strings.HasSuffix(name, "BASE_URL"):
			ok = ok && checkURLVariable(value) == baseurl.Check(value)
		case strings.HasSuffix(name, "REGION"), strings.HasSuffix(name, "MODEL"), strings.HasSuffix(name, "NAME"):
			ok = ok && sources.CheckWord(value) == text.CheckWord(value)
		}
	}
	list := func(name string, words []string) {
		for _, word := range words {
			ok = ok && word == strings.Trim(word, " ") && !strings.Contains(word, ",") && sources.CheckSecret(word, "") == text.CheckSecret(word)
		}
		ok = ok && (len(words) != 1 || words[0] != "")
		ok = ok && !sources.IsWhole(strings.Join(words, ","), false)
		set(name, strings.Join(words, ","))
	}
	secrets := func(name string, secrets []Secret) {
		if len(secrets) == 1 {
			ok = ok && !secrets[0].IsZero()
			set(name, secrets[0].Reveal())
			return
		}
		var words []string
		for _, s := range secrets {
			words = append(words, s.Reveal())
		}
		list(name+"S", words)
	}
	set("OPENAI_BASE_URL", cfg.LegacyOpenAI.BaseURL)
	set("OPENAI_KEY", cfg.LegacyOpenAI.Key.Reveal())
	set("ANTHROPIC_BASE_URL", cfg.LegacyAnthropic.BaseURL)
	set("ANTHROPIC_KEY", cfg.LegacyAnthropic.Key.Reveal())
	b := cfg.LegacyBedrock
	set("BEDROCK_BASE_URL", b.BaseURL)
	set("BEDROCK_REGION", b.Region)
	set("BEDROCK_ACCESS_KEY", b.AccessKey.Reveal())
	set("BEDROCK_ACCESS_KEY_SECRET", b.AccessKeySecret.Reveal())
	set("BEDROCK_MODEL", b.Model)
	set("BEDROCK_SMALL_FAST_MODEL", b.SmallFastModel)
	list("DRIFT_ADOPT", cfg.DriftAdopt)
	list("DRIFT_KEEP", cfg.DriftKeep)
	for i, p := range cfg.Providers {
		before, stem := len(environ), fmt.Sprintf("PROVIDER_%d_", i)
		set(stem+"TYPE", p.Type)
		set(stem+"NAME", p.Name)
		set(stem+"BASE_URL", p.BaseURL)
		secrets(stem+"KEY", p.Keys)
		set(stem+"BEDROCK_BASE_URL", p.BedrockBaseURL)
		set(stem+"BEDROCK_REGION", p.BedrockRegion)
		secrets(stem+"BEDROCK_ACCESS_KEY", p.BedrockAccessKeys)
		secrets(stem+"BEDROCK_ACCESS_KEY_SECRET", p.BedrockAccessKeySecrets)
		set(stem+"BEDROCK_MODEL", p.BedrockModel)
		set(stem+"BEDROCK_SMALL_FAST_MODEL", p.BedrockSmallFastModel)
		ok = ok && len(environ) > before
		// E6 is stricter than N10.
		ok = ok && (p.Type != string(TypeAnthropic) || len(p.Keys) == 0 || !p.hasBedrock())
	}
	return environ, ok
}

// F6, N10: a Config built by hand and the environment that says the same have one result.
func FuzzNormalise(f *testing.F) {
	// The fuzzer seldom makes valid providers by chance, so start from some.
	empty := make([]byte, 2*12) // the legacy values and no drifts
	f.Add([]byte{})
	f.Add(slices.Concat([]byte{0, 7, 0, 13}, empty[4:22], []byte{2, 0, 1, 0, 4, 0, 7, 1, 0, 13}))
	f.Add(slices.Concat(empty[:22], []byte{1, 0, 2, 0, 0, 0, 0, 0, 0, 8, 0, 12, 1, 0, 13, 1, 0, 14}))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg := (*configSource)(&data).config()
		want, err := normalise(cfg)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidConfig)
			for _, p := range err.(*ConfigError).Problems {
				require.NotEmpty(t, p.Variables, "%s", err)
				require.NotEmpty(t, p.Reason, "%s", err)
			}
		}
		names := map[string]bool{}
		for i, d := range want {
			require.True(t, i == 0 || want[i-1].Name <= d.Name, "the order of names")
			if d.unsupported {
				continue
			}
			require.True(t, text.IsName(d.Name) && !names[d.Name], "%q", d.Name)
			names[d.Name] = true
			require.NoError(t, checked(d.Provider, Provider{}), "what an operator could create")
			require.Empty(t, baseurl.Check(d.BaseURL))
			require.False(t, d.Bedrock != nil && len(d.Keys) > 0)
		}
		again, _ := normalise(cfg)
		require.True(t, reflect.DeepEqual(withoutFunctions(want), withoutFunctions(again)), "the same twice")

		environ, ok := environOf(cfg)
		if !ok {
			return
		}
		parsed, parseErr := ParseEnviron(context.Background(), environ, slog.Logger{})
		if err != nil {
			require.EqualError(t, parseErr, err.Error())
			return
		}
		require.NoError(t, parseErr)
		fromEnviron, err := normalise(parsed)
		require.NoError(t, err)
		require.True(t, reflect.DeepEqual(withoutFunctions(want), withoutFunctions(fromEnviron)), "%v\n%v", want, fromEnviron)
	})
}

// withoutFunctions replaces functions by what they return, because functions cannot be
// compared.
func withoutFunctions(want []desired) (plain []any) {
	for _, d := range want {
		names := []string{d.variableOf(fieldType), d.variableOf(fieldBaseURL), d.variableOf(fieldBedrockRegion)}
		d.variable, d.setBy = nil, nil
		plain = append(plain, d, names)
	}
	return plain
}
