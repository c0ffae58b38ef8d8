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
	settings      map[string]string // the variables that are about no provider
	legacyValues  map[string]string
	indexedValues map[string]map[string]string // by index, then by field
	unknown       []string
	problems      []problem
}

func (p *parser) collect(environ []string) {
	prefix := p.full("")
	seen := map[string]bool{}
	p.settings = map[string]string{}
	p.legacyValues = map[string]string{}
	p.indexedValues = map[string]map[string]string{}
	for _, entry := range environ {
		if !strings.HasPrefix(entry, prefix) {
			continue
		}
		name, value, ok := strings.Cut(entry[len(prefix):], "=")
		if !ok || seen[name] {
			continue
		}
		seen[name] = true
		if value != "" {
			p.add(name, value)
		}
	}
}

func (p *parser) add(name, value string) {
	indexed, ok := strings.CutPrefix(name, indexedGroup)
	if !ok {
		switch {
		case settingNames[name]:
			p.settings[name] = value
		case legacyNames[name]:
			p.legacyValues[name] = value
		case strings.HasPrefix(name, driftGroup), strings.HasPrefix(name, openAIGroup), strings.HasPrefix(name, anthropicGroup), strings.HasPrefix(name, bedrockGroup):
			p.unknown = append(p.unknown, name)
		}
		return // anything else under the prefix is the host's own
	}
	index, fieldName, _ := strings.Cut(indexed, "_")
	switch {
	case !isIndex(index):
		p.problem(problemsLast, "", "no valid index; want "+p.full(indexedGroup)+"<N>_<FIELD>, with <N> a decimal number without sign or leading zero", name)
	case fieldName == "":
		p.problem(problemsLast, "", "no field; want "+p.full(indexedGroup)+"<N>_<FIELD>", name)
	case !indexedNames[fieldName]:
		p.unknown = append(p.unknown, name)
	default:
		if p.indexedValues[index] == nil {
			p.indexedValues[index] = map[string]string{}
		}
		p.indexedValues[index][fieldName] = value
	}
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
	for index := range p.indexedValues {
		p.indices = append(p.indices, index)
	}
	slices.SortFunc(p.indices, compareIndices)
	var providers []ProviderConfig
	expected := "0"
	for i, index := range p.indices {
		group := valueGroup{parser: p, group: problemGroup(i), stem: indexedGroup + index + "_", values: p.indexedValues[index]}
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
	if p.settings[name] == "" {
		return nil
	}
	list := strings.Split(p.settings[name], ",")
	for i := range list {
		list[i] = strings.Trim(list[i], " ")
	}
	return list
}

func (p *parser) legacy(cfg *Config) {
	group := valueGroup{parser: p, values: p.legacyValues}
	one := func(name string) (s Secret) {
		if secrets := group.secrets(name); len(secrets) > 0 {
			s = secrets[0]
		}
		return s
	}
	cfg.LegacyOpenAI = OpenAIConfig{
		BaseURL: p.legacyValues[openAIGroup+fieldBaseURL],
		Key:     one(openAIGroup + fieldKey),
	}
	cfg.LegacyAnthropic = AnthropicConfig{
		BaseURL: p.legacyValues[anthropicGroup+fieldBaseURL],
		Key:     one(anthropicGroup + fieldKey),
	}
	cfg.LegacyBedrock = BedrockConfig{
		BaseURL:         p.legacyValues[fieldBedrockBaseURL],
		Region:          p.legacyValues[fieldBedrockRegion],
		AccessKey:       one(fieldBedrockAccessKey),
		AccessKeySecret: one(fieldBedrockAccessKeySecret),
		Model:           p.legacyValues[fieldBedrockModel],
		SmallFastModel:  p.legacyValues[fieldBedrockSmallFastModel],
	}
}

// valueGroup are the variables of one provider, or the legacy ones.
type valueGroup struct {
	*parser
	group  int
	stem   string // before each name
	values map[string]string
}

func (v valueGroup) name() string { return cmp.Or(v.values[fieldName], v.values[fieldType]) }

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
	var set []string
	for name := range v.values {
		if strings.HasPrefix(name, start) {
			set = append(set, v.stem+name)
		}
	}
	slices.Sort(set)
	return set
}

func (v valueGroup) provider() ProviderConfig {
	cfg := ProviderConfig{
		Type:    v.values[fieldType],
		Name:    v.values[fieldName],
		BaseURL: v.values[fieldBaseURL],
	}
	kind, supported := providerTypes[ProviderType(cfg.Type)]
	if cfg.Type != "" && !supported {
		return cfg // it will be skipped, so nothing else about it may stop a start
	}
	cfg.Keys = v.secrets(fieldKey)
	cfg.BedrockBaseURL = v.values[fieldBedrockBaseURL]
	cfg.BedrockRegion = v.values[fieldBedrockRegion]
	cfg.BedrockAccessKeys = v.secrets(fieldBedrockAccessKey)
	cfg.BedrockAccessKeySecrets = v.secrets(fieldBedrockAccessKeySecret)
	cfg.BedrockModel = v.values[fieldBedrockModel]
	cfg.BedrockSmallFastModel = v.values[fieldBedrockSmallFastModel]

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
	set := []string{name, name + fileTwinSuffix, name + pluralSuffix, name + pluralSuffix + fileTwinSuffix}
	set = slices.DeleteFunc(set, func(c string) bool { return v.values[c] == "" })
	if len(set) == 0 {
		return nil
	}
	if len(set) > 1 {
		names := slices.Clone(set)
		for i := range names {
			names[i] = v.stem + names[i]
		}
		v.problem(v.group, v.nameOf(name), "only one of them may be set", names...)
	}
	variable, value := set[0], v.values[set[0]]
	stem, isFile := strings.CutSuffix(variable, fileTwinSuffix)
	if isFile {
		contents, reason := readSecretFile(value)
		if reason != "" {
			v.problem(v.group, v.nameOf(name), shownPath(value)+" "+reason, v.stem+variable)
			v.unreadable = withKey(v.unreadable, v.full(v.stem+variable), true)
			v.actual = withKey(v.actual, v.full(v.stem+name), v.full(v.stem+variable))
			return []Secret{NewSecret("unreadable")}
		}
		value = contents
	}
	elements := []string{value}
	if stem != name {
		elements = strings.Split(value, ",")
	}
	var secrets []Secret
	for _, element := range elements {
		if stem != name {
			element = strings.Trim(element, " ")
		}
		secrets = append(secrets, NewSecret(element))
	}
	if usual := secretName(name, len(secrets)); usual != variable {
		v.actual = withKey(v.actual, v.full(v.stem+usual), v.full(v.stem+variable))
	}
	return secrets
}

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
