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

// IsPlain reports whether s consists of visible ASCII. Nearly every value does.
func IsPlain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// IsHarmless reports whether s consists of characters of which none can be wrong. Nearly every
// value does, and then needs no further check.
func IsHarmless(s string) bool {
	for i := range len(s) {
		if !harmless[s[i]] {
			return false
		}
	}
	return true
}

var harmless = func() (set [256]bool) {
	for c := range set {
		set[c] = '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.ContainsRune("-_./+", rune(c))
	}
	return set
}()

// Check returns what is wrong with a value that people read, or "" if it is valid.
func Check(s string) (problem string) {
	switch {
	case !utf8.ValidString(s):
		return "not valid UTF-8"
	case strings.Contains(s, "\r"):
		return "a Windows line end (a carriage return) in it; save the file that it comes from with Unix line ends"
	case strings.HasSuffix(s, "\n"):
		return "a line break at its end; what writes a file with echo adds one: use printf"
	case strings.Contains(s, "\n"):
		return "a line break in it; want one line"
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
	switch {
	case strings.ContainsFunc(s, unicode.IsSpace):
		return "a space in it"
	case strings.ContainsFunc(s, IsInvisible):
		return "an invisible character in it, which copying from a page can add; type the value, or paste it as plain text"
	}
	return ""
}

const maxSecretBytes = 8 << 10

// IsHarmlessSecret reports whether a secret is valid at a glance.
func IsHarmlessSecret(s string) bool { return s != "" && len(s) <= maxSecretBytes && IsHarmless(s) }

// CheckSecret returns what is wrong with a secret, or "" if it is valid. A secret is visible
// ASCII, since it has to fit into a header of HTTP.
func CheckSecret(s string) (problem string) {
	switch {
	case s == "":
		return "empty"
	case len(s) > maxSecretBytes:
		return "longer than 8 KiB"
	case isMask(s):
		return "a mask, as this library prints it in place of a secret; want the secret"
	}
	if problem := CheckWord(s); problem != "" {
		return problem
	}
	if !IsPlain(s) {
		return "a character outside ASCII in it, which copying from a document can put in place of a hyphen or a letter; copy the secret from where it was made"
	}
	return ""
}

// IsInvisible reports whether r is printed as nothing, or can be.
func IsInvisible(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r == blankBraille
}

const blankBraille = '\u2800'

// IsQuote reports whether r is a quotation mark of any language, or used like one.
func IsQuote(r rune) bool {
	return r == '`' || r == '´' || unicode.Is(unicode.Quotation_Mark, r)
}
