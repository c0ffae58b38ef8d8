package aiseed

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"example.com/aiseed/internal/text"
)

// A ConfigError lists everything that is wrong with an environment or a
// [Config], in the order of the variables, or with what an operation of a [Store] was
// given. It matches [ErrInvalidConfig].
type ConfigError struct {
	Problems []Problem

	where string // "" is the configuration
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "aiseed: %s %s; nothing was changed", text.Count(len(e.Problems), "problem"), cmp.Or(e.where, "in the configuration of AI providers"))
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
	// Provider is the provider's name, or "" if it has no name (yet). What is no name is masked from 20 bytes on.
	Provider string
	// Reason says what was wanted and what was found, without the value.
	Reason string
}

func (p Problem) String() string {
	var variables []string
	for _, v := range p.Variables {
		variables = append(variables, text.Printable(v))
	}
	about := strings.Join(variables, ", ")
	if p.Provider != "" {
		about += " (provider " + p.Provider + ")"
	}
	return about + ": " + p.Reason
}

// problem is a [Problem] with the position of its entry in the order of the variables.
type problem struct {
	place int
	Problem
}

const problemsLast = math.MaxInt

// configError sorts problems in the order of the variables. Problems without a place
// in that order come last, sorted by the names of their variables.
func configError(problems []problem) *ConfigError {
	slices.SortStableFunc(problems, func(a, b problem) int {
		if byPlace := cmp.Compare(a.place, b.place); byPlace != 0 || a.place != problemsLast {
			return byPlace
		}
		return slices.Compare(a.Variables, b.Variables)
	})
	err := &ConfigError{}
	for _, p := range problems {
		p.Provider = text.Label(p.Provider) // a secret can be in the place of a name
		err.Problems = append(err.Problems, p.Problem)
	}
	return err
}

// operationError is the configError of an operation on a provider, or on none ("").
func operationError(provider string, problems []problem) error {
	err := configError(problems)
	if err.where = "with the provider"; provider == "" {
		err.where = "with the call"
	}
	return err
}
