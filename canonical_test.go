package aiseed

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The vectors are frozen: a change here would turn every stored row into drift.
func TestC2_FrozenVectors(t *testing.T) {
	t.Parallel()
	var vectors []struct {
		Type, BaseURL, Region string
		Encoding              string
		SHA256                string
	}
	raw, err := os.ReadFile("testdata/canonical.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &vectors))
	require.NotEmpty(t, vectors)
	for _, v := range vectors {
		p := Provider{Type: ProviderType(v.Type), BaseURL: v.BaseURL, Bedrock: &BedrockSettings{Region: v.Region}}
		require.Equal(t, v.Encoding, string(canonicalEncoding(p)))
		hash := canonicalHash(p)
		require.Equal(t, v.SHA256, hex.EncodeToString(hash[:]))
	}
}

func TestC2_DifferentShapesEncodeDifferently(t *testing.T) {
	t.Parallel()
	a := Provider{Type: "openai", BaseURL: "ab", Bedrock: &BedrockSettings{Region: "c"}}
	b := Provider{Type: "openai", BaseURL: "a", Bedrock: &BedrockSettings{Region: "bc"}}
	require.NotEqual(t, canonicalEncoding(a), canonicalEncoding(b))
}

func TestC3_BaseURLsAreComparedNormalised(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ raw, want string }{
		"an empty one stays":                      {"", ""},
		"scheme and host in lower case":           {"HTTPS://API.OpenAI.com/V1", "https://api.openai.com/V1"},
		"no default port of https":                {"https://h:443/v1", "https://h/v1"},
		"no default port of http":                 {"http://h:80/v1", "http://h/v1"},
		"no empty port":                           {"http://h:/v1", "http://h/v1"},
		"another port stays":                      {"https://h:80/v1", "https://h:80/v1"},
		"an empty path is a slash":                {"https://h", "https://h/"},
		"an empty path before a query too":        {"https://h?a=b", "https://h/?a=b"},
		"a trailing slash stays":                  {"https://h/v1/", "https://h/v1/"},
		"none is added":                           {"https://h/v1", "https://h/v1"},
		"unreserved characters are decoded":       {"https://h/%7Euser/%41%2d%2E%5f", "https://h/~user/A-._"},
		"others get upper-case digits":            {"https://h/a%2fb%c3%a4?q=%2f", "https://h/a%2Fb%C3%A4?q=%2F"},
		"an encoded percent sign stays":           {"https://h/%2541", "https://h/%2541"},
		"dot segments go (6.2.2.3)":               {"https://h/a/./b/../c", "https://h/a/c"},
		"dots above the root go":                  {"https://h/../../a", "https://h/a"},
		"a dot at the end leaves the slash":       {"https://h/a/.", "https://h/a/"},
		"two dots at the end too":                 {"https://h/a/b/..", "https://h/a/"},
		"encoded dots are dots":                   {"https://h/a/%2e%2e/b", "https://h/b"},
		"empty segments stay":                     {"https://h//a//", "https://h//a//"},
		"an IPv6 host":                            {"http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"},
		"an IPv6 host with a port":                {"http://[::1]:8080", "http://[::1]:8080/"},
		"a percent-encoded host":                  {"https://%C3%A4.EXAMPLE/", "https://%C3%A4.example/"},
		"a broken triplet of a query stays":       {"https://h/?a=%zz%41", "https://h/?a=%zz%41"},
		"what is no base URL stays as it is":      {"FTP://H:21/x", "FTP://H:21/x"},
		"what is no URL stays as it is":           {"%zz", "%zz"},
		"an empty query is not no query":          {"https://h/a?", "https://h/a?"},
		"a colon in the path is no port":          {"https://h/a:80", "https://h/a:80"},
		"an at sign in the path is no user":       {"https://h/@a", "https://h/@a"},
		"a default port of the other scheme":      {"http://h:443", "http://h:443/"},
		"a question mark ends path and authority": {"https://H?A=%7e", "https://h/?A=~"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, normaliseURL(tt.raw))
			require.Equal(t, tt.want, normaliseURL(tt.want), "idempotent")
		})
	}
}

// C4: a new field has to be classified here, and its class is then proved below.
var fieldClasses = map[string]string{
	"Provider.ID": "ignored", "Provider.Type": "shape", "Provider.Name": "ignored",
	"Provider.DisplayName": "ignored", "Provider.Enabled": "ignored", "Provider.BaseURL": "shape",
	"Provider.CreatedAt": "ignored", "Provider.UpdatedAt": "ignored",
	"Provider.Bedrock": "below", "Provider.Keys": "below",
	"BedrockSettings.Region": "shape",
	"BedrockSettings.Model":  "tunable", "BedrockSettings.SmallFastModel": "tunable",
	"BedrockSettings.AccessKey": "credential", "BedrockSettings.AccessKeySecret": "credential",
	"ProviderKey.ID": "ignored", "ProviderKey.APIKey": "credential",
	"ProviderKey.CreatedAt": "ignored", "ProviderKey.UpdatedAt": "ignored",
}

func TestC1_C4_EveryFieldIsInItsClass(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, typ := range []reflect.Type{reflect.TypeFor[Provider](), reflect.TypeFor[BedrockSettings](), reflect.TypeFor[ProviderKey]()} {
		for i := range typ.NumField() {
			name := typ.Name() + "." + typ.Field(i).Name
			class, ok := fieldClasses[name]
			require.True(t, ok, "%s has no class: is it shape, credential, tunable or ignored?", name)
			seen++
			if class == "below" {
				continue
			}
			p, changed := sample(), sample()
			alter(t, &changed, typ, i)
			wantShape, wantCredential, wantTunable := class == "shape", class == "credential", class == "tunable"
			require.Equal(t, wantShape, canonicalHash(p) != canonicalHash(changed), "%s in the hash", name)
			require.Equal(t, wantShape, len(shapeDrift(p, desired{Provider: changed})) > 0, "%s drifts", name)
			fingerprint := func(Secret) string { return "" }
			require.Equal(t, wantCredential, len(credentialDifferences(p, changed, fingerprint)) > 0, "%s is a credential", name)
			require.Equal(t, wantTunable, len(tunableDifferences(p, changed)) > 0, "%s is a tunable", name)
		}
	}
	require.Equal(t, len(fieldClasses), seen, "a class for a field that is gone")
}

func sample() Provider {
	return Provider{Bedrock: &BedrockSettings{}, Keys: []ProviderKey{{}}}
}

// alter changes one field, wherever its type is in a Provider.
func alter(t *testing.T, p *Provider, typ reflect.Type, field int) {
	t.Helper()
	var v reflect.Value
	switch typ {
	case reflect.TypeFor[Provider]():
		v = reflect.ValueOf(p)
	case reflect.TypeFor[BedrockSettings]():
		v = reflect.ValueOf(p.Bedrock)
	default:
		v = reflect.ValueOf(&p.Keys[0])
	}
	switch f := v.Elem().Field(field); f.Interface().(type) {
	case Secret:
		f.Set(reflect.ValueOf(NewSecret("changed")))
	default:
		switch f.Kind() {
		case reflect.String:
			f.SetString("changed")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Array: // a uuid
			f.Index(0).SetUint(1)
		case reflect.Struct: // a time.Time
			f.Set(reflect.ValueOf(f.Interface()).Convert(f.Type()))
		default:
			t.Fatalf("alter does not know %s", f.Type())
		}
	}
}

func TestS11_BaseURLPrintsWithoutWhatCouldBeACredential(t *testing.T) {
	t.Parallel()
	long := "https://h/" + strings.Repeat("path/", 100)
	for raw, want := range map[string]string{
		"https://h/v1":                              "https://h/v1",
		"https://h/@v1":                             "https://h/@v1",
		"https://h/v1?key=hunter2&b=1":              "https://h/v1?key=****&b=****",
		"https://h/v1?hunter2==":                    "https://h/v1?****",
		"https://h/v1?hunter2=":                     "https://h/v1?****",
		"https://h?hunter2":                         "https://h?****",
		"https://h/v1?next=https://hunter2@x":       "https://h/v1?next=****",
		"https://user:hunter2@h/v1":                 "****",
		"https://user:p/hunter2@h":                  "****",
		"https://h/v1#hunter2":                      "****",
		"user:hunter2@h":                            "****",
		"h.example/v1?key=hunter2&next=https://foo": "****",
		"":               "",
		"plain":          "plain",
		"https://h/\nER": `"https://h/\nER"`,
		long:             long,
	} {
		require.Equal(t, want, MaskURL(raw), raw)
		require.NotContains(t, MaskURL(raw), "hunter2")
	}
}

// fmt does not call the methods of what is in an unexported field, and under a verb
// that a type does not take, it prints the fields.
func TestS11_PlanPrintsNoQueryWhereverItIs(t *testing.T) {
	t.Parallel()
	p := Provider{Name: "a", BaseURL: "https://h/?token=hunter2"}
	plan := diff([]desired{{Provider: p}}, map[string]*storedProvider{"a": {Provider: p}}, settlement{}, newVault(nil).fingerprint)
	for _, v := range []any{plan, *plan, plan.Steps, plan.Steps[0], &plan.Steps[0]} {
		for _, holder := range []any{v, struct{ v any }{v}, map[string]any{"k": v}, struct{ m map[string]any }{map[string]any{"k": v}}, &struct{ p *struct{ v any } }{&struct{ v any }{v}}} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%p", "%t"} {
				require.NotContains(t, fmt.Sprintf(verb, holder), "hunter2", "%T %s", v, verb)
			}
		}
	}
}

func TestR3_DriftNamesValuesAndVariable(t *testing.T) {
	t.Parallel()
	stored := Provider{Type: TypeAnthropic, BaseURL: "https://old/?k=1"}
	want := desired{
		Provider: Provider{Type: TypeAnthropic, BaseURL: "https://old/?k=2", Bedrock: &BedrockSettings{Region: "eu"}},
		variable: func(field string) string { return "X_" + field },
	}
	require.Equal(t, []FieldDrift{
		{"base URL", "https://old/?k=****", "https://old/?k=****", "X_BEDROCK_BASE_URL", "the masked part differs", ""},
		{"Bedrock region", "", "eu", "X_BEDROCK_REGION", "", ""},
	}, shapeDrift(stored, want))
}

// F6, C3: a normalised base URL is a base URL, and is normal.
func FuzzNormaliseURL(f *testing.F) {
	for _, seed := range []string{"https://API.openai.com:443/%7ev1/../x/?q=%2f", "http://[::1]:80", "https://h//.//..", "%zz", "https://%41%c3:80?%", "http://h/%%34%31"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		once := normaliseURL(raw)
		require.Equal(t, once, normaliseURL(once))
		require.Equal(t, checkBaseURL(raw) == "", checkBaseURL(once) == "")
		require.Equal(t, strings.HasSuffix(once, "/"), strings.HasSuffix(normaliseURL(once), "/"))
		_ = MaskURL(raw)
	})
}

// C1: what is taken for normal at a glance is valid, and what the long way makes of it.
func TestC1_NormalAtAGlance(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	const alphabet = "ab.-_~/09AZ:?#%@[]&= \té\x00"
	normal := 0
	for range 50_000 {
		rest := make([]byte, random.IntN(12))
		for i := range rest {
			rest[i] = alphabet[random.IntN(len(alphabet))]
			if random.IntN(2) == 0 {
				rest[i] = "a./"[random.IntN(3)]
			}
		}
		url := "https://" + string(rest)
		if !isNormalURL(url) {
			continue
		}
		normal++
		require.Empty(t, checkParsedURL(url), url)
		require.Equal(t, url, normaliseURL("HTTPS://"+string(rest)), "an upper-case scheme goes the long way")
	}
	require.Greater(t, normal, 1000)
	for _, url := range []string{"", "https://", "https:///v1", "https://host", "https://Host/", "https://host:443/", "ftp://host/", "https://host/.", "https://u@host/", "https://host/?q", "https://host/#f", "https://host/%41"} {
		require.False(t, isNormalURL(url), url)
	}
}
