package aiseed

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

	// DriftAdopt and DriftKeep settle drifts by the name@digest that a
	// [DriftError] prints: the environment wins, or the database does.
	DriftAdopt, DriftKeep []string // <prefix>DRIFT_ADOPT and <prefix>DRIFT_KEEP

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
