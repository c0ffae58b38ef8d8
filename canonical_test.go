package aiseed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/seal"
	"example.com/aiseed/internal/text"
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

// formatVectors are the frozen examples that docs/format.md prints.
func formatVectors(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("testdata/format.json")
	require.NoError(t, err)
	vectors := map[string]string{}
	require.NoError(t, json.Unmarshal(raw, &vectors))
	return vectors
}

// unfold joins the lines of a value that is too long for one.
func unfold(text string) string { return strings.ReplaceAll(text, "\n", "") }

// encoded are the bytes of an example that shows each field on a line, after its length in hex.
func encoded(t *testing.T, lines string) []byte {
	t.Helper()
	var out []byte
	for _, line := range strings.Split(lines, "\n") {
		length, field, _ := strings.Cut(line, " ")
		n, err := strconv.ParseUint(length, 16, 64)
		require.NoError(t, err)
		require.Len(t, field, int(n), line)
		out = append(binary.AppendUvarint(out, n), field...)
	}
	return out
}

func TestS2_C2_TheFormatPageShowsTheVectors(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/format.md")
	require.NoError(t, err)
	shown := map[string]string{}
	marked := regexp.MustCompile("(?s)<!-- vector: ([^\n]+) -->\n```[a-z]*\n(.*?)\n```\n")
	for _, block := range marked.FindAllStringSubmatch(string(page), -1) {
		require.NotContains(t, shown, block[1], "shown twice")
		shown[block[1]] = block[2]
	}
	require.Equal(t, formatVectors(t), shown)
}

func TestS2_S3_S4_S9_FrozenValuesCanBeDecrypted(t *testing.T) {
	t.Parallel()
	v := formatVectors(t)
	ring, err := ParseKeyring(v["keyring"])
	require.NoError(t, err)
	require.Equal(t, v["key ids"], strings.Join(ring.IDs(), "\n"))
	require.Equal(t, v["fingerprint"], newVault(ring).fingerprint(NewSecret("a")))
	key := ring.keys[0]
	require.True(t, key.OpensCanary(v["sealed canary"]))

	// The page is enough to decrypt a value without the library.
	derived, err := hkdf.Key(sha256.New, testKey(1), nil, "aiseed v1 seal", 32)
	require.NoError(t, err)
	block, err := aes.NewCipher(derived)
	require.NoError(t, err)
	gcm, err := cipher.NewGCMWithRandomNonce(block) // the nonce comes first; FIPS-only mode refuses NewGCM
	require.NoError(t, err)

	provider := testCell().Provider
	for name, tt := range map[string]struct {
		cell      seal.Cell
		plaintext string
	}{
		"api_key":  {testCell(), "frozen"},
		"settings": {settingsCell(provider), unfold(v["settings"])},
		"canary":   {seal.Cell{Table: "ai_encryption_keys", Column: "canary", Row: key.ID}, "aiseed canary"},
	} {
		stored := unfold(v["sealed "+name])
		plaintext, ok := key.Open(tt.cell, stored)
		require.True(t, ok, name)
		require.Equal(t, tt.plaintext, plaintext)

		associated := encoded(t, v["associated data of "+name])
		sealed, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(stored, "aiseed:v1:"))
		require.NoError(t, err)
		opened, err := gcm.Open(nil, nil, sealed, associated)
		require.NoError(t, err, name)
		require.Equal(t, tt.plaintext, string(opened))
	}
	settings, err := newVault(ring).openSettings(provider, storedText{text: unfold(v["sealed settings"]), keyID: &key.ID})
	require.NoError(t, err)
	want := BedrockSettings{Region: "eu", Model: "m", SmallFastModel: "s"}
	want.AccessKey, want.AccessKeySecret = NewSecret("AKIA"), NewSecret("secret")
	require.Equal(t, want, *settings)
}

func TestC2_O3_L1_FrozenShapeTokenAndLockKeys(t *testing.T) {
	t.Parallel()
	v := formatVectors(t)
	p := Provider{Type: TypeOpenAI, BaseURL: "https://api.openai.com/v1/", Keys: []ProviderKey{{}}}
	require.Equal(t, "aiseed shape v1\n"+string(encoded(t, v["shape"])), string(canonicalEncoding(p)))
	hash := canonicalHash(p)
	require.Equal(t, v["hash of the shape"], hex.EncodeToString(hash[:]))
	hash = canonicalHash(Provider{Type: TypeOpenAI, BaseURL: "https://gateway.example/" + strings.Repeat("a", 110)})
	require.Equal(t, v["hash of a long shape"], hex.EncodeToString(hash[:]))

	p.ID = uuid.MustParse("455fb842-5f9d-4598-b9ab-6204fd930d59")
	p.Keys[0] = ProviderKey{ID: uuid.MustParse("7d444840-9dc0-11d1-b245-5ffdce74fad2"), APIKey: NewSecret("stored")}
	want := desired{Provider: Provider{Type: TypeOpenAI, BaseURL: "https://proxy.example/v1", Keys: []ProviderKey{{APIKey: NewSecret("wanted")}}}}
	p.Revision = 1
	row := &storedProvider{Provider: p}
	target := want.adoptedBy(p, true)
	token := "openai@" + digests(row, want.Provider, target, newVault(nil).fingerprints().bound)[0]
	require.Equal(t, v["token"], token)
	require.Regexp(t, tokenPattern, token)

	s := &database{schema: "public"}
	require.Equal(t, LockKey("public"), LockKey(""))
	require.Equal(t, v["lock keys"], fmt.Sprintf("%d\n%d", LockKey(s.schema), s.deliveryLockKey()))
}

func TestS10_A1_FrozenMasksAndAuditValues(t *testing.T) {
	t.Parallel()
	v := formatVectors(t)
	for name, mask := range map[string]func(string) string{"masks": text.Mask, "masks of base URLs": MaskURL} {
		for _, line := range strings.Split(v[name], "\n") {
			both := strings.Fields(line)
			require.Equal(t, both[1], mask(both[0]))
		}
	}
	p := Provider{Type: TypeAnthropic, Name: "aws", DisplayName: "AWS", Enabled: true, BaseURL: "https://h/?token=hunter2"}
	p.Bedrock = &BedrockSettings{Region: "eu", Model: "m", SmallFastModel: "s"}
	p.Bedrock.AccessKey, p.Bedrock.AccessKeySecret = NewSecret("AKIAEXAMPLE0123456789"), NewSecret("secret")
	require.JSONEq(t, v["audit of a provider"], string(pg.JSON(valuesOf(p))))
	require.JSONEq(t, v["audit of a key"], string(pg.JSON(auditedKey(0, NewSecret("12345678901234567890")))))
	old, new, _ := strings.Cut(v["audit of a deletion"], "\n")
	var rows []struct{ Old, New json.RawMessage }
	require.NoError(t, json.Unmarshal((&Store{}).flip("", AuditDelete, p, "deleted", true).queries[1].Args[0], &rows))
	require.JSONEq(t, old, string(rows[0].Old))
	require.JSONEq(t, new, string(rows[0].New))
}
