package aiseed

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The vectors are frozen: a change here makes each token that an operator has set invalid.
func TestC2_FrozenVectors(t *testing.T) {
	t.Parallel()
	var vectors []struct {
		Type, BaseURL, Region string
		Bedrock               bool // it has Bedrock settings; one with a region has them anyway
		Encoding              string
		SHA256                string
	}
	raw, err := os.ReadFile("testdata/canonical.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &vectors))
	require.NotEmpty(t, vectors)
	for _, v := range vectors {
		p := Provider{Type: ProviderType(v.Type), BaseURL: v.BaseURL}
		if v.Region != "" || v.Bedrock {
			p.Bedrock = &BedrockSettings{Region: v.Region}
		}
		require.Equal(t, v.Encoding, string(canonicalEncoding(p)))
		hash := canonicalHash(p)
		require.Equal(t, v.SHA256, hex.EncodeToString(hash[:]))
	}
}

func TestC2_DifferentShapesEncodeDifferently(t *testing.T) {
	t.Parallel()
	a := Provider{Type: "bedrock", BaseURL: "ab", Bedrock: &BedrockSettings{Region: "c"}}
	b := Provider{Type: "bedrock", BaseURL: "a", Bedrock: &BedrockSettings{Region: "bc"}}
	require.NotEqual(t, canonicalEncoding(a), canonicalEncoding(b))
}

// C4: a new field has to be classified here. The tests below then check its class.
var fieldClasses = map[string]string{
	"Provider.ID": "ignored", "Provider.Type": "shape", "Provider.Name": "ignored",
	"Provider.DisplayName": "ignored", "Provider.Enabled": "ignored", "Provider.BaseURL": "shape",
	"Provider.Revision": "ignored", "Provider.CreatedAt": "ignored", "Provider.UpdatedAt": "ignored",
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
			list := differences(p, changed, plain.shown)
			tunable := slices.ContainsFunc(list, func(d difference) bool { return d.field == fieldBedrockModel || d.field == fieldBedrockSmallFastModel })
			require.Equal(t, wantTunable, tunable, "%s is a tunable", name)
			require.Equal(t, wantCredential, len(list) > 0 && !tunable, "%s is a credential", name)
		}
	}
	require.Equal(t, len(fieldClasses), seen, "a class for a field that is gone")
}

// plain are fingerprints that show the secret.
var plain = fingerprints{Secret.Reveal, []func(Secret) string{Secret.Reveal}}

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
		case reflect.Int64:
			f.SetInt(7)
		case reflect.Array: // a uuid
			f.Index(0).SetUint(1)
		case reflect.Struct: // a time.Time
			f.Set(reflect.ValueOf(f.Interface()).Convert(f.Type()))
		default:
			t.Fatalf("alter does not know %s", f.Type())
		}
	}
}

// fmt does not call the methods of a value in an unexported field. Under a verb that a type
// does not support, it prints the fields.
func TestS11_PlanPrintsNoQueryWhereverItIs(t *testing.T) {
	t.Parallel()
	p := Provider{Name: "a", BaseURL: "https://h/?token=hunter2"}
	plan := diff([]desired{{Provider: p}}, map[string]*storedProvider{"a": {Provider: p}}, nil, settlement{}, newVault(nil).fingerprints())
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
		{"type", "anthropic", "anthropic with Bedrock settings", "X_BEDROCK_REGION", "", ""},
		{"base URL", "https://old/?k=****", "https://old/?k=****", "X_BEDROCK_BASE_URL", "the masked part differs", ""},
		{"Bedrock region", "", "eu", "X_BEDROCK_REGION", "", ""},
	}, shapeDrift(stored, want))
}
