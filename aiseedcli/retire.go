package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cdr.dev/slog/v3"

	"example.com/aiseed"
)

// A retirement says which variables can be removed.
type retirement struct {
	Done      bool                  `json:"done"` // all can, or there is none
	Removable []aiseed.VariableFate `json:"removable"`
	Staying   []aiseed.VariableFate `json:"staying"` // with the reason why they cannot be removed
}

// runRetire lists the variables without which a start writes and ends as before.
func runRetire(ctx context.Context, a *app) (result, error) {
	return a.withPlan(ctx, func(p planned) (result, error) {
		stays := staying(p.Plan)
		if err := a.settlements(ctx, p, stays); err != nil {
			return result{}, err
		}
		did := retirement{Done: len(stays) == 0, Removable: []aiseed.VariableFate{}, Staying: []aiseed.VariableFate{}}
		for _, v := range p.Variables {
			if reason, has := stays[v.Name]; has {
				v.Reason = reason
				did.Staying = append(did.Staying, v)
				continue
			}
			did.Removable = append(did.Removable, v)
		}
		return result{document: did, text: func() { a.printRetirement(did) }}, nil
	})
}

// staying returns the variables of providers that have to stay, with the reasons. Those of a provider stay
// or go together: also one that agrees is needed if a start writes the others, or the default of one that is not set.
func staying(p *aiseed.Plan) map[string]string {
	reasons := map[string]string{} // by provider
	for _, s := range p.Steps {
		switch s.Action {
		case aiseed.ActionCreate:
			reasons[s.Name] = "the next start creates the provider from it"
		case aiseed.ActionAdopt:
			reasons[s.Name] = "the next start writes the environment's values"
		case aiseed.ActionDrifted:
			reasons[s.Name] = "the difference is not settled"
		}
	}
	var needed []int // the indexes that stay
	stem := ""
	for _, v := range p.Variables {
		if prefix, n := indexOf(v.Name); n >= 0 && reasons[v.Provider] != "" && !slices.Contains(needed, n) {
			stem, needed = prefix, append(needed, n)
		}
	}
	slices.Sort(needed)
	stays := map[string]string{}
	for _, v := range p.Variables {
		reason := reasons[v.Provider]
		_, n := indexOf(v.Name)
		switch {
		case v.Provider == "":
			continue
		case reason == "" && n >= 0 && len(needed) > 0 && n < needed[len(needed)-1]:
			reason = gap(stem, needed)
		}
		if reason != "" {
			stays[v.Name] = reason
		}
	}
	return stays
}

// gap says why a variable with a lower index than one that stays cannot simply be removed, and how to move those that stay.
func gap(stem string, needed []int) string {
	var moves []string
	for to, from := range needed {
		if from != to {
			moves = append(moves, fmt.Sprintf("%s%d_* becomes %s%d_*", stem, from, stem, to))
		}
	}
	return fmt.Sprintf("would leave a gap below %s%d_*, which has to stay; to remove all that would, number those that stay from 0 in the same step: %s",
		stem, needed[len(needed)-1], strings.Join(moves, ", "))
}

var indexed = regexp.MustCompile(`^(.*_PROVIDER_)(\d+)_`)

// indexOf returns what is before the index in a variable's name, and the index, or -1.
func indexOf(name string) (stem string, n int) {
	found := indexed.FindStringSubmatch(name)
	if found == nil {
		return "", -1
	}
	n, err := strconv.Atoi(found[2])
	if err != nil {
		return "", -1
	}
	return found[1], n
}

// settlements adds the variables that settle differences of what stays, or would settle later ones.
// It asks for the plan without the others each time, so that what it says is what a start does.
func (a *app) settlements(ctx context.Context, p planned, stays map[string]string) error {
	gone := map[string]bool{}
	var settling []string
	for _, v := range p.Variables {
		_, has := stays[v.Name]
		switch {
		case has:
		case strings.HasSuffix(v.Name, "DRIFT_ADOPT"), strings.HasSuffix(v.Name, "DRIFT_KEEP"):
			settling = append(settling, v.Name)
		default:
			gone[v.Name] = true
		}
	}
	for _, name := range settling {
		standing := strings.Contains(a.lookup(name), "*") || strings.Contains(a.lookup(name), "@database")
		if standing && len(stays) > 0 {
			stays[name] = "it is a choice for all differences to come of the providers that stay"
			continue
		}
		gone[name] = true
		same, err := a.endsAsBefore(ctx, p, gone)
		if err != nil {
			return err
		}
		if !same {
			delete(gone, name)
			stays[name] = "it settles a difference of a provider that stays"
		}
	}
	same, err := a.endsAsBefore(ctx, p, gone)
	if err == nil && !same {
		err = errors.New("the environment or the database changed meanwhile; run this again")
	}
	return err
}

// endsAsBefore reports whether a start without some variables writes and ends as it does with them.
func (a *app) endsAsBefore(ctx context.Context, p planned, gone map[string]bool) (bool, error) {
	environ := slices.DeleteFunc(slices.Clone(a.Environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return gone[name]
	})
	cfg, err := aiseed.ParseEnviron(ctx, environ, slog.Logger{}, aiseed.WithPrefix(a.flags.prefixes...))
	if err != nil {
		return false, nil // a start would refuse it
	}
	without, err := aiseed.PlanAIProvidersFromEnv(ctx, p.store, cfg, slog.Logger{})
	if err != nil {
		return false, err
	}
	return maps.Equal(endOf(p.Plan), endOf(without)), nil
}

// endOf returns what a start writes, and over what it stops.
func endOf(p *aiseed.Plan) map[string]aiseed.Action {
	end := map[string]aiseed.Action{}
	for _, s := range p.Steps {
		if writes(s) || s.Action == aiseed.ActionDrifted {
			end[s.Name] = s.Action
		}
	}
	return end
}

func (a *app) printRetirement(r retirement) {
	if a.flags.names {
		for _, v := range r.Removable {
			a.print(v.Name + "\n")
		}
		return
	}
	a.printFates("These can be removed from the environment of every server. Without them, a start writes and ends as it does with them:", r.Removable)
	if len(r.Removable) > 0 && len(r.Staying) > 0 {
		a.print("\n")
	}
	a.printFates("These have to stay:", r.Staying)
	switch {
	case len(r.Removable) == 0 && r.Done:
		a.printf("No variable of AI providers is set. The migration is done.\n")
	case r.Done:
		a.printf("\nWhen they are removed, the migration is done.\n")
	}
}

// printFates prints variables under their provider and what is said of it.
func (a *app) printFates(heading string, variables []aiseed.VariableFate) {
	if len(variables) == 0 {
		return
	}
	a.printf("%s\n", heading)
	for i, v := range variables {
		if i == 0 || v.Provider != variables[i-1].Provider || v.Reason != variables[i-1].Reason {
			a.printf("\n  %s\n", strings.TrimSpace(v.Provider+"  "+v.Reason))
		}
		a.print("    " + v.Name + "\n")
	}
}
