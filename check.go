package aiseed

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxNameBytes   = 255
	maxSecretBytes = 8 << 10
	maxListLength  = 5
)

// problem is a [Problem] with the place of its entry in the order of the variables.
type problem struct {
	place int
	Problem
}

const problemsLast = math.MaxInt

// problem records one, about variables without their prefix.
func (p *parser) problem(place int, provider, reason string, names ...string) {
	for i, name := range names {
		names[i] = p.full(name)
	}
	p.problems = append(p.problems, problem{place, Problem{Variables: names, Provider: label(provider), Reason: reason}})
}

// configError puts problems into the order of the variables. Those without an
// order of their own are told apart by name.
func configError(problems []problem) error {
	slices.SortStableFunc(problems, func(a, b problem) int {
		if byPlace := cmp.Compare(a.place, b.place); byPlace != 0 || a.place != problemsLast {
			return byPlace
		}
		return slices.Compare(a.Variables, b.Variables)
	})
	err := &ConfigError{}
	for _, p := range problems {
		err.Problems = append(err.Problems, p.Problem)
	}
	return err
}

// checkValues checks what is set, whatever it is for.
func (n *normaliser) checkValues(e *entry) {
	c := &e.config
	for _, f := range []struct {
		field, value string
		check        func(string) string
	}{
		{fieldBaseURL, c.BaseURL, checkBaseURL},
		{fieldBedrockBaseURL, c.BedrockBaseURL, checkBaseURL},
		{fieldBedrockRegion, c.BedrockRegion, checkWord},
		{fieldBedrockModel, c.BedrockModel, checkWord},
		{fieldBedrockSmallFastModel, c.BedrockSmallFastModel, checkWord},
	} {
		if reason := f.check(f.value); reason != "" {
			n.problem(e, reason, f.field)
		}
	}
	n.checkSecrets(e, fieldKey, c.Keys)
	n.checkSecrets(e, fieldBedrockAccessKey, c.BedrockAccessKeys)
	n.checkSecrets(e, fieldBedrockAccessKeySecret, c.BedrockAccessKeySecrets)
	if keys, secrets := len(c.BedrockAccessKeys), len(c.BedrockAccessKeySecrets); keys != secrets {
		keysField, secretsField := secretName(fieldBedrockAccessKey, keys), secretName(fieldBedrockAccessKeySecret, secrets)
		if !e.variables.unreadable[e.variable(keysField)] && !e.variables.unreadable[e.variable(secretsField)] {
			n.problem(e, fmt.Sprintf("%s and %s; each access key needs its secret", count(keys, "access key"), count(secrets, "secret")),
				keysField, secretsField)
		}
	}
}

func (n *normaliser) checkSecrets(e *entry, field string, secrets []Secret) {
	problem := func(reason string) { n.problem(e, reason, secretName(field, len(secrets))) }
	if len(secrets) > maxListLength {
		problem(fmt.Sprintf("%d elements; at most %d are allowed", len(secrets), maxListLength))
		return
	}
	for i, s := range secrets {
		reason := checkSecret(s)
		if j := slices.IndexFunc(secrets[:i], s.Equal); j >= 0 && reason == "" {
			reason = fmt.Sprintf("the same as element %d", j+1)
		}
		if reason != "" && len(secrets) > 1 {
			reason = fmt.Sprintf("element %d: %s", i+1, reason)
		}
		if reason != "" {
			problem(reason)
		}
	}
}

func checkSecret(s Secret) (problem string) {
	value := s.Reveal()
	switch {
	case value == "":
		return "empty"
	case len(value) > maxSecretBytes:
		return "longer than 8 KiB"
	}
	return checkWord(value)
}

// checkWord is for values that have no space in them.
func checkWord(value string) (problem string) {
	if isPlain(value) {
		return ""
	}
	if reason := checkText(value); reason != "" {
		return reason
	}
	if strings.ContainsFunc(value, unicode.IsSpace) {
		return "a space in it"
	}
	return ""
}

// validName reports whether name is ^[a-z0-9]+(-[a-z0-9]+)*$, and not too long.
func validName(name string) bool {
	before := byte('-')
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && before != '-':
		default:
			return false
		}
		before = c
	}
	return before != '-' && len(name) <= maxNameBytes
}

// isPlain reports whether value is visible ASCII, as nearly every one is, and
// needs no closer look.
func isPlain(value string) bool {
	for i := range len(value) {
		if value[i] <= ' ' || value[i] >= 0x7f {
			return false
		}
	}
	return true
}

// checkBaseURL says what is wrong with a base URL, without quoting it: it can
// hold a password. A base URL that is not set is fine.
func checkBaseURL(raw string) (problem string) {
	if raw == "" || isNormalURL(raw) {
		return ""
	}
	return checkParsedURL(raw)
}

func checkParsedURL(raw string) (problem string) {
	switch {
	case isPlain(raw):
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

// isNormalURL reports whether raw is a base URL in its normal form, as nearly every one
// is, and needs no closer look: a lower-case host without a port, and a path of
// unreserved characters without dot segments.
func isNormalURL(raw string) bool {
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

// checkText is for values that people read.
func checkText(value string) (problem string) {
	switch {
	case !utf8.ValidString(value):
		return "not valid UTF-8"
	case strings.ContainsFunc(value, unicode.IsControl):
		return "a control character in it"
	}
	return ""
}
