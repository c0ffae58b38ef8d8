// Package environ knows what happens to variables on their way into a process: how names and
// values look after a tool that was to set them did not do its work.
//
// It does not know the names of the library's variables. Its reasons never quote a value.
package environ

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"example.com/aiseed/internal/text"
)

// IsPrefix reports whether s can begin the names of variables: letters, digits and
// underscores, no digit first and an underscore last.
func IsPrefix(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '_', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z':
		case '0' <= c && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return strings.HasSuffix(s, "_")
}

// Prefixes begin the names of variables.
type Prefixes []string

// of returns the length of the longest prefix that entry begins with, or 0.
func (p Prefixes) of(entry string) (length int) {
	for _, prefix := range p {
		if len(prefix) > length && strings.HasPrefix(entry, prefix) {
			length = len(prefix)
		}
	}
	return length
}

// restored returns the name that a name under none of the prefixes was meant to be, and what
// is wrong with it, or "", "". It recognises a prefix behind a byte-order mark, white space or
// the keyword of a shell, and one in other letters.
func (p Prefixes) restored(name string) (restored, wrong string) {
	restored = name
	if strings.HasPrefix(restored, byteOrderMark) {
		restored, wrong = strings.TrimPrefix(restored, byteOrderMark), "a byte-order mark before it; save the file as UTF-8 without one"
	}
	if trimmed := strings.TrimFunc(restored, isBlank); trimmed != restored {
		restored, wrong = trimmed, cmp.Or(wrong, "white space around it")
	}
	for _, keyword := range []string{"export", "declare -x", "set", "setenv"} {
		rest, found := strings.CutPrefix(restored, keyword)
		if trimmed := strings.TrimLeftFunc(rest, isBlank); found && trimmed != rest {
			restored, wrong = trimmed, cmp.Or(wrong, `"`+keyword+`" before it, which only a shell understands`)
		}
	}
	for _, prefix := range p {
		if len(restored) < len(prefix) || !strings.EqualFold(restored[:len(prefix)], prefix) {
			continue
		}
		if restored[:len(prefix)] != prefix {
			restored, wrong = prefix+restored[len(prefix):], cmp.Or(wrong, "its prefix in other letters; want "+prefix)
		}
		return restored, wrong
	}
	return "", ""
}

// restorable reports whether [Prefixes.restored] can restore a name with this first byte, so that
// most of the other variables of a process need no further look.
func (p Prefixes) restorable(first byte) bool {
	const caseBit = 'a' - 'A'
	switch {
	case first <= ' ', first >= 0x7f, first == 'e', first == 'd', first == 's':
		return true
	}
	return slices.ContainsFunc(p, func(prefix string) bool { return prefix[0]|caseBit == first|caseBit })
}

const byteOrderMark = "\ufeff"

func isBlank(r rune) bool { return unicode.IsSpace(r) || text.IsInvisible(r) }

// ShowName shows the name of a variable. What is behind the name of one, after a colon or a space,
// can be its value, so it is left out unless it is short.
func ShowName(full string) string {
	start, end := 0, len(full)
	for i := 0; i <= len(full); i++ {
		if i < len(full) && isNameByte(full[i]) {
			continue
		}
		if end = i; end-start >= shownPart { // not the keyword of a shell
			break
		}
		start = i + 1
	}
	if len(full)-end >= shownPart {
		return text.Shorten(full[:end]) + "…"
	}
	return text.Shorten(full)
}

// shownPart is the length from which a part of a secret must not be shown.
const shownPart = 8

func isNameByte(c byte) bool {
	return c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

// isServiceLink reports whether Kubernetes sets such a variable for a service: see
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables.
func isServiceLink(name, value string) bool {
	if strings.HasSuffix(name, "_SERVICE_HOST") || strings.HasSuffix(name, "_SERVICE_PORT") || strings.Contains(name, "_SERVICE_PORT_") {
		return true
	}
	if before, ok := strings.CutSuffix(name, "_PORT"); ok && before != "" && isAddress(value) {
		return true
	}
	// <SERVICE>_PORT_<number>_<protocol>, alone or with what follows.
	for _, part := range []string{"_PROTO", "_PORT", "_ADDR"} {
		name = strings.TrimSuffix(name, part)
	}
	for _, protocol := range []string{"_TCP", "_UDP", "_SCTP"} {
		before, ok := strings.CutSuffix(name, protocol)
		i := strings.LastIndexByte(before, '_')
		if ok && i >= 0 && isNumber(before[i+1:]) && strings.HasSuffix(before[:i], "_PORT") {
			return true
		}
	}
	return false
}

func isAddress(value string) bool {
	scheme, _, ok := strings.Cut(value, "://")
	return ok && slices.Contains([]string{"tcp", "udp", "sctp"}, scheme)
}

func isNumber(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}
