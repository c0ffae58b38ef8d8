package text

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNameBytes is the maximum length of a name in bytes.
const MaxNameBytes = 255

// IsName reports whether s matches ^[a-z0-9]+(-[a-z0-9]+)*$ and has at most 255 bytes.
func IsName(s string) bool {
	before := byte('-')
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && before != '-':
		default:
			return false
		}
		before = c
	}
	return before != '-' && len(s) <= MaxNameBytes
}

// IsPlain reports whether s consists of visible ASCII. Nearly every value does, and then
// needs no further check.
func IsPlain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// Check returns what is wrong with a value that people read, or "" if it is valid.
func Check(s string) (problem string) {
	switch {
	case !utf8.ValidString(s):
		return "not valid UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "a control character in it"
	}
	return ""
}

// CheckWord returns what is wrong with a value that must not contain a space, or "" if it
// is valid.
func CheckWord(s string) (problem string) {
	if IsPlain(s) {
		return ""
	}
	if problem := Check(s); problem != "" {
		return problem
	}
	if strings.ContainsFunc(s, unicode.IsSpace) {
		return "a space in it"
	}
	return ""
}
