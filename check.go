package aiseed

import (
	"fmt"
	"slices"

	"example.com/aiseed/internal/baseurl"
	"example.com/aiseed/internal/text"
)

const (
	maxSecretBytes = 8 << 10
	maxListLength  = 5
)

// problem records one, about variables without their prefix.
func (p *parser) problem(place int, provider, reason string, names ...string) {
	for i, name := range names {
		names[i] = p.full(name)
	}
	p.problems = append(p.problems, problem{place, Problem{Variables: names, Provider: text.Label(provider), Reason: reason}})
}

// checkValues checks what is set, whatever it is for.
func (n *normaliser) checkValues(e *entry) {
	c := &e.config
	for _, f := range []struct {
		field, value string
		check        func(string) string
	}{
		{fieldBaseURL, c.BaseURL, baseurl.Check},
		{fieldBedrockBaseURL, c.BedrockBaseURL, baseurl.Check},
		{fieldBedrockRegion, c.BedrockRegion, text.CheckWord},
		{fieldBedrockModel, c.BedrockModel, text.CheckWord},
		{fieldBedrockSmallFastModel, c.BedrockSmallFastModel, text.CheckWord},
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
			n.problem(e, fmt.Sprintf("%s and %s; each access key needs its secret", text.Count(keys, "access key"), text.Count(secrets, "secret")),
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
	return text.CheckWord(value)
}
