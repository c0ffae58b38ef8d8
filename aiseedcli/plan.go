package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// planDocument is what plan found, for -json.
type planDocument struct {
	SchemaMissing bool                  `json:"schema_missing"` // there are no tables: apply the schema first
	Steps         []aiseed.Step         `json:"steps"`
	Warnings      []aiseed.Warning      `json:"warnings"`
	Choices       []aiseed.Choice       `json:"choices"` // what settles the differences
	Variables     []aiseed.VariableFate `json:"variables"`
}

// runPlan shows what a start would do.
func runPlan(ctx context.Context, a *app) (result, error) {
	r, err := a.withPlan(ctx, func(p planned) (result, error) {
		r := result{document: planDocument{p.store == nil, list(p.Steps), list(p.Warnings), list(p.Choices), list(p.Variables)}, text: func() { a.printPlan(p) }}
		switch {
		case slices.ContainsFunc(p.Steps, func(s aiseed.Step) bool { return s.Action == aiseed.ActionDrifted }):
			r.code = exitStops
		case p.store == nil, slices.ContainsFunc(p.Steps, writes):
			r.code = exitWrites
		}
		return r, nil
	})
	if stops(err) {
		r.code = exitStops
	}
	return r, err
}

// writes reports whether a start writes for a step.
func writes(s aiseed.Step) bool {
	return s.Action == aiseed.ActionCreate || s.Action == aiseed.ActionAdopt
}

// stops reports whether a start would stop over an error, too. A drift is none: the plan has it.
func stops(err error) bool {
	classes := []error{aiseed.ErrInvalidConfig, aiseed.ErrKeyring, aiseed.ErrSchema, aiseed.ErrUndecryptable, aiseed.ErrPlaintext}
	return slices.ContainsFunc(classes, func(class error) bool { return errors.Is(err, class) })
}

// list returns a list that is encoded as [] if it is empty.
func list[T any](of []T) []T { return append([]T{}, of...) }

func (a *app) printPlan(p planned) {
	if p.store == nil {
		a.printf("There are no tables in the schema %q yet. First apply them, with the migration tool that makes them, if one does, or else with:\n", a.flags.schema)
		a.print("    " + a.sibling("schema -apply") + "\n\n")
	}
	shown := *p.Plan
	shown.Warnings = notShown(p.Plan, p.cfg)
	a.print(shown.Table(a.width(), a.colour()))
	a.printDeleted(p.Steps)
}

// printDeleted tells how to bring back the providers that an operator deleted.
func (a *app) printDeleted(steps []aiseed.Step) {
	for _, s := range steps {
		if s.Action == aiseed.ActionDeleted {
			a.printf("To restore %s: %s\n", text.Label(s.Name), a.sibling("restore "+text.Label(s.Name)))
		}
	}
}

// A planned is a plan, and what it was made from.
type planned struct {
	*aiseed.Plan
	cfg   aiseed.Config
	store *aiseed.Store // nil if there are no tables
}

// withPlan makes a plan, calls use, and closes the pool.
func (a *app) withPlan(ctx context.Context, use func(planned) (result, error)) (result, error) {
	cfg, err := a.config(ctx)
	if err != nil {
		return result{document: map[string]any{"warnings": list(cfg.Warnings)}}, err
	}
	keyring, err := a.requiredKeyring()
	if err != nil {
		return result{}, err
	}
	return a.withPool(ctx, func(pool *pgxpool.Pool) (result, error) {
		store, err := aiseed.Open(ctx, pool, a.storeOptions(keyring))
		if err != nil && !errors.Is(err, aiseed.ErrSchemaMissing) {
			return result{}, err
		}
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, store, cfg, slog.Logger{})
		if err != nil {
			return result{}, err
		}
		return use(planned{plan, cfg, store})
	})
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

// applied is what apply did, for -json: the plan that it carried out, and what became of the audit
// entries.
type applied struct {
	planDocument
	Audits        string `json:"audits"`                   // "left" for the server, or "discarded"
	AuditsProblem string `json:"audits_problem,omitempty"` // why not all were discarded
}

// runApply does what a start does.
func runApply(ctx context.Context, a *app) (result, error) {
	cfg, err := a.config(ctx)
	if err != nil {
		return result{}, err
	}
	return a.withStore(ctx, func(store *aiseed.Store, _ *aiseed.Keyring) (result, error) {
		plan, err := store.Seed(ctx, cfg, aiseed.LeaveAudits, slog.Logger{})
		if plan == nil {
			return result{}, err
		}
		did := applied{planDocument: planDocument{false, list(plan.Steps), list(plan.Warnings), list(plan.Choices), list(plan.Variables)}, Audits: "left"}
		if err != nil {
			return result{document: did.planDocument}, err
		}
		if a.flags.discardAudits {
			if _, err := store.DeliverAudits(ctx, aiseed.DiscardAudits); err != nil {
				did.AuditsProblem = bare(err)
			} else {
				did.Audits = "discarded"
			}
		}
		return result{document: did, text: func() { a.printApplied(planned{plan, cfg, store}, did) }}, nil
	})
}

func (a *app) printApplied(p planned, did applied) {
	counts := map[aiseed.Action]int{}
	for _, s := range p.Steps {
		counts[s.Action]++
		if s.Action == aiseed.ActionCreate {
			a.printf("created %s\n", about(s))
		}
	}
	for _, s := range p.Steps {
		for _, w := range s.Warnings {
			a.printf("warning: %s: %s\n", text.Label(s.Name), w)
		}
	}
	a.printDeleted(p.Steps)
	for _, w := range notShown(p.Plan, p.cfg) {
		a.printf("warning: %s\n", w)
	}
	a.printf("%s\n", summary(counts))
	switch {
	case did.AuditsProblem != "":
		a.printf("warning: not all audit entries of AI providers were discarded: %s\n", did.AuditsProblem)
	case did.Audits == "discarded":
		a.printf("No audit entry waits for the server any more: all count as delivered.\n")
	case slices.ContainsFunc(p.Steps, writes):
		a.printf("The audit entries wait for the server, which delivers them when it starts next.\n")
	}
}

// about describes a provider that was created.
func about(s aiseed.Step) string {
	parts := []string{"type " + string(s.Type)}
	if s.BaseURL != "" {
		parts = append(parts, s.BaseURL)
	}
	if s.Keys > 0 {
		parts = append(parts, text.Count(s.Keys, "key"))
	}
	return s.Name + " (" + strings.Join(parts, ", ") + ")"
}

// summary returns the number of providers for each action, as text.
func summary(counts map[aiseed.Action]int) string {
	var parts []string
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
		if n := counts[part.action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, part.words))
		}
	}
	if parts == nil {
		return "The environment names no AI providers; nothing to do."
	}
	return "AI providers: " + strings.Join(parts, ", ") + "."
}
