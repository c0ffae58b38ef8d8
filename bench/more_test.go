package bench

import (
	"context"
	"fmt"
	"runtime/metrics"

	"example.com/aiseed"
)

const (
	growth      = "Growth" // by an operation
	readAll     = "Providers"
	plan        = "Plan"
	noOpBeside  = "NoOpStartBeside" // by what is beside
	backlog     = "Backlog"         // n is audits
	noOthers    = "nothing"
	foreign     = "foreign"
	deleted     = "deleted"
	andAnalysed = "-analysed"
)

// grown returns the two sizes whose times say how work grows.
func (s scale) grown() []int { return s.sizes[len(s.sizes)-2:] }

// growing are the operations whose growth is measured.
var growing = []string{firstStart, noOpStart, readAll, plan, parse}

// growth lets each operation run with few and with many providers in turns.
func (s *suite) growth() {
	var all []contender
	for _, n := range s.grown() {
		l := s.line(seeded(n), 0)
		all = append(all, s.firsts(firstStart, n, 0)[0], s.noOps(n, 0)[0], s.parsers(n)[0],
			contender{key: key{operation: readAll, n: n}, line: l, run: l.read(n)},
			contender{key: key{operation: plan, n: n}, line: l, run: l.plan(n)})
	}
	for i := range all {
		all[i].key = key{growth, all[i].operation, all[i].n, 0}
	}
	s.race(s.least, all...)
}

// beside measures a no-op start next to rows that it does not need.
func (s *suite) beside() {
	const n = 10
	addForeign := fmt.Sprintf(`
with p as (insert into ai_providers (id, type, name, base_url)
           select gen_random_uuid(), 'openai', 'foreign-' || i, 'https://foreign.example.com/' from generate_series(1, %d) i returning id)
insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 0, 'foreign' from p;`, s.foreign)
	addDeleted := fmt.Sprintf(`
insert into ai_providers (id, type, name, base_url, deleted)
select gen_random_uuid(), 'openai', 'provider-00000', 'https://deleted.example.com/', true from generate_series(1, %d);`, s.deleted)
	var all []contender
	for i, other := range []struct{ by, sql string }{
		{noOthers, ``},
		{foreign, addForeign},
		{foreign + andAnalysed, addForeign + `analyze`},
		{deleted, addDeleted},
		{deleted + andAnalysed, addDeleted + `analyze`},
	} {
		name := fmt.Sprintf("beside_%d", i)
		s.database(name, seeded(n))
		l := s.line(name, 0)
		l.exec(other.sql)
		all = append(all, contender{key: key{noOpBeside, other.by, n, 0}, line: l, run: l.seed(n)})
	}
	s.race(s.rounds(n), s.warmUp(all...)...)
}

// backlog delivers many audits, and looks at the heap meanwhile: at the size of its objects,
// with the garbage that was not collected yet, over the size before.
func (s *suite) backlog() {
	s.database("backlog", "template0")
	for _, n := range s.backlogs {
		l := s.line("backlog", 0)
		l.exec(fmt.Sprintf(`truncate ai_provider_audits;
insert into ai_provider_audits (id, actor, action, resource, resource_id, provider_id, provider_name, new)
select gen_random_uuid(), 'system', 'create', 'ai_provider_key', gen_random_uuid(), gen_random_uuid(), 'provider-' || i, '{"position": 0, "api_key": "****6789"}'
  from generate_series(1, %d) i`, n))
		store, seen, before := l.store(), 0, 0.0
		auditor := aiseed.AuditorFunc(func(context.Context, aiseed.AuditEntry) error {
			if seen++; seen%100 == 0 {
				s.peaks[n] = max(s.peaks[n], heap()-before)
			}
			return nil
		})
		s.race(1, contender{key: key{backlog, ours, n, 0}, line: l, run: func(ctx context.Context) error {
			before = heap()
			delivered, err := store.DeliverAudits(ctx, auditor)
			if err == nil && delivered != n {
				err = fmt.Errorf("delivered %d of %d audits", delivered, n)
			}
			return err
		}})
	}
}

func heap() float64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return float64(sample[0].Value.Uint64())
}
