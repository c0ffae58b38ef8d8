package aiseed

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"example.com/aiseed/internal/baseurl"
	"example.com/aiseed/internal/text"
)

// A ProviderType is the kind of upstream that a provider connects to.
type ProviderType string

// The supported types. The constants name the vendor or the protocol; [ProviderSpec] says what
// each type takes.
const (
	TypeOpenAI       ProviderType = "openai"
	TypeAnthropic    ProviderType = "anthropic"     // with bearer keys, or through Amazon Bedrock
	TypeBedrock      ProviderType = "bedrock"       // through Amazon Bedrock
	TypeCopilot      ProviderType = "copilot"       // each user brings a token
	TypeAzure        ProviderType = "azure"         // by its OpenAI-compatible endpoint, like the rest
	TypeGoogle       ProviderType = "google"        // Gemini
	TypeOpenRouter   ProviderType = "openrouter"    //
	TypeVercel       ProviderType = "vercel"        // AI Gateway
	TypeOpenAICompat ProviderType = "openai-compat" // any other server
)

// A providerKind says what a type takes and needs.
type providerKind struct {
	keys         bool // takes bearer keys
	bedrock      bool // takes Bedrock settings
	needsBedrock bool
	needsBaseURL bool
	baseURL      string // the default, or ""
}

// providerTypes is the one table of supported types. CONTRIBUTING.md says what else a new
// type needs.
var providerTypes = map[ProviderType]providerKind{
	TypeOpenAI:       {keys: true, baseURL: defaultOpenAIBaseURL},
	TypeAnthropic:    {keys: true, bedrock: true, baseURL: defaultAnthropicBaseURL},
	TypeBedrock:      {bedrock: true, needsBedrock: true},
	TypeCopilot:      {baseURL: defaultCopilotBaseURL},
	TypeAzure:        {keys: true, needsBaseURL: true},
	TypeGoogle:       {keys: true, needsBaseURL: true},
	TypeOpenRouter:   {keys: true, needsBaseURL: true},
	TypeVercel:       {keys: true, needsBaseURL: true},
	TypeOpenAICompat: {keys: true, needsBaseURL: true},
}

// typesWhere lists the types of a kind, sorted.
func typesWhere(is func(providerKind) bool) (types []string) {
	for t, kind := range providerTypes {
		if is(kind) {
			types = append(types, string(t))
		}
	}
	slices.Sort(types)
	return types
}

var supportedTypes = sync.OnceValue(func() string {
	return strings.Join(typesWhere(func(providerKind) bool { return true }), ", ")
})

// otherTypes are names that other products have for our types.
var otherTypes = map[string]ProviderType{
	"gemini": TypeGoogle, "google-ai": TypeGoogle, "azure-openai": TypeAzure, "aws-bedrock": TypeBedrock, "amazon-bedrock": TypeBedrock, "aws": TypeBedrock,
	"claude": TypeAnthropic, "chatgpt": TypeOpenAI, "github-copilot": TypeCopilot, "github": TypeCopilot, "vercel-ai-gateway": TypeVercel,
	"openai-compatible": TypeOpenAICompat, "custom": TypeOpenAICompat,
}

// nearestType returns the supported type that an unsupported one was probably meant to be, or
// "".
func nearestType(t string) string {
	t = strings.ReplaceAll(strings.ToLower(t), "_", "-")
	if meant, ok := otherTypes[t]; ok {
		return string(meant)
	}
	return text.Near(t, typesWhere(func(providerKind) bool { return true }))
}

// DefaultBaseURL returns the base URL of a provider of this type whose base URL is empty and
// which has no Bedrock settings. It returns "" for a type without a default, and for one that
// is not supported. The defaults never change.
func (t ProviderType) DefaultBaseURL() string { return providerTypes[t].baseURL }

// The documented defaults. The base URLs are frozen: a new one would make every row that was
// seeded with the old one drift. The models are tunables and can change.
const (
	defaultOpenAIBaseURL         = "https://api.openai.com/v1/"
	defaultAnthropicBaseURL      = "https://api.anthropic.com/"
	defaultCopilotBaseURL        = "https://api.individual.githubcopilot.com"
	defaultBedrockModel          = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
	defaultBedrockSmallFastModel = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
)

// A Provider is an upstream AI endpoint as the runtime uses it. It prints with the values of its
// base URL's query masked, like its secrets. Its JSON is for showing, not for reading back.
type Provider struct {
	ID          uuid.UUID        `json:"id"`
	Type        ProviderType     `json:"type"`
	Name        string           `json:"name"`         // unique among live providers
	DisplayName string           `json:"display_name"` // "" for none
	Enabled     bool             `json:"enabled"`
	BaseURL     string           `json:"base_url"`          // as the operator wrote it, see [MaskURL]; "" is the default of the type
	Bedrock     *BedrockSettings `json:"bedrock,omitempty"` // nil for a provider with bearer keys, and for one that [ForgetKey] left without
	Keys        []ProviderKey    `json:"keys"`              // bearer keys, in the configured order
	Revision    int64            `json:"revision"`          // starts at 1 and counts the changes of the provider and its keys
	CreatedAt   time.Time        `json:"created_at"`
	UpdatedAt   time.Time        `json:"updated_at"`
}

func (p Provider) masked() any {
	type masked Provider
	p.BaseURL, p.Keys = MaskURL(p.BaseURL), append([]ProviderKey{}, p.Keys...)
	return masked(p)
}

// Format prints the provider with its base URL masked.
func (p Provider) Format(f fmt.State, verb rune) { formatMasked(f, verb, p) }

// MarshalJSON encodes the provider with its base URL masked.
func (p Provider) MarshalJSON() ([]byte, error) { return json.Marshal(p.masked()) }

func (p Provider) region() string {
	if p.Bedrock == nil {
		return ""
	}
	return p.Bedrock.Region
}

// BedrockSettings are how a provider authenticates with Amazon Bedrock.
type BedrockSettings struct {
	Region          string `json:"region"` // "" if the base URL contains it
	Model           string `json:"model"`
	SmallFastModel  string `json:"small_fast_model"`
	AccessKey       Secret `json:"access_key"` // zero to use the AWS environment
	AccessKeySecret Secret `json:"access_key_secret"`
}

// fields lists the fields that are set, or stands for all of them.
func (b BedrockSettings) fields() []string {
	set := namesOfSet([]setField{
		{fieldBedrockRegion, b.Region != ""},
		{fieldBedrockAccessKey, !b.AccessKey.IsZero()},
		{fieldBedrockAccessKeySecret, !b.AccessKeySecret.IsZero()},
		{fieldBedrockModel, b.Model != ""},
		{fieldBedrockSmallFastModel, b.SmallFastModel != ""},
	})
	if len(set) == 0 {
		set = []string{bedrockGroup + "*"}
	}
	return set
}

// A setField is the name of a field, and whether it is set.
type setField struct {
	name string
	set  bool
}

func namesOfSet(fields []setField) (names []string) {
	for _, f := range fields {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

// withDefaults sets missing models to the defaults of the environment.
func (b BedrockSettings) withDefaults() BedrockSettings {
	if b.Model == "" {
		b.Model = defaultBedrockModel
	}
	if b.SmallFastModel == "" {
		b.SmallFastModel = defaultBedrockSmallFastModel
	}
	return b
}

// A ProviderKey is one bearer key of a provider.
type ProviderKey struct {
	ID        uuid.UUID `json:"id"`
	APIKey    Secret    `json:"key"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// The names of the fields of a provider, as indexed variables have them. An operation names
// them in lower case.
const (
	bedrockGroup = "BEDROCK_"

	fieldType                   = "TYPE"
	fieldName                   = "NAME"
	fieldDisplayName            = "DISPLAY_NAME" // no variable sets the display name
	fieldBaseURL                = "BASE_URL"
	fieldKey                    = "KEY"
	fieldKeys                   = fieldKey + pluralSuffix
	fieldBedrockBaseURL         = bedrockGroup + "BASE_URL"
	fieldBedrockRegion          = bedrockGroup + "REGION"
	fieldBedrockAccessKey       = bedrockGroup + "ACCESS_KEY"
	fieldBedrockAccessKeySecret = bedrockGroup + "ACCESS_KEY_SECRET"
	fieldBedrockModel           = bedrockGroup + "MODEL"
	fieldBedrockSmallFastModel  = bedrockGroup + "SMALL_FAST_MODEL"
	fieldRemoveBedrock          = "REMOVE_BEDROCK" // of an update only

	pluralSuffix = "S"
)

// secretName returns the usual variable for n secrets.
func secretName(name string, n int) string {
	if n > 1 {
		return name + pluralSuffix
	}
	return name
}

// fieldProblems are problems of an operation. They name fields of its provider, in place of
// variables.
type fieldProblems struct {
	provider string
	problems []problem
}

func (f *fieldProblems) report(reason string, fields ...string) {
	names := make([]string, len(fields))
	for i, field := range fields {
		names[i] = strings.ToLower(field)
	}
	f.problems = append(f.problems, problem{0, Problem{Variables: names, Provider: f.provider, Reason: reason}})
}

func (f *fieldProblems) err() error {
	if len(f.problems) == 0 {
		return nil
	}
	return operationError(f.provider, f.problems)
}

// check reports what is wrong with a provider that was old until now. It checks the values
// that change and how the fields fit together, but accepts what the row has already.
func (p Provider) check(old Provider, report func(reason string, fields ...string)) {
	_, supported := providerTypes[p.Type]
	switch {
	case p.Type == "" && p.Name == "":
		report("neither a type nor a name; both are required, the type one of "+supportedTypes(), fieldType, fieldName)
	case p.Type == "":
		report("required; want one of "+supportedTypes(), fieldType)
	case !supported && p.Type != old.Type:
		report("not a supported type; want one of "+supportedTypes(), fieldType)
	}
	switch {
	case p.Name == "" && p.Type != "":
		report("required", fieldName)
	case p.Name != "" && p.Name != old.Name && !text.IsName(p.Name):
		report("not a valid name"+wantName, fieldName)
	}
	was, is := settingsOf(old), settingsOf(p)
	for _, f := range []struct {
		name, old, value string
		check            func(string) string
	}{
		{fieldDisplayName, old.DisplayName, p.DisplayName, checkDisplayName},
		{fieldBaseURL, old.BaseURL, p.BaseURL, baseurl.Check},
		{fieldBedrockRegion, was.Region, is.Region, text.CheckWord},
		{fieldBedrockModel, was.Model, is.Model, text.CheckWord},
		{fieldBedrockSmallFastModel, was.SmallFastModel, is.SmallFastModel, text.CheckWord},
	} {
		if reason := f.check(f.value); reason != "" && f.value != f.old {
			report(reason, f.name)
		}
	}
	had := slices.DeleteFunc(secretsOf(old), Secret.IsZero) // a zero one cannot be decrypted
	if keys := secretsOf(p); !slices.EqualFunc(p.Keys, old.Keys, func(a, b ProviderKey) bool { return a.ID == b.ID }) {
		checkNew := func(value string) string {
			if slices.ContainsFunc(had, NewSecret(value).Equal) {
				return ""
			}
			return text.CheckSecret(value)
		}
		checkSecrets(keys, checkNew, func(reason string) { report(reason, fieldKeys) })
	}
	for _, f := range []struct {
		name       string
		old, value Secret
	}{{fieldBedrockAccessKey, was.AccessKey, is.AccessKey}, {fieldBedrockAccessKeySecret, was.AccessKeySecret, is.AccessKeySecret}} {
		if !f.value.IsZero() && !f.value.Equal(f.old) {
			checkSecrets([]Secret{f.value}, text.CheckSecret, func(reason string) { report(reason, f.name) })
		}
	}
	before := map[string]bool{}
	old.misfits(func(reason string, _ ...string) { before[reason] = true })
	addsKeys := slices.ContainsFunc(secretsOf(p), func(s Secret) bool { return !slices.ContainsFunc(had, s.Equal) })
	p.misfits(func(reason string, fields ...string) {
		if !before[reason] || addsKeys && !providerTypes[p.Type].keys {
			report(reason, fields...)
		}
	})
}

const maxListLength = 5

func checkSecrets(secrets []Secret, check func(string) string, problem func(reason string)) {
	if len(secrets) > maxListLength {
		problem(fmt.Sprintf("%d elements; at most %d are allowed", len(secrets), maxListLength))
		return
	}
	for i, s := range secrets {
		reason := check(s.Reveal())
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

const wantName = "; want lower-case letters, digits and single hyphens between them, at most 255 bytes"

func checkDisplayName(name string) (problem string) {
	if problem = text.Check(name); problem == "" && len(name) > text.MaxNameBytes {
		problem = "longer than 255 bytes"
	}
	return problem
}

// misfits reports how the fields of a provider do not fit together.
func (p Provider) misfits(report func(reason string, fields ...string)) {
	is := settingsOf(p)
	set := givenFields{baseURL: p.BaseURL != ""}
	if len(p.Keys) > 0 {
		set.keys = []string{fieldKeys}
	}
	if p.Bedrock != nil {
		set.bedrock = is.fields()
		if is.Region != "" || !is.AccessKey.IsZero() || !is.AccessKeySecret.IsZero() || p.BaseURL != "" {
			set.signals = set.bedrock
		}
	}
	needsSignal := []string{fieldBedrockRegion, fieldBaseURL, fieldBedrockAccessKey}
	p.Type.misfits(set, needsSignal, report)
	kind := providerTypes[p.Type]
	if len(set.keys) > 0 && len(set.bedrock) > 0 && kind.keys && kind.bedrock {
		report(bothCredentials, slices.Concat(set.keys, set.bedrock)...)
	}
	if p.Bedrock != nil && len(set.signals) == 0 && kind.bedrock && !kind.needsBedrock {
		report("none is set; Bedrock needs a region, a base URL or an access key", needsSignal...)
	}
	if keys, secrets := len(nonZero(is.AccessKey)), len(nonZero(is.AccessKeySecret)); keys != secrets {
		report(unpaired(keys, secrets), fieldBedrockAccessKey, fieldBedrockAccessKeySecret)
	}
}

// unpaired is the problem of access keys and secrets that differ in number.
func unpaired(keys, secrets int) string {
	return text.Count(keys, "access key") + " and " + text.Count(secrets, "secret") + "; each access key needs its secret"
}

// bothCredentials is a problem of a type that takes both, but one at a time.
const bothCredentials = "a provider authenticates with bearer keys or with Bedrock settings, not with both; remove one"

// givenFields are the fields of a provider that are set.
type givenFields struct {
	keys, bedrock, signals []string // their names; signals are the Bedrock settings that are more than a model
	baseURL                bool
}

// misfits reports which of the fields a type does not take, and which it lacks. A provider of
// a type that is not supported fits. signals are the fields of which Bedrock needs one.
func (t ProviderType) misfits(set givenFields, signals []string, report func(reason string, fields ...string)) {
	kind, supported := providerTypes[t]
	if !supported {
		return
	}
	if len(set.keys) > 0 && !kind.keys {
		report("not for type "+string(t)+", which "+kind.insteadOfKeys()+"; remove it", set.keys...)
	}
	if len(set.bedrock) > 0 && !kind.bedrock {
		report("for the types "+strings.Join(typesWhere(func(k providerKind) bool { return k.bedrock }), " and ")+" only, and the type is "+string(t), set.bedrock...)
	}
	if kind.needsBedrock && len(set.signals) == 0 {
		report("none is set; type "+string(t)+" needs a region, a base URL or an access key of Amazon Bedrock", signals...)
	}
	if kind.needsBaseURL && !set.baseURL {
		report("required for type "+string(t)+", which has no default; want the OpenAI-compatible endpoint to which its keys may go", fieldBaseURL)
	}
}

// fits reports whether no field needs a further look.
func (k providerKind) fits(keys, bedrock, baseURL bool) bool {
	return (k.keys || !keys) && !bedrock && !k.needsBedrock && (baseURL || !k.needsBaseURL)
}

// insteadOfKeys says what authenticates a provider that takes no bearer keys.
func (k providerKind) insteadOfKeys() string {
	if k.bedrock {
		return "authenticates through Amazon Bedrock"
	}
	return "takes the token that each user brings"
}

// secretsOf returns the bearer keys of a provider.
func secretsOf(p Provider) (keys []Secret) {
	for _, k := range p.Keys {
		keys = append(keys, k.APIKey)
	}
	return keys
}

// sameKeys compares the secrets, in order.
func sameKeys(a, b []ProviderKey) bool {
	return slices.EqualFunc(a, b, func(a, b ProviderKey) bool { return a.APIKey.Equal(b.APIKey) })
}

func settingsOf(p Provider) BedrockSettings {
	if p.Bedrock == nil {
		return BedrockSettings{}
	}
	return *p.Bedrock
}

func sameSettings(a, b *BedrockSettings) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Region == b.Region && a.Model == b.Model && a.SmallFastModel == b.SmallFastModel &&
		a.AccessKey.Equal(b.AccessKey) && a.AccessKeySecret.Equal(b.AccessKeySecret)
}
