package baseurl

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

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
			require.Equal(t, tt.want, Normalise(tt.raw))
			require.Equal(t, tt.want, Normalise(tt.want), "idempotent")
		})
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
		require.Equal(t, want, Mask(raw), raw)
		require.NotContains(t, Mask(raw), "hunter2")
	}
}

// F6, C3: a normalised base URL is a valid base URL, and is in normal form.
func FuzzBaseURL(f *testing.F) {
	for _, seed := range []string{"https://API.openai.com:443/%7ev1/../x/?q=%2f", "http://[::1]:80", "https://h//.//..", "%zz", "https://%41%c3:80?%", "http://h/%%34%31"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		once := Normalise(raw)
		require.Equal(t, once, Normalise(once))
		if Check(raw) == "" { // it takes away an empty port, which Check refuses
			require.Empty(t, Check(once))
		}
		require.Equal(t, strings.HasSuffix(once, "/"), strings.HasSuffix(Normalise(once), "/"))
		_ = Mask(raw)
	})
}

// C1: a URL that the fast check accepts as normal is valid, and the full normalisation does
// not change it.
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
		if !IsNormal(url) {
			continue
		}
		normal++
		require.Empty(t, checkParsed(url), url)
		require.Equal(t, url, Normalise("HTTPS://"+string(rest)), "an upper-case scheme goes the long way")
	}
	require.Greater(t, normal, 500)
	for _, url := range []string{"", "https://", "https:///v1", "https://host", "https://Host/", "https://host:443/", "ftp://host/", "https://host/.", "https://u@host/", "https://host/?q", "https://host/#f", "https://host/%41"} {
		require.False(t, IsNormal(url), url)
	}
}

func TestE9_BaseURLs(t *testing.T) {
	t.Parallel()
	for raw, problem := range map[string]string{
		"": "", "https://h": "", "HTTPS://H:443/v1": "", "http://vllm.models.svc.cluster.local:8000/v1": "", "http://[::1]:8080/v1": "", "https://h_1/": "", "http://10.0.0.1/": "",
		"https://my-deployment.openai.azure.com/openai/v1/?api-version=2024-10-21": "", "https://h/?u=https://x": "", "https://h/a,b;c": "", "https://bücher.example/": "",
		"https://h:0/": "port", "https://h:99999/v1": "port", "https://h:/v1": "port", "https://h:65535/": "", "https://h:65536/": "port", "https://h:port/": "not a URL",
		"https://a..b/": "empty label", "https://.a/": "empty label", "https://a./": "empty label", "https://./": "empty label",
		"https://https://h.example/v1": "whose host is a scheme", "http://http/": "whose host is a scheme", "https://HTTP/": "whose host is a scheme",
		"https://a.example/v1;https://b.example/v1": "one URL", "https://a/, https://b/": "one URL", "https://a/ https://b/": "one URL", "https://a,b/": "one URL", "https://a;b/": "one URL",
		"http://[fe80::1%25eth0]:8080/v1": "zone", "http://[fe80::1%eth0]/": "zone", "http://fe80::1/": "brackets", "http://[::1": "brackets",
		`"https://h/"`: "quotation mark", `https://h/"`: "quotation mark", "‘https://h’": "quotation mark", "https://h/'x'": "quotation mark",
		"https://h/\u200b": "invisible", "\ufeffhttps://h/": "invisible", "https://h/\n": "line break", "https://h/\r": "line end", " https://h/": "a space", "https://h/ ": "a space", "https://h/ x": "a space",
		"https://h/?token=****": "mask", "https://h/?token=****abcd": "mask", "https://h/?k=%2A%2a**": "mask", "h.example/v1": "absolute", "ftp://h/": "absolute", "https://u:p@h/": "user info", "https://h/#": "fragment",
	} {
		if problem == "" {
			require.Empty(t, Check(raw), "%q", raw)
			continue
		}
		require.Contains(t, Check(raw), problem, "%q", raw)
	}
}
