package aiseed

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"example.com/aiseed/internal/baseurl"
	"example.com/aiseed/internal/environ"
	"example.com/aiseed/internal/text"
)

// A Config holds what the environment says about AI providers, unchanged. It comes
// from [ParseEnviron], or is built by hand and then passes the same checks when it
// is used. The zero Config names no provider. It prints with the values of the queries of base
// URLs masked, like its secrets; its JSON is for showing, not for reading back.
type Config struct {
	LegacyOpenAI    OpenAIConfig     // <prefix>OPENAI_*
	LegacyAnthropic AnthropicConfig  // <prefix>ANTHROPIC_*
	LegacyBedrock   BedrockConfig    // <prefix>BEDROCK_*
	Providers       []ProviderConfig // <prefix>PROVIDER_<N>_*, in order of N

	// DriftAdopt and DriftKeep settle differences by the tokens (name@digest) that a
	// [DriftError], or a [Warning] of a divergence, has. The environment wins with DriftAdopt:
	// its shape, settings and credentials are written into the row. The database wins with
	// DriftKeep.
	//
	// DriftKeep also takes standing choices, which apply to what differs later too: "name@*"
	// for a provider and "*" for all, whichever side moved; "name@database" and "*@database"
	// if the database alone moved since a start last wrote the row, so
	// that a change through a host's API stops no later start.
	DriftAdopt, DriftKeep []string // <prefix>DRIFT_ADOPT and <prefix>DRIFT_KEEP

	// Warnings are the warnings that [ParseEnviron] logged. A plan repeats them.
	Warnings []Warning

	variables variables
}

func (cfg Config) masked() any {
	type masked Config // its parts mask their base URLs themselves
	return masked(cfg)
}

// Format prints the values with the base URLs masked. Without it, fmt would not ask the parts of a
// pointer in another value.
func (cfg Config) Format(f fmt.State, verb rune) { formatMasked(f, verb, cfg) }

// OpenAIConfig makes a provider "openai" if Key is set.
type OpenAIConfig struct {
	BaseURL string // "" is https://api.openai.com/v1/
	Key     Secret
}

func (c OpenAIConfig) masked() any {
	type masked OpenAIConfig
	c.BaseURL = MaskURL(c.BaseURL)
	return masked(c)
}

// Format prints the values with the base URL masked.
func (c OpenAIConfig) Format(f fmt.State, verb rune) { formatMasked(f, verb, c) }

// MarshalJSON encodes the values with the base URL masked.
func (c OpenAIConfig) MarshalJSON() ([]byte, error) { return json.Marshal(c.masked()) }

// AnthropicConfig makes a provider "anthropic" if Key is set.
type AnthropicConfig struct {
	BaseURL string // "" is https://api.anthropic.com/
	Key     Secret
}

func (c AnthropicConfig) masked() any {
	type masked AnthropicConfig
	c.BaseURL = MaskURL(c.BaseURL)
	return masked(c)
}

// Format prints the values with the base URL masked.
func (c AnthropicConfig) Format(f fmt.State, verb rune) { formatMasked(f, verb, c) }

// MarshalJSON encodes the values with the base URL masked.
func (c AnthropicConfig) MarshalJSON() ([]byte, error) { return json.Marshal(c.masked()) }

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

func (c BedrockConfig) masked() any {
	type masked BedrockConfig
	c.BaseURL = MaskURL(c.BaseURL)
	return masked(c)
}

// Format prints the values with the base URL masked.
func (c BedrockConfig) Format(f fmt.State, verb rune) { formatMasked(f, verb, c) }

// MarshalJSON encodes the values with the base URL masked.
func (c BedrockConfig) MarshalJSON() ([]byte, error) { return json.Marshal(c.masked()) }

// ProviderConfig is one provider. [ProviderSpec] says what each type takes. The Bedrock fields
// have the same meaning as in [BedrockConfig].
type ProviderConfig struct {
	Type                                       string   // required
	Name                                       string   // "" is the type
	BaseURL                                    string   // "" is the default of the type
	Keys                                       []Secret // bearer keys, at most 5
	BedrockBaseURL, BedrockRegion              string
	BedrockAccessKeys, BedrockAccessKeySecrets []Secret // equal in number; the first pair is used
	BedrockModel, BedrockSmallFastModel        string
}

func (c ProviderConfig) masked() any {
	type masked ProviderConfig
	c.BaseURL, c.BedrockBaseURL = MaskURL(c.BaseURL), MaskURL(c.BedrockBaseURL)
	return masked(c)
}

// Format prints the values with the base URLs masked.
func (c ProviderConfig) Format(f fmt.State, verb rune) { formatMasked(f, verb, c) }

// MarshalJSON encodes the values with the base URLs masked.
func (c ProviderConfig) MarshalJSON() ([]byte, error) { return json.Marshal(c.masked()) }

// A source says how a value came into a Config, which decides what can be wrong with it.
type source struct {
	checkURL, checkWord func(string) string
	checkSecret         func(value, variable, plural string) string // plural is the variable of a list, or ""
}

var (
	// byProgram is the source of a Config that was built by hand.
	byProgram = source{baseurl.Check, text.CheckWord, func(value, _, _ string) string { return text.CheckSecret(value) }}

	byEnvironment = source{checkURLVariable, environ.CheckWord, checkSecretVariable}
)

func checkURLVariable(value string) (problem string) {
	if baseurl.IsNormal(value) {
		return ""
	}
	problem = baseurl.Check(value)
	if environ.IsTemplateURL(value, problem != "") {
		return environ.NotFilledIn
	}
	return problem
}

func checkSecretVariable(value, variable, plural string) (problem string) {
	if strings.HasSuffix(variable, fileTwinSuffix) {
		return environ.CheckSecretFile(value)
	}
	return environ.CheckSecret(value, plural)
}

// cameFrom returns the source of an entry's values.
func (e *entry) cameFrom() *source {
	if e.variables.parsed {
		return &byEnvironment
	}
	return &byProgram
}

// checkValues checks the values of an entry that are set, even if they have no effect. It calls
// report with each problem and its fields.
func (e *entry) checkValues(report func(reason string, fields ...string)) {
	c, from := &e.config, e.cameFrom()
	for _, f := range []struct {
		field, value string
		check        func(string) string
	}{
		{fieldBaseURL, c.BaseURL, from.checkURL},
		{fieldBedrockBaseURL, c.BedrockBaseURL, from.checkURL},
		{fieldBedrockRegion, c.BedrockRegion, from.checkWord},
		{fieldBedrockModel, c.BedrockModel, from.checkWord},
		{fieldBedrockSmallFastModel, c.BedrockSmallFastModel, from.checkWord},
	} {
		if f.value == "" {
			continue
		}
		if reason := f.check(f.value); reason != "" {
			report(reason, f.field)
		}
	}
	wrong := false
	checkList := func(field string, secrets []Secret) (name string) {
		name = secretName(field, len(secrets))
		if len(e.variables.refused) > 0 && e.variables.refused[e.variable(name)] {
			wrong = true // and reported already
			return name
		}
		check := func(value string) string {
			if text.IsHarmlessSecret(value) {
				return ""
			}
			plural := ""
			if !e.legacy {
				plural = e.variable(field + pluralSuffix)
			}
			return from.checkSecret(value, e.variable(name), plural)
		}
		checkSecrets(secrets, check, func(reason string) { wrong = true; report(reason, name) })
		return name
	}
	checkList(fieldKey, c.Keys)
	wrong = false
	keys, secrets := checkList(fieldBedrockAccessKey, c.BedrockAccessKeys), checkList(fieldBedrockAccessKeySecret, c.BedrockAccessKeySecrets)
	if nKeys, nSecrets := len(c.BedrockAccessKeys), len(c.BedrockAccessKeySecrets); nKeys != nSecrets && !wrong {
		report(unpaired(nKeys, nSecrets), keys, secrets)
	}
}

// tokenPattern matches name@digest, and standingPattern a choice that is not bound to one
// difference.
var (
	tokenPattern    = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*@[0-9a-f]{16}$`)
	standingPattern = regexp.MustCompile(`^(\*|[a-z0-9]+(-[a-z0-9]+)*@\*|(\*|[a-z0-9]+(-[a-z0-9]+)*)@database)$`)
)

// checkTokens reports what is wrong with the entries that settle differences.
func (cfg *Config) checkTokens() (problems []problem) {
	report := func(reason string, names ...string) {
		for i := range names {
			names[i] = cfg.variables.legacy(names[i])
		}
		problems = append(problems, problem{problemsLast, Problem{Variables: names, Reason: reason}})
	}
	for i, entry := range cfg.DriftAdopt {
		switch {
		case standingPattern.MatchString(entry):
			report(fmt.Sprintf("element %d: a standing choice, which would overwrite whatever an operator changes later; only %s takes one, and adopting the token name@digest of this difference", i+1, cfg.variables.legacy(variableDriftKeep)), variableDriftAdopt)
		case !tokenPattern.MatchString(entry):
			report(fmt.Sprintf("element %d: not a name@digest; copy the token that the drift error or the warning prints", i+1), variableDriftAdopt)
		}
	}
	for i, entry := range cfg.DriftKeep {
		if !tokenPattern.MatchString(entry) && !standingPattern.MatchString(entry) {
			report(fmt.Sprintf("element %d: not a name@digest; copy the token that the drift error or the warning prints; a choice that stands is *, name@*, *@database or name@database", i+1), variableDriftKeep)
		}
	}
	for _, entry := range cfg.DriftAdopt {
		// Other text is not shown: it could be anything, even a secret.
		if tokenPattern.MatchString(entry) && slices.Contains(cfg.DriftKeep, entry) {
			report(entry+" is in both; choose one", variableDriftAdopt, variableDriftKeep)
		}
	}
	return problems
}

// An entry is a provider of a Config: an indexed one, or one from the legacy variables.
type entry struct {
	place          int
	legacy         bool
	defaultBaseURL bool
	config         ProviderConfig
	variables      *variables
	source         func(field string) string // where a field comes from; nil for an indexed one
}

// Problems are reported in the order of the places of their entries.
const (
	openAIPlace = iota
	anthropicPlace
	firstIndexedPlace
)

func indexedPlace(i int) int { return firstIndexedPlace + i }

// plainPlace returns the place that a variable without an index belongs to.
func plainPlace(name string) int {
	switch groupOf(name) {
	case "":
		return noPlace
	case openAIGroup:
		return openAIPlace
	}
	return anthropicPlace
}

// entry returns the entry at a place, and whether it makes a provider. Check its values even
// if it makes none.
func (cfg *Config) entry(place int) (e entry, makes bool) {
	switch place {
	case openAIPlace:
		return cfg.legacyOpenAI()
	case anthropicPlace:
		return cfg.legacyAnthropic()
	}
	return entry{place: place, config: cfg.Providers[place-firstIndexedPlace], variables: &cfg.variables}, true
}

// variable returns the full name of the variable that sets a field, or that would set it.
func (e *entry) variable(field string) string {
	if e.source != nil {
		return e.source(field)
	}
	return e.variables.indexed(e.place-firstIndexedPlace, field)
}

// setters returns the variables that set a field.
func (e *entry) setters(field string) []string {
	elements := map[string]int{
		fieldKey: len(e.config.Keys), fieldBedrockAccessKey: len(e.config.BedrockAccessKeys), fieldBedrockAccessKeySecret: len(e.config.BedrockAccessKeySecrets),
	}
	return e.variables.withEqual(e.variable(secretName(field, elements[field])))
}

func (cfg *Config) legacyOpenAI() (e entry, makes bool) {
	if cfg.LegacyOpenAI == (OpenAIConfig{}) {
		return e, false
	}
	e = entry{
		place:          openAIPlace,
		variables:      &cfg.variables,
		legacy:         true,
		defaultBaseURL: cfg.LegacyOpenAI.BaseURL == "",
		config: ProviderConfig{
			Type:    string(TypeOpenAI),
			BaseURL: cmp.Or(cfg.LegacyOpenAI.BaseURL, defaultOpenAIBaseURL),
			Keys:    nonZero(cfg.LegacyOpenAI.Key),
		},
		source: func(field string) string {
			switch field {
			case fieldType, fieldName, fieldKey:
				return cfg.variables.legacy(openAIGroup + fieldKey)
			case fieldBaseURL:
				return cfg.variables.legacy(openAIGroup + fieldBaseURL)
			}
			return cfg.variables.legacy(field)
		},
	}
	return e, len(e.config.Keys) > 0
}

func (cfg *Config) legacyAnthropic() (e entry, makes bool) {
	if cfg.LegacyAnthropic == (AnthropicConfig{}) && cfg.LegacyBedrock == (BedrockConfig{}) {
		return e, false
	}
	bedrock := cfg.LegacyBedrock
	e = entry{
		place:     anthropicPlace,
		variables: &cfg.variables,
		legacy:    true,
		config: ProviderConfig{
			Type:                    string(TypeAnthropic),
			BaseURL:                 cfg.LegacyAnthropic.BaseURL,
			Keys:                    nonZero(cfg.LegacyAnthropic.Key),
			BedrockBaseURL:          bedrock.BaseURL,
			BedrockRegion:           bedrock.Region,
			BedrockAccessKeys:       nonZero(bedrock.AccessKey),
			BedrockAccessKeySecrets: nonZero(bedrock.AccessKeySecret),
			BedrockModel:            bedrock.Model,
			BedrockSmallFastModel:   bedrock.SmallFastModel,
		},
	}
	signals := e.bedrockSignals()
	e.source = func(field string) string {
		switch field {
		case fieldType, fieldName:
			if len(signals) > 0 {
				return cfg.variables.legacy(signals[0])
			}
			return cfg.variables.legacy(anthropicGroup + fieldKey)
		case fieldKey, fieldBaseURL:
			return cfg.variables.legacy(anthropicGroup + field)
		}
		return cfg.variables.legacy(field)
	}
	if len(signals) > 0 {
		return e, true
	}
	if len(e.config.Keys) == 0 {
		return e, false
	}
	e.defaultBaseURL = e.config.BaseURL == ""
	e.config.BaseURL = cmp.Or(e.config.BaseURL, defaultAnthropicBaseURL)
	return e, true
}

// bedrockSignalFields are the fields that can make a provider authenticate through Bedrock. An
// access key comes with its secret.
var bedrockSignalFields = [...]string{fieldBedrockRegion, fieldBedrockBaseURL, fieldBedrockAccessKey}

// bedrockSignals lists the fields that are set and make the provider authenticate through
// Bedrock. The models are not among them, because they have defaults.
func (e *entry) bedrockSignals() []string {
	var set []string
	for _, f := range e.bedrockFields() {
		if f != fieldBedrockModel && f != fieldBedrockSmallFastModel {
			set = append(set, f)
		}
	}
	return set
}

// hasBedrock reports whether any Bedrock field is set.
func (c *ProviderConfig) hasBedrock() bool {
	return c.BedrockBaseURL != "" || c.BedrockRegion != "" || len(c.BedrockAccessKeys) > 0 || len(c.BedrockAccessKeySecrets) > 0 ||
		c.BedrockModel != "" || c.BedrockSmallFastModel != ""
}

func (e *entry) bedrockFields() []string {
	c := &e.config
	if !c.hasBedrock() {
		return nil
	}
	return namesOfSet([]setField{
		{fieldBedrockBaseURL, c.BedrockBaseURL != ""},
		{fieldBedrockRegion, c.BedrockRegion != ""},
		{secretName(fieldBedrockAccessKey, len(c.BedrockAccessKeys)), len(c.BedrockAccessKeys) > 0},
		{secretName(fieldBedrockAccessKeySecret, len(c.BedrockAccessKeySecrets)), len(c.BedrockAccessKeySecrets) > 0},
		{fieldBedrockModel, c.BedrockModel != ""},
		{fieldBedrockSmallFastModel, c.BedrockSmallFastModel != ""},
	})
}

func (e *entry) name() string { return cmp.Or(e.config.Name, e.config.Type) }

// nameVariable returns the variable that gives the provider its name.
func (e *entry) nameVariable() string {
	if e.config.Name == "" {
		return e.variable(fieldType)
	}
	return e.variable(fieldName)
}

// withKey sets a key of m, and makes the map if it is nil.
func withKey[K comparable, V any](m map[K]V, key K, value V) map[K]V {
	if m == nil {
		m = map[K]V{}
	}
	m[key] = value
	return m
}
