// Package baseurl checks, normalises and masks the base URL of an upstream.
//
// Check and Mask never show a part of a URL that can hold a credential: user info, the
// values of a query, a fragment, or any part of an invalid base URL that may have one of these.
package baseurl

import (
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/aiseed/internal/text"
)

// Check returns what is wrong with a base URL, without quoting it, or "" if it is valid. An
// empty base URL is valid.
func Check(raw string) (problem string) {
	if raw == "" || IsNormal(raw) {
		return ""
	}
	switch {
	case !utf8.ValidString(raw):
		return "not valid UTF-8"
	case several.MatchString(strings.TrimSpace(raw)):
		return "several URLs; want one URL"
	case strings.ContainsFunc(raw, func(r rune) bool { return r == '\n' || r == '\r' }):
		return text.Check(raw)
	case strings.ContainsFunc(raw, text.IsInvisible):
		return text.CheckWord(raw)
	case strings.ContainsFunc(raw, text.IsQuote):
		return "a URL with a quotation mark in it; docker --env-file and some other readers keep quotes: remove them"
	}
	if problem := checkParsed(raw); problem != "" {
		return problem
	}
	u, err := url.Parse(raw)
	if err != nil { // cannot happen: checkParsed has parsed it
		return notURL
	}
	host := u.Hostname()
	port, err := strconv.Atoi(u.Port())
	switch {
	case strings.ContainsAny(u.Host, ",;"):
		return "several hosts; want one URL"
	case strings.Contains(host, "%"):
		return "a host with a zone (%...), which means something only on one machine; use the address without it, or a name"
	case strings.EqualFold(host, "http") || strings.EqualFold(host, "https"):
		return "a URL whose host is a scheme; want the scheme once, like https://host/path"
	case !strings.HasPrefix(u.Host, "[") && !isHost(host):
		return "a URL whose host has an empty label; want a host without a dot at either end or two in a row"
	case strings.HasSuffix(u.Host, ":"), u.Port() != "" && (err != nil || port < 1 || port > 65535):
		return "a URL with a port that there cannot be; want 1 to 65535, or no colon"
	case hasMask(u):
		return "a URL with a mask in its query, as this library prints it in place of a secret; want the value itself"
	}
	return ""
}

// hasMask reports whether a query has a mask in it, also one that was encoded again.
func hasMask(u *url.URL) bool {
	query, err := url.QueryUnescape(u.RawQuery)
	return err == nil && strings.Contains(query, text.Masked) || strings.Contains(u.RawQuery, text.Masked)
}

// looksLikeIPv6 reports whether the host of a text that is no URL seems to be an IPv6 address.
func looksLikeIPv6(raw string) bool {
	_, rest, _ := strings.Cut(raw, "://")
	authority, _ := cutBefore(rest, "/?#")
	return strings.Contains(authority, "[") || strings.Count(authority, ":") > 1 && !strings.Contains(authority, "@")
}

// several matches the begin of a URL behind another one.
var several = regexp.MustCompile(`(?i)[,;\s]\s*https?://`)

const notURL = "not a URL; want one like https://host/path"

// isHost reports whether a host that is no address in brackets consists of labels, and is not
// the scheme of a second URL.
func isHost(host string) bool {
	return host != "http" && host != "https" && !strings.HasPrefix(host, ".") && !strings.HasSuffix(host, ".") && !strings.Contains(host, "..")
}

// checkParsed refuses what cannot be taken apart. It is what [Normalise] and [Mask] depend on,
// so it stays as it is: rows hold base URLs that it accepts.
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
	case err != nil && looksLikeIPv6(raw):
		return "not a URL; an IPv6 address goes into brackets, without a zone (%...)"
	case err != nil:
		return notURL
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

// IsNormal reports whether raw is a base URL in its normal form: a lower-case host without
// a port, and a path of unreserved characters without dot segments. Nearly every base URL
// is normal and needs no further check.
func IsNormal(raw string) bool {
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
	return isHost(rest[:slash])
}

// Mask shows a base URL without the values of its query, which can be credentials. If
// raw is no base URL and can hold a credential elsewhere, Mask returns four asterisks. A long text without a scheme
// can be a secret, and is masked like one.
// Control characters are escaped.
func Mask(raw string) string {
	if raw != "" && !IsNormal(raw) && checkParsed(raw) != "" {
		if strings.ContainsAny(raw, "@?#") {
			return text.Masked
		}
		if !strings.Contains(raw, "://") {
			return text.Brief(raw)
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
