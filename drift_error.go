package aiseed

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"example.com/aiseed/internal/text"
)

// A DriftError lists every provider that environment and database describe
// differently. Nothing was written. It matches [ErrDrift].
type DriftError struct {
	Providers []ProviderDrift // in order of name
	Choices   []Choice        // what settles all of them
}

// A Choice is a way to settle differences, with what the variable settles already. Each token in
// Value settles one difference; an operator leaves out those for which another choice is right.
type Choice struct {
	Meaning  string `json:"meaning"`  // which side is right, and when
	Variable string `json:"variable"` // to set in the environment
	Value    string `json:"value"`
}

// String returns the assignment, as a shell or a file of variables has it.
func (c Choice) String() string { return c.Variable + "=" + c.Value }

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

// lines describes the field, as labels of one width and what is behind them.
func (f FieldDrift) lines() [][2]string {
	environment := text.OrNone(f.Environment)
	if f.note != "" {
		environment += " (" + f.note + ")"
	}
	return [][2]string{{"database:     ", text.OrNone(f.Stored)}, {"environment:  ", environment}, {"variable:     ", f.Variable + f.variableNote}}
}

// moved says which side moved, or nothing if that is not known.
func (s Side) moved() string {
	if s == "" || s == SideUnknown {
		return ""
	}
	return "since a start last wrote the row, " + s.words() + " changed"
}

const alsoAdopting = "adopting also "

func (e *DriftError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "aiseed: the environment and the database disagree about %s; nothing was changed\n", text.Count(len(e.Providers), "AI provider"))
	for _, p := range e.Providers {
		fmt.Fprintf(&b, "\n  %s (id %s)\n", p.Name, p.ID)
		if moved := p.Moved.moved(); moved != "" {
			fmt.Fprintf(&b, "    %s\n", moved)
		}
		for _, f := range p.Fields {
			fmt.Fprintf(&b, "    %s\n", f.Field)
			for _, line := range f.lines() {
				fmt.Fprintf(&b, "      %s%s\n", line[0], line[1])
			}
		}
		for _, a := range p.Adopting {
			fmt.Fprintf(&b, "    %s%s\n", alsoAdopting, a)
		}
	}
	b.WriteString(`
The database is the source of truth; the environment only creates providers
that do not exist yet. Choose for each provider above, and start again:
  - The database is right, for good: set each variable to the database's value
    (unset it for "(none)"), or remove the provider's variables. Indexed
    providers after it then move up by one, since their numbers have no gap.
`)
	for _, choice := range e.Choices {
		fmt.Fprintf(&b, "  - %s:\n      %s\n", choice.Meaning, choice)
	}
	b.WriteString("Each token settles only the difference shown. Leave out the tokens of the\nproviders for which you choose otherwise.")
	return b.String()
}

// Unwrap returns [ErrDrift].
func (e *DriftError) Unwrap() error { return ErrDrift }
