package aiseed

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	cdrslog "cdr.dev/slog/v3"
	"cdr.dev/slog/v3/sloggers/sloghuman"
	"cdr.dev/slog/v3/sloggers/slogjson"
	"github.com/stretchr/testify/require"
)

func TestS10_MaskShowsTheEndOfALongSecretOnly(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ value, mask string }{
		"nothing of no secret":             {"", ""},
		"nothing of a short secret":        {"hunter2", "****"},
		"nothing of 19 bytes":              {"1234567890123456789", "****"},
		"the last 4 characters of 20":      {"12345678901234567890", "****7890"},
		"characters and not bytes":         {"1234567890123456äöü€", "****äöü€"},
		"bytes that are no UTF-8 one each": {"1234567890123456\xff\xfe\xfd\xfc", "****\xff\xfe\xfd\xfc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.mask, NewSecret(tt.value).String())
			require.Equal(t, tt.value, NewSecret(tt.value).Reveal())
			require.Equal(t, tt.value == "", NewSecret(tt.value).IsZero())
		})
	}
}

const (
	testSecret = "sk-very-secret-value-0123456789-Tail"
	testMask   = "****Tail"
)

// holders are values that hold a Secret in different ways.
func holders() map[string]any {
	type exported struct{ S Secret }
	type unexported struct{ s Secret }
	type nested struct{ inner *unexported }
	s := NewSecret(testSecret)
	return map[string]any{
		"a value":                s,
		"a pointer":              &s,
		"an exported field":      exported{s},
		"a pointer to a struct":  &exported{s},
		"a slice":                []Secret{s},
		"an array":               [1]Secret{s},
		"a map's value":          map[string]Secret{"k": s},
		"a map's key":            map[Secret]string{s: "v"},
		"an interface":           []any{s},
		"a Config":               Config{LegacyOpenAI: OpenAIConfig{Key: s}, Providers: []ProviderConfig{{Keys: []Secret{s}}}},
		"a Provider":             Provider{Keys: []ProviderKey{{APIKey: s}}, Bedrock: &BedrockSettings{AccessKeySecret: s}},
		"an unexported field":    unexported{s},
		"an unexported pointer":  nested{&unexported{s}},
		"an unexported map":      struct{ m map[string]Secret }{map[string]Secret{"k": s}},
		"an unexported slice":    struct{ l []Secret }{[]Secret{s}},
		"an error":               fmt.Errorf("no: %v", s),
		"a plan with the wanted": diff([]desired{{Provider: Provider{Keys: []ProviderKey{{APIKey: s}}}}}, nil, nil, settlement{}, newVault(nil).fingerprints()),
	}
}

// requireMasked fails if out shows the secret, or 8 characters of it, raw or in a form in
// which fmt prints bytes.
func requireMasked(t *testing.T, out string) {
	t.Helper()
	for i := 0; i+8 <= len(testSecret); i++ {
		part := testSecret[i : i+8]
		for _, form := range []string{part, fmt.Sprintf("%x", part), fmt.Sprintf("%X", part), strings.Trim(fmt.Sprint([]byte(part)), "[]")} {
			require.NotContains(t, out, form)
		}
	}
}

func TestS10_SecretIsMaskedUnderEveryVerbWhereverItIs(t *testing.T) {
	t.Parallel()
	for name, holder := range holders() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
				for _, flags := range []string{"", "+", "#", " ", "-20", "020", "+#.3"} {
					requireMasked(t, fmt.Sprintf("%"+flags+string(verb), holder))
				}
			}
			out, err := json.Marshal(holder)
			if err == nil { // a map with Secrets as keys has no JSON
				requireMasked(t, string(out))
			}
		})
	}
}

func TestS10_SecretPrintsAsItsMask(t *testing.T) {
	t.Parallel()
	s := NewSecret(testSecret)
	for _, verb := range "vdsxXqbcoOUeEfFgGt" {
		require.Equal(t, testMask, fmt.Sprintf("%"+string(verb), s))
		require.Equal(t, testMask, fmt.Sprintf("%#"+string(verb), &s))
	}
	require.Contains(t, fmt.Sprint(struct{ s Secret }{s}), testMask, "an unexported field")
	require.Contains(t, fmt.Sprint(map[string]Secret{"k": s}), testMask)

	asJSON, err := json.Marshal(map[string]any{"a": s, "b": &s, "c": []Secret{s}})
	require.NoError(t, err)
	require.JSONEq(t, `{"a":"****Tail","b":"****Tail","c":["****Tail"]}`, string(asJSON))
	asText, err := s.MarshalText()
	require.NoError(t, err)
	require.Equal(t, testMask, string(asText))
	type element struct{ S Secret }
	asXML, err := xml.Marshal(element{s})
	require.NoError(t, err)
	require.Contains(t, string(asXML), testMask)
}

func TestS10_SecretIsMaskedInBothSlogs(t *testing.T) {
	t.Parallel()
	for name, holder := range holders() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			logger := cdrslog.Make(slogjson.Sink(&out))
			logger.Info(context.Background(), "m", cdrslog.F("f", holder), cdrslog.F("m", cdrslog.M(cdrslog.F("g", holder))))
			slog.New(slog.NewTextHandler(&out, nil)).Info("m", "f", holder, slog.Group("g", "h", holder))
			slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "f", holder, slog.Group("g", "h", holder))
			requireMasked(t, out.String())
		})
	}
	var out bytes.Buffer
	s := NewSecret(testSecret)
	cdrslog.Make(slogjson.Sink(&out)).Info(context.Background(), "m", cdrslog.F("f", s))
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "f", s)
	require.Equal(t, 2, strings.Count(out.String(), testMask))
}

func TestSecretEqual(t *testing.T) {
	t.Parallel()
	require.True(t, NewSecret("a").Equal(NewSecret("a")))
	require.False(t, NewSecret("a").Equal(NewSecret("b")))
	require.False(t, NewSecret("a").Equal(Secret{}))
	require.True(t, Secret{}.Equal(NewSecret("")))
}

func TestS11_ABaseURLIsMaskedWhereverAValueIsShown(t *testing.T) {
	t.Parallel()
	const raw, shown = "https://h/v1?region=eu&token=url-secret", "https://h/v1?region=****&token=****"
	url := raw
	for name, v := range map[string]any{
		"a Provider":       Provider{BaseURL: raw},
		"a ProviderInfo":   ProviderInfo{BaseURL: raw},
		"a ProviderSpec":   ProviderSpec{BaseURL: raw},
		"a ProviderUpdate": ProviderUpdate{BaseURL: &url},
		"a Config":         Config{LegacyOpenAI: OpenAIConfig{BaseURL: raw}, LegacyAnthropic: AnthropicConfig{BaseURL: raw}, LegacyBedrock: BedrockConfig{BaseURL: raw}, Providers: []ProviderConfig{{BaseURL: raw, BedrockBaseURL: raw}}},
		"a desired":        desired{Provider: Provider{BaseURL: raw}},
		"a stored":         &storedProvider{Provider: Provider{BaseURL: raw}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			for _, holder := range []any{v, []any{v}, map[string]any{"k": v}, struct{ V any }{v}} {
				for _, verb := range "vTtbcdoOqxXUeEfFgGs" { // fmt calls no method for %p
					for _, flags := range []string{"", "+", "#", "-60"} {
						fmt.Fprintf(&out, "%"+flags+string(verb), holder)
					}
				}
				require.NoError(t, json.NewEncoder(&out).Encode(holder))
				cdrslog.Make(slogjson.Sink(&out), sloghuman.Sink(&out)).Info(context.Background(), "m", cdrslog.F("f", holder), cdrslog.F("m", cdrslog.M(cdrslog.F("g", holder))))
				slog.New(slog.NewTextHandler(&out, nil)).Info("m", "f", holder)
				slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "f", holder)
			}
			require.NotContains(t, out.String(), "url-secret")
			require.NotContains(t, out.String(), fmt.Sprintf("%x", "url-secret"))
			require.NotContains(t, out.String(), fmt.Sprintf("%X", "url-secret"))
			if _, pointer := v.(ProviderUpdate); !pointer {
				require.Contains(t, fmt.Sprintf("%+v", v), "BaseURL:"+shown, "and the rest is shown")
			}
		})
	}
	require.Equal(t, raw, url, "the value itself stays")

	asJSON, err := json.Marshal(Provider{Type: TypeOpenAI, Name: "x", BaseURL: raw, Revision: 7})
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"00000000-0000-0000-0000-000000000000","type":"openai","name":"x","display_name":"","enabled":false,"base_url":"`+shown+`",
		"keys":[],"revision":7,"created_at":"0001-01-01T00:00:00Z","updated_at":"0001-01-01T00:00:00Z"}`, string(asJSON))
}
