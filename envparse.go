package aiseed

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cdr.dev/slog/v3"
)

// A ParseOption changes how [ParseEnviron] reads the environment.
type ParseOption func(*parser)

// WithPrefix replaces [DefaultPrefix]. The empty prefix is the default one.
func WithPrefix(prefix string) ParseOption {
	return func(p *parser) { p.prefix = prefix }
}

// ParseEnviron reads a [Config] from an environment in the form of [os.Environ],
// and reads the files that `_FILE` variables name. It does not look at the
// process's own environment. A variable with an empty value counts as not set; of
// a variable that stands twice the first counts.
//
// All problems are reported at once, in one [*ConfigError]. Variables that look
// misspelt are logged as warnings.
func ParseEnviron(ctx context.Context, environ []string, logger slog.Logger, opts ...ParseOption) (Config, error) {
	p := &parser{}
	for _, opt := range opts {
		opt(p)
	}
	p.collect(environ)
	for _, name := range slices.Sorted(slices.Values(p.unknown)) {
		logger.Warn(ctx, "unknown environment variable is ignored; check its spelling", slog.F("variable", shortened(p.full(name))))
	}

	cfg := Config{Providers: p.providers(), DriftAdopt: p.list(variableDriftAdopt), DriftKeep: p.list(variableDriftKeep)}
	p.legacy(&cfg)
	cfg.variables = p.variables
	if _, problems := normaliseAll(cfg); len(p.problems)+len(problems) > 0 {
		return Config{}, configError(append(p.problems, problems...))
	}
	cfg.variables.indices = nil // without a problem they are the usual ones
	return cfg, nil
}

// parser collects variables, then resolves them. The names in it are without the
// prefix.
type parser struct {
	variables
	settings values // the variables that are about no provider
	legacies values
	indexed  map[string]*values // by index
	unknown  []string
	problems []problem
}

// values are variables that belong together: so few that to look at each is
// quicker than a map. Of one that stands twice the first counts, an empty one too.
type values []setting

type setting struct{ name, value string }

func (v *values) add(name, value string) {
	for _, known := range *v {
		if known.name == name {
			return
		}
	}
	*v = append(*v, setting{name, value})
}

func (v values) get(name string) string { return v.getSpelt(name, "") }

// getSpelt is get of name+suffix.
func (v values) getSpelt(name, suffix string) string {
	for _, known := range v {
		if len(known.name) == len(name)+len(suffix) && strings.HasPrefix(known.name, name) && strings.HasSuffix(known.name, suffix) {
			return known.value
		}
	}
	return ""
}

func (v values) anySet() bool {
	return slices.ContainsFunc(v, func(known setting) bool { return known.value != "" })
}

// set lists those that are set and of which the name starts so.
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
	p.indexed = map[string]*values{}
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

// addIndexed reports whether it is an indexed variable that there is.
func (p *parser) addIndexed(name, value string) bool {
	indexed, ok := strings.CutPrefix(name, indexedGroup)
	index, fieldName, _ := strings.Cut(indexed, "_")
	if !ok || !isIndex(index) || !indexedNames[fieldName] {
		return false
	}
	group := p.indexed[index]
	if group == nil {
		few := make(values, 0, 4)
		group = &few
		p.indexed[index] = group
	}
	group.add(fieldName, value)
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
	// Anything else under the prefix is the host's own.
}

// isIndex is about text, not about a number: an index may be larger than any
// integer type.
func isIndex(s string) bool {
	if s == "" || len(s) > 1 && s[0] == '0' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// compareIndices orders indices as numbers: without leading zeros the longer
// one is the larger one.
func compareIndices(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func (p *parser) providers() []ProviderConfig {
	for index, values := range p.indexed {
		if values.anySet() {
			p.indices = append(p.indices, index)
		}
	}
	slices.SortFunc(p.indices, compareIndices)
	providers := make([]ProviderConfig, 0, len(p.indices))
	expected := "0"
	for i, index := range p.indices {
		group := valueGroup{parser: p, group: problemGroup(i), stem: indexedGroup + index + "_", values: *p.indexed[index]}
		if index != expected {
			p.problem(group.group, group.name(), "a gap: indices start at 0 and go up by one, and "+p.full(indexedGroup)+expected+"_* is not set", group.set("")...)
		}
		expected = increment(index)
		providers = append(providers, group.provider())
	}
	return providers
}

// increment adds one to a decimal number of any length.
func increment(index string) string {
	digits := []byte(index)
	for i := len(digits) - 1; i >= 0; i-- {
		if digits[i] != '9' {
			digits[i]++
			return string(digits)
		}
		digits[i] = '0'
	}
	return "1" + string(digits)
}

// list splits a comma list of words.
func (p *parser) list(name string) []string {
	words := p.settings.get(name)
	if words == "" {
		return nil
	}
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

// valueGroup are the variables of one provider, or the legacy ones.
type valueGroup struct {
	*parser
	group int
	stem  string // before each name
	values
}

func (v valueGroup) name() string { return cmp.Or(v.get(fieldName), v.get(fieldType)) }

// nameOf is the provider that a field belongs to.
func (v valueGroup) nameOf(field string) string {
	switch {
	case v.stem != "":
		return v.name()
	case strings.HasPrefix(field, openAIGroup):
		return string(TypeOpenAI)
	}
	return string(TypeAnthropic)
}

// set lists the variables that are set and of which the field starts so.
func (v valueGroup) set(start string) []string {
	set := v.values.set(start)
	for i := range set {
		set[i] = v.stem + set[i]
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
		return cfg // it will be skipped, so nothing else about it may stop a start
	}
	cfg.Keys = v.secrets(fieldKey)
	cfg.BedrockBaseURL = v.get(fieldBedrockBaseURL)
	cfg.BedrockRegion = v.get(fieldBedrockRegion)
	cfg.BedrockAccessKeys = v.secrets(fieldBedrockAccessKey)
	cfg.BedrockAccessKeySecrets = v.secrets(fieldBedrockAccessKeySecret)
	cfg.BedrockModel = v.get(fieldBedrockModel)
	cfg.BedrockSmallFastModel = v.get(fieldBedrockSmallFastModel)

	if set := v.set(bedrockGroup); kind.bedrock && len(cfg.Keys) > 0 && len(set) > 0 {
		v.problem(v.group, v.name(), "a provider authenticates with bearer keys or with Bedrock settings, not with both; remove one",
			append(v.set(fieldKey), set...)...)
	}
	return cfg
}

// secrets resolves a secret that can come from up to four variables. Where there
// is a problem it still returns something, so that no second problem follows
// from the first.
func (v valueGroup) secrets(name string) []Secret {
	set := make([]string, 0, len(secretSpellings))
	for _, spelling := range secretSpellings {
		if v.getSpelt(name, spelling) != "" {
			set = append(set, spelling)
		}
	}
	if len(set) == 0 {
		return nil
	}
	if len(set) > 1 {
		names := slices.Clone(set)
		for i := range names {
			names[i] = v.stem + name + names[i]
		}
		v.problem(v.group, v.nameOf(name), "only one of them may be set", names...)
	}
	value := v.getSpelt(name, set[0])
	plural, isFile := strings.CutSuffix(set[0], fileTwinSuffix)
	if isFile {
		variable := v.stem + name + set[0]
		contents, reason := readSecretFile(value)
		if reason != "" {
			v.problem(v.group, v.nameOf(name), shownPath(value)+" "+reason, variable)
			v.unreadable = withKey(v.unreadable, v.full(variable), true)
			v.actual = withKey(v.actual, v.full(v.stem+name), v.full(variable))
			return []Secret{NewSecret("unreadable")}
		}
		value = contents
	}
	elements := []string{value}
	if plural != "" {
		elements = strings.Split(value, ",")
	}
	secrets := make([]Secret, len(elements))
	for i, element := range elements {
		if plural != "" {
			element = strings.Trim(element, " ")
		}
		secrets[i] = NewSecret(element)
	}
	if usual := secretName("", len(secrets)); usual != set[0] {
		v.actual = withKey(v.actual, v.full(v.stem+name+usual), v.full(v.stem+name+set[0]))
	}
	return secrets
}

// secretSpellings are what can stand behind the name of a secret.
var secretSpellings = [...]string{"", fileTwinSuffix, pluralSuffix, pluralSuffix + fileTwinSuffix}

// withKey sets a key of a map that is made when it is needed.
func withKey[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[key] = value
	return m
}

// shownPath names a file for an error, if it is one: a key that was put into the
// variable in place of a path is not shown.
func shownPath(path string) string {
	folder := filepath.Dir(path)
	if _, err := os.Stat(folder); err != nil || !filepath.IsAbs(path) || folder == string(filepath.Separator) {
		return "its value is not the absolute path of a file in a folder that is there: it"
	}
	return "the file " + shortened(path)
}

const maxSecretFileBytes = 64 << 10

func readSecretFile(path string) (contents, reason string) {
	// Not opened before it is known to be a file: opening a pipe can block.
	info, err := os.Stat(path)
	if err != nil {
		return "", fileReason(err)
	}
	if !info.Mode().IsRegular() {
		return "", "is not a regular file"
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fileReason(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretFileBytes+1))
	switch {
	case err != nil:
		return "", fileReason(err)
	case len(raw) > maxSecretFileBytes:
		return "", "is larger than 64 KiB"
	}
	contents = strings.TrimSuffix(string(raw), "\n")
	if contents == "" {
		return "", "is empty"
	}
	return contents, ""
}

func fileReason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "cannot be read: permission denied"
	}
	return "cannot be read"
}
