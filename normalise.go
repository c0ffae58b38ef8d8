package aiseed

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"example.com/aiseed/internal/environ"
	"example.com/aiseed/internal/text"
)

// desired is a provider as the environment wants it, without an id.
type desired struct {
	Provider
	places         []int                     // of the entries that ask for it, see entry
	variable       func(field string) string // see variableOf
	setBy          []func(field string) []string
	pairs          int  // of Bedrock access keys that were given
	model          bool // the environment sets it; otherwise it is the default
	smallFastModel bool // the same
	defaultBaseURL bool // the base URL is the documented default
	warnings       []Warning
	unsupported    bool
	legacy         bool
}

// variableOf returns the full name of the variable that sets a field, or would.
func (d desired) variableOf(field string) string {
	if field == fieldBaseURL && d.Bedrock != nil {
		field = fieldBedrockBaseURL
	}
	if d.variable == nil {
		return ""
	}
	return d.variable(field)
}

// shapeVariables returns the variables that set what of the shape is not written as in a row.
func (d desired) shapeVariables(stored Provider) (names []string) {
	baseURL := fieldBaseURL
	if d.Bedrock != nil {
		baseURL = fieldBedrockBaseURL
	}
	for _, f := range []struct {
		field string
		same  bool
	}{{fieldType, stored.Type == d.Type}, {baseURL, stored.BaseURL == d.BaseURL}, {fieldBedrockRegion, stored.region() == d.region()}} {
		if !f.same {
			names = append(names, d.variablesOf(f.field)...)
		}
	}
	return names
}

// variablesOf returns all variables that set a field.
func (d desired) variablesOf(field string) (names []string) {
	for _, of := range d.setBy {
		names = append(names, of(field)...)
	}
	return names
}

// standsWithout reports whether the provider is the same without the variables of a credential or a
// tunable. Without its last signal, one with Bedrock settings would be another.
func (d desired) standsWithout(field string) bool {
	isPair := field == fieldBedrockAccessKey || field == fieldBedrockAccessKeySecret
	return !isPair || d.Bedrock.Region != "" || d.BaseURL != ""
}

// placeholders returns the variables whose secret is that of an example.
func (d desired) placeholders() (variables []string) {
	is := settingsOf(d.Provider)
	for _, f := range []struct {
		name    string
		secrets []Secret
	}{
		{secretName(fieldKey, len(d.Keys)), secretsOf(d.Provider)},
		{secretName(fieldBedrockAccessKey, d.pairs), []Secret{is.AccessKey}},
		{secretName(fieldBedrockAccessKeySecret, d.pairs), []Secret{is.AccessKeySecret}},
	} {
		if slices.ContainsFunc(f.secrets, func(s Secret) bool { return environ.IsPlaceholder(s.Reveal()) }) {
			variables = append(variables, d.variableOf(f.name))
		}
	}
	return variables
}

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
		for _, also := range n.merged[place] {
			e, _ := cfg.entry(also)
			twin := e.desired()
			want[i].places = append(want[i].places, also)
			want[i].setBy = append(want[i].setBy, twin.setBy...)
			want[i].warnings = append(want[i].warnings, twin.warnings...)
		}
	}
	slices.SortStableFunc(want, func(a, b desired) int { return cmp.Compare(a.Name, b.Name) })
	return want, nil
}

// A normaliser decides which entries of a Config are used, and collects all problems.
type normaliser struct {
	cfg      *Config
	kept     []int            // places
	byName   map[string]int   // place; without entries of an unsupported type
	merged   map[int][]int    // by a place that is kept, those that say the same
	wrong    map[int][]string // by place, the fields with a problem
	problems []problem
}

func check(cfg *Config) *normaliser {
	n := &normaliser{
		cfg:      cfg,
		kept:     make([]int, 0, len(cfg.Providers)),
		byName:   make(map[string]int, len(cfg.Providers)),
		problems: cfg.checkTokens(),
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

func (n *normaliser) problem(e *entry, reason string, fields ...string) {
	var names []string
	for _, f := range fields {
		names = append(names, e.variable(f))
	}
	n.wrong = withKey(n.wrong, e.place, append(n.wrong[e.place], fields...))
	n.problems = append(n.problems, problem{e.place, Problem{Variables: names, Provider: e.name(), Reason: reason}})
}

func (n *normaliser) checkValues(e *entry) {
	if e.variables != nil { // otherwise nothing is set
		e.checkValues(func(reason string, fields ...string) { n.problem(e, reason, fields...) })
	}
}

func (n *normaliser) add(e *entry) {
	c := &e.config
	if e.variables.mixed && !e.legacy {
		n.checkValues(e) // what two prefixes have of one provider does not fit together
		return
	}
	closest, kind, supported := closestType(c.Type)
	switch {
	case c.Type == "" && c.Name == "":
		n.problem(e, "neither a type nor a name; want at least a type, one of "+supportedTypes(), fieldType, fieldName)
	case c.Type == "":
		n.problem(e, "required; want one of "+supportedTypes(), fieldType)
	case (!supported || string(closest) != c.Type) && text.Check(c.Type) != "":
		n.problem(e, text.Check(c.Type), fieldType)
	case supported && string(closest) != c.Type:
		n.problem(e, "written in another way than the supported type; want "+string(closest)+", in lower case, without quotes and spaces", fieldType)
	}
	if c.Name != "" && !text.IsName(c.Name) {
		n.problem(e, cmp.Or(e.cameFrom().checkWord(c.Name), "not a valid name")+wantName, fieldName)
	}
	if c.Type != "" && !supported {
		n.kept = append(n.kept, e.place)
		return
	}
	c.Type = string(closest)
	n.checkValues(e)
	if c.Type == "" {
		return // the checks below need a type
	}
	if !kind.fits(len(c.Keys) > 0, c.hasBedrock(), c.BaseURL != "") { // else it is one of most
		n.addMisfits(e, closest)
	}
	if first, exists := n.byName[e.name()]; exists {
		n.merge(first, e)
		return
	}
	n.byName[e.name()] = e.place
	n.kept = append(n.kept, e.place)
}

// addMisfits reports how the fields of an entry do not fit its type or one another, if at all.
func (n *normaliser) addMisfits(e *entry, t ProviderType) {
	set := givenFields{bedrock: e.bedrockFields(), signals: e.bedrockSignals(), baseURL: e.config.BaseURL != ""}
	if keys := len(e.config.Keys); keys > 0 {
		set.keys = []string{secretName(fieldKey, keys)}
	}
	// A field that is wrong by itself has its problem already.
	report := func(reason string, fields ...string) {
		if !slices.ContainsFunc(fields, func(f string) bool { return slices.Contains(n.wrong[e.place], f) || e.variables.refused[e.variable(f)] }) {
			n.problem(e, reason, fields...)
		}
	}
	t.misfits(set, bedrockSignalFields[:], report)
	if kind := providerTypes[t]; !e.legacy && e.variables.parsed && kind.keys && kind.bedrock && len(set.keys) > 0 && len(set.bedrock) > 0 {
		report(bothCredentials, slices.Concat(set.keys, set.bedrock)...)
	}
}

// closestType returns the supported type that a text names, also in other letters, with quotes or
// spaces, and what kind of provider that is.
func closestType(written string) (t ProviderType, kind providerKind, supported bool) {
	t = ProviderType(written)
	if kind, supported = providerTypes[t]; supported {
		return t, kind, true
	}
	t = ProviderType(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || text.IsInvisible(r) || text.IsQuote(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, written))
	kind, supported = providerTypes[t]
	return t, kind, supported
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
	different := differentFields(&first.config, &e.config)
	isWrong := func(field string) bool {
		wrong := func(place int) bool {
			return slices.ContainsFunc(n.wrong[place], func(f string) bool { return strings.HasPrefix(f, field) })
		}
		return wrong(place) || wrong(e.place)
	}
	// What is wrong by itself can be the only difference.
	if len(different) == 0 {
		n.merged = withKey(n.merged, place, append(n.merged[place], e.place))
		return
	}
	if different = slices.DeleteFunc(different, isWrong); len(different) == 0 {
		return
	}
	n.problems = append(n.problems, problem{e.place, Problem{
		Variables: []string{first.nameVariable(), e.nameVariable()},
		Provider:  e.name(),
		Reason:    "two providers of one name, which differ in " + strings.Join(different, " and ") + "; give each a NAME of its own, or remove one",
	}})
}

// differentFields lists the fields in which two configurations of one name differ, keys in
// another order aside.
func differentFields(a, b *ProviderConfig) (fields []string) {
	secrets := func(a, b []Secret) bool {
		return len(a) == len(b) && !slices.ContainsFunc(a, func(s Secret) bool { return !slices.ContainsFunc(b, s.Equal) })
	}
	for _, f := range []struct {
		name string
		same bool
	}{
		{fieldType, a.Type == b.Type},
		{fieldBaseURL, a.BaseURL == b.BaseURL},
		{fieldKey, secrets(a.Keys, b.Keys)},
		{fieldBedrockBaseURL, a.BedrockBaseURL == b.BedrockBaseURL},
		{fieldBedrockRegion, a.BedrockRegion == b.BedrockRegion},
		{fieldBedrockAccessKey, slices.EqualFunc(a.BedrockAccessKeys, b.BedrockAccessKeys, Secret.Equal)},
		{fieldBedrockAccessKeySecret, slices.EqualFunc(a.BedrockAccessKeySecrets, b.BedrockAccessKeySecrets, Secret.Equal)},
		{fieldBedrockModel, a.BedrockModel == b.BedrockModel},
		{fieldBedrockSmallFastModel, a.BedrockSmallFastModel == b.BedrockSmallFastModel},
	} {
		if !f.same {
			fields = append(fields, f.name)
		}
	}
	return fields
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
			Provider:    Provider{Name: cmp.Or(c.Name, text.Brief(c.Type)), Type: ProviderType(c.Type), BaseURL: c.BaseURL},
			places:      []int{e.place},
			unsupported: true,
			warnings:    []Warning{{Code: WarningUnsupportedType, Type: text.Brief(c.Type), Meant: nearestType(c.Type)}},
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
		places:         []int{e.place},
		variable:       e.variable,
		setBy:          []func(string) []string{e.setters},
		pairs:          len(c.BedrockAccessKeys),
		model:          c.BedrockModel != "",
		smallFastModel: c.BedrockSmallFastModel != "",
		defaultBaseURL: e.defaultBaseURL,
		legacy:         e.legacy,
	}
	warn := func(code WarningCode, reason string, fields ...string) {
		var names []string
		for _, f := range fields {
			names = append(names, e.variable(f))
		}
		d.warnings = append(d.warnings, Warning{Code: code, Variables: e.variables.withEqual(names...), Reason: reason})
	}
	if len(e.bedrockSignals()) > 0 {
		d.authenticateWithBedrock(c, warn)
	} else {
		d.Keys = make([]ProviderKey, len(c.Keys))
		for i, key := range c.Keys {
			d.Keys[i].APIKey = key
		}
		if models := e.bedrockFields(); len(models) > 0 {
			warn(WarningIgnored, "ignored, since there is no Bedrock base URL, region or access key to use a model with", models...)
		}
	}
	return d
}

// ineffective returns warnings about the legacy variables that make no provider.
func (cfg *Config) ineffective() (warnings []Warning) {
	for place, makers := range map[int]string{openAIPlace: openAIGroup + fieldKey, anthropicPlace: anthropicGroup + fieldKey} {
		e, makes := cfg.entry(place)
		if makes || e.variables == nil {
			continue
		}
		var names []string
		for _, f := range e.bedrockFields() {
			names = append(names, e.variable(f))
		}
		if e.config.BaseURL != "" && !e.defaultBaseURL {
			names = append(names, e.variable(fieldBaseURL))
		}
		reason := "ignored, since there is no " + cfg.variables.legacy(makers)
		if place == anthropicPlace {
			reason += " and no Bedrock region, base URL or access key"
		}
		warnings = append(warnings, Warning{Code: WarningIgnored, Variables: cfg.variables.withEqual(names...), Reason: reason + " to make a provider of it"})
	}
	slices.SortFunc(warnings, func(a, b Warning) int { return slices.Compare(a.Variables, b.Variables) })
	return warnings
}

func (d *desired) authenticateWithBedrock(c *ProviderConfig, warn func(code WarningCode, reason string, fields ...string)) {
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
		warn(WarningUnusedKeys, fmt.Sprintf("%s; the first pair is used and the other %d ignored", text.Count(more+1, "Bedrock access key"), more),
			secretName(fieldBedrockAccessKey, more+1))
	}
	if len(c.Keys) > 0 {
		warn(WarningIgnored, "ignored, since the provider authenticates through Bedrock", secretName(fieldKey, len(c.Keys)))
	}
	if c.BaseURL != "" && c.BaseURL != c.BedrockBaseURL {
		warn(WarningIgnored, "ignored, since the provider takes the Bedrock base URL", fieldBaseURL)
	}
}
