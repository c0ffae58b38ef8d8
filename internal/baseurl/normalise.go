package baseurl

import (
	"strconv"
	"strings"
)

// Normalise applies the syntax-based normalisation of RFC 3986 §6.2.2 (case,
// percent-encoding, dot segments) and the scheme-based one of §6.2.3 (default
// port, empty path). It works on the text, because a round trip through net/url
// loses which characters were encoded. It returns an invalid base URL unchanged.
func Normalise(raw string) string {
	if raw == "" || IsNormal(raw) || checkParsed(raw) != "" {
		return raw
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok { // cannot happen: checkParsed refuses URLs without a host, like "https:/host"
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

// normalisePercent decodes the triplets of unreserved characters (RFC 3986 §2.3)
// and writes the others with upper-case digits. It returns a text with a broken
// triplet unchanged.
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

// lowerHost lower-cases everything outside percent-encoded triplets.
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

// removeDotSegments implements RFC 3986 §5.2.4 for an absolute path. It keeps a trailing
// slash, because https://host/v1 and https://host/v1/ are different base URLs.
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
