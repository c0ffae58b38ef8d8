package aiseed

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cdr.dev/slog/v3"

	"example.com/aiseed/internal/secretfile"
	"example.com/aiseed/internal/text"
)

// A ParseOption changes how [ParseEnviron] reads the environment.
type ParseOption func(*parser)

// WithPrefix replaces [DefaultPrefix]. An empty prefix means the default.
func WithPrefix(prefix string) ParseOption {
	return func(p *parser) { p.prefix = prefix }
}

// ParseEnviron reads a [Config] from an environment in the form of [os.Environ],
// and reads the files that `_FILE` variables name. It does not look at the
// process's own environment. A variable with an empty value counts as not set. If a
// variable appears twice, the first wins.
//
// ParseEnviron reports all problems at once, in one [*ConfigError]. The Config then has
// only its warnings. Variables that look misspelt are logged as warnings.
func ParseEnviron(ctx context.Context, environ []string, logger slog.Logger, opts ...ParseOption) (Config, error) {
	p := &parser{}
	for _, opt := range opts {
		opt(p)
	}
	p.collect(environ)
	slices.Sort(p.unknown)
	var warnings []Warning
	for _, name := range p.unknown {
		name = text.Shorten(p.full(name))
		logger.Warn(ctx, unknownVariable, slog.F("variable", name))
		warnings = append(warnings, Warning{Code: WarningUnknownVariable, Variables: []string{name}})
	}

	cfg := Config{Providers: p.providers(), DriftAdopt: p.list(variableDriftAdopt), DriftKeep: p.list(variableDriftKeep)}
	p.legacy(&cfg)
	cfg.variables = p.variables
	if problems := append(p.problems, check(&cfg).problems...); len(problems) > 0 {
		return Config{Warnings: warnings}, configError(problems)
	}
	cfg.Warnings = warnings
	cfg.variables.indices = nil // without problems they are the usual ones
	return cfg, nil
}

// parser collects variables, then resolves them. Its names omit the prefix.
type parser struct {
	variables
	settings values // the variables that are not about a provider
	legacies values
	indexed  []indexedValues
	places   map[string]int // positions in indexed, by index
	unknown  []string
	problems []problem
}

// problem records a problem. names are the variables without their prefix.
func (p *parser) problem(place int, provider, reason string, names ...string) {
	for i, name := range names {
		names[i] = p.full(name)
	}
	p.problems = append(p.problems, problem{place, Problem{Variables: names, Provider: text.Label(provider), Reason: reason}})
}

// values are variables that belong together. They are few, so a linear search is
// faster than a map. If a variable appears twice, the first wins, even if it is empty.
type values []setting

type setting struct{ name, value string }

// indexedValues are the values of one index.
type indexedValues struct {
	index string
	values
}

func (v *values) add(name, value string) {
	for _, known := range *v {
		if known.name == name {
			return
		}
	}
	*v = append(*v, setting{name, value})
}

func (v values) get(name string) string {
	for _, known := range v {
		if known.name == name {
			return known.value
		}
	}
	return ""
}

func (v values) anySet() bool {
	return slices.ContainsFunc(v, func(known setting) bool { return known.value != "" })
}

// set lists the variables that are set and whose name begins with start.
func (v values) set(start string) []string {
	var set []string
	for _, known := range v {
		if known.value != "" && strings.HasPrefix(known.name, start) {
			set = append(set, known.name)
		}
	}
	slices.Sort(set)
	return set
}

func (p *parser) collect(environ []string) {
	prefix := p.full("")
	providers := len(environ) / 4 // a provider mostly has four variables
	p.indexed, p.places = make([]indexedValues, 0, providers), make(map[string]int, providers)
	others := map[string]bool{}
	for _, entry := range environ {
		if !strings.HasPrefix(entry, prefix) {
			continue
		}
		name, value, ok := strings.Cut(entry[len(prefix):], "=")
		if !ok || p.addIndexed(name, value) || others[name] {
			continue
		}
		others[name] = true
		if value != "" {
			p.addOther(name, value)
		}
	}
}

// addIndexed adds a known indexed variable. It reports whether name is one.
func (p *parser) addIndexed(name, value string) bool {
	indexed, ok := strings.CutPrefix(name, indexedGroup)
	index, fieldName, _ := strings.Cut(indexed, "_")
	if !ok || !indexedNames[fieldName] {
		return false
	}
	last := len(p.indexed) - 1
	if last < 0 || p.indexed[last].index != index { // the variables of one index are mostly adjacent
		at, known := p.places[index]
		if !known {
			if !isIndex(index) {
				return false
			}
			at = len(p.indexed)
			p.places[index] = at
			p.indexed = append(p.indexed, indexedValues{index, make(values, 0, 4)})
		}
		last = at
	}
	p.indexed[last].add(fieldName, value)
	return true
}

func (p *parser) addOther(name, value string) {
	indexed, ok := strings.CutPrefix(name, indexedGroup)
	index, fieldName, _ := strings.Cut(indexed, "_")
	switch {
	case ok && !isIndex(index):
		p.problem(problemsLast, "", "no valid index; want "+p.full(indexedGroup)+"<N>_<FIELD>, with <N> a decimal number without sign or leading zero", name)
	case ok && fieldName == "":
		p.problem(problemsLast, "", "no field; want "+p.full(indexedGroup)+"<N>_<FIELD>", name)
	case ok:
		p.unknown = append(p.unknown, name)
	case settingNames[name]:
		p.settings.add(name, value)
	case legacyNames[name]:
		p.legacies.add(name, value)
	case strings.HasPrefix(name, driftGroup), strings.HasPrefix(name, openAIGroup), strings.HasPrefix(name, anthropicGroup), strings.HasPrefix(name, bedrockGroup):
		p.unknown = append(p.unknown, name)
	}
	// Anything else under the prefix belongs to the host.
}

// isIndex reports whether s is an index. It checks text, not a number: an index may
// be larger than any integer type.
func isIndex(s string) bool {
	if s == "" || len(s) > 1 && s[0] == '0' {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// compareIndices orders indices as numbers. Without leading zeros, the longer index
// is larger.
func compareIndices(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func (p *parser) providers() []ProviderConfig {
	groups := slices.DeleteFunc(p.indexed, func(v indexedValues) bool { return !v.anySet() })
	slices.SortFunc(groups, func(a, b indexedValues) int { return compareIndices(a.index, b.index) })
	p.indices = make([]string, 0, len(groups))
	providers := make([]ProviderConfig, 0, len(groups))
	expected := []byte("0")
	for i, g := range groups {
		group := valueGroup{parser: p, place: indexedPlace(i), index: g.index, values: g.values}
		if g.index != string(expected) {
			p.problem(group.place, group.name(), "a gap: indices start at 0 and go up by one, and "+p.full(indexedGroup)+string(expected)+"_* is not set", group.set("")...)
		}
		expected = increment(append(expected[:0], g.index...))
		p.indices = append(p.indices, g.index)
		providers = append(providers, group.provider())
	}
	return providers
}

// increment adds one to a decimal number of any length, in place if possible.
func increment(digits []byte) []byte {
	for i := len(digits) - 1; i >= 0; i-- {
		if digits[i] != '9' {
			digits[i]++
			return digits
		}
		digits[i] = '0'
	}
	return append([]byte("1"), digits...)
}

// list returns the setting of a name as a list.
func (p *parser) list(name string) []string {
	words := p.settings.get(name)
	if words == "" {
		return nil
	}
	return splitList(words)
}

// splitList splits at commas, and removes the spaces around them.
func splitList(words string) []string {
	list := strings.Split(words, ",")
	for i := range list {
		list[i] = strings.Trim(list[i], " ")
	}
	return list
}

func (p *parser) legacy(cfg *Config) {
	group := valueGroup{parser: p, values: p.legacies}
	one := func(name string) (s Secret) {
		if secrets := group.secrets(name); len(secrets) > 0 {
			s = secrets[0]
		}
		return s
	}
	cfg.LegacyOpenAI = OpenAIConfig{
		BaseURL: p.legacies.get(openAIGroup + fieldBaseURL),
		Key:     one(openAIGroup + fieldKey),
	}
	cfg.LegacyAnthropic = AnthropicConfig{
		BaseURL: p.legacies.get(anthropicGroup + fieldBaseURL),
		Key:     one(anthropicGroup + fieldKey),
	}
	cfg.LegacyBedrock = BedrockConfig{
		BaseURL:         p.legacies.get(fieldBedrockBaseURL),
		Region:          p.legacies.get(fieldBedrockRegion),
		AccessKey:       one(fieldBedrockAccessKey),
		AccessKeySecret: one(fieldBedrockAccessKeySecret),
		Model:           p.legacies.get(fieldBedrockModel),
		SmallFastModel:  p.legacies.get(fieldBedrockSmallFastModel),
	}
}

// valueGroup holds the variables of one provider, or the legacy ones.
type valueGroup struct {
	*parser
	place int
	index string // "" for the legacy variables
	values
}

// stem returns the text before each name.
func (v valueGroup) stem() string {
	if v.index == "" {
		return ""
	}
	return indexedGroup + v.index + "_"
}

func (v valueGroup) name() string { return cmp.Or(v.get(fieldName), v.get(fieldType)) }

// nameOf returns the name of the provider that a field belongs to.
func (v valueGroup) nameOf(field string) string {
	switch {
	case v.index != "":
		return v.name()
	case strings.HasPrefix(field, openAIGroup):
		return string(TypeOpenAI)
	}
	return string(TypeAnthropic)
}

// set lists the variables that are set and whose field begins with start.
func (v valueGroup) set(start string) []string {
	set := v.values.set(start)
	for i := range set {
		set[i] = v.stem() + set[i]
	}
	return set
}

func (v valueGroup) provider() ProviderConfig {
	cfg := ProviderConfig{
		Type:    v.get(fieldType),
		Name:    v.get(fieldName),
		BaseURL: v.get(fieldBaseURL),
	}
	kind, supported := providerTypes[ProviderType(cfg.Type)]
	if cfg.Type != "" && !supported {
		return cfg // it will be skipped, so its other values may not stop a start
	}
	cfg.Keys = v.secrets(fieldKey)
	cfg.BedrockBaseURL = v.get(fieldBedrockBaseURL)
	cfg.BedrockRegion = v.get(fieldBedrockRegion)
	cfg.BedrockAccessKeys = v.secrets(fieldBedrockAccessKey)
	cfg.BedrockAccessKeySecrets = v.secrets(fieldBedrockAccessKeySecret)
	cfg.BedrockModel = v.get(fieldBedrockModel)
	cfg.BedrockSmallFastModel = v.get(fieldBedrockSmallFastModel)

	if kind.bedrock && len(cfg.Keys) > 0 {
		if set := v.set(bedrockGroup); len(set) > 0 {
			v.problem(v.place, v.name(), "a provider authenticates with bearer keys or with Bedrock settings, not with both; remove one",
				append(v.set(fieldKey), set...)...)
		}
	}
	return cfg
}

// secrets resolves a secret that can come from up to four variables. If there is a
// problem, it still returns a value, so that the first problem does not cause a
// second.
func (v valueGroup) secrets(name string) []Secret {
	set := make([]setting, 0, len(secretSpellings)) // by spelling
	for _, known := range v.values {
		if known.value == "" || !strings.HasPrefix(known.name, name) {
			continue
		}
		if spelling := known.name[len(name):]; slices.Contains(secretSpellings[:], spelling) {
			set = append(set, setting{spelling, known.value})
		}
	}
	if len(set) == 0 {
		return nil
	}
	if len(set) > 1 {
		slices.SortFunc(set, func(a, b setting) int {
			return cmp.Compare(slices.Index(secretSpellings[:], a.name), slices.Index(secretSpellings[:], b.name))
		})
		var names []string
		for _, s := range set {
			names = append(names, v.stem()+name+s.name)
		}
		v.problem(v.place, v.nameOf(name), "only one of them may be set", names...)
	}
	spelling, value := set[0].name, set[0].value
	plural, isFile := strings.CutSuffix(spelling, fileTwinSuffix)
	if isFile {
		variable := v.stem() + name + spelling
		contents, reason := secretfile.Read(value)
		if reason != "" {
			v.problem(v.place, v.nameOf(name), shownPath(value)+" "+reason, variable)
			v.unreadable = withKey(v.unreadable, v.full(variable), true)
			v.actual = withKey(v.actual, v.full(v.stem()+name), v.full(variable))
			return []Secret{NewSecret("unreadable")}
		}
		value = contents
	}
	var secrets []Secret
	if plural == "" {
		secrets = []Secret{NewSecret(value)}
	} else {
		elements := splitList(value)
		secrets = make([]Secret, len(elements))
		for i := range elements {
			secrets[i] = secretAt(&elements[i])
		}
	}
	if usual := secretName("", len(secrets)); usual != spelling {
		v.actual = withKey(v.actual, v.full(v.stem()+name+usual), v.full(v.stem()+name+spelling))
	}
	return secrets
}

// secretSpellings are the suffixes that the name of a secret can have.
var secretSpellings = [...]string{"", fileTwinSuffix, pluralSuffix, pluralSuffix + fileTwinSuffix}

// withKey sets a key of m, and makes the map if it is nil.
func withKey[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[key] = value
	return m
}

// shownPath names a file for an error. It hides a value that is not a path in an
// existing folder: it could be a key that was put into the variable by mistake.
func shownPath(path string) string {
	folder := filepath.Dir(path)
	if _, err := os.Stat(folder); err != nil || !filepath.IsAbs(path) || folder == string(filepath.Separator) {
		return "its value is not an absolute path in an existing directory: it"
	}
	return "the file " + text.Shorten(path)
}
