package aiseed

import (
	"cmp"
	"strconv"
)

// DefaultPrefix starts the name of every variable, unless [WithPrefix] gives
// another.
const DefaultPrefix = "CODER_AIBRIDGE_"

// A Config is what the environment says about AI providers, as it says it. It
// comes from [ParseEnviron], or is built by hand and then passes the same checks
// when it is used. The zero Config names no provider.
type Config struct {
	LegacyOpenAI    OpenAIConfig     // <prefix>OPENAI_*
	LegacyAnthropic AnthropicConfig  // <prefix>ANTHROPIC_*
	LegacyBedrock   BedrockConfig    // <prefix>BEDROCK_*
	Providers       []ProviderConfig // <prefix>PROVIDER_<N>_*, in order of N

	variables variables
}

// OpenAIConfig makes a provider "openai" where Key is set.
type OpenAIConfig struct {
	BaseURL string // "" is https://api.openai.com/v1/
	Key     Secret
}

// AnthropicConfig makes a provider "anthropic" where Key is set.
type AnthropicConfig struct {
	BaseURL string // "" is https://api.anthropic.com/
	Key     Secret
}

// BedrockConfig makes the provider "anthropic" use Amazon Bedrock where any
// field but the two models is set.
type BedrockConfig struct {
	BaseURL         string // "" lets the runtime derive the endpoint from the region
	Region          string
	AccessKey       Secret // with AccessKeySecret; both unset uses the AWS environment
	AccessKeySecret Secret
	Model           string // "" is the default of the documentation
	SmallFastModel  string // "" is the default of the documentation
}

// ProviderConfig is one provider. Its Bedrock fields are for type "anthropic"
// and mean what they mean in [BedrockConfig].
type ProviderConfig struct {
	Type                                       string   // required
	Name                                       string   // "" is the type
	BaseURL                                    string   // "" leaves it to the runtime
	Keys                                       []Secret // bearer keys, at most 5
	BedrockBaseURL, BedrockRegion              string
	BedrockAccessKeys, BedrockAccessKeySecrets []Secret // as many of each; the first pair is used
	BedrockModel, BedrockSmallFastModel        string
}

// variables knows the full name behind each value of a [Config].
type variables struct {
	prefix  string            // "" is DefaultPrefix
	indices []string          // nil is 0, 1, 2, …
	actual  map[string]string // from the usual name of a secret to the one that was set

	unreadable map[string]bool // the variables of which the value could not be had
}

func (v variables) legacy(name string) string { return v.lookUp(v.full(name)) }

func (v variables) indexed(i int, name string) string {
	index := strconv.Itoa(i)
	if v.indices != nil {
		index = v.indices[i]
	}
	return v.lookUp(v.full(indexedGroup + index + "_" + name))
}

func (v variables) full(name string) string { return cmp.Or(v.prefix, DefaultPrefix) + name }

func (v variables) lookUp(usual string) string { return cmp.Or(v.actual[usual], usual) }

// secretName is the usual variable for n secrets.
func secretName(name string, n int) string {
	if n > 1 {
		return name + pluralSuffix
	}
	return name
}
