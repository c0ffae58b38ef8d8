// Package baseurl checks, normalises and masks the base URL of an upstream.
//
// Check and Mask never show a part of a URL that can hold a credential: user info, the
// values of a query, a fragment, or any part of an invalid base URL that may have one of these.
package baseurl

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/aiseed/internal/text"
)

// Check returns what is wrong with a base URL, without quoting it, or "" if it is valid. An
// empty base URL is valid.
func Check(raw string) (problem string) {
	if raw == "" || isNormal(raw) {
		return ""
	}
	return checkParsed(raw)
}

func checkParsed(raw string) (problem string) {
	switch {
	case text.IsPlain(raw):
	case !utf8.ValidString(raw):
		return "not valid UTF-8"
	case strings.ContainsFunc(raw, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return "a URL with a space or a control character in it; remove it or percent-encode it"
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "not a URL; want one like https://host/path"
	case u.Scheme != "http" && u.Scheme != "https":
		return "not an absolute http or https URL; want one like https://host/path"
	case u.Hostname() == "":
		return "a URL without a host; want one like https://host/path"
	case strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(u.Host, "["):
		return "a URL with a colon in its host; an IPv6 address goes into brackets"
	case u.User != nil:
		return "a URL with user info (user:password@); put the credential into a key variable instead"
	case strings.Contains(raw, "#"):
		return "a URL with a fragment (#...); remove it"
	}
	return ""
}

// isNormal reports whether raw is a base URL in its normal form: a lower-case host without
// a port, and a path of unreserved characters without dot segments. Nearly every base URL
// is normal and needs no further check.
func isNormal(raw string) bool {
	rest, ok := strings.CutPrefix(raw, "https://")
	if !ok {
		rest, ok = strings.CutPrefix(raw, "http://")
	}
	slash := strings.IndexByte(rest, '/')
	if !ok || slash < 1 || strings.Contains(rest, "/.") {
		return false
	}
	for i := range len(rest) {
		c := rest[i]
		if !isUnreserved(c) && c != '/' || i < slash && 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return true
}

// Mask shows a base URL without the values of its query, which can be credentials. If
// [Check] refuses raw and raw can hold a credential elsewhere, Mask returns four asterisks.
// Control characters are escaped.
func Mask(raw string) string {
	if Check(raw) != "" {
		if strings.ContainsAny(raw, "@?#") {
			return text.Masked
		}
		return text.Printable(raw)
	}
	base, query := cutBefore(raw, "?")
	if query == "" {
		return text.Printable(base)
	}
	pairs := strings.Split(query[1:], "&")
	for i, pair := range pairs {
		pairs[i] = text.Masked
		// A pair that ends in "=" can be a base64 value without a key: show nothing of it.
		if key, value, _ := strings.Cut(pair, "="); strings.Trim(value, "=") != "" {
			pairs[i] = key + "=" + text.Masked
		}
	}
	return text.Printable(base + "?" + strings.Join(pairs, "&"))
}

// cutBefore splits s before its first character that is in any.
func cutBefore(s, any string) (before, from string) {
	if i := strings.IndexAny(s, any); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}
