package aiseed

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.com/aiseed/internal/environ"
	"example.com/aiseed/internal/text"
)

// The prefixes of variables, unless [WithPrefix] gives others: the product's first name, and
// the newer one.
const (
	DefaultPrefix = "CODER_AIBRIDGE_"
	GatewayPrefix = "CODER_AI_GATEWAY_"
)

// The groups of variables, behind the prefix: the indexed ones, and those of a vendor or a
// purpose. A legacy name is its group and a field.
const (
	indexedGroup   = "PROVIDER_"
	openAIGroup    = "OPENAI_"
	anthropicGroup = "ANTHROPIC_"
	driftGroup     = "DRIFT_"

	fileTwinSuffix = "_FILE"
)

// The variables that settle differences, without the prefix. Each takes a comma-separated list of
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
		{variableDriftAdopt, false, "name@digest, comma-separated: differences that are settled by the environment's values", ""},
		{variableDriftKeep, false, "name@digest, *, name@*, *@database or name@database, comma-separated: differences that are settled by the database's values", ""},
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
		{fieldType, false, "required; one of " + supportedTypes(), ""},
		{fieldName, false, "unique name: lower-case letters, digits and single hyphens", "the type"},
		{fieldBaseURL, false, "absolute http or https URL; required for " + strings.Join(typesWhere(func(k providerKind) bool { return k.needsBaseURL }), ", "), "that of the type"},
		{fieldKey, true, "bearer key, or up to 5, comma-separated, in the plural", ""},
		{fieldBedrockBaseURL, false, "base URL of Amazon Bedrock; types anthropic and bedrock, without bearer keys", ""},
		{fieldBedrockRegion, false, "AWS region; types anthropic and bedrock, without bearer keys", ""},
		{fieldBedrockAccessKey, true, "AWS access key; of several in the plural the first is used", "the AWS environment"},
		{fieldBedrockAccessKeySecret, true, "AWS secret access key; as many as access keys", "the AWS environment"},
		{fieldBedrockModel, false, "model on Bedrock", defaultBedrockModel},
		{fieldBedrockSmallFastModel, false, "small model on Bedrock", defaultBedrockSmallFastModel},
	}
	indexedNames = variableNames(indexedFields, true)
	plainNames   = variableNames(slices.Concat(legacyFields, settingFields), false)
	allNames     = environ.Names{
		Plain: plainNames, Group: indexedGroup, Fields: indexedNames,
		Groups: []string{openAIGroup, anthropicGroup, bedrockGroup, driftGroup},
	}
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
	parsed bool              // the values come from variables
	prefix string            // of a variable that is not set; "" is DefaultPrefix
	stems  []string          // before the fields of the indexed providers; nil is 0, 1, 2, …
	mixed  bool              // the indexed variables have two prefixes
	actual map[string]string // from the usual name to the one that was set

	equal map[string][]string // by a name that was set, the same under another prefix, with the same value

	refused map[string]bool // the variables whose value is reported already

	// set returns all variables that are set. It is a function, because fmt prints unexported
	// fields, and what it knows includes secrets.
	set func() []setVariable
}

// A setVariable is a variable that is set, and the place of the entry that it belongs to.
type setVariable struct {
	name  string
	place int // noPlace for none
}

const noPlace = -1

// legacy returns the variable of a name that follows the prefix.
func (v variables) legacy(name string) string {
	if actual, ok := v.actual[name]; ok {
		return actual
	}
	return v.full(name)
}

// withEqual adds the variables that say the same under another prefix.
func (v variables) withEqual(names ...string) []string {
	for _, name := range slices.Clone(names) {
		names = append(names, v.equal[name]...)
	}
	return names
}

func (v variables) indexed(i int, field string) string {
	usual := v.stem(i) + field
	return cmp.Or(v.actual[usual], usual)
}

// stem returns what is before the fields of an indexed provider.
func (v variables) stem(i int) string {
	if v.stems != nil {
		return v.stems[i]
	}
	return v.full(indexedGroup + strconv.Itoa(i) + "_")
}

func (v variables) full(name string) string { return cmp.Or(v.prefix, DefaultPrefix) + name }

// removedFields are indexed fields of earlier versions.
var removedFields = map[string]bool{"DUMP_DIR": true}

// usualMistakes are names that other products and tools have for our fields, without the
// BEDROCK_ or the vendor before them.
var usualMistakes = map[string]string{
	"API_KEY": fieldKey, "APIKEY": fieldKey, "API_KEYS": fieldKey + pluralSuffix, "TOKEN": fieldKey, "API_TOKEN": fieldKey,
	"AUTH_TOKEN": fieldKey, "SECRET": fieldKey, "SECRET_KEY": fieldKey, "BEARER_TOKEN": fieldKey, "PASSWORD": fieldKey,
	"BEDROCK_KEY": fieldBedrockAccessKey, "BEDROCK_SECRET": fieldBedrockAccessKeySecret, "BEDROCK_SECRET_KEY": fieldBedrockAccessKeySecret, "BEDROCK_KEY_ID": fieldBedrockAccessKey,
	"API_KEYS_FILE": fieldKey + pluralSuffix + fileTwinSuffix, "API_KEY_FILE": fieldKey + fileTwinSuffix, "TOKEN_FILE": fieldKey + fileTwinSuffix,
	"URL": fieldBaseURL, "API_BASE": fieldBaseURL, "API_BASE_URL": fieldBaseURL, "API_URL": fieldBaseURL, "BASE": fieldBaseURL,
	"ENDPOINT": fieldBaseURL, "API_ENDPOINT": fieldBaseURL, "BASEURL": fieldBaseURL,
	"KIND": fieldType, "PROVIDER": fieldType, "VENDOR": fieldType, "ID": fieldName,
	"REGION": fieldBedrockRegion, "AWS_REGION": fieldBedrockRegion, "MODEL": fieldBedrockModel,
	"ACCESS_KEY": fieldBedrockAccessKey, "ACCESS_KEY_ID": fieldBedrockAccessKey, "AWS_ACCESS_KEY_ID": fieldBedrockAccessKey,
	"ACCESS_KEY_SECRET": fieldBedrockAccessKeySecret, "SECRET_ACCESS_KEY": fieldBedrockAccessKeySecret, "AWS_SECRET_ACCESS_KEY": fieldBedrockAccessKeySecret,
}

// nearest returns the name that an unknown one was probably meant to be, or "". known are the
// names that there are. group is what the names of a vendor begin with, or "".
func nearest(name, group string, known map[string]bool) string {
	upper := strings.ToUpper(name)
	befores := []string{group}
	if group == "" || group == bedrockGroup {
		befores = []string{bedrockGroup, ""}
	}
	for _, before := range befores {
		field, ok := strings.CutPrefix(upper, before)
		meant, usual := usualMistakes[field]
		switch {
		case !ok || !usual:
		case known[before+meant]:
			return before + meant
		case known[meant] && (before == "" || before == bedrockGroup):
			return meant
		}
	}
	return text.Near(name, slices.Collect(maps.Keys(known)))
}

// groupOf returns what the names of a vendor begin with, for one of them, or "".
func groupOf(name string) string {
	for _, group := range []string{openAIGroup, anthropicGroup, bedrockGroup} {
		if strings.HasPrefix(name, group) {
			return group
		}
	}
	return ""
}

// looksLikeKey reports whether the name of a field sounds like that of a secret.
func looksLikeKey(field string) bool {
	field = strings.ToUpper(field)
	return slices.ContainsFunc([]string{"KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"}, func(part string) bool { return strings.Contains(field, part) })
}
