package aiseed

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"example.com/aiseed/internal/text"
)

// A ConfigError lists everything that is wrong with an environment or a
// [Config], in the order of the variables. It matches [ErrInvalidConfig].
type ConfigError struct {
	Problems []Problem
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "aiseed: %s in the configuration of AI providers; nothing was changed", text.Count(len(e.Problems), "problem"))
	for i, p := range e.Problems {
		fmt.Fprintf(&b, "\n  %2d. %s", i+1, p)
	}
	return b.String()
}

// Unwrap returns [ErrInvalidConfig].
func (e *ConfigError) Unwrap() error { return ErrInvalidConfig }

// A Problem is one thing wrong with a configuration.
type Problem struct {
	// Variables are the full names of the variables concerned.
	Variables []string
	// Provider is the provider's name, or "" if it has no name (yet).
	Provider string
	// Reason says what was wanted and what was found, without the value.
	Reason string
}

func (p Problem) String() string {
	var variables []string
	for _, v := range p.Variables {
		variables = append(variables, text.Printable(v))
	}
	text := strings.Join(variables, ", ")
	if p.Provider != "" {
		text += " (provider " + p.Provider + ")"
	}
	return text + ": " + p.Reason
}

// problem is a [Problem] with the position of its entry in the order of the variables.
type problem struct {
	place int
	Problem
}

const problemsLast = math.MaxInt

// configError sorts problems in the order of the variables. Problems without a place
// in that order come last, sorted by the names of their variables.
func configError(problems []problem) error {
	slices.SortStableFunc(problems, func(a, b problem) int {
		if byPlace := cmp.Compare(a.place, b.place); byPlace != 0 || a.place != problemsLast {
			return byPlace
		}
		return slices.Compare(a.Variables, b.Variables)
	})
	err := &ConfigError{}
	for _, p := range problems {
		err.Problems = append(err.Problems, p.Problem)
	}
	return err
}

// A WarningCode says what a [Warning] is about.
type WarningCode string

// The codes of a [Warning].
const (
	WarningUnknownVariable WarningCode = "unknown_variable" // a likely misspelt variable is ignored
	WarningUnsupportedType WarningCode = "unsupported_type" // the provider is skipped
	WarningSameName        WarningCode = "same_name"        // of two providers, the first wins
	WarningIgnored         WarningCode = "ignored"          // a variable is set but has no effect
	WarningDeleted         WarningCode = "deleted"          // an operator deleted the provider
	WarningDiverged        WarningCode = "diverged"         // credentials or models differ; both stay
	WarningAdopted         WarningCode = "adopted"          // a token settled the drift: the environment wins
	WarningKept            WarningCode = "kept"             // a token settled the drift: the database wins
	WarningStaleToken      WarningCode = "stale_token"      // a token settles nothing
)

// A Warning is something that an operator should look at. It does not stop a start. Its text
// and its encodings are made from the fields. No field holds a secret.
type Warning struct {
	Code        WarningCode
	Variables   []string // full names of the variables concerned
	Type        string   // the type that is not supported
	Differences []string // between environment and database, with fingerprints of credentials
	BesideDrift bool     // the differences are in addition to those of a drift
	Token       string   // the stale token
	Reason      string   // why the variables are ignored
}

// unknownVariable is also a log message, with the variable as a field.
const unknownVariable = "unknown environment variable is ignored; check its spelling"

// String returns the text of the warning.
func (w Warning) String() string {
	switch w.Code {
	case WarningUnknownVariable:
		return strings.Join(w.Variables, ", ") + ": " + unknownVariable
	case WarningUnsupportedType:
		return fmt.Sprintf("type %s is not supported, so the provider is skipped; supported are %s", strconv.QuoteToGraphic(w.Type), supportedTypes())
	case WarningSameName:
		return strings.Join(w.Variables, " and ") + " name the same provider with different credentials or models; those of the first are used"
	case WarningIgnored:
		return strings.Join(w.Variables, ", ") + ": " + w.Reason
	case WarningDeleted:
		return "an operator deleted it, and it stays deleted: remove its variables from the environment, or restore it in the database"
	case WarningDiverged:
		if w.BesideDrift {
			return "apart from the drift, environment and database differ in " + strings.Join(w.Differences, ", ")
		}
		return "environment and database differ in " + strings.Join(w.Differences, ", ") + "; the database's value is the one in use"
	case WarningAdopted:
		return "drift settled by " + strings.Join(w.Variables, ", ") + ": the database takes the environment's values"
	case WarningKept:
		return "drift settled by " + strings.Join(w.Variables, ", ") + ": the database's values stay in use"
	case WarningStaleToken:
		return strings.Join(w.Variables, ", ") + ": " + w.Token + " matches no current drift and has no effect; remove it"
	}
	return string(w.Code)
}

// MarshalText returns the text of String. JSON uses it too.
func (w Warning) MarshalText() ([]byte, error) { return []byte(w.String()), nil }
