package aiseed

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"cdr.dev/slog/v3"

	"example.com/aiseed/internal/environ"
	"example.com/aiseed/internal/secretfile"
	"example.com/aiseed/internal/text"
)

// A ParseOption changes how [ParseEnviron] reads the environment.
type ParseOption func(*parser)

// WithPrefix replaces [DefaultPrefix] and [GatewayPrefix], by one prefix or several. A prefix
// consists of letters, digits and underscores, does not begin with a digit, and ends with an
// underscore; another one is a problem that [ParseEnviron] reports. None, or only empty ones,
// change nothing.
func WithPrefix(prefixes ...string) ParseOption {
	return func(p *parser) {
		for _, prefix := range prefixes {
			if prefix != "" && !slices.Contains(p.prefixes, prefix) {
				p.prefixes = append(p.prefixes, prefix)
			}
		}
	}
}

// ParseEnviron reads a [Config] from an environment in the form of [os.Environ],
// and reads the files that `_FILE` variables name. It does not look at the
// process's own environment. A variable with an empty value counts as not set. If a
// variable appears twice, the first wins. Legacy variables can have different prefixes;
// indexed ones have one.
//
// ParseEnviron reports all problems at once, in one [*ConfigError]. The Config then has
// only its warnings. These are about variables that nothing reads although they look like ours;
// logger gets them too, unless it is the zero Logger. ctx is only for logger: it does not end the
// reading of a file.
func ParseEnviron(ctx context.Context, environ []string, logger slog.Logger, opts ...ParseOption) (Config, error) {
	p := &parser{}
	for _, opt := range opts {
		opt(p)
	}
	if len(p.prefixes) == 0 {
		p.prefixes = []string{DefaultPrefix, GatewayPrefix}
	}
	if problems := p.checkPrefixes(); problems != nil {
		return Config{}, configError(problems)
	}
	p.collect(environ)
	warnings := p.warnings()
	for _, w := range warnings {
		logger.Warn(ctx, "AI providers: "+w.String())
	}

	cfg := Config{Providers: p.providers(), DriftAdopt: p.list(variableDriftAdopt), DriftKeep: p.list(variableDriftKeep)}
	p.legacy(&cfg)
	cfg.variables = p.variables
	if problems := append(p.problems, check(&cfg).problems...); len(problems) > 0 {
		return Config{Warnings: warnings}, configError(problems)
	}
	cfg.Warnings = warnings
	cfg.variables.stems, cfg.variables.set = nil, p.setVariables // without problems the stems are the usual ones
	return cfg, nil
}

// parser resolves the variables that were collected.
type parser struct {
	variables
	prefixes  environ.Prefixes
	collected *environ.Collected
	problems  []problem
}

// problem records a problem of variables, by their full names.
func (p *parser) problem(place int, provider, reason string, names ...string) {
	p.problems = append(p.problems, problem{place, Problem{Variables: names, Provider: provider, Reason: reason}})
}

func (p *parser) checkPrefixes() (problems []problem) {
	for _, prefix := range p.prefixes {
		if !environ.IsPrefix(prefix) {
			problems = append(problems, problem{problemsLast, Problem{
				Variables: []string{text.Shorten(prefix) + "*"},
				Reason:    "not a prefix of variables; want letters, digits and underscores, no digit first and an underscore last",
			}})
		}
	}
	return problems
}

func (p *parser) collect(environment []string) {
	p.collected = environ.Collect(environment, p.prefixes, allNames)
	p.parsed = true
	if p.collected.Prefix != DefaultPrefix {
		p.prefix = p.collected.Prefix
	}
}

// warnings explains the variables that are not read. It reports those that are problems.
func (p *parser) warnings() (warnings []Warning) {
	bad := map[string]int{} // positions in problems, by what is before the field
	for _, s := range p.collected.Strays {
		prefix := s.Full[:s.At]
		w := Warning{Variables: []string{environ.ShowName(s.Full)}, Meant: s.Meant}
		switch s.Kind {
		case environ.BadIndex:
			number, _, _ := strings.Cut(s.Name()[len(indexedGroup):], "_")
			if i, known := bad[prefix+number]; known && number != "" {
				p.problems[i].Variables = append(p.problems[i].Variables, w.Variables...)
				continue
			}
			bad[prefix+number] = len(p.problems)
			p.problem(problemsLast, "", "no valid index; want "+prefix+indexedGroup+"<N>_<FIELD>, with <N> a decimal number without sign or leading zero", w.Variables...)
			continue
		case environ.NoField:
			p.problem(problemsLast, "", "no field; want "+prefix+indexedGroup+"<N>_<FIELD>", w.Variables...)
			continue
		case environ.OtherLetters:
			w.Code = WarningLetterCase
		case environ.Misnamed:
			w.Code, w.Reason = WarningMisnamedVariable, s.Wrong
		case environ.Unknown:
			w.Code, w.Reason = WarningUnknownVariable, s.Wrong
			p.explain(&w, cmp.Or(s.Meant, s.Full))
		}
		warnings = append(warnings, w)
	}
	if len(p.collected.Links) > 0 {
		warnings = append(warnings, Warning{Code: WarningServiceLinks, Variables: p.collected.Links})
	}
	return warnings
}

// explain says more about an unknown variable, full being its name without what is around it.
func (p *parser) explain(w *Warning, full string) {
	w.Meant = ""
	i := slices.IndexFunc(p.prefixes, func(prefix string) bool { return strings.HasPrefix(full, prefix) })
	if i < 0 {
		return // it cannot be
	}
	prefix := p.prefixes[i]
	name := full[len(prefix):]
	indexed, ok := strings.CutPrefix(name, indexedGroup)
	if !ok {
		if meant := nearest(name, groupOf(name), plainNames); meant != "" {
			w.Meant = prefix + meant
		}
		return
	}
	number, field, _ := strings.Cut(indexed, "_")
	stem := prefix + indexedGroup + number + "_"
	if removedFields[field] {
		w.Code = WarningRemovedVariable
		return
	}
	meant := nearest(field, "", indexedNames)
	index, isSet := p.collected.Index(stem)
	group := valueGroup{parser: p, values: index.Values}
	_, kind, _ := closestType(group.Get(fieldType))
	isKey := strings.HasPrefix(meant, fieldKey)
	switch {
	case isSet && kind.keys && looksLikeKey(field) && len(group.Set(fieldKey))+len(group.Set(bedrockGroup)) == 0:
		w.Code, w.Provider = WarningMissingKey, text.Label(group.name())
		if !isKey && strings.Contains(field, "FILE") {
			meant = fieldKey + fileTwinSuffix
		} else if !isKey {
			meant = fieldKey
		}
	case isSet && isKey && group.Get(fieldType) != "" && !kind.keys:
		meant = "" // the type takes none
	}
	if meant != "" {
		w.Meant = stem + meant
	}
}

// setVariables lists the variables that are set, in the order of the Config.
func (p *parser) setVariables() (set []setVariable) {
	for _, s := range p.collected.Plain {
		set = append(set, setVariable{s.Full(), plainPlace(s.Name())})
	}
	for i, index := range p.collected.Indexed {
		for _, full := range index.Set("") {
			set = append(set, setVariable{full, indexedPlace(i)})
		}
	}
	for _, s := range p.collected.Strays {
		set = append(set, setVariable{environ.ShowName(s.Full), noPlace})
	}
	for _, full := range p.collected.Links {
		set = append(set, setVariable{full, noPlace})
	}
	return set
}

func (p *parser) providers() []ProviderConfig {
	indices := p.collected.Indexed
	p.stems = make([]string, 0, len(indices))
	providers := make([]ProviderConfig, 0, len(indices))
	expected := []byte("0")
	for i, g := range indices {
		group := valueGroup{parser: p, place: indexedPlace(i), stem: g.Stem, values: g.Values}
		if g.Prefix != indices[0].Prefix && !p.mixed {
			p.mixed = true
			p.problem(group.place, "", "indexed variables under two prefixes; want all under one", indices[0].Set("")[0], g.Set("")[0])
		}
		if g.Number != string(expected) && !p.mixed && !p.collected.BadIndices[string(expected)] {
			p.problem(group.place, group.name(), "a gap: indices start at 0 and go up by one, and "+g.Prefix+indexedGroup+string(expected)+"_* is not set", g.Set("")...)
		}
		expected = environ.Increment(append(expected[:0], g.Number...))
		p.stems = append(p.stems, g.Stem)
		providers = append(providers, group.provider())
	}
	return providers
}

// list returns the setting of a name as a list.
func (p *parser) list(name string) []string {
	words := valueGroup{parser: p, place: problemsLast, values: p.collected.Plain}.value(name)
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
	group := valueGroup{parser: p, values: p.collected.Plain}
	one := func(name string) (s Secret) {
		group.place = plainPlace(name)
		if secrets := group.secrets(name); len(secrets) > 0 {
			s = secrets[0]
		}
		return s
	}
	value := func(name string) string {
		group.place = plainPlace(name)
		return group.value(name)
	}
	cfg.LegacyOpenAI = OpenAIConfig{
		BaseURL: value(openAIGroup + fieldBaseURL),
		Key:     one(openAIGroup + fieldKey),
	}
	cfg.LegacyAnthropic = AnthropicConfig{
		BaseURL: value(anthropicGroup + fieldBaseURL),
		Key:     one(anthropicGroup + fieldKey),
	}
	cfg.LegacyBedrock = BedrockConfig{
		BaseURL:         value(fieldBedrockBaseURL),
		Region:          value(fieldBedrockRegion),
		AccessKey:       one(fieldBedrockAccessKey),
		AccessKeySecret: one(fieldBedrockAccessKeySecret),
		Model:           value(fieldBedrockModel),
		SmallFastModel:  value(fieldBedrockSmallFastModel),
	}
}

// valueGroup holds the variables of one provider, or the others.
type valueGroup struct {
	*parser
	place int
	stem  string // "" unless they are indexed
	values
}

type values = environ.Values

func (v valueGroup) name() string { return cmp.Or(v.Get(fieldName), v.Get(fieldType)) }

// nameOf returns the name of the provider that the variables belong to.
func (v valueGroup) nameOf() string {
	switch {
	case v.stem != "":
		return v.name()
	case v.place == openAIPlace:
		return string(TypeOpenAI)
	case v.place == anthropicPlace:
		return string(TypeAnthropic)
	}
	return ""
}

// value returns the value of a variable that is not a secret and not indexed.
func (v valueGroup) value(name string) string {
	var value, full string // of the first
	for _, known := range v.values {
		switch {
		case known.Name() != name:
		case full == "":
			value, full = known.Value(), known.Full()
			if full != v.full(name) {
				v.actual = withKey(v.actual, name, full)
			}
		case known.Value() != value:
			v.twice(full, known.Full())
		default:
			v.equal = withKey(v.equal, full, append(v.equal[full], known.Full()))
		}
	}
	return value
}

// twice reports a setting under two prefixes that has two values.
func (v valueGroup) twice(names ...string) {
	slices.Sort(names)
	v.problem(v.place, v.nameOf(), "one setting under two prefixes, with two values; remove one", names...)
}

func (v valueGroup) provider() ProviderConfig {
	var cfg ProviderConfig
	var bedrock, keys, accessKeys bool
	for _, s := range v.values { // once, since there are many indices
		switch name := s.Name(); {
		case s.Value() == "":
		case name == fieldType:
			cfg.Type = s.Value()
		case name == fieldName:
			cfg.Name = s.Value()
		case name == fieldBaseURL:
			cfg.BaseURL = s.Value()
		case strings.HasPrefix(name, fieldBedrockAccessKey):
			accessKeys = true
		case strings.HasPrefix(name, bedrockGroup):
			bedrock = true
		default:
			keys = true
		}
	}
	if _, _, supported := closestType(cfg.Type); cfg.Type != "" && !supported {
		return cfg // it will be skipped, so its other values may not stop a start
	}
	if keys {
		cfg.Keys = v.secrets(fieldKey)
	}
	if accessKeys {
		cfg.BedrockAccessKeys = v.secrets(fieldBedrockAccessKey)
		cfg.BedrockAccessKeySecrets = v.secrets(fieldBedrockAccessKeySecret)
	}
	if bedrock {
		cfg.BedrockBaseURL = v.Get(fieldBedrockBaseURL)
		cfg.BedrockRegion = v.Get(fieldBedrockRegion)
		cfg.BedrockModel = v.Get(fieldBedrockModel)
		cfg.BedrockSmallFastModel = v.Get(fieldBedrockSmallFastModel)
	}
	return cfg
}

// secrets resolves a secret that can come from up to four variables, each under several
// prefixes. If there is a problem, it still returns a value, so that the first problem does
// not cause a second.
func (v valueGroup) secrets(name string) []Secret {
	var chosen environ.Setting
	var set values // if there are several
	for _, known := range v.values {
		if known.Value() == "" || !strings.HasPrefix(known.Name(), name) || !slices.Contains(secretSpellings[:], known.Name()[len(name):]) {
			continue
		}
		switch {
		case chosen.Full() == "":
			chosen = known
		case set == nil:
			set = values{chosen, known}
		default:
			set = append(set, known)
		}
	}
	if chosen.Full() == "" {
		return nil
	}
	if set != nil {
		agree := v.agree(name, set)
		if chosen = set[0]; !agree {
			v.refused = withKey(v.refused, chosen.Full(), true)
		}
	}
	value, spelling := chosen.Value(), chosen.Name()[len(name):]
	plural, isFile := strings.CutSuffix(spelling, fileTwinSuffix)
	if isFile {
		contents, reason := secretfile.Read(value)
		if reason != "" {
			if !v.refused[chosen.Full()] {
				v.problem(v.place, v.nameOf(), secretfile.Shown(value)+" "+reason, chosen.Full())
			}
			v.refused = withKey(v.refused, chosen.Full(), true)
			v.actual = withKey(v.actual, v.stem+name, chosen.Full())
			return []Secret{NewSecret("unreadable")}
		}
		value = contents
	}
	var secrets []Secret
	if plural == "" {
		secrets = []Secret{NewSecret(value)}
	} else if environ.IsWhole(value, isFile) {
		secrets = []Secret{NewSecret(value)} // its elements would be wrong one by one
	} else {
		elements := splitList(value)
		secrets = make([]Secret, len(elements))
		for i := range elements {
			secrets[i] = secretAt(&elements[i])
		}
	}
	usual := secretName(name, len(secrets))
	if chosen.Name() != usual || v.stem == "" && chosen.Full() != v.full(chosen.Name()) {
		v.actual = withKey(v.actual, v.stem+usual, chosen.Full())
	}
	return secrets
}

// agree reports whether several variables of one secret say the same, and reports a problem if
// not.
func (v valueGroup) agree(name string, set values) bool {
	spelling := func(s environ.Setting) int { return slices.Index(secretSpellings[:], s.Name()[len(name):]) }
	slices.SortFunc(set, func(a, b environ.Setting) int {
		return cmp.Or(cmp.Compare(spelling(a), spelling(b)), cmp.Compare(a.Full(), b.Full()))
	})
	var names []string
	different := false
	for _, s := range set {
		names = append(names, s.Full())
		different = different || s.Name() != set[0].Name()
	}
	switch {
	case different:
		v.problem(v.place, v.nameOf(), "only one of them may be set", names...)
	case slices.ContainsFunc(set, func(s environ.Setting) bool { return s.Value() != set[0].Value() }):
		v.twice(names...)
	default:
		v.equal = withKey(v.equal, names[0], names[1:])
		return true
	}
	return false
}

// secretSpellings are the suffixes that the name of a secret can have.
var secretSpellings = [...]string{"", fileTwinSuffix, pluralSuffix, pluralSuffix + fileTwinSuffix}
