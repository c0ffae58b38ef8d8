package aiseed

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"example.com/aiseed/internal/text"
)

// A DriftError lists every provider that environment and database describe
// differently. Nothing was written. It matches [ErrDrift].
type DriftError struct {
	Providers []ProviderDrift // in order of name

	keep, adopt string   // the variables that settle the drift
	kept, taken []string // what they settle already
}

// A ProviderDrift is one provider that drifted.
type ProviderDrift struct {
	Name   string
	ID     uuid.UUID // of the stored row
	Moved  Side      // which side moved since the row was last written from the environment
	Digest string    // identifies this difference; the token name@digest settles it
	Fields []FieldDrift

	// Adopting says what else adopting changes, and which stored credentials stay and would be
	// sent to where the environment says. It shows credentials as fingerprints.
	Adopting []string
}

// A FieldDrift is one field that differs. The values of a base URL's query are
// masked.
type FieldDrift struct {
	Field       string `json:"field"`       // "type", "base URL" or "Bedrock region"
	Stored      string `json:"stored"`      // "" for none
	Environment string `json:"environment"` // "" for none
	Variable    string `json:"variable"`    // the variable that sets the environment's value, or would set it

	note, variableNote string // for human readers
}

// A Side says which side moved since a row was last written from the environment: since a start
// created it, or since an operator adopted the environment's values.
type Side string

// The sides of a drift.
const (
	SideEnvironment Side = "environment"
	SideDatabase    Side = "database"
	SideBoth        Side = "both"
	SideUnknown     Side = "unknown" // no start wrote the row, its audit is gone, or only what is masked could differ
)

func (s Side) words() string {
	switch s {
	case SideEnvironment:
		return "the environment has"
	case SideDatabase:
		return "the database has"
	}
	return "both have"
}

// write writes the field to b, with indent before each line.
func (f FieldDrift) write(b *strings.Builder, indent string) {
	environment := text.OrNone(f.Environment)
	if f.note != "" {
		environment += " (" + f.note + ")"
	}
	for _, line := range [][2]string{{"database:", text.OrNone(f.Stored)}, {"environment:", environment}, {"variable:", f.Variable + f.variableNote}} {
		fmt.Fprintf(b, "%s%-13s %s\n", indent, line[0], line[1])
	}
}

// write writes which side moved, if that is known.
func (s Side) write(b *strings.Builder, indent string) {
	if s != "" && s != SideUnknown {
		fmt.Fprintf(b, "%ssince a start last wrote the row, %s changed\n", indent, s.words())
	}
}

// writeAdopting writes what else adopting does.
func writeAdopting(b *strings.Builder, indent string, adopting []string) {
	for _, a := range adopting {
		fmt.Fprintf(b, "%sadopting also %s\n", indent, a)
	}
}

func (e *DriftError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "aiseed: the environment and the database disagree about %s; nothing was changed\n", text.Count(len(e.Providers), "AI provider"))
	for _, p := range e.Providers {
		fmt.Fprintf(&b, "\n  %s (id %s)\n", p.Name, p.ID)
		p.Moved.write(&b, "    ")
		for _, f := range p.Fields {
			fmt.Fprintf(&b, "    %s\n", f.Field)
			f.write(&b, "      ")
		}
		writeAdopting(&b, "    ", p.Adopting)
	}
	fmt.Fprintf(&b, `
The database is the source of truth; the environment only creates providers that
do not exist yet. Choose for each provider above, and start again:
  - The database is right, for good: set each variable to the database's value
    (unset it for "(none)"), or remove the provider's variables. Indexed providers
    after it then move up by one, since their numbers have no gap.
  - The database is right, for now:
      %[1]s=%[3]s
%[4]s  - The environment is right: the database takes its values with
      %[2]s=%[5]s
Each token settles only the difference shown. Leave out the tokens of the
providers for which you choose otherwise.`, e.keep, e.adopt, words(e.kept, e.Providers), e.standing(), words(e.taken, e.Providers))
	return b.String()
}

// standing offers the choice for an operator who changes providers in the database only.
func (e *DriftError) standing() string {
	if !slices.ContainsFunc(e.Providers, func(p ProviderDrift) bool { return p.Moved == SideDatabase }) {
		return ""
	}
	return "  - The database is right whenever it alone has changed:\n      " + e.keep + "=" + strings.Join(append(slices.Clone(e.kept), "*@database"), ",") + "\n"
}

// Unwrap returns [ErrDrift].
func (e *DriftError) Unwrap() error { return ErrDrift }

// words returns the value of a variable that settles all drifts, and what it does already.
func words(list []string, drifts []ProviderDrift) string {
	list = slices.Clone(list)
	for _, d := range drifts {
		list = append(list, d.Name+"@"+d.Digest)
	}
	return strings.Join(list, ",")
}
