package aiseed

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"example.com/aiseed/internal/text"
)

// An Action is what a start does about one desired provider.
type Action string

// The actions of a [Step].
const (
	ActionCreate      Action = "create"      // there is no row: insert one
	ActionUnchanged   Action = "unchanged"   // row and environment agree
	ActionDiverged    Action = "diverged"    // same shape, another credential or tunable: warn
	ActionDrifted     Action = "drifted"     // another shape: refuse to start
	ActionAdopt       Action = "adopt"       // they differ, and the operator chose the environment: update
	ActionKeep        Action = "keep"        // they differ, and the operator chose the database: leave it
	ActionDeleted     Action = "deleted"     // an operator deleted it: warn and leave it deleted
	ActionUnsupported Action = "unsupported" // a type the library does not know: warn and skip
)

// A Plan is what a start would do: one step per desired provider, sorted by name. Printing
// or encoding it never shows a secret.
type Plan struct {
	Steps    []Step
	Warnings []Warning // not about a step: those of [Config.Warnings], of variables without a provider, and of stale tokens
	Choices  []Choice  // what settles the differences that nobody has settled; nil if there are none

	// Variables has each variable that is set, and what becomes of it. It is nil for a Config
	// that was built by hand.
	Variables []VariableFate
}

// A Step is the decision about one provider.
type Step struct {
	Action  Action
	Name    string
	Type    ProviderType
	BaseURL string // from the environment, with the values of its query masked
	Keys    int    // number of bearer keys in the environment

	// The rest of the fields up to Digest are set if environment and database differ.
	Drift    []FieldDrift // the fields of the shape that differ
	Adopting []string     // what else adopting changes, and which credentials stay; with fingerprints
	Moved    Side         // which side moved since a start last wrote the row; "" if nobody asked
	Digest   string       // settles it, as name@digest
	Warnings []Warning    // that a start would log about this provider

	// A function, because fmt prints unexported fields without calling Format, and
	// follows pointers, but not functions.
	sides func() *sides
}

// sides holds what a step compares.
type sides struct {
	want    *desired
	stored  *storedProvider // empty if there is no row
	target  *Provider       // the row as adopting makes it; nil if nothing differs
	open    *disagreement   // nil if nothing differs; the first digest is that of the step
	differ  []string        // the variables whose value is not that of the row
	settles []string        // the variables that settle the difference
	notes   []string        // for the log, at level info
}

// between returns the sides. They are empty for a Step that this package did not make.
func (s Step) between() *sides {
	if s.sides == nil {
		return &sides{want: &desired{}, stored: &storedProvider{}}
	}
	return s.sides()
}

// Format prints only the action and the name: a base URL can contain a credential.
func (s Step) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "%s %s", string(s.Action), text.Label(s.Name))
}

// diff decides what to do about each provider, in the order of want. It is a pure function:
// a plan and a seed both call it. origins can be nil if nobody asks which side moved.
func diff(want []desired, stored map[string]*storedProvider, origins origins, settle settlement, of fingerprints) *Plan {
	plan := &Plan{Steps: make([]Step, 0, len(want))}
	for i := range want {
		d := &want[i]
		row, exists := stored[d.Name]
		if !exists {
			row = &storedProvider{}
		}
		both := &sides{want: d, stored: row}
		step := Step{Name: d.Name, Type: d.Type, BaseURL: MaskURL(d.BaseURL), Keys: len(d.Keys), Warnings: slices.Clone(d.warnings), sides: func() *sides { return both }}
		switch {
		case d.unsupported:
			step.Action = ActionUnsupported
		case !exists:
			step.Action = ActionCreate
			step.warnOfPlaceholders()
		case row.deleted:
			step.Action = ActionDeleted
			step.warn(Warning{Code: WarningDeleted})
		default:
			step.compare(origins, settle, of)
		}
		plan.Steps = append(plan.Steps, step)
	}
	plan.Warnings = plan.unused(settle)
	plan.Choices = plan.choices(settle, ActionDrifted, ActionDiverged)
	return plan
}

// compare finds how a live row and the environment differ, if they do.
func (s *Step) compare(origins origins, settle settlement, of fingerprints) {
	both := s.between()
	stored, want := both.stored, both.want
	s.Action = ActionUnchanged
	if stored.Type == want.Type && stored.BaseURL == want.BaseURL && sameSettings(stored.Bedrock, want.Bedrock) && sameKeys(stored.Keys, want.Keys) {
		return // as most do
	}
	s.Drift = shapeDrift(stored.Provider, *want)
	if s.Drift != nil {
		both.differ = want.shapeVariables(stored.Provider)
	}
	target := want.adoptedBy(stored.Provider, s.Drift != nil)
	list := differences(stored.Provider, target, of.shown)
	var removable []string
	for _, d := range list {
		s.Adopting = append(s.Adopting, d.adopting())
		if d.is == "" && (d.field != fieldKey || len(want.Keys) == 0) {
			continue // no variable sets it
		}
		for _, variable := range want.variablesOf(d.field) {
			if slices.Contains(both.differ, variable) {
				continue
			}
			if both.differ = append(both.differ, variable); want.standsWithout(d.field) {
				removable = append(removable, variable)
			}
		}
	}
	unset := !hasCredentials(want.Provider) && hasCredentials(target)
	switch {
	case unset && s.Drift != nil:
		s.Adopting = append(s.Adopting, "leaves "+target.fingerprinted(of.shown)+", which would then go to "+target.endpoint())
	case unset:
		both.notes = append(both.notes, "the environment sets no credentials, and those of the database stay in use")
	case len(list) == 0 && s.Drift == nil && !sameKeys(stored.Keys, want.Keys):
		both.notes = append(both.notes, "the database has the keys of the environment in another order, which stays")
	}
	if len(list) == 0 && s.Drift == nil {
		return
	}
	for i, key := range stored.Keys {
		if !slices.ContainsFunc(target.Keys, func(k ProviderKey) bool { return k.ID == key.ID }) && slices.ContainsFunc(secretsOf(target), key.APIKey.Equal) {
			s.Adopting = append(s.Adopting, "removes API key "+strconv.Itoa(i+1)+", which the row has twice")
		}
	}
	both.target = &target
	both.open = &disagreement{provider: s.Name, drift: s.Drift != nil, digests: digests(stored, want.Provider, target, of.bound)}
	if origins != nil {
		both.open.moved = origins.moved(stored, want)
	}
	s.Digest, s.Moved = both.open.digests[0], both.open.moved
	s.decide(settle, list, removable)
}

// decide chooses what to do about a difference. Without the removable variables there is none.
func (s *Step) decide(settle settlement, list []difference, removable []string) {
	both := s.between()
	adopt, keep := settle.variables.legacy(variableDriftAdopt), settle.variables.legacy(variableDriftKeep)
	entry, adopts := settle.choose(*both.open)
	_, choice := standing(entry)
	switch {
	case adopts:
		s.Action = ActionAdopt
		both.settles = settle.variables.withEqual(adopt)
		s.warn(Warning{Code: WarningAdopted, Variables: both.settles, Differences: s.Adopting})
		s.warnOfPlaceholders()
	case choice != "":
		s.Action = ActionKeep
		both.settles = settle.variables.withEqual(keep)
		both.notes = append(both.notes, "it differs from the environment in "+s.what(list)+" and stays as it is, by "+keep+"="+entry)
	case entry != "":
		s.Action = ActionKeep
		both.settles = settle.variables.withEqual(keep)
		s.warn(Warning{Code: WarningKept, Variables: both.settles})
	case s.Drift != nil:
		s.Action = ActionDrifted
	default:
		s.Action = ActionDiverged
		w := Warning{Code: WarningDiverged, Variables: removable, Token: s.token(), AdoptVariable: adopt, KeepVariable: keep}
		for _, d := range list {
			w.Differences = append(w.Differences, d.String())
		}
		s.warn(w)
	}
}

// unused returns a warning for each entry that can settle nothing: a token whose difference is
// gone, and a standing keep of a provider that the environment does not have.
func (p *Plan) unused(settle settlement) (warnings []Warning) {
	for _, list := range []struct {
		variable string
		action   Action
		entries  []string
	}{{variableDriftAdopt, ActionAdopt, settle.adopt}, {variableDriftKeep, ActionKeep, settle.keep}} {
		for _, entry := range list.entries {
			provider, choice := standing(entry)
			used := provider == everybody || slices.ContainsFunc(p.Steps, func(s Step) bool {
				return s.Name == provider && (choice != "" || s.Action == list.action && s.between().open.isSettledBy(entry, list.action == ActionAdopt))
			})
			if !used {
				warnings = append(warnings, Warning{Code: WarningStaleToken, Variables: settle.variables.withEqual(settle.variables.legacy(list.variable)), Token: entry})
			}
		}
	}
	return warnings
}

// effective returns the entries that are not unused.
func (p *Plan) effective(entries []string) (used []string) {
	for _, entry := range entries {
		if !slices.ContainsFunc(p.Warnings, func(w Warning) bool { return w.Code == WarningStaleToken && w.Token == entry }) {
			used = append(used, entry)
		}
	}
	return used
}

func (s *Step) warn(w Warning) { s.Warnings = append(s.Warnings, w) }

// inUse returns the provider whose credentials are in use when the plan is carried out.
func (s *Step) inUse() Provider {
	both := s.between()
	switch {
	case both.target != nil && s.Action == ActionAdopt:
		return *both.target
	case s.Action == ActionCreate:
		return both.want.Provider
	}
	return both.stored.Provider
}

// what names the fields that differ.
func (s *Step) what(list []difference) string {
	var names []string
	for _, f := range s.Drift {
		names = append(names, f.Field)
	}
	for _, d := range list {
		names = append(names, d.what)
	}
	return strings.Join(names, ", ")
}

// warnOfPlaceholders warns of secrets of examples, which would be written.
func (s *Step) warnOfPlaceholders() {
	if placeholders := s.between().want.placeholders(); len(placeholders) > 0 {
		s.warn(Warning{Code: WarningPlaceholder, Variables: placeholders})
	}
}

// drift returns the error of a plan with providers that drifted.
func (p *Plan) drift(settle settlement) *DriftError {
	var drifted []ProviderDrift
	for _, s := range p.Steps {
		if s.Action == ActionDrifted {
			drifted = append(drifted, ProviderDrift{Name: s.Name, ID: s.between().stored.ID, Moved: s.Moved, Digest: s.Digest, Fields: s.Drift, Adopting: s.Adopting})
		}
	}
	return &DriftError{Providers: drifted, Choices: p.choices(settle, ActionDrifted)}
}

// choices returns what settles the differences of all steps with some actions.
func (p *Plan) choices(settle settlement, actions ...Action) []Choice {
	var tokens []string
	databaseMoved := false // alone, for one of them
	for _, s := range p.Steps {
		if slices.Contains(actions, s.Action) {
			tokens = append(tokens, s.token())
			databaseMoved = databaseMoved || s.Moved == SideDatabase
		}
	}
	if tokens == nil {
		return nil
	}
	keep, kept := settle.variables.legacy(variableDriftKeep), p.effective(settle.keep)
	adopt, taken := settle.variables.legacy(variableDriftAdopt), p.effective(settle.adopt)
	list := func(entries []string, more ...string) string { return strings.Join(slices.Concat(entries, more), ",") }
	choices := []Choice{{"The database is right, for now", keep, list(kept, tokens...)}}
	if databaseMoved { // for an operator who changes providers in the database only
		choices = append(choices, Choice{"The database is right whenever it alone has changed", keep, list(kept, everybody+"@"+databaseOnly)})
	}
	return append(choices, Choice{"The environment is right: the database takes its values", adopt, list(taken, tokens...)})
}

// token settles the difference of a step.
func (s *Step) token() string { return s.Name + "@" + s.Digest }

// creates returns the providers to insert.
func (p *Plan) creates() []Provider {
	var out []Provider
	for _, s := range p.Steps {
		if s.Action == ActionCreate {
			out = append(out, s.between().want.Provider)
		}
	}
	return out
}

// writes reports whether there is anything to write.
func (p *Plan) writes() bool { return p.count(ActionCreate)+p.count(ActionAdopt) > 0 }

func (p *Plan) count(action Action) (n int) {
	for _, s := range p.Steps {
		if s.Action == action {
			n++
		}
	}
	return n
}

// A Fate says what becomes of a variable that is set.
type Fate string

// The fates of a [VariableFate].
const (
	FateCreates   Fate = "creates"         // its provider is created with it
	FateAgrees    Fate = "agrees"          // the database says the same
	FateOverruled Fate = "overruled"       // the database says something else, and that is in use
	FateAdopted   Fate = "adopted"         // the database takes its value
	FateSettles   Fate = "settles"         // it settles a difference
	FateStops     Fate = "stops the start" // its provider drifted
	FateDeleted   Fate = "deleted"         // an operator deleted its provider, which stays deleted
	FateSkipped   Fate = "skipped"         // its provider has a type that is not supported
	FateNoEffect  Fate = "no effect"       // nothing reads it, or another variable goes before it
)

// A VariableFate is what becomes of one variable. Each variable that is set has one.
type VariableFate struct {
	Name     string `json:"name"`               // as it is in the environment
	Provider string `json:"provider,omitempty"` // "" for none
	Fate     Fate   `json:"fate"`
	Reason   string `json:"reason"` // a sentence, without a value
}

var fateOf = map[Action]VariableFate{
	ActionCreate:      {Fate: FateCreates, Reason: "there is no row of this provider yet"},
	ActionUnchanged:   {Fate: FateAgrees, Reason: "the database has the same"},
	ActionDiverged:    {Fate: FateOverruled, Reason: "the database has another value, which is in use"},
	ActionDrifted:     {Fate: FateStops, Reason: "environment and database differ, and nobody has settled that"},
	ActionAdopt:       {Fate: FateAdopted, Reason: "the database takes the environment's values, as the operator chose"},
	ActionKeep:        {Fate: FateOverruled, Reason: "the database keeps its values, as the operator chose"},
	ActionDeleted:     {Fate: FateDeleted, Reason: "an operator deleted the provider, and it stays deleted"},
	ActionUnsupported: {Fate: FateSkipped, Reason: "the type is not supported"},
}

// actionOn returns the action that decides about a variable of a provider. What agrees agrees,
// whatever happens to the rest, unless the start stops.
func (s *Step) actionOn(variable string) Action {
	if s.Digest != "" && s.Action != ActionDrifted && !slices.Contains(s.between().differ, variable) {
		return ActionUnchanged
	}
	return s.Action
}

// fates returns what becomes of each variable of a Config that was parsed, in its order, as a
// plan for want decides. A Config that was built by hand has no variables.
func (cfg *Config) fates(want []desired, plan *Plan) (fates []VariableFate) {
	if cfg.variables.set == nil {
		return nil
	}
	steps := map[int]int{} // by place
	for i, d := range want {
		for _, place := range d.places {
			steps[place] = i
		}
	}
	ignored := map[string]string{} // the reason, by variable
	settles := map[string]bool{}
	note := func(warnings []Warning) {
		for _, w := range warnings {
			for _, name := range w.Variables {
				switch w.Code {
				case WarningIgnored:
					ignored[name] = w.Reason
				case WarningUnknownVariable, WarningRemovedVariable, WarningLetterCase, WarningMisnamedVariable, WarningMissingKey, WarningServiceLinks:
					ignored[name] = "it is no variable of AI providers"
				}
			}
		}
	}
	note(plan.Warnings)
	for _, s := range plan.Steps {
		note(s.Warnings)
		for _, name := range s.between().settles {
			settles[name] = true
		}
	}
	set := cfg.variables.set()
	settlements := cfg.variables.withEqual(cfg.variables.legacy(variableDriftAdopt), cfg.variables.legacy(variableDriftKeep))
	fates = make([]VariableFate, 0, len(set))
	for _, v := range set {
		i, has := steps[v.place]
		reason, isIgnored := ignored[v.name]
		fate := VariableFate{Fate: FateNoEffect, Reason: reason}
		switch {
		case settles[v.name]:
			fate = VariableFate{Fate: FateSettles, Reason: "it settles a difference"}
		case slices.Contains(settlements, v.name):
			fate.Reason = "it settles nothing at the moment"
		case isIgnored, !has:
		default:
			fate = fateOf[plan.Steps[i].actionOn(v.name)]
		}
		if fate.Name = v.name; has {
			fate.Provider = plan.Steps[i].Name
		}
		fates = append(fates, fate)
	}
	return fates
}
