// Package aiseed moves a server's AI providers from the environment into
// Postgres, once. A host calls it in its start-up path, before any daemon runs:
//
//	cfg, err := aiseed.ParseEnviron(ctx, os.Environ(), logger)
//	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: keyring})
//	err = aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, auditor, logger)
//	providers, err := store.Providers(ctx)
//
// # What it promises
//
// The database is the single source of truth. The environment can create a provider, or make
// the start fail. It never overwrites, restores or deletes a provider, unless an operator
// settles a drift by its digest. A start writes everything or nothing, in one transaction.
// This holds if many replicas start at once, and if a start is cut off at any point. A start
// that changes nothing takes one round trip and no lock.
//
// Secrets are sealed at rest as soon as a [Store] with a keyring exists; no other way leads to the
// tables. They appear in no error, log line, audit entry or trace.
//
// # Compatibility
//
// Later versions of the library read what an earlier version sealed and stored. Migrations
// only add, so an older version works on a newer schema during a rolling deployment.
package aiseed

import (
	"context"
	"errors"
	"slices"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

// SeedAIProvidersFromEnv reconciles the providers that cfg asks for with those in store. It
// creates providers without a row, leaves equal ones alone, leaves deleted ones deleted, and
// skips types that are not supported. If a row does something other than cfg asks for, and
// the operator did not settle that by [Config.DriftAdopt] or [Config.DriftKeep], it writes
// nothing at all.
//
// After the commit, auditor gets the audit entries of what was written, together with those
// that an earlier process left behind, as far as [StoreOptions.AuditTimeout] allows. If this
// fails, it is logged and the seed does not fail. logger gets a warning for each thing that an
// operator should look at; the zero Logger discards it.
//
// A *[ProvidersError] lists each provider that cfg names whose row cannot be decrypted. Errors
// match [ErrInvalidConfig], [ErrDrift], [ErrKeyring], [ErrLockTimeout], [ErrUndecryptable],
// [ErrPlaintext], [ErrCommitUnknown] or [ErrDatabase]. An [ErrDatabase] also matches the
// error of a cancelled ctx. The error of a nil store or auditor matches no class. Any number of
// processes and goroutines can call it at once.
func SeedAIProvidersFromEnv(ctx context.Context, store *Store, cfg Config, auditor Auditor, logger slog.Logger) error {
	_, _, err := store.seed(ctx, cfg, auditor, logger)
	return err
}

// Seed does what [SeedAIProvidersFromEnv] does, and also returns the plan that it carried out,
// for a host to count, show or export. If a drift stops the start, the plan is the one that
// could not be carried out. The plan is nil if an error came before it. A nil Store is an
// error.
func (s *Store) Seed(ctx context.Context, cfg Config, auditor Auditor, logger slog.Logger) (*Plan, error) {
	want, plan, err := s.seed(ctx, cfg, auditor, logger)
	if plan != nil {
		plan.Variables = cfg.fates(want, plan)
	}
	return plan, err
}

// seed makes no fates of variables: only a caller who gets the plan can see them.
func (s *Store) seed(ctx context.Context, cfg Config, auditor Auditor, logger slog.Logger) ([]desired, *Plan, error) {
	if s == nil {
		return nil, nil, errors.New("aiseed: the store is nil; make one with Open")
	}
	if err := checkAuditor(auditor); err != nil {
		return nil, nil, err
	}
	want, err := normalise(cfg)
	if err != nil {
		return nil, nil, err
	}
	r := &start{store: s, want: want, settle: cfg.settlement(), audits: handover{store: s, auditor: auditor}}
	err = r.run(ctx)
	plan := r.plan
	if plan != nil {
		plan.Warnings = slices.Concat(cfg.ineffective(), plan.Warnings)
		plan.warn(ctx, logger, err == nil)
		plan.Warnings = slices.Concat(cfg.Warnings, plan.Warnings) // the parser has logged the former
	}
	if err != nil {
		return want, plan, err
	}
	plan.report(ctx, logger)
	r.audits.warn(ctx, logger)
	return want, plan, nil
}

// PlanAIProvidersFromEnv returns what [SeedAIProvidersFromEnv] would do. It writes nothing and
// takes no lock. A drift is a step of the plan, not an error. A nil store stands for a database
// without tables: everything is to be created, and no database is used.
//
// Warnings are only in the plan: logger gets one line at level debug. Errors match
// [ErrInvalidConfig], [ErrUndecryptable], [ErrPlaintext] or [ErrDatabase].
func PlanAIProvidersFromEnv(ctx context.Context, store *Store, cfg Config, logger slog.Logger) (*Plan, error) {
	want, err := normalise(cfg)
	if err != nil {
		return nil, err
	}
	r := &start{store: store, want: want, settle: cfg.settlement()}
	if store == nil {
		r.plan = diff(want, nil, nil, r.settle, fingerprints{})
	} else if err := r.read(ctx); err != nil {
		return nil, err
	}
	r.explain(ctx)
	plan := r.plan
	plan.Warnings = slices.Concat(cfg.Warnings, cfg.ineffective(), plan.Warnings)
	plan.Variables = cfg.fates(want, plan)
	logger.Debug(ctx, "planned AI providers", plan.fields()...)
	return plan, nil
}

// A start is one call of Seed.
type start struct {
	store  *Store
	want   []desired
	settle settlement
	audits handover

	stored  []*storedProvider // as last read
	origins origins           // read with them if a choice depends on the side that moved
	plan    *Plan             // that was carried out, or could not be
	witness uuid.UUID         // of what was written
}

func (r *start) run(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		written, witness := r.plan, r.witness // of an earlier attempt, whose server may be gone
		err := r.reconcile(ctx)
		if written != nil && written.writes() && (err == nil && !r.plan.writes() || errors.Is(err, ErrDrift) && r.store.has(ctx, witness)) {
			r.plan, err = written, nil // it is there, whatever others did to it since
		}
		if err != nil {
			return err
		}
		if err := r.audits.rest(ctx); !isLost(err) || ctx.Err() != nil || attempt == 2 {
			return nil
		}
		// Another server may have taken over, and lack what was read.
	}
}

// reconcile makes the database match what is wanted, in one round trip and without the lock if
// it does already.
func (r *start) reconcile(ctx context.Context) error {
	if err := r.read(ctx); err != nil {
		return err
	}
	if r.plan.writes() && r.plan.count(ActionDrifted) == 0 {
		// Decide again under the lock: only this read is authoritative.
		if err := r.store.locked(ctx, "seeding AI providers", r.reads(), func() (write, error) { return r.decide(ctx) }); err != nil {
			return err
		}
	}
	if r.plan.count(ActionDrifted) > 0 {
		// Report the drift even if we cannot say which side moved.
		r.explain(ctx)
		return r.plan.drift(r.settle)
	}
	return nil
}

// reads returns the queries for what a decision depends on.
func (r *start) reads() []pg.Query {
	queries := []pg.Query{r.store.load(names(r.want), &r.stored), r.store.pending(&r.audits.pending)}
	if r.settle.asksWhoMoved() {
		queries = append(queries, r.store.selectOrigins(names(r.want), &r.origins))
	}
	return queries
}

// read reads, and makes the plan.
func (r *start) read(ctx context.Context) error {
	err := retry(ctx, func() error { return r.store.query(ctx, "reading the providers", pg.UseOrderOfIndexes, r.reads()...) })
	if err != nil {
		return err
	}
	return r.makePlan()
}

// makePlan makes the plan from what was read.
func (r *start) makePlan() error {
	r.audits.undelivered = nil // of an earlier attempt
	stored, err := r.store.vault.openedByName(r.stored)
	if err == nil {
		r.plan = diff(r.want, stored, r.origins, r.settle, r.store.vault.fingerprints())
	}
	return err
}

// explain finds out which side moved, for each difference of the plan. It runs no query if there
// is none, or if it is known. If it fails, only the side is unknown.
func (r *start) explain(ctx context.Context) {
	var names []string
	for _, step := range r.plan.Steps {
		if step.Digest != "" {
			names = append(names, step.Name)
		}
	}
	if names == nil || r.origins != nil {
		return
	}
	_ = r.store.read(ctx, "reading the audits of providers that differ", r.store.selectOrigins(names, &r.origins))
	for i := range r.plan.Steps {
		if step := &r.plan.Steps[i]; step.Digest != "" {
			step.Moved = r.origins.moved(step.between().stored, step.between().want)
		}
	}
	r.plan.Choices = r.plan.choices(r.settle, ActionDrifted, ActionDiverged) // one depends on who moved
}

// decide makes the plan, and what to write for it. The delivery of its audit entries begins in
// the round trip of the commit.
func (r *start) decide(ctx context.Context) (write, error) {
	if err := r.makePlan(); err != nil {
		return write{}, err
	}
	plan := r.plan
	if plan.count(ActionDrifted) > 0 || !plan.writes() {
		return write{}, nil
	}
	w := r.store.carryOut(plan).write()
	w.done = func() { r.plan, r.witness = plan, w.witness }
	r.audits.follow(ctx, &w)
	return w, nil
}

// has reports whether an audit entry is there.
func (d *database) has(ctx context.Context, id uuid.UUID) bool {
	var found []string
	return d.read(ctx, "looking for what was written", d.selectWitnesses(&found, id)) == nil && len(found) == 1
}

// carryOut returns the changes that carry out a plan, with rows in its order.
func (s *Store) carryOut(plan *Plan) *changes {
	c := &changes{store: s, actor: SystemActor}
	for _, step := range plan.Steps {
		switch step.Action {
		case ActionCreate:
			c.create(step.between().want.Provider)
		case ActionAdopt:
			c.update(step.between().stored, *step.between().target)
		}
	}
	return c
}

// names lists the names to look up: those of supported types.
func names(want []desired) []string {
	var out []string
	for _, d := range want {
		if !d.unsupported {
			out = append(out, d.Name)
		}
	}
	return out
}

// warn logs what an operator should look at. It skips warnings about adoptions that were not
// written.
func (p *Plan) warn(ctx context.Context, logger slog.Logger, done bool) {
	for _, s := range p.Steps {
		if s.Action == ActionAdopt && !done {
			continue
		}
		for _, w := range s.Warnings {
			logger.Warn(ctx, "AI provider: "+w.String(), slog.F("provider", text.Label(s.Name)))
		}
	}
	for _, w := range p.Warnings {
		logger.Warn(ctx, "AI providers: "+w.String())
	}
}

func (p *Plan) report(ctx context.Context, logger slog.Logger) {
	for _, created := range p.creates() {
		logger.Info(ctx, "created AI provider", slog.F("provider", created.Name), slog.F("type", string(created.Type)),
			slog.F("base_url", MaskURL(created.BaseURL)), slog.F("keys", len(created.Keys)))
	}
	for _, s := range p.Steps {
		for _, note := range s.between().notes {
			logger.Info(ctx, "AI provider: "+note, slog.F("provider", s.Name))
		}
	}
	logger.Info(ctx, "AI providers of the environment are in the database", p.fields()...)
}

// fields counts the steps of each kind.
func (p *Plan) fields() []slog.Field {
	var fields []slog.Field
	for _, a := range []Action{ActionCreate, ActionUnchanged, ActionDiverged, ActionDrifted, ActionAdopt, ActionKeep, ActionDeleted, ActionUnsupported} {
		fields = append(fields, slog.F(string(a), p.count(a)))
	}
	return fields
}
