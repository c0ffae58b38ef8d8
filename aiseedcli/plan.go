package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// planned is what plan found, for -json.
type planned struct {
	SchemaMissing bool                  `json:"schema_missing"` // there are no tables: apply the schema first
	Steps         []aiseed.Step         `json:"steps"`
	Warnings      []aiseed.Warning      `json:"warnings"`
	Variables     []aiseed.VariableFate `json:"variables"`
}

// runPlan shows what a start would do.
func runPlan(ctx context.Context, a *app) (result, error) {
	r, err := a.planned(ctx)
	if err != nil && !isUsage(err) && a.stops(err) {
		r.code = exitStops
	}
	return r, err
}

// stops reports whether a start would stop over an error, too.
func (a *app) stops(err error) bool {
	return slices.ContainsFunc([]error{aiseed.ErrInvalidConfig, aiseed.ErrDrift, aiseed.ErrKeyring, aiseed.ErrSchema, aiseed.ErrUndecryptable, aiseed.ErrPlaintext},
		func(class error) bool { return errors.Is(err, class) })
}

func (a *app) planned(ctx context.Context) (result, error) {
	cfg, err := a.config(ctx)
	if err != nil {
		return result{}, err
	}
	keyring, err := a.requiredKeyring()
	if err != nil {
		return result{}, err
	}
	return a.withPool(ctx, func(pool *pgxpool.Pool) (result, error) {
		store, err := aiseed.Open(ctx, pool, a.storeOptions(keyring))
		missing := errors.Is(err, aiseed.ErrSchemaMissing)
		if err != nil && !missing {
			return result{}, err
		}
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, store, cfg, slog.Logger{})
		if err != nil {
			return result{}, err
		}
		did := planned{SchemaMissing: missing, Steps: append([]aiseed.Step{}, plan.Steps...), Warnings: append([]aiseed.Warning{}, plan.Warnings...), Variables: append([]aiseed.VariableFate{}, plan.Variables...)}
		r := result{document: did, text: func() {
			if missing {
				a.printf("There are no tables in the schema %q yet. First, apply them:\n", a.flags.schema)
				a.print("    " + a.sibling("schema -apply") + "\n\n")
			}
			shown := *plan
			shown.Warnings = notShown(plan, cfg)
			a.print(shown.Table(a.width(), a.colour()))
		}}
		switch {
		case slices.ContainsFunc(plan.Steps, func(s aiseed.Step) bool { return s.Action == aiseed.ActionDrifted }):
			r.code = exitStops
		case missing, slices.ContainsFunc(plan.Steps, writes):
			r.code = exitWrites
		}
		return r, nil
	})
}

// writes reports whether a start writes for a step.
func writes(s aiseed.Step) bool {
	return s.Action == aiseed.ActionCreate || s.Action == aiseed.ActionAdopt
}

// config parses the environment and shows its warnings.
func (a *app) config(ctx context.Context) (aiseed.Config, error) {
	cfg, err := aiseed.ParseEnviron(ctx, a.Environ, slog.Logger{}, aiseed.WithPrefix(a.flags.prefixes...))
	for _, w := range cfg.Warnings {
		a.notice("warning: " + w.String())
	}
	return cfg, err
}

// notShown returns the warnings of a plan without those of the parser, which config shows.
func notShown(plan *aiseed.Plan, cfg aiseed.Config) []aiseed.Warning {
	return plan.Warnings[len(cfg.Warnings):]
}

// applied is the result of apply, for -json.
type applied struct {
	Created  []createdProvider `json:"created"`
	Counts   map[string]int    `json:"counts"` // of all actions, by name
	Warnings []string          `json:"warnings"`
	Audits   string            `json:"audits"` // "left" or "discarded"
}

type createdProvider struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	BaseURL string `json:"base_url"`
	Keys    int    `json:"keys"`
}

// runApply does what a start does.
func runApply(ctx context.Context, a *app) (result, error) {
	cfg, err := a.config(ctx)
	if err != nil {
		return result{}, err
	}
	return a.withStore(ctx, func(store *aiseed.Store, _ *aiseed.Keyring) (result, error) {
		plan, err := store.Seed(ctx, cfg, aiseed.LeaveAudits, slog.Logger{})
		if err != nil {
			return result{}, err
		}
		var discardErr error
		if a.flags.discardAudits {
			_, discardErr = store.DeliverAudits(ctx, aiseed.DiscardAudits)
		}
		if !a.flags.json {
			plan.Warnings = notShown(plan, cfg)
		}
		did := a.applied(plan, discardErr)
		return result{document: did, text: func() { a.printApplied(did) }}, nil
	})
}

// applied tells what was done.
func (a *app) applied(plan *aiseed.Plan, discardErr error) applied {
	did := applied{Created: []createdProvider{}, Counts: map[string]int{}, Warnings: []string{}, Audits: "left"}
	for _, s := range plan.Steps {
		did.Counts[string(s.Action)]++
		if s.Action == aiseed.ActionCreate {
			did.Created = append(did.Created, createdProvider{text.Label(s.Name), string(s.Type), s.BaseURL, s.Keys})
		}
		for _, w := range s.Warnings {
			did.Warnings = append(did.Warnings, text.Label(s.Name)+": "+w.String())
		}
	}
	for _, w := range plan.Warnings {
		did.Warnings = append(did.Warnings, w.String())
	}
	switch {
	case discardErr != nil:
		did.Warnings = append(did.Warnings, "not all audit entries of AI providers were discarded: "+bare(discardErr))
	case a.flags.discardAudits:
		did.Audits = "discarded"
	}
	return did
}

func (a *app) printApplied(did applied) {
	for _, p := range did.Created {
		about := "type " + p.Type
		if p.BaseURL != "" {
			about += ", " + p.BaseURL
		}
		if p.Keys > 0 {
			about += ", " + text.Count(p.Keys, "key")
		}
		a.printf("created %s (%s)\n", p.Name, about)
	}
	for _, w := range did.Warnings {
		a.printf("warning: %s\n", w)
	}
	a.printf("%s\n", summary(did.Counts))
	switch changed := did.Counts[string(aiseed.ActionCreate)] + did.Counts[string(aiseed.ActionAdopt)]; {
	case did.Audits == "discarded":
		a.printf("No audit entry waits for the server any more: all count as delivered.\n")
	case changed > 0:
		a.printf("The audit entries wait for the server, which delivers them when it starts next.\n")
	}
}

// summary returns the number of providers for each action, as text.
func summary(counts map[string]int) string {
	text := ""
	for _, part := range []struct {
		action aiseed.Action
		words  string
	}{
		{aiseed.ActionCreate, "created"},
		{aiseed.ActionAdopt, "changed to the environment's values"},
		{aiseed.ActionUnchanged, "unchanged"},
		{aiseed.ActionDiverged, "left with another credential or tunable"},
		{aiseed.ActionKeep, "kept as in the database"},
		{aiseed.ActionDeleted, "left deleted"},
		{aiseed.ActionUnsupported, "skipped for its type"},
	} {
		if n := counts[string(part.action)]; n > 0 {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%d %s", n, part.words)
		}
	}
	if text == "" {
		return "The environment names no AI providers; nothing to do."
	}
	return "AI providers: " + text + "."
}
