package aiseed

import (
	"cmp"
	"strconv"
)

// DefaultPrefix starts the name of every variable, unless [WithPrefix] gives
// another.
const DefaultPrefix = "CODER_AIBRIDGE_"

// The names of variables, which follow the prefix for the legacy ones and
// <prefix>PROVIDER_<N>_ for the indexed ones. A legacy name is its group and the field.
const (
	indexedGroup   = "PROVIDER_"
	openAIGroup    = "OPENAI_"
	anthropicGroup = "ANTHROPIC_"
	bedrockGroup   = "BEDROCK_"
	driftGroup     = "DRIFT_"

	fieldType                   = "TYPE"
	fieldName                   = "NAME"
	fieldBaseURL                = "BASE_URL"
	fieldKey                    = "KEY"
	fieldBedrockBaseURL         = bedrockGroup + "BASE_URL"
	fieldBedrockRegion          = bedrockGroup + "REGION"
	fieldBedrockAccessKey       = bedrockGroup + "ACCESS_KEY"
	fieldBedrockAccessKeySecret = bedrockGroup + "ACCESS_KEY_SECRET"
	fieldBedrockModel           = bedrockGroup + "MODEL"
	fieldBedrockSmallFastModel  = bedrockGroup + "SMALL_FAST_MODEL"

	pluralSuffix   = "S"
	fileTwinSuffix = "_FILE"
)

// The variables that settle a drift, without the prefix. Each takes a comma-separated list of
// name@digest.
const (
	variableDriftAdopt = "DRIFT_ADOPT"
	variableDriftKeep  = "DRIFT_KEEP"
)

// A field is one row of the table of variables. A secret one also has a twin that names a
// file. An indexed secret also has a plural that takes a list.
type field struct {
	name     string
	secret   bool
	meaning  string
	fallback string // what is used if it is not set
}

var (
	settingFields = []field{
		{variableDriftAdopt, false, "name@digest, comma-separated: drifts that are settled by the environment's values", ""},
		{variableDriftKeep, false, "name@digest, comma-separated: drifts that are settled by the database's values", ""},
	}
	legacyFields = []field{
		{openAIGroup + fieldKey, true, "bearer key; makes the provider openai", ""},
		{openAIGroup + fieldBaseURL, false, "its base URL", defaultOpenAIBaseURL},
		{anthropicGroup + fieldKey, true, "bearer key; makes the provider anthropic", ""},
		{anthropicGroup + fieldBaseURL, false, "its base URL", defaultAnthropicBaseURL},
		{fieldBedrockBaseURL, false, "base URL of Amazon Bedrock; makes the provider anthropic use Bedrock", ""},
		{fieldBedrockRegion, false, "AWS region; makes the provider anthropic use Bedrock", ""},
		{fieldBedrockAccessKey, true, "AWS access key, with its secret; makes the provider anthropic use Bedrock", "the AWS environment"},
		{fieldBedrockAccessKeySecret, true, "AWS secret access key", "the AWS environment"},
		{fieldBedrockModel, false, "model on Bedrock", defaultBedrockModel},
		{fieldBedrockSmallFastModel, false, "small model on Bedrock", defaultBedrockSmallFastModel},
	}
	indexedFields = []field{
		{fieldType, false, "openai or anthropic; required", ""},
		{fieldName, false, "unique name: lower-case letters, digits and single hyphens", "the type"},
		{fieldBaseURL, false, "absolute http or https URL", "the runtime's own"},
		{fieldKey, true, "bearer key, or up to 5, comma-separated, in the plural", ""},
		{fieldBedrockBaseURL, false, "base URL of Amazon Bedrock; type anthropic, without bearer keys", ""},
		{fieldBedrockRegion, false, "AWS region; type anthropic, without bearer keys", ""},
		{fieldBedrockAccessKey, true, "AWS access key; of several in the plural the first is used", "the AWS environment"},
		{fieldBedrockAccessKeySecret, true, "AWS secret access key; as many as access keys", "the AWS environment"},
		{fieldBedrockModel, false, "model on Bedrock", defaultBedrockModel},
		{fieldBedrockSmallFastModel, false, "small model on Bedrock", defaultBedrockSmallFastModel},
	}
	settingNames = variableNames(settingFields, false)
	legacyNames  = variableNames(legacyFields, false)
	indexedNames = variableNames(indexedFields, true)
)

func variableNames(fields []field, plurals bool) map[string]bool {
	names := map[string]bool{}
	for _, f := range fields {
		names[f.name] = true
		if f.secret {
			names[f.name+fileTwinSuffix] = true
		}
		if f.secret && plurals {
			names[f.name+pluralSuffix] = true
			names[f.name+pluralSuffix+fileTwinSuffix] = true
		}
	}
	return names
}

// A Variable is an environment variable that [ParseEnviron] reads.
type Variable struct {
	Name    string // with the prefix; <N> stands for an index
	Meaning string
	Default string // what is used if it is not set, or ""
	Secret  bool   // it has a twin, Name and "_FILE", that names a file with the value
	Plural  string // the variable that takes a list instead, or ""
}

// Variables lists every variable that [ParseEnviron] reads, from the table that it uses to
// read them. An empty prefix means [DefaultPrefix].
func Variables(prefix string) []Variable {
	v := variables{prefix: prefix}
	var out []Variable
	for _, group := range []struct {
		fields []field
		stem   string
	}{{legacyFields, ""}, {indexedFields, indexedGroup + "<N>_"}, {settingFields, ""}} {
		for _, f := range group.fields {
			variable := Variable{Name: v.full(group.stem + f.name), Meaning: f.meaning, Default: f.fallback, Secret: f.secret}
			if f.secret && group.stem != "" {
				variable.Plural = variable.Name + pluralSuffix
			}
			out = append(out, variable)
		}
	}
	return out
}

// variables knows the full name behind each value of a [Config].
type variables struct {
	prefix  string            // "" is DefaultPrefix
	indices []string          // nil is 0, 1, 2, …
	actual  map[string]string // from the usual name of a secret to the one that was set

	unreadable map[string]bool // the variables whose value could not be read
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

// secretName returns the usual variable for n secrets.
func secretName(name string, n int) string {
	if n > 1 {
		return name + pluralSuffix
	}
	return name
}
