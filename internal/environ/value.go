package environ

import (
	"encoding/json"
	"regexp"
	"strings"
	"unicode/utf8"

	"example.com/aiseed/internal/text"
)

// CheckWord returns what is wrong with the value of an environment variable that is not a
// secret, or "".
func CheckWord(value string) (problem string) {
	if text.IsHarmless(value) {
		return ""
	}
	if problem := checkShape(value); problem != "" {
		return problem
	}
	return text.CheckWord(value)
}

// CheckSecret returns what is wrong with a secret in an environment variable, or in one
// element of its list, or "". plural is the variable that takes a list, or "" if there is none.
func CheckSecret(value, plural string) (problem string) {
	if isJSON(value) {
		return "JSON; want the secret alone, which is one of its values"
	}
	if problem := checkShape(value); problem != "" {
		return problem + FileTakesIt
	}
	switch {
	case isAssignment(value):
		return "an assignment (NAME=value); want the value alone"
	}
	if problem := text.CheckSecret(value); problem != "" {
		return problem
	}
	for _, separator := range []struct{ mark, name string }{{",", "comma"}, {";", "semicolon"}} {
		if !strings.Contains(value, separator.mark) {
			continue
		}
		if plural != "" {
			return "a " + separator.name + " in it; several secrets go into " + plural + ", with a comma between them" + FileTakesIt
		}
		return "a " + separator.name + " in it; want one secret" + FileTakesIt
	}
	return ""
}

// FileTakesIt is the end of a problem that a secret from a file does not have.
const FileTakesIt = ". A secret that really looks like this goes into a file that the variable's _FILE twin names"

// CheckSecretFile returns what is wrong with a secret from a file, or from one element of a
// list in it, or "".
func CheckSecretFile(value string) (problem string) {
	switch trimmed := strings.TrimSpace(value); {
	case strings.HasPrefix(value, byteOrderMark):
		return "a byte-order mark at its begin; save the file as UTF-8 without one"
	case isJSON(trimmed):
		return "JSON; want a file with the secret alone, which is one of its values"
	case isAssignment(trimmed):
		return "an assignment (NAME=value); want a file with the value alone"
	case strings.ContainsAny(trimmed, "\r\n"):
		return "several lines; want the secret alone: several go into the plural's file, on one line, separated by commas"
	}
	return text.CheckSecret(value)
}

// IsWhole reports whether the value of a list is wrong as a whole, so that it has no elements.
func IsWhole(value string, inFile bool) bool {
	return isJSON(value) || !inFile && isQuoted(strings.TrimSpace(value))
}

func isQuoted(value string) bool {
	first, _ := utf8.DecodeRuneInString(value)
	last, _ := utf8.DecodeLastRuneInString(value)
	return text.IsQuote(first) && text.IsQuote(last)
}

// checkShape recognises what is around a value, or in its place, if a tool did not do its work.
func checkShape(value string) (problem string) {
	trimmed := strings.TrimFunc(value, isBlank)
	first, _ := utf8.DecodeRuneInString(trimmed)
	last, _ := utf8.DecodeLastRuneInString(trimmed)
	switch {
	case text.IsQuote(first) || text.IsQuote(last):
		return "in quotes; docker --env-file and some other readers keep them: remove them"
	case isTemplate(trimmed):
		return NotFilledIn
	}
	return ""
}

// NotFilledIn is the problem of a template.
const NotFilledIn = "a template that nobody filled in; set the value itself, or let the tool run that fills it in"

// template matches ${X}, $(X), {{X}} and <X> anywhere, and %X%, $X and $env:X alone.
var template = regexp.MustCompile(`\$\{|\$\([^)]*\)|\{\{.*\}\}|<[^<>]+>|^%[A-Za-z_][A-Za-z0-9_]*%$|^\$(?i:env:)[A-Za-z_][A-Za-z0-9_]*$|^\$[A-Z_][A-Z0-9_]*$`)

// references matches the begin of a value that names a place in a store of secrets.
var references = regexp.MustCompile(`^(op://|@Microsoft\.KeyVault\(|arn:aws[a-z-]*:(secretsmanager|ssm):)`)

// isTemplate reports whether something had to be put into a value, and was not.
func isTemplate(value string) bool {
	return strings.ContainsAny(value, "$<%{") && template.MatchString(value) ||
		strings.ContainsAny(value, ":@") && references.MatchString(value)
}

// partOfURL matches what only a URL can hold in its middle.
var partOfURL = regexp.MustCompile(`\$[A-Z_][A-Z0-9_]*|\{[A-Za-z_-]+\}|%[A-Z_][A-Z0-9_]+%`)

// IsTemplateURL reports whether something had to be put into a URL, and was not. Braces and
// percent signs are enough for that only if the URL is wrong.
func IsTemplateURL(value string, wrong bool) bool {
	return isTemplate(value) || partOfURL.MatchString(value) && (wrong || strings.Contains(value, "$"))
}

// isJSON reports whether a value is a JSON object or array, or begins like one.
func isJSON(value string) bool {
	value = strings.TrimSpace(value)
	if value == "" || value[0] != '{' && value[0] != '[' {
		return false
	}
	if value[0] == '[' && value[len(value)-1] == ']' { // a list as YAML and others write it
		return true
	}
	inside := strings.TrimSpace(value[1:])
	return strings.HasPrefix(inside, `"`) || strings.HasPrefix(inside, `\"`) || json.Valid([]byte(value))
}

// assignment wants something other than the padding of base64 after the equals sign.
var assignment = regexp.MustCompile(`^\s*(export\s+)?[A-Z_][A-Z0-9_]*\s*=\s*[^=\s]`)

func isAssignment(value string) bool { return assignment.MatchString(value) }
