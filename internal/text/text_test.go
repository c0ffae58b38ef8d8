package text

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestS10_Mask(t *testing.T) {
	t.Parallel()
	for secret, want := range map[string]string{
		"":                          "****",
		"short":                     "****",
		strings.Repeat("a", 19):     "****",
		strings.Repeat("a", 20):     "****aaaa",
		"sk-proj-1234567890-abcdef": "****cdef",
		strings.Repeat("é", 10):     "****éééé",
		strings.Repeat("\xff", 20):  "****\xff\xff\xff\xff",
	} {
		require.Equal(t, want, Mask(secret))
	}
}

func TestS11_WhatIsShownHasNoControls(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 200)
	for name, tt := range map[string]struct{ got, want string }{
		"a line break is escaped":        {Printable("a\nERROR"), `"a\nERROR"`},
		"an escape sequence":             {Printable("\x1b[2J"), `"\x1b[2J"`},
		"invalid UTF-8":                  {Printable("a\xff"), `"a\xff"`},
		"a long text is cut":             {Shorten(long), long[:100] + "…"},
		"not inside a character":         {Shorten(long[:99] + "é" + long), long[:99] + "…"},
		"a name is shown":                {Label("team-a"), "team-a"},
		"a key in its place is masked":   {Label("sk-PROJ-1234567890-abcdef"), "****cdef"},
		"another type is shown":          {Label("OpenAI"), "OpenAI"},
		"both ends of a long URL remain": {ShortenMiddle("https://host/a/b/c", 9), "http…/b/c"},
		"a short one as it is":           {ShortenMiddle("https://h", 9), "https://h"},
		"one":                            {Count(1, "key"), "1 key"},
		"two":                            {Count(2, "key"), "2 keys"},
		"nothing":                        {OrNone(""), "(none)"},
	} {
		require.Equal(t, tt.want, tt.got, name)
	}
}

func TestN5_Names(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "0-a-1", strings.Repeat("a", 255)} {
		require.True(t, IsName(name), name)
	}
	for _, name := range []string{"", "-a", "a-", "a--b", "A", "a_b", "a\n", "é", strings.Repeat("a", 256)} {
		require.False(t, IsName(name), "%q", name)
	}
}

func TestE9_FitForUse(t *testing.T) {
	t.Parallel()
	for value, problem := range map[string]string{
		"plain":       "",
		"Größe":       "",
		"a b":         "a space in it",
		"a\u00a0b":    "a space in it",
		"a\nb":        "a line break in it; want one line",
		"a\tb":        "a control character in it",
		"a\xff":       "not valid UTF-8",
		"":            "",
		"\x7f":        "a control character in it",
		"zero\u200bw": "an invisible character in it, which copying from a page can add; type the value, or paste it as plain text",
	} {
		require.Equal(t, problem, CheckWord(value), "%q", value)
	}
	require.Empty(t, Check("a b"), "people write spaces")
}

func TestE7_Near(t *testing.T) {
	t.Parallel()
	names := []string{"TYPE", "NAME", "KEY", "KEYS", "BASE_URL"}
	for s, want := range map[string]string{
		"TPYE": "TYPE", "type": "TYPE", "TYP": "TYPE", "TYPEE": "TYPE", "TIPE": "TYPE", "BASEURL": "BASE_URL", "KYE": "KEY", "BASE_ULR": "BASE_URL",
		"KEYSS": "KEYS", "KEYX": "", "TOKEN": "", "": "", "TP": "", "NAMES": "NAME", "T": "",
	} {
		require.Equal(t, want, Near(s, names), "%q", s)
	}
}
