package aiseed

import (
	"fmt"
	"slices"

	"example.com/aiseed/internal/baseurl"
	"example.com/aiseed/internal/text"
)

// A Config holds what the environment says about AI providers, unchanged. It comes
// from [ParseEnviron], or is built by hand and then passes the same checks when it
// is used. The zero Config names no provider.
type Config struct {
	LegacyOpenAI    OpenAIConfig     // <prefix>OPENAI_*
	LegacyAnthropic AnthropicConfig  // <prefix>ANTHROPIC_*
	LegacyBedrock   BedrockConfig    // <prefix>BEDROCK_*
	Providers       []ProviderConfig // <prefix>PROVIDER_<N>_*, in order of N

	// DriftAdopt and DriftKeep settle drifts by the tokens (name@digest) that a
	// [DriftError] prints. The environment wins with DriftAdopt, the database with
	// DriftKeep.
	DriftAdopt, DriftKeep []string // <prefix>DRIFT_ADOPT and <prefix>DRIFT_KEEP

	// Warnings are the warnings that [ParseEnviron] logged. A plan repeats them.
	Warnings []Warning

	variables variables
}

// OpenAIConfig makes a provider "openai" if Key is set.
type OpenAIConfig struct {
	BaseURL string // "" is https://api.openai.com/v1/
	Key     Secret
}

// AnthropicConfig makes a provider "anthropic" if Key is set.
type AnthropicConfig struct {
	BaseURL string // "" is https://api.anthropic.com/
	Key     Secret
}

// BedrockConfig makes the provider "anthropic" use Amazon Bedrock if any field
// except the two models is set.
type BedrockConfig struct {
	BaseURL         string // "" lets the runtime derive the endpoint from the region
	Region          string
	AccessKey       Secret // set with AccessKeySecret; if both are unset, the AWS environment is used
	AccessKeySecret Secret
	Model           string // "" is the documented default
	SmallFastModel  string // "" is the documented default
}

// ProviderConfig is one provider. Its Bedrock fields are for type "anthropic" and
// have the same meaning as in [BedrockConfig].
type ProviderConfig struct {
	Type                                       string   // required
	Name                                       string   // "" is the type
	BaseURL                                    string   // "" leaves it to the runtime
	Keys                                       []Secret // bearer keys, at most 5
	BedrockBaseURL, BedrockRegion              string
	BedrockAccessKeys, BedrockAccessKeySecrets []Secret // equal in number; the first pair is used
	BedrockModel, BedrockSmallFastModel        string
}

const (
	maxSecretBytes = 8 << 10
	maxListLength  = 5
)

// checkValues checks the values that are set, even if they have no effect. It calls report with
// each problem and its fields. An unreadable field is already reported.
func (c *ProviderConfig) checkValues(unreadable func(field string) bool, report func(reason string, fields ...string)) {
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
			report(reason, f.field)
		}
	}
	checkSecrets(c.Keys, func(reason string) { report(reason, secretName(fieldKey, len(c.Keys))) })
	checkSecrets(c.BedrockAccessKeys, func(reason string) { report(reason, secretName(fieldBedrockAccessKey, len(c.BedrockAccessKeys))) })
	checkSecrets(c.BedrockAccessKeySecrets, func(reason string) {
		report(reason, secretName(fieldBedrockAccessKeySecret, len(c.BedrockAccessKeySecrets)))
	})
	if keys, secrets := len(c.BedrockAccessKeys), len(c.BedrockAccessKeySecrets); keys != secrets {
		keysField, secretsField := secretName(fieldBedrockAccessKey, keys), secretName(fieldBedrockAccessKeySecret, secrets)
		if !unreadable(keysField) && !unreadable(secretsField) {
			report(fmt.Sprintf("%s and %s; each access key needs its secret", text.Count(keys, "access key"), text.Count(secrets, "secret")),
				keysField, secretsField)
		}
	}
}

func checkSecrets(secrets []Secret, problem func(reason string)) {
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
