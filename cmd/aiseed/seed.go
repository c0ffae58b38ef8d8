package main

import (
	"context"
	"fmt"
	"slices"

	"cdr.dev/slog/v3"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// runPlan shows what a start would do.
func runPlan(ctx context.Context, a *app) (int, error) {
	cfg, err := a.config(ctx)
	if err != nil {
		return exitError, err
	}
	return a.withStore(ctx, func(store *aiseed.Store, _ *aiseed.Keyring) (int, error) {
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, store, cfg, slog.Logger{})
		if err != nil {
			return exitError, err
		}
		code := exitDone
		if slices.ContainsFunc(plan.Steps, notNothing) {
			code = exitChange
		}
		if a.json {
			return code, a.printJSON(plan)
		}
		plan.Warnings = notShown(plan, cfg)
		a.printf("%s", plan.Table(a.width(), a.colour()))
		return code, nil
	})
}

// notNothing reports whether a step writes, or stops a start.
func notNothing(s aiseed.Step) bool {
	return s.Action == aiseed.ActionCreate || s.Action == aiseed.ActionAdopt || s.Action == aiseed.ActionDrifted
}

// config parses the environment and shows its warnings.
func (a *app) config(ctx context.Context) (aiseed.Config, error) {
	cfg, err := aiseed.ParseEnviron(ctx, a.environ, slog.Logger{}, aiseed.WithPrefix(a.prefixes...))
	for _, w := range cfg.Warnings {
		fmt.Fprintln(a.stderr, "warning: "+w.String())
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
func runApply(ctx context.Context, a *app) (int, error) {
	cfg, err := a.config(ctx)
	if err != nil {
		return exitError, err
	}
	return a.withStore(ctx, func(store *aiseed.Store, _ *aiseed.Keyring) (int, error) {
		plan, err := store.Seed(ctx, cfg, aiseed.LeaveAudits, slog.Logger{})
		if err != nil {
			return exitError, err
		}
		var discardErr error
		if a.discardAudits {
			_, discardErr = store.DeliverAudits(ctx, aiseed.DiscardAudits)
		}
		if !a.json {
			plan.Warnings = notShown(plan, cfg)
		}
		return exitDone, a.printApplied(plan, discardErr)
	})
}

// printApplied tells what was done.
func (a *app) printApplied(plan *aiseed.Plan, discardErr error) error {
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
	case a.discardAudits:
		did.Audits = "discarded"
	}
	if a.json {
		return a.printJSON(did)
	}
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
	return nil
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
