package aiseed

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// An Action is what a start does about one desired provider.
type Action string

// The actions of a [Step].
const (
	ActionCreate      Action = "create"      // there is no row: insert one
	ActionUnchanged   Action = "unchanged"   // row and environment agree
	ActionDiverged    Action = "diverged"    // same shape, another credential or tunable: warn
	ActionDrifted     Action = "drifted"     // another shape: refuse to start
	ActionDeleted     Action = "deleted"     // an operator deleted it: warn and leave it so
	ActionUnsupported Action = "unsupported" // a type the library does not know: warn and skip
)

// A Plan is what a start would do, one step per desired provider in order of
// name. It holds no secret.
type Plan struct {
	Steps []Step
}

// A Step is the decision about one provider.
type Step struct {
	Action   Action
	Name     string
	Type     ProviderType
	Drift    []FieldDrift // of a drifted step
	Warnings []string     // what a start would warn of, for this provider

	want   desired
	stored Provider
}

// Format prints action and name. What else a step knows is not for printing: a
// base URL can have a credential in it.
func (s Step) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "%s %s", string(s.Action), shortened(s.Name))
}

// storedProvider is a row that has the name of a desired provider.
type storedProvider struct {
	Provider
	deleted bool
}

// diff decides, in the order of want. It is a pure function: a plan and a seed
// both call it.
func diff(want []desired, stored map[string]storedProvider, fingerprint func(Secret) string) *Plan {
	plan := &Plan{}
	for _, d := range want {
		step := Step{Name: d.Name, Type: d.Type, Warnings: slices.Clone(d.warnings), want: d}
		row, exists := stored[d.Name]
		step.stored = row.Provider
		switch {
		case d.unsupported:
			step.Action = ActionUnsupported
		case !exists:
			step.Action = ActionCreate
		case row.deleted:
			step.Action = ActionDeleted
			step.warn("an operator deleted it, and it stays deleted: remove its variables from the environment, or restore it in the database")
		default:
			step.compare(row.Provider, fingerprint)
		}
		plan.Steps = append(plan.Steps, step)
	}
	return plan
}

func (s *Step) compare(stored Provider, fingerprint func(Secret) string) {
	s.Drift = shapeDrift(stored, s.want)
	differences := divergence(stored, s.want.Provider, fingerprint)
	switch {
	case len(s.Drift) > 0:
		s.Action = ActionDrifted
	case len(differences) > 0:
		s.Action = ActionDiverged
		s.warn("environment and database differ in " + strings.Join(differences, ", ") + "; the database's value is the one in use")
	default:
		s.Action = ActionUnchanged
	}
}

func (s *Step) warn(text string) { s.Warnings = append(s.Warnings, text) }

// drift returns a [DriftError] where any provider drifted.
func (p *Plan) drift() error {
	var drifted []ProviderDrift
	for _, s := range p.Steps {
		if s.Action == ActionDrifted {
			drifted = append(drifted, ProviderDrift{Name: s.Name, ID: s.stored.ID, Fields: s.Drift})
		}
	}
	if drifted == nil {
		return nil
	}
	return &DriftError{Providers: drifted}
}

// creates returns the providers to insert.
func (p *Plan) creates() []Provider {
	var out []Provider
	for _, s := range p.Steps {
		if s.Action == ActionCreate {
			out = append(out, s.want.Provider)
		}
	}
	return out
}

func (p *Plan) count(action Action) (n int) {
	for _, s := range p.Steps {
		if s.Action == action {
			n++
		}
	}
	return n
}

// String renders the plan as a table, with what needs words below it.
func (p *Plan) String() string {
	if len(p.Steps) == 0 {
		return "The environment names no AI providers.\n"
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ACTION\tNAME\tTYPE\tBASE URL\tCREDENTIALS")
	for _, s := range p.Steps {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.Action, shortened(s.Name), shortened(string(s.Type)), orNone(MaskURL(s.want.BaseURL)), s.want.credentials())
	}
	_ = table.Flush() // into a strings.Builder
	for _, s := range p.Steps {
		for _, f := range s.Drift {
			fmt.Fprintf(&b, "\n%s: %s drifted\n", shortened(s.Name), f.Field)
			f.write(&b, "  ")
		}
		for _, w := range s.Warnings {
			fmt.Fprintf(&b, "\n%s: %s\n", shortened(s.Name), w)
		}
	}
	return b.String()
}

// credentials says what a provider authenticates with, masked.
func (p Provider) credentials() string {
	var parts []string
	for _, k := range p.Keys {
		parts = append(parts, k.APIKey.String())
	}
	if p.Bedrock != nil && !p.Bedrock.AccessKey.IsZero() {
		parts = append(parts, fmt.Sprintf("%s with secret %s", p.Bedrock.AccessKey, p.Bedrock.AccessKeySecret))
	}
	if p.Bedrock != nil && p.Bedrock.AccessKey.IsZero() {
		parts = append(parts, "AWS environment")
	}
	return orNone(strings.Join(parts, ", "))
}
