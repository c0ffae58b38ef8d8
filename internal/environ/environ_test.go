package environ

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// E9: keys of every vendor pass, in the shapes that documentation and tools show.
func TestE9_RealKeysPass(t *testing.T) {
	t.Parallel()
	var shapes []struct{ Vendor, Pattern string }
	raw, err := os.ReadFile("testdata/keys.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &shapes))
	require.Greater(t, len(shapes), 40)
	for _, shape := range shapes {
		for seed := range 5 {
			key := rapid.StringMatching(shape.Pattern).Example(seed)
			require.Empty(t, CheckSecret(key, ""), "%s %s", shape.Vendor, key)
			require.Empty(t, CheckSecretFile(key), "%s %s", shape.Vendor, key)
			require.False(t, IsPlaceholder(key), "%s %s", shape.Vendor, key)
		}
	}
}

func TestE9_SecretsThatCannotBeRight(t *testing.T) {
	t.Parallel()
	const key = "sk-proj-9aZbYcXdWeVfUgThSiRj"
	for value, problem := range map[string]string{
		`"` + key + `"`: "in quotes", `'` + key + `'`: "in quotes", "“" + key + "”": "in quotes", "`" + key + "`": "in quotes", `"` + key: "in quotes",
		key + `"`: "in quotes", `"` + key + "\"\n": "in quotes", "«" + key + "»": "in quotes",
		"${OPENAI_API_KEY}": "template", "$(cat /run/secret)": "template", "{{ .Values.key }}": "template", "<your key>": "template", "%OPENAI_KEY%": "template",
		"$OPENAI_API_KEY": "template", "$env:OPENAI_API_KEY": "template", "sk-${SUFFIX}": "template", "<nil>": "template", "${{ secrets.KEY }}": "template",
		"op://vault/openai/key": "template", "@Microsoft.KeyVault(SecretUri=https://v.example/)": "template", "arn:aws:secretsmanager:us-east-1:1:secret:x": "template",
		`{"OPENAI_API_KEY":"` + key + `"}`: "JSON", `["` + key + `"]`: "JSON", `{`: "", "[]": "JSON", "[a]": "JSON", "[a,b]": "JSON", "${X": "template", "arn:aws-us-gov:secretsmanager:x": "template", `{ "a": 1 }`: "JSON", `{\"a\":1}`: "JSON",
		"OPENAI_API_KEY=" + key: "assignment", "export KEY=" + key: "assignment", "A = b": "assignment", "QUJDREVG==": "", "lower=" + key: "",
		"a,b": "several secrets go into X_KEYS, with a comma between", "a;b": "a semicolon in it",
		key + "\u200b": "invisible", "\ufeff" + key: "invisible", key[:8] + "\u00ad" + key[8:]: "invisible", key + "\u2060": "invisible", "a\ufe0fb": "invisible",
		key + "\n": "line break at its end", "a\nb": "a line break in it", key + "\r": "Windows line end", "a\r\nb": "Windows line end", "a\tb": "control character",
		"a b": "a space", "a\u00a0b": "a space", "sk–proj": "outside ASCII", "naïve": "outside ASCII", "a\xff": "UTF-8",
		"****": "mask", "****iRj9": "mask", "****iRj90": "", "": "empty", strings.Repeat("k", 8<<10+1): "8 KiB", key: "",
	} {
		got := CheckSecret(value, "X_KEYS")
		if problem == "" {
			require.Empty(t, got, "%q", value)
			continue
		}
		require.Contains(t, got, problem, "%q", value)
		for i := 0; i+8 <= len(key); i++ {
			require.NotContains(t, got, key[i:i+8], "nothing of it is quoted")
		}
	}
	require.Contains(t, CheckSecret("a,b", ""), "want one secret", "where there is no plural")
}

func TestE9_SecretsInFiles(t *testing.T) {
	t.Parallel()
	for contents, problem := range map[string]string{
		"internal,token-0123456789": "", `"quoted"`: "", "a;b": "", "${x}": "", "<x>": "",
		"{\n \"a\": \"b\"\n}": "JSON", `["a"]`: "JSON", "A=b\nC=d": "assignment", "export A=b": "assignment", "# comment\nA=b": "several lines", "a\nb": "several lines", "a\r\nb": "several lines",
		"\ufeffa": "byte-order mark", "a\n": "line break", "a b": "a space", "ä": "ASCII", "****": "mask", "key": "",
	} {
		got := CheckSecretFile(contents)
		if problem == "" {
			require.Empty(t, got, "%q", contents)
			continue
		}
		require.Contains(t, got, problem, "%q", contents)
	}
}

func TestE9_RegionsAndModels(t *testing.T) {
	t.Parallel()
	for value, problem := range map[string]string{
		"us-east-1": "", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0": "", "arn:aws:bedrock:us-east-1:1:inference-profile/x": "", "a,b": "", "größe": "",
		`"us-east-1"`: "quotes", "${AWS_REGION}": "template", "$AWS_REGION": "template", "us east": "space", "us-east-1\u200b": "invisible", "us-east-1\r": "Windows",
	} {
		if problem == "" {
			require.Empty(t, CheckWord(value), "%q", value)
			continue
		}
		require.Contains(t, CheckWord(value), problem, "%q", value)
	}
}

func TestE9_TemplatesInURLs(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"https://$HOST/v1", "https://${HOST}/v1", "https://h/{{ .path }}"} {
		require.True(t, IsTemplateURL(url, false), url)
	}
	for _, url := range []string{"https://%HOST%/", "https://{resource}.openai.azure.com/"} {
		require.True(t, IsTemplateURL(url, true), url)
		require.False(t, IsTemplateURL(url, false), url)
	}
	for _, url := range []string{"https://h/%AB%CD/", "https://h:443/v1", "https://h/a$b", "https://h/{id}"} {
		require.False(t, IsTemplateURL(url, false), url)
	}
}

func TestE12_Placeholders(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{
		"changeme", "CHANGE_ME", "your-api-key", "YOUR_OPENAI_API_KEY", "sk-...", "sk-xxxxxxxx", "REPLACE_ME", "null", "None", "todo", "...", "xxx", "***", "sk-your-key-here",
		"insert-key-here", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "placeholder", "sk-ant-...", "replace-with-your-key",
	} {
		require.True(t, IsPlaceholder(secret), secret)
	}
	for _, secret := range []string{"AKIAQ7ZT5N2LEXAMPLE1", "sk-1234", "ollama", "token-abc123", "", "sk-proj-9aZbYcXdWeVfUgThSiRj", "youresoclever", "k1"} {
		require.False(t, IsPlaceholder(secret), secret)
	}
}

func TestE1_Prefixes(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"A_", "CODER_AIBRIDGE_", "_", "a1_", "_A_"} {
		require.True(t, IsPrefix(prefix), prefix)
	}
	for _, prefix := range []string{"", "A", "1_", "A-B_", "A _", "Ä_", "A_=", "A.B_"} {
		require.False(t, IsPrefix(prefix), "%q", prefix)
	}
}

func TestE13_ServiceLinks(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"PROVIDER_SERVICE_HOST": "10.0.0.1", "PROVIDER_SERVICE_PORT": "80", "PROVIDER_SERVICE_PORT_HTTP": "80", "PROVIDER_PORT": "tcp://10.0.0.1:80",
		"PROVIDER_PORT_80_TCP": "tcp://10.0.0.1:80", "PROVIDER_PORT_80_TCP_PROTO": "tcp", "PROVIDER_PORT_80_TCP_PORT": "80", "PROVIDER_PORT_80_TCP_ADDR": "10.0.0.1",
		"OPENAI_PORT_53_UDP": "udp://10.0.0.1:53", "PROVIDER_0_PORT": "sctp://10.0.0.1:80",
	} {
		require.True(t, isServiceLink(name, value), name)
	}
	for name, value := range map[string]string{"PROVIDER_PORT": "80", "PROVIDER_0_TYPE": "openai", "OPENAI_BASE_URL": "https://h/", "PROVIDER_PORT_TCP": "x", "PROVIDER_TCP": "x"} {
		require.False(t, isServiceLink(name, value), name)
	}
}

var someNames = Names{
	Plain: map[string]bool{"OPENAI_KEY": true}, Group: "PROVIDER_", Fields: map[string]bool{"TYPE": true, "KEY": true}, Groups: []string{"OPENAI_"},
}

func TestE7_E12_NamesThatAreNearlyOurs(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Stray{
		"\ufeffA_OPENAI_KEY":          {Kind: Misnamed, Meant: "A_OPENAI_KEY", Wrong: "a byte-order mark"},
		"export A_OPENAI_KEY":         {Kind: Misnamed, Meant: "A_OPENAI_KEY", Wrong: `"export" before it`},
		"declare -x A_OPENAI_KEY":     {Kind: Misnamed, Meant: "A_OPENAI_KEY", Wrong: `"declare -x" before it`},
		"  A_PROVIDER_0_TYPE":         {Kind: Misnamed, Meant: "A_PROVIDER_0_TYPE", Wrong: "white space"},
		"A_OPENAI_KEY ":               {Kind: Misnamed, Meant: "A_OPENAI_KEY", Wrong: "white space"},
		"a_openai_key":                {Kind: Misnamed, Meant: "A_OPENAI_KEY", Wrong: "its prefix in other letters"},
		"A_PROVIDERS_0_TYPE":          {Kind: Misnamed, Meant: "A_PROVIDER_0_TYPE", Wrong: "PROVIDERS_ in place of PROVIDER_"},
		"A_PROVIDER0_TYPE":            {Kind: Misnamed, Meant: "A_PROVIDER_0_TYPE", Wrong: "no underscore"},
		"A_PROVIDER_0_Type":           {Kind: OtherLetters, Meant: "A_PROVIDER_0_TYPE"},
		"A_openai_key":                {Kind: OtherLetters, Meant: "A_OPENAI_KEY"},
		"A_PROVIDER_0_TPYE":           {Kind: Unknown, Meant: "A_PROVIDER_0_TPYE"},
		"A_OPENAI_TOKEN":              {Kind: Unknown, Meant: "A_OPENAI_TOKEN"},
		"export A_PROVIDER_0_API_KEY": {Kind: Unknown, Meant: "A_PROVIDER_0_API_KEY", Wrong: `"export" before it`},
		"a_openai_kye":                {Kind: Unknown, Meant: "A_OPENAI_KYE", Wrong: "its prefix in other letters"},
		"\ufeffA_OPENAI_APIKEY":       {Kind: Unknown, Meant: "A_OPENAI_APIKEY", Wrong: "a byte-order mark"},
		"A_PROVIDERS_0_API_KEY":       {Kind: Unknown, Meant: "A_PROVIDER_0_API_KEY", Wrong: "PROVIDERS_ in place of"},
		"A_PROVIDER0_API_KEY":         {Kind: Unknown, Meant: "A_PROVIDER_0_API_KEY", Wrong: "no underscore"},
		"A_Provider_0_API_KEY":        {Kind: Unknown, Meant: "A_PROVIDER_0_API_KEY"},
		"A_openai_kye":                {Kind: Unknown, Meant: "A_OPENAI_KYE"},
		"A_PROVIDERS_CACHE_SIZE":      {Kind: -1},
		"A_OPEANI_KEY":                {Kind: Unknown, Meant: "A_OPEANI_KEY"},
		"A_OPENAIKEY":                 {Kind: Unknown, Meant: "A_OPENAIKEY"},
		" A_opnai_key":                {Kind: Unknown, Meant: "A_OPNAI_KEY", Wrong: "white space"},
		"A_PROVIDR_0_TYPE":            {Kind: Misnamed, Meant: "A_PROVIDER_0_TYPE", Wrong: "PROVIDR_ in place of PROVIDER_"},
		"A_PORVIDER_12_KEY":           {Kind: Misnamed, Meant: "A_PROVIDER_12_KEY", Wrong: "PORVIDER_ in place of PROVIDER_"},
		"A_PROVIDE_0_API_KEY":         {Kind: Unknown, Meant: "A_PROVIDER_0_API_KEY", Wrong: "PROVIDE_ in place of"},
		"A_PROVIDED_BY":               {Kind: -1},
		"A_OPEN_KEY":                  {Kind: -1},
		"A_PROVIDER_X_TYPE":           {Kind: BadIndex},
		"A_PROVIDER_01_TYPE":          {Kind: BadIndex},
		"A_PROVIDER_0":                {Kind: NoField},
		"A_ENABLED":                   {Kind: -1},
		"A_PROXY_URL":                 {Kind: -1},
		"A_PROVIDER":                  {Kind: -1},
		"A_PROVIDERS":                 {Kind: -1},
		"A_DUMP_DIR":                  {Kind: -1},
		"PATH":                        {Kind: -1},
		"export A_ENABLED":            {Kind: -1},
		"a_enabled":                   {Kind: -1},
		"setting":                     {Kind: -1},
		"AA_OPENAI_KEY":               {Kind: -1},
		"A_CIRCUIT_BREAKER_ENABLE":    {Kind: -1},
	} {
		c := Collect([]string{name + "=x", "HOME=/"}, Prefixes{"A_"}, someNames)
		if want.Kind < 0 {
			require.Empty(t, c.Strays, "%q", name)
			continue
		}
		require.Len(t, c.Strays, 1, "%q", name)
		got := c.Strays[0]
		require.Equal(t, []any{name, want.Kind, want.Meant}, []any{got.Full, got.Kind, got.Meant}, "%q", name)
		require.Contains(t, got.Wrong, want.Wrong, "%q", name)
		require.Empty(t, c.Plain)
	}
}

func TestE1_TheLongestPrefixCounts(t *testing.T) {
	t.Parallel()
	c := Collect([]string{"A_B_OPENAI_KEY=x", "A_OPENAI_KEY=y", "A_B_PROVIDER_0_TYPE=openai"}, Prefixes{"A_", "A_B_"}, someNames)
	require.Equal(t, []string{"A_B_OPENAI_KEY", "A_OPENAI_KEY"}, c.Plain.Set(""))
	require.Equal(t, "A_B_", c.Prefix, "that of the indexed variables")
	require.Equal(t, "A_B_PROVIDER_0_", c.Indexed[0].Stem)
}

func TestF5_S11_NamesShowNoValue(t *testing.T) {
	t.Parallel()
	for full, want := range map[string]string{
		"A_OPENAI_KEY: c2VjcmV0c2VjcmV0": "A_OPENAI_KEY…", "export A_OPENAI_KEY sk-aaaa-bbbb": "export A_OPENAI_KEY…",
		"A_PROVIDER_sk-proj-AAAABBBB_KEY": "A_PROVIDER_sk…", "A_OPENAI_KEY ": "A_OPENAI_KEY ", "declare -x A_OPENAI_KEY": "declare -x A_OPENAI_KEY",
		"A_PROVIDER_+1_TYPE": "A_PROVIDER_+1_TYPE", "\ufeffA_OPENAI_KEY": `"\ufeffA_OPENAI_KEY"`, "": "",
	} {
		require.Equal(t, want, ShowName(full), "%q", full)
	}
}
