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
	Warnings []Warning // not about a step: those of [Config.Warnings], and stale tokens
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
	want   *desired
	stored *storedProvider // empty if there is no row
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
			s.warn(Warning{Code: WarningAdopted, Variables: []string{settle.variables.full(variableDriftAdopt)}})
		case settle.keeps(entry):
			s.Action = ActionKeep
			s.warn(Warning{Code: WarningKept, Variables: []string{settle.variables.full(variableDriftKeep)}})
		default:
			s.Action = ActionDrifted
		}
		left := stored.Provider
		if s.Action == ActionAdopt {
			left, _ = adopted(left, want.Provider) // adopting settles the rest too
		}
		if differences := divergence(left, want.Provider, fingerprint); len(differences) > 0 {
			s.warn(Warning{Code: WarningDiverged, Differences: differences, BesideDrift: true})
		}
		return
	}
	differences := divergence(stored.Provider, want.Provider, fingerprint)
	switch {
	case len(differences) > 0:
		s.Action = ActionDiverged
		s.warn(Warning{Code: WarningDiverged, Differences: differences})
	default:
		s.Action = ActionUnchanged
	}
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
		warnings = append(warnings, Warning{Code: WarningStaleToken, Variables: []string{s.variables.full(name)}, Token: entry})
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
func (p *Plan) drift(prefix string) error {
	var drifted []ProviderDrift
	for _, s := range p.Steps {
		if s.Action == ActionDrifted {
			drifted = append(drifted, ProviderDrift{Name: s.Name, ID: s.between().stored.ID, Moved: s.Moved, Digest: s.Digest, Fields: s.Drift})
		}
	}
	if drifted == nil {
		return nil
	}
	return &DriftError{Providers: drifted, prefix: prefix}
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
