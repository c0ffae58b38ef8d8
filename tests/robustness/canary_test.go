package robustness

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	cdrslog "cdr.dev/slog/v3"
	"cdr.dev/slog/v3/sloggers/sloghuman"
	"cdr.dev/slog/v3/sloggers/slogjson"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/stdslog"
)

// A canary is a secret that must not appear anywhere.
type canary struct {
	name, value string
	inURL       bool // in the query of a base URL, which the tables hold as it was written
}

// canaryNames are the secrets of a world, with their lengths.
var canaryNames = []struct {
	name   string
	length int
}{
	{"legacy OpenAI key", 40},
	{"ignored Anthropic key", 19},
	{"Bedrock access key", 20},
	{"Bedrock access key secret", 41},
	{"first listed key", 8},
	{"second listed key", 9},
	{"third listed key", 21},
	{"fourth listed key", 164},
	{"fifth listed key", 1000},
	{"second Bedrock access key", 23},
	{"second Bedrock secret", 64},
	{"unused Bedrock access key", 24},
	{"unused Bedrock secret", 13},
	{"key of a file", 51},
	{"key of a type that is not supported", 31},
	{"divergent key", 33},
	{"created key", 6},
	{"added key", 18},
	{"updated access key", 22},
	{"updated secret", 48},
	{"password of the server", 27},
	{"URL legacy", 20},
	{"URL indexed", 14},
	{"URL Bedrock", 38},
	{"URL updated", 26},
}

type canaries []canary

// newCanaries makes secrets that look different in each encoding. E9 refuses some characters,
// and some others at either end.
func newCanaries(random *rand.Rand) canaries {
	const (
		letters    = "abcdefghijklmnopqrstuvwxyz"
		characters = letters + `ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=%&+/=%&<\~!*()[]@:?^|_-.$#"'`
	)
	var all canaries
	for _, n := range canaryNames {
		c := canary{name: n.name, inURL: strings.HasPrefix(n.name, "URL ")}
		value := make([]byte, n.length)
		for i := range value {
			from := characters
			if i == 0 || i == len(value)-1 {
				from = letters
			}
			value[i] = from[random.IntN(len(from))]
		}
		// "$(" and ")" would be a template.
		c.value = strings.NewReplacer("$(", "$$").Replace(string(value))
		all = append(all, c)
	}
	return all
}

// keyring makes keyrings of random keys. Each keyring has one more key in front than the
// one before. The keys and everything that is derived from them are canaries too.
func (c *canaries) keyring(t *testing.T, random *rand.Rand, keys int) (rings []*aiseed.Keyring, raw [][]byte) {
	t.Helper()
	for i := range keys {
		raw = slices.Insert(raw, 0, randomKey(random))
		ring, err := aiseed.NewKeyring(raw[0], raw[1:]...)
		require.NoError(t, err)
		rings = append(rings, ring)
		*c = append(*c, canary{name: fmt.Sprintf("key %d of the keyring", i), value: string(raw[0])})
		for _, purpose := range []string{"seal", "fingerprint"} {
			derived, err := hkdf.Key(sha256.New, raw[0], nil, "aiseed v1 "+purpose, aiseed.KeySize)
			require.NoError(t, err)
			*c = append(*c, canary{name: fmt.Sprintf("key %d of the keyring, derived to %s", i, purpose), value: string(derived)})
		}
	}
	return rings, raw
}

func (c canaries) value(name string) string {
	return c[slices.IndexFunc(c, func(c canary) bool { return c.name == name })].value
}

// inQuery is a base URL with a canary in its query.
func (c canaries) inQuery(host, name string) string {
	return "https://" + host + ".example/v1?region=eu&token=" + url.QueryEscape(c.value(name)) + "&b="
}

// environ has a canary wherever a secret can be. keyFile has to contain "key of a file".
func (c canaries) environ(keyFile string) []string {
	lines := []string{
		"OPENAI_KEY=" + c.value("legacy OpenAI key"),
		"OPENAI_BASE_URL=" + c.inQuery("legacy", "URL legacy"),
		"ANTHROPIC_KEY=" + c.value("ignored Anthropic key"),
		"BEDROCK_ACCESS_KEY=" + c.value("Bedrock access key"),
		"BEDROCK_ACCESS_KEY_SECRET=" + c.value("Bedrock access key secret"),
		"BEDROCK_REGION=eu-west-1",
		"PROVIDER_0_TYPE=openai",
		"PROVIDER_0_NAME=listed",
		"PROVIDER_0_KEYS=" + c.value("first listed key") + ", " + c.value("second listed key") + "," + c.value("third listed key") + "," + c.value("fourth listed key") + "," + c.value("fifth listed key"),
		"PROVIDER_0_BASE_URL=" + c.inQuery("indexed", "URL indexed"),
		"PROVIDER_1_TYPE=anthropic",
		"PROVIDER_1_NAME=pairs",
		"PROVIDER_1_BEDROCK_ACCESS_KEYS=" + c.value("second Bedrock access key") + "," + c.value("unused Bedrock access key"),
		"PROVIDER_1_BEDROCK_ACCESS_KEY_SECRETS=" + c.value("second Bedrock secret") + "," + c.value("unused Bedrock secret"),
		"PROVIDER_1_BEDROCK_BASE_URL=" + c.inQuery("bedrock", "URL Bedrock"),
		"PROVIDER_2_TYPE=openai",
		"PROVIDER_2_NAME=filed",
		"PROVIDER_2_KEY_FILE=" + keyFile,
		"PROVIDER_3_TYPE=cohere",
		"PROVIDER_3_NAME=later",
		"PROVIDER_3_KEY=" + c.value("key of a type that is not supported"),
	}
	for i, line := range lines {
		lines[i] = aiseed.DefaultPrefix + line
	}
	return lines
}

// forms returns the ways in which a part of a secret can be encoded: the name and the text
// of each.
func forms(part []byte) (out [][2]string) {
	asHex := hex.EncodeToString(part)
	quoted := func(s string) string { return s[1 : len(s)-1] }
	asJSON, _ := json.Marshal(string(part))
	var asXML bytes.Buffer
	_ = xml.EscapeText(&asXML, part)
	var withComma []string
	for _, b := range part {
		withComma = append(withComma, fmt.Sprintf("%#x", b))
	}
	out = [][2]string{
		{"as it is", string(part)},
		{"in hex", asHex},
		{"in upper-case hex", strings.ToUpper(asHex)},
		{"in spaced hex", fmt.Sprintf("% x", part)},
		{"as Go's hex bytes", strings.Join(withComma, ", ")},
		{"as bytes", strings.Trim(fmt.Sprint(part), "[]")},
		{"as JSON's bytes", strings.ReplaceAll(strings.Trim(fmt.Sprint(part), "[]"), " ", ",")},
		{"encoded for a URL", url.QueryEscape(string(part))},
		{"encoded for a path", url.PathEscape(string(part))},
		{"quoted by Go", quoted(fmt.Sprintf("%q", part))},
		{"quoted in ASCII", quoted(fmt.Sprintf("%+q", part))},
		{"escaped in JSON", quoted(string(asJSON))},
		{"escaped in XML", asXML.String()},
		{"quoted in SQL", strings.ReplaceAll(string(part), "'", "''")},
	}
	for shift, skip := range []int{0, 2, 3} { // only the digits that depend on nothing but the part
		padded := append(make([]byte, shift), part...)
		digits := len(padded) * 8 / 6
		out = append(out, [2]string{fmt.Sprintf("in base64, shifted by %d", shift), base64.RawStdEncoding.EncodeToString(padded)[skip:digits]},
			[2]string{fmt.Sprintf("in URL-safe base64, shifted by %d", shift), base64.RawURLEncoding.EncodeToString(padded)[skip:digits]})
	}
	return out
}

// A search looks for canaries in megabytes of text, in one pass.
type search struct {
	starts [1 << 20]bool          // of a hash of the first 4 bytes
	forms  map[uint32][]foundForm // by those
}

type foundForm struct{ text, canary, form string }

const partLength = 8

func newSearch(all canaries) *search {
	s := &search{forms: map[uint32][]foundForm{}}
	seen := map[string]bool{}
	for _, c := range all {
		for i := 0; i == 0 || i+partLength <= len(c.value); i++ {
			for _, f := range forms([]byte(c.value[i:min(i+partLength, len(c.value))])) {
				form, text := f[0], f[1]
				if seen[text] {
					continue
				}
				seen[text] = true
				start := binary.LittleEndian.Uint32([]byte(text))
				s.starts[startHash(start)] = true
				s.forms[start] = append(s.forms[start], foundForm{text, c.name, form})
			}
		}
	}
	return s
}

func startHash(start uint32) uint32 { return start * 2654435769 >> 12 }

// find returns an error that says what it found, or nil.
func (s *search) find(where string, text []byte) error {
	var start uint32
	for end, b := range text {
		start = start>>8 | uint32(b)<<24 // the last 4 bytes
		i := end - 3
		if i < 0 || !s.starts[startHash(start)] {
			continue
		}
		for _, f := range s.forms[start] {
			if bytes.HasPrefix(text[i:], []byte(f.text)) {
				return fmt.Errorf("%s holds a part of the canary %q, %s: %q", where, f.canary, f.form, text[max(0, i-60):min(len(text), i+len(f.text)+20)])
			}
		}
	}
	return nil
}

// A sharedBuffer is a buffer for several goroutines.
type sharedBuffer struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (b *sharedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

// take returns what was written since the last call.
func (b *sharedBuffer) take() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.out.Reset()
	return bytes.Clone(b.out.Bytes())
}

// allSinks is a logger that writes to every kind of sink.
func allSinks(out *sharedBuffer) cdrslog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	return stdslog.New(slog.New(slog.NewJSONHandler(out, options))).AppendSinks(
		sloghuman.Sink(out), slogjson.Sink(out), textSink{slog.New(slog.NewTextHandler(out, options))})
}

// textSink is the other handler of log/slog.
type textSink struct{ logger *slog.Logger }

func (s textSink) LogEntry(ctx context.Context, e cdrslog.SinkEntry) {
	stdslog.New(s.logger).Debug(ctx, e.Message, e.Fields...)
}

func (textSink) Sync() {}

// A rendering is one way of showing a value.
type rendering struct {
	how  string
	text []byte
}

// renderings shows a value in every way in which a host could. If thorough, it also shows
// it inside other values, and under every verb.
func renderings(v any, thorough bool) (out []rendering) {
	add := func(how string, text []byte) { out = append(out, rendering{how, text}) }
	show := func(holder string, h any) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			add(holder+verb, fmt.Appendf(nil, verb, h))
		}
		asJSON, _ := json.Marshal(h)
		add(holder+"JSON", asJSON)
		asXML, _ := xml.Marshal(h)
		add(holder+"XML", asXML)
		var log sharedBuffer
		logger := allSinks(&log)
		logger.Info(context.Background(), "m", cdrslog.F("f", h), cdrslog.F("m", cdrslog.M(cdrslog.F("g", h))))
		slog.New(slog.NewJSONHandler(&log, nil)).Info("m", slog.Group("g", "h", h))
		add(holder+"a log", log.take())
	}
	show("", v)
	if err, ok := v.(error); ok {
		var strs bytes.Buffer
		reachable(reflect.ValueOf(err), map[uintptr]bool{}, &strs)
		add("what can be reached from the error", strs.Bytes())
	}
	if !thorough {
		return out
	}
	for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
		for _, flags := range []string{"", "+", "#", "-60"} {
			add("%"+flags+string(verb), fmt.Appendf(nil, "%"+flags+string(verb), v))
		}
	}
	holders := map[string]any{"an unexported field of ": struct{ v any }{v}, "a slice of ": []any{v}}
	if typ := reflect.TypeOf(v); typ != nil {
		pointer := reflect.New(typ)
		pointer.Elem().Set(reflect.ValueOf(v))
		holders["a pointer to "] = pointer.Interface()
		typed := reflect.MakeMap(reflect.MapOf(reflect.TypeFor[string](), typ))
		typed.SetMapIndex(reflect.ValueOf("k"), reflect.ValueOf(v))
		holders["an unexported typed map of "] = struct{ v any }{typed.Interface()}
		if *torture {
			holders["a typed map of "] = typed.Interface()
		}
	}
	if err, ok := v.(error); ok {
		holders["an error that wraps "] = fmt.Errorf("wrapped: %w", err)
	}
	if *torture {
		maps.Copy(holders, map[string]any{
			"a map of ": map[string]any{"k": v}, "a field of ": struct{ V any }{v},
			"an unexported pointer to ": struct{ v *struct{ v any } }{&struct{ v any }{v}},
		})
	}
	for holder, h := range holders {
		show(holder, h)
	}
	return out
}

// reachable writes every string and byte that can be reached from a value, also those that
// only a debugger would show. It is for errors: they hold no Secret.
func reachable(v reflect.Value, seen map[uintptr]bool, out *bytes.Buffer) {
	switch v.Kind() {
	case reflect.String:
		fmt.Fprintln(out, v.String())
	case reflect.Uint8:
		out.WriteByte(byte(v.Uint()))
	case reflect.Pointer:
		if v.IsNil() || seen[v.Pointer()] {
			return
		}
		seen[v.Pointer()] = true
		reachable(v.Elem(), seen, out)
	case reflect.Interface:
		reachable(v.Elem(), seen, out)
	case reflect.Struct:
		for i := range v.NumField() {
			reachable(v.Field(i), seen, out)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			reachable(v.Index(i), seen, out)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			reachable(key, seen, out)
			reachable(v.MapIndex(key), seen, out)
		}
	}
}

// A search that never finds anything would let every test pass.
func TestF5_TheSearchFindsEveryForm(t *testing.T) {
	t.Parallel()
	random := chance(t.Name())
	all := newCanaries(random)
	_, _ = all.keyring(t, random, 1)
	s := newSearch(all)
	for _, c := range all {
		for _, at := range []int{0, max(0, len(c.value)-partLength)} {
			part := []byte(c.value[at:min(at+partLength, len(c.value))])
			for _, f := range forms(part) {
				require.Error(t, s.find("text", []byte("some text "+f[1]+" and more")), "%s %s", c.name, f[0])
			}
			for shift := range 3 {
				inside := strings.Repeat("x", shift) + string(part) + "more"
				for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
					require.Error(t, s.find("text", []byte(encoding.EncodeToString([]byte(inside)))))
				}
			}
		}
		if len(c.value) > partLength {
			require.NoError(t, s.find("text", []byte(c.value[:partLength-1])), "a part that is too short")
		}
	}
	require.Len(t, canaryNames, 25)
	require.NoError(t, s.find("text", bytes.Repeat([]byte("select from ai_providers where "), 1000)))
	type leaky struct{ s string }
	hows := map[string]bool{}
	for _, r := range renderings(fmt.Errorf("%w", error(&leakyError{leaky{all[0].value}})), true) {
		hows[r.how] = s.find(r.how, r.text) != nil
	}
	require.False(t, hows["%v"])
	require.True(t, hows["what can be reached from the error"])
}

type leakyError struct{ held any }

func (*leakyError) Error() string { return "leaky" }
