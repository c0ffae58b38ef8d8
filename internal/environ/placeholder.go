package environ

import (
	"slices"
	"strings"
)

// placeholders are well-known ones, in lower case and without what joins words.
var placeholders = []string{
	"changeme", "changeit", "changethis", "replaceme", "replacethis", "fillme", "fillin", "setme", "todo", "tbd", "fixme", "null", "nil", "none", "undefined",
	"na", "placeholder", "dummy", "fake", "example", "sample", "apikey", "yourkey", "mykey", "keyhere",
	"akiaiosfodnn7example", "wjalrxutnfemik7mdengbpxrficyexamplekey", // of the documentation of AWS
}

// IsPlaceholder reports whether a secret is what examples put in the place of one. Where it is
// not sure, it says no.
func IsPlaceholder(secret string) bool {
	plain := strings.Map(func(r rune) rune {
		if strings.ContainsRune("-_./+ ", r) {
			return -1
		}
		return r
	}, strings.ToLower(secret))
	for _, vendor := range []string{"skant", "skproj", "sk"} {
		if rest, ok := strings.CutPrefix(plain, vendor); ok {
			plain = rest
			break
		}
	}
	switch {
	case slices.Contains(placeholders, plain):
		return true
	case strings.HasPrefix(plain, "your") || strings.HasPrefix(plain, "replacewith") || strings.HasPrefix(plain, "insert") || strings.HasPrefix(plain, "enter"):
		return strings.Contains(plain, "key") || strings.Contains(plain, "token") || strings.Contains(plain, "secret") || strings.HasSuffix(plain, "here")
	}
	// Nothing but dots, stars, dashes or the letter x: "...", "sk-xxxx".
	return len(secret) > 0 && strings.Trim(plain, "x*.…") == "" && (plain != "" || strings.Trim(secret, "-_./+") == "" || strings.HasSuffix(secret, "..."))
}
