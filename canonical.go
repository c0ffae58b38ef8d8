package aiseed

import (
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The canonical shape of a provider is what decides where its requests go: type,
// base URL and Bedrock region. Two providers of one name with different shapes
// have drifted. Everything else about them may differ: credentials are rotated
// and tunables are tuned in the database without stopping the next start.
type shapeField struct {
	name     string
	variable string // of which the environment's value comes, a field of E3
	value    func(Provider) string
	compared func(string) string // the form that is compared and hashed
	printed  func(string) string // the form that is shown
}

var shapeFields = []shapeField{
	{"type", fieldType, func(p Provider) string { return string(p.Type) }, verbatim, printable},
	{"base URL", fieldBaseURL, func(p Provider) string { return p.BaseURL }, normaliseURL, MaskURL},
	{"Bedrock region", fieldBedrockRegion, Provider.region, verbatim, printable},
}

func verbatim(s string) string { return s }

func (p Provider) region() string {
	if p.Bedrock == nil {
		return ""
	}
	return p.Bedrock.Region
}

// canonicalEncoding is the shape as bytes: a version, then each field with its
// length before it.
func canonicalEncoding(p Provider) []byte {
	b := []byte("aiseed shape v1\n")
	for _, f := range shapeFields {
		b = appendFields(b, f.compared(f.value(p)))
	}
	return b
}

// canonicalHash identifies the shape. It is computed on demand from row and
// environment and never stored, so that a new version of it migrates nothing.
func canonicalHash(p Provider) [sha256.Size]byte { return sha256.Sum256(canonicalEncoding(p)) }

// shapeDrift lists the fields of the shape in which stored and want differ.
func shapeDrift(stored Provider, want desired) []FieldDrift {
	writtenAlike := !slices.ContainsFunc(shapeFields, func(f shapeField) bool { return f.value(stored) != f.value(want.Provider) })
	if writtenAlike || canonicalHash(stored) == canonicalHash(want.Provider) {
		return nil
	}
	var drift []FieldDrift
	for _, f := range shapeFields {
		was, is := f.value(stored), f.value(want.Provider)
		if f.compared(was) == f.compared(is) {
			continue
		}
		field := FieldDrift{
			Field:       f.name,
			Stored:      f.printed(was),
			Environment: f.printed(is),
			Variable:    want.variableOf(f.variable),
		}
		switch {
		case field.Stored == field.Environment:
			field.note = "the masked part differs"
		case f.variable == fieldBaseURL && want.defaultBaseURL:
			field.note = "the default; the variable is not set"
		case f.variable == fieldType && want.legacy:
			field.variableNote = ", which makes a provider of this type: it can only be removed"
		}
		drift = append(drift, field)
	}
	return drift
}

// normaliseURL applies the syntax-based normalisation of RFC 3986 §6.2.2 (case,
// percent-encoding, dot segments) and the scheme-based one of §6.2.3 (default
// port, empty path). It works on the text, since a round trip through net/url
// loses which characters were encoded. What is no base URL stays as it is.
func normaliseURL(raw string) string {
	if raw == "" || isNormalURL(raw) || checkParsedURL(raw) != "" {
		return raw
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok { // "https:/host" and the like have no host, and do not get here
		return raw
	}
	scheme = strings.ToLower(scheme)
	authority, rest := cutBefore(rest, "/?")
	path, query := cutBefore(rest, "?")

	host, port := authority, ""
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		host, port = authority[:i], authority[i+1:]
	}
	if port == "" || scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		port = ""
	} else {
		port = ":" + port
	}
	if path == "" {
		path = "/"
	}
	return scheme + "://" + lowerHost(normalisePercent(host)) + port +
		removeDotSegments(normalisePercent(path)) + normalisePercent(query)
}

// cutBefore splits s before the first of any.
func cutBefore(s, any string) (before, from string) {
	if i := strings.IndexAny(s, any); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// normalisePercent decodes the triplets that stand for unreserved characters
// (RFC 3986 §2.3) and writes the others with upper-case digits. Text with a
// broken triplet stays as it is.
func normalisePercent(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return s
		}
		code, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return s
		}
		if isUnreserved(byte(code)) {
			b.WriteByte(byte(code))
		} else {
			b.WriteString(strings.ToUpper(s[i : i+3]))
		}
		i += 2
	}
	return b.String()
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// lowerHost lower-cases what stands outside of percent-encoded triplets.
func lowerHost(host string) string {
	if !strings.Contains(host, "%") {
		return strings.ToLower(host)
	}
	parts := strings.Split(host, "%")
	for i, part := range parts {
		keep := 0
		if i > 0 {
			keep = min(2, len(part))
		}
		parts[i] = part[:keep] + strings.ToLower(part[keep:])
	}
	return strings.Join(parts, "%")
}

// removeDotSegments is RFC 3986 §5.2.4 for an absolute path. A trailing slash
// stays, since https://host/v1 and https://host/v1/ are different base URLs.
func removeDotSegments(path string) string {
	if !strings.Contains(path, "/.") {
		return path
	}
	segments := strings.Split(path[1:], "/")
	var out []string
	for i, segment := range segments {
		switch segment {
		case ".", "..":
			if segment == ".." && len(out) > 0 {
				out = out[:len(out)-1]
			}
			if i == len(segments)-1 {
				out = append(out, "")
			}
		default:
			out = append(out, segment)
		}
	}
	return "/" + strings.Join(out, "/")
}

// MaskURL shows a base URL without what could be a credential: the values of its
// query. Anything that [ParseEnviron] would not take as a base URL, and that can
// hold a credential elsewhere, shows as four asterisks. Control characters are
// escaped.
func MaskURL(raw string) string {
	if checkBaseURL(raw) != "" {
		if strings.ContainsAny(raw, "@?#") {
			return maskText
		}
		return printable(raw)
	}
	base, query := cutBefore(raw, "?")
	if query == "" {
		return printable(base)
	}
	pairs := strings.Split(query[1:], "&")
	for i, pair := range pairs {
		pairs[i] = maskText
		// What ends in "=" can be a value in base64, and then what is before it is no key.
		if key, value, _ := strings.Cut(pair, "="); strings.Trim(value, "=") != "" {
			pairs[i] = key + "=" + maskText
		}
	}
	return printable(base + "?" + strings.Join(pairs, "&"))
}

// printable keeps what came from outside from writing lines or controls of its
// own into a log or a terminal.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.QuoteToGraphic(s)
}

// shortened is printable for what is as long as somebody liked.
func shortened(s string) string { return printable(cut(s)) }

// label shows a name or a type that an operator gave. What is no name, and long
// enough to be a key that was pasted into the wrong variable, is masked like one.
func label(s string) string {
	if validName(s) {
		return shortened(s)
	}
	if len(s) >= maskMinBytes {
		return printable(maskSecret(s))
	}
	return printable(s)
}

func cut(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// credentialDifferences and tunableDifferences say in words in what two
// providers of one shape differ, credentials as fingerprints only.
func credentialDifferences(stored, want Provider, fingerprint func(Secret) string) []string {
	var out []string
	compare := func(what string, was, is Secret) {
		if !was.Equal(is) {
			out = append(out, what+" (database "+fingerprint(was)+", environment "+fingerprint(is)+")")
		}
	}
	for i := range max(len(stored.Keys), len(want.Keys)) {
		compare("API key "+strconv.Itoa(i+1), keyAt(stored, i), keyAt(want, i))
	}
	was, is := settingsOf(stored), settingsOf(want)
	compare("Bedrock access key", was.AccessKey, is.AccessKey)
	compare("Bedrock access key secret", was.AccessKeySecret, is.AccessKeySecret)
	return out
}

func tunableDifferences(stored, want Provider) []string {
	var out []string
	compare := func(what, was, is string) {
		if was != is {
			out = append(out, what+" (database "+orNone(printable(was))+", environment "+orNone(printable(is))+")")
		}
	}
	was, is := settingsOf(stored), settingsOf(want)
	compare("Bedrock model", was.Model, is.Model)
	compare("Bedrock small fast model", was.SmallFastModel, is.SmallFastModel)
	return out
}

func divergence(stored, want Provider, fingerprint func(Secret) string) []string {
	return slices.Concat(credentialDifferences(stored, want, fingerprint), tunableDifferences(stored, want))
}

func keyAt(p Provider, i int) Secret {
	if i < len(p.Keys) {
		return p.Keys[i].APIKey
	}
	return Secret{}
}

func settingsOf(p Provider) BedrockSettings {
	if p.Bedrock == nil {
		return BedrockSettings{}
	}
	return *p.Bedrock
}
