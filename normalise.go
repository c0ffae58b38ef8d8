package aiseed

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"example.com/aiseed/internal/text"
)

// normalise turns a Config into the providers that it asks for, sorted by name.
func normalise(cfg Config) ([]desired, error) {
	n := check(&cfg)
	if len(n.problems) > 0 {
		return nil, configError(n.problems)
	}
	want := make([]desired, len(n.kept))
	for i, place := range n.kept {
		e, _ := cfg.entry(place)
		want[i] = e.desired()
		want[i].warnings = append(want[i].warnings, n.warnings[place]...)
	}
	slices.SortStableFunc(want, func(a, b desired) int { return cmp.Compare(a.Name, b.Name) })
	return want, nil
}

// A normaliser decides which entries of a Config are used, and collects all problems.
type normaliser struct {
	cfg      *Config
	kept     []int             // places
	byName   map[string]int    // place; without entries of an unsupported type
	warnings map[int][]Warning // by place
	problems []problem
}

func check(cfg *Config) *normaliser {
	n := &normaliser{
		cfg:      cfg,
		kept:     make([]int, 0, len(cfg.Providers)),
		byName:   make(map[string]int, len(cfg.Providers)),
		warnings: map[int][]Warning{},
		problems: cfg.settlement().check(),
	}
	for place := range indexedPlace(len(cfg.Providers)) {
		if e, makes := cfg.entry(place); makes {
			n.add(&e)
		} else {
			n.checkValues(&e)
		}
	}
	return n
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

func nonZero(s Secret) []Secret {
	if s.IsZero() {
		return nil
	}
	return []Secret{s}
}

// bedrockSignals lists the fields that are set and make the provider authenticate through
// Bedrock. The models are not among them, because they have defaults.
func (e entry) bedrockSignals() []string {
	var set []string
	for _, f := range e.bedrockFields() {
		if f != fieldBedrockModel && f != fieldBedrockSmallFastModel {
			set = append(set, f)
		}
	}
	return set
}

func (e entry) bedrockFields() []string {
	c := e.config
	var set []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{fieldBedrockBaseURL, c.BedrockBaseURL != ""},
		{fieldBedrockRegion, c.BedrockRegion != ""},
		{secretName(fieldBedrockAccessKey, len(c.BedrockAccessKeys)), len(c.BedrockAccessKeys) > 0},
		{secretName(fieldBedrockAccessKeySecret, len(c.BedrockAccessKeySecrets)), len(c.BedrockAccessKeySecrets) > 0},
		{fieldBedrockModel, c.BedrockModel != ""},
		{fieldBedrockSmallFastModel, c.BedrockSmallFastModel != ""},
	} {
		if f.set {
			set = append(set, f.name)
		}
	}
	return set
}

func (e *entry) name() string { return cmp.Or(e.config.Name, e.config.Type) }

// nameVariable returns the variable that gives the provider its name.
func (e *entry) nameVariable() string {
	if e.config.Name == "" {
		return e.variable(fieldType)
	}
	return e.variable(fieldName)
}

func (n *normaliser) problem(e *entry, reason string, fields ...string) {
	var names []string
	for _, f := range fields {
		names = append(names, e.variable(f))
	}
	n.problems = append(n.problems, problem{e.place, Problem{Variables: names, Provider: text.Label(e.name()), Reason: reason}})
}

func (n *normaliser) checkValues(e *entry) {
	e.config.checkValues(func(field string) bool { return e.variables.unreadable[e.variable(field)] },
		func(reason string, fields ...string) { n.problem(e, reason, fields...) })
}

func (n *normaliser) add(e *entry) {
	c := &e.config
	kind, supported := providerTypes[ProviderType(c.Type)]
	switch {
	case c.Type == "" && c.Name == "":
		n.problem(e, "neither a type nor a name; want at least a type, one of "+supportedTypes(), fieldType, fieldName)
	case c.Type == "":
		n.problem(e, "required; want one of "+supportedTypes(), fieldType)
	case !utf8.ValidString(c.Type):
		n.problem(e, "not valid UTF-8", fieldType)
	}
	if c.Name != "" && !text.IsName(c.Name) {
		n.problem(e, "not a valid name; want lower-case letters, digits and single hyphens between them, at most 255 bytes", fieldName)
	}
	if c.Type != "" && !supported {
		n.kept = append(n.kept, e.place)
		return
	}
	n.checkValues(e)
	if set := e.bedrockFields(); supported && !kind.bedrock && len(set) > 0 {
		n.problem(e, "for type anthropic only, and the type is "+c.Type, set...)
	}
	if c.Type == "" {
		return // the checks below need a type
	}
	if first, exists := n.byName[e.name()]; exists {
		n.merge(first, e)
		return
	}
	n.byName[e.name()] = e.place
	n.kept = append(n.kept, e.place)
}

// merge leaves out e, because an entry with its name already exists.
func (n *normaliser) merge(place int, e *entry) {
	first, _ := n.cfg.entry(place)
	if first.legacy {
		remove := first.makers()
		n.problems = append(n.problems, problem{e.place, Problem{
			Variables: append([]string{e.nameVariable()}, remove...),
			Provider:  e.name(),
			Reason:    "the legacy variables make a provider of this name too; remove " + strings.Join(remove, " and ") + ", or give the indexed provider another name",
		}})
		return
	}
	variables := []string{first.nameVariable(), e.nameVariable()}
	if drift := shapeDrift(first.desired().Provider, e.desired()); drift != nil {
		var fields []string
		for _, f := range drift {
			fields = append(fields, f.Field)
		}
		n.problems = append(n.problems, problem{e.place, Problem{
			Variables: variables,
			Provider:  e.name(),
			Reason:    "one name for two providers that differ in " + strings.Join(fields, " and ") + "; remove or rename one",
		}})
		return
	}
	different := divergence(first.desired().Provider, e.desired().Provider, func(Secret) string { return "" })
	if len(different) > 0 {
		n.warnings[place] = append(n.warnings[place], Warning{Code: WarningSameName, Variables: variables})
	}
}

// makers lists the variables that make a legacy provider.
func (e *entry) makers() []string {
	var set []string
	if len(e.config.Keys) > 0 {
		set = append(set, e.variable(fieldKey))
	}
	for _, f := range e.bedrockSignals() {
		set = append(set, e.variable(f))
	}
	return set
}

// desired returns what the entry asks for. An entry with problems is never seeded, but merge
// compares it.
func (e entry) desired() desired {
	c := &e.config
	if _, supported := providerTypes[ProviderType(c.Type)]; !supported {
		return desired{
			Provider:    Provider{Name: e.name(), Type: ProviderType(c.Type), BaseURL: c.BaseURL},
			unsupported: true,
			warnings:    []Warning{{Code: WarningUnsupportedType, Type: text.Label(c.Type)}},
		}
	}
	d := desired{
		Provider: Provider{
			Type:        ProviderType(c.Type),
			Name:        e.name(),
			DisplayName: e.name(),
			Enabled:     true,
			BaseURL:     c.BaseURL,
		},
		variable:       e.variable,
		defaultBaseURL: e.defaultBaseURL,
		legacy:         e.legacy,
	}
	warn := func(reason string, fields ...string) {
		var names []string
		for _, f := range fields {
			names = append(names, e.variable(f))
		}
		d.warnings = append(d.warnings, Warning{Code: WarningIgnored, Variables: names, Reason: reason})
	}
	if len(e.bedrockSignals()) > 0 {
		d.authenticateWithBedrock(c, warn)
	} else {
		d.Keys = make([]ProviderKey, len(c.Keys))
		for i, key := range c.Keys {
			d.Keys[i].APIKey = key
		}
		// A legacy model can be a default of the host, so it gets no warning.
		if models := e.bedrockFields(); len(models) > 0 && !e.legacy {
			warn("ignored, since there is no Bedrock base URL, region or access key to use a model with", models...)
		}
	}
	return d
}

func (d *desired) authenticateWithBedrock(c *ProviderConfig, warn func(reason string, fields ...string)) {
	d.BaseURL = c.BedrockBaseURL
	d.Bedrock = &BedrockSettings{
		Region:         c.BedrockRegion,
		Model:          cmp.Or(c.BedrockModel, defaultBedrockModel),
		SmallFastModel: cmp.Or(c.BedrockSmallFastModel, defaultBedrockSmallFastModel),
	}
	if len(c.BedrockAccessKeys) > 0 && len(c.BedrockAccessKeySecrets) > 0 {
		d.Bedrock.AccessKey, d.Bedrock.AccessKeySecret = c.BedrockAccessKeys[0], c.BedrockAccessKeySecrets[0]
	}
	if more := len(c.BedrockAccessKeys) - 1; more > 0 {
		warn(fmt.Sprintf("%s; the first pair is used and the other %d ignored", text.Count(more+1, "Bedrock access key"), more),
			secretName(fieldBedrockAccessKey, more+1))
	}
	if len(c.Keys) > 0 {
		warn("ignored, since the provider authenticates through Bedrock", secretName(fieldKey, len(c.Keys)))
	}
	if c.BaseURL != "" && c.BaseURL != c.BedrockBaseURL {
		warn("ignored, since the provider takes the Bedrock base URL", fieldBaseURL)
	}
}
