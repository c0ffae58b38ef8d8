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
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/seal"
	"example.com/aiseed/internal/text"
)

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
	require.Equal(t, v["lock keys"], fmt.Sprintf("%d\n%d", s.lockKey(), s.deliveryLockKey()))
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
