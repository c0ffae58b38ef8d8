package aiseed

import (
	"fmt"
	"slices"

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
	ActionAdopt       Action = "adopt"       // another shape, and the operator chose the environment's: update
	ActionKeep        Action = "keep"        // another shape, and the operator chose the database's: warn
	ActionDeleted     Action = "deleted"     // an operator deleted it: warn and leave it deleted
	ActionUnsupported Action = "unsupported" // a type the library does not know: warn and skip
)

// A Plan is what a start would do: one step per desired provider, sorted by name. Printing
// or encoding it never shows a secret.
type Plan struct {
	Steps    []Step
	Warnings []Warning // not about a step: those of [Config.Warnings], of variables without a provider, and of stale tokens

	// Variables has each variable that is set, and what becomes of it. It is nil for a Config
	// that was built by hand.
	Variables []VariableFate
}

// A Step is the decision about one provider.
type Step struct {
	Action   Action
	Name     string
	Type     ProviderType
	BaseURL  string       // from the environment, with the values of its query masked
	Keys     int          // number of bearer keys in the environment
	Drift    []FieldDrift // in a drifted, adopt or keep step
	Moved    Side         // with Drift: which side moved since the row was seeded
	Digest   string       // with Drift: settles it, as name@digest
	Warnings []Warning    // that a start would log about this provider

	// A function, because fmt prints unexported fields without calling Format, and
	// follows pointers, but not functions.
	sides func() *sides
}

// sides holds what a step compares.
type sides struct {
	want      *desired
	stored    *storedProvider // empty if there is no row
	diverged  []string        // in a diverged step, the variables whose value is not in use
	reordered bool            // the row has the same keys in another order
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
// a plan and a seed both call it.
func diff(want []desired, stored map[string]*storedProvider, settle settlement, fingerprint func(Secret) string) *Plan {
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
			if placeholders := d.placeholders(); len(placeholders) > 0 {
				step.warn(Warning{Code: WarningPlaceholder, Variables: placeholders})
			}
		case row.deleted:
			step.Action = ActionDeleted
			step.warn(Warning{Code: WarningDeleted})
		default:
			step.compare(settle, fingerprint)
		}
		plan.Steps = append(plan.Steps, step)
	}
	plan.Warnings = settle.unused(plan)
	return plan
}

func (s *Step) compare(settle settlement, fingerprint func(Secret) string) {
	stored, want := s.between().stored, s.between().want
	if s.Drift = shapeDrift(stored.Provider, *want); s.Drift != nil {
		s.Digest, s.Moved = driftDigest(stored, want.Provider), SideUnknown
		entry := s.Name + "@" + s.Digest
		switch {
		case settle.adopts(entry):
			s.Action = ActionAdopt
			s.warn(Warning{Code: WarningAdopted, Variables: settle.variables.withEqual(settle.variables.legacy(variableDriftAdopt))})
		case settle.keeps(entry):
			s.Action = ActionKeep
			s.warn(Warning{Code: WarningKept, Variables: settle.variables.withEqual(settle.variables.legacy(variableDriftKeep))})
		default:
			s.Action = ActionDrifted
		}
		left := stored.Provider
		if s.Action == ActionAdopt {
			left, _ = adopted(left, want.Provider) // adopting settles the rest too
		}
		if differences, _ := divergence(left, want.Provider, fingerprint); len(differences) > 0 {
			s.warn(Warning{Code: WarningDiverged, Differences: differences, BesideDrift: true})
		}
		return
	}
	s.Action = ActionUnchanged
	differences, fields := divergence(stored.Provider, want.Provider, fingerprint)
	if len(differences) > 0 {
		s.Action = ActionDiverged
		s.warn(Warning{Code: WarningDiverged, Differences: differences})
	}
	both := s.between()
	for _, f := range fields {
		both.diverged = append(both.diverged, want.variablesOf(f)...)
	}
	both.reordered = len(differences) == 0 && !slices.EqualFunc(secretsOf(stored.Provider), secretsOf(want.Provider), Secret.Equal)
}

func (s *Step) warn(w Warning) { s.Warnings = append(s.Warnings, w) }

// unused returns a warning for each entry that settles no step of a plan. A choice applies
// to one difference, and one side has changed since.
func (s settlement) unused(plan *Plan) (warnings []Warning) {
	adopts, keeps := map[string]bool{}, map[string]bool{}
	for _, step := range plan.Steps {
		switch entry := step.Name + "@" + step.Digest; step.Action {
		case ActionAdopt:
			adopts[entry] = true
		case ActionKeep:
			keeps[keepable(entry)] = true
		}
	}
	warn := func(name, entry string) {
		warnings = append(warnings, Warning{Code: WarningStaleToken, Variables: s.variables.withEqual(s.variables.legacy(name)), Token: entry})
	}
	for _, entry := range s.adopt {
		if !adopts[entry] {
			warn(variableDriftAdopt, entry)
		}
	}
	for _, entry := range s.keep {
		if !keeps[keepable(entry)] {
			warn(variableDriftKeep, entry)
		}
	}
	return warnings
}

// drift returns a [DriftError] if any provider drifted.
func (p *Plan) drift(variables variables) error {
	var drifted []ProviderDrift
	for _, s := range p.Steps {
		if s.Action == ActionDrifted {
			drifted = append(drifted, ProviderDrift{Name: s.Name, ID: s.between().stored.ID, Moved: s.Moved, Digest: s.Digest, Fields: s.Drift})
		}
	}
	if drifted == nil {
		return nil
	}
	return &DriftError{Providers: drifted, keep: variables.legacy(variableDriftKeep), adopt: variables.legacy(variableDriftAdopt)}
}

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
	FateSettles   Fate = "settles"         // it holds a token that settles a drift
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
	ActionDiverged:    {Fate: FateAgrees, Reason: "the database has the same"},
	ActionDrifted:     {Fate: FateStops, Reason: "environment and database differ, and nobody has settled that"},
	ActionAdopt:       {Fate: FateAdopted, Reason: "the database takes the environment's values, as the operator chose"},
	ActionKeep:        {Fate: FateOverruled, Reason: "the database keeps its values, as the operator chose"},
	ActionDeleted:     {Fate: FateDeleted, Reason: "an operator deleted the provider, and it stays deleted"},
	ActionUnsupported: {Fate: FateSkipped, Reason: "the type is not supported"},
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
				case WarningAdopted, WarningKept:
					settles[name] = true
				case WarningIgnored:
					ignored[name] = w.Reason
				case WarningStaleToken:
					ignored[name] = "its tokens match no current drift"
				case WarningUnknownVariable, WarningRemovedVariable, WarningLetterCase, WarningMisnamedVariable, WarningMissingKey, WarningServiceLinks:
					ignored[name] = "it is no variable of AI providers"
				}
			}
		}
	}
	note(plan.Warnings)
	for _, s := range plan.Steps {
		note(s.Warnings)
	}
	set := cfg.variables.set()
	fates = make([]VariableFate, 0, len(set))
	for _, v := range set {
		i, has := steps[v.place]
		reason, isIgnored := ignored[v.name]
		fate := VariableFate{Fate: FateNoEffect, Reason: reason}
		switch {
		case settles[v.name]:
			fate = VariableFate{Fate: FateSettles, Reason: "it settles a drift"}
		case isIgnored, !has:
		default:
			fate = fateOf[plan.Steps[i].Action]
			if plan.Steps[i].Action == ActionDiverged && slices.Contains(plan.Steps[i].between().diverged, v.name) {
				fate = VariableFate{Fate: FateOverruled, Reason: "the database has another value, which is in use"}
			}
		}
		if fate.Name = v.name; has {
			fate.Provider = plan.Steps[i].Name
		}
		fates = append(fates, fate)
	}
	return fates
}
