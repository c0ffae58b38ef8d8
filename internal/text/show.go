package text

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Masked replaces a text that is not shown.
const Masked = "****"

const (
	// A tail of 4 characters identifies a secret to an operator and hides most of it.
	maskMinBytes  = 20
	maskTailRunes = 4

	maxShownBytes = 100
)

// Mask shows the last 4 characters of a secret, or nothing of it if it is shorter than 20
// bytes.
func Mask(secret string) string {
	if len(secret) < maskMinBytes {
		return Masked
	}
	tail := len(secret)
	for range maskTailRunes {
		_, size := utf8.DecodeLastRuneInString(secret[:tail])
		tail -= size
	}
	return Masked + secret[tail:]
}

// isMask reports whether s is what Mask makes of a secret.
func isMask(s string) bool {
	tail, masked := strings.CutPrefix(s, Masked)
	return masked && (tail == "" || utf8.RuneCountInString(tail) == maskTailRunes)
}

// Printable quotes a text that contains unprintable characters, so that a text from outside
// cannot write lines or control sequences into a log or a terminal.
func Printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.QuoteToGraphic(s)
}

// Shorten is Printable for a text of any length. It shows the first 100 bytes.
func Shorten(s string) string {
	if len(s) > maxShownBytes {
		s = strings.ToValidUTF8(s[:maxShownBytes], "") + "…"
	}
	return Printable(s)
}

// Label shows a name or a type that an operator gave. It masks a text that is not a name
// and is long enough to be a secret that was pasted into the wrong variable.
func Label(s string) string {
	if IsName(s) {
		return Shorten(s)
	}
	return Brief(s)
}

// Brief shows a text that is short where it is right. A longer one can be a secret that was put
// in its place, so it is masked.
func Brief(s string) string {
	if len(s) >= maskMinBytes {
		s = Mask(s)
	}
	return Printable(s)
}

// ShortenMiddle shows both ends of a text in at most width characters. Base URLs can differ
// at both ends.
func ShortenMiddle(s string, width int) string {
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	head := (width - 1) / 2
	return string(runes[:head]) + "…" + string(runes[len(runes)-(width-1-head):])
}

// Count returns n and a noun, in the plural unless n is 1.
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// OrNone returns s, or "(none)" if s is empty.
func OrNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
