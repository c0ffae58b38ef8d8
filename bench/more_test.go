package bench

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"cdr.dev/slog/v3"
	"github.com/caarlos0/env/v11"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

const (
	growth     = "Growth" // by an operation
	readAll    = "Providers"
	plan       = "Plan"
	noOpBeside = "NoOpStartBeside" // by what is beside
	backlog    = "Backlog"         // n is audits

	nothing, foreign, deleted = "nothing", "foreign", "deleted"
)

// growth lets each operation run with few and with many providers in turns.
func (s *suite) growth() {
	var all []contender
	for _, n := range s.sizes[len(s.sizes)-2:] {
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
	add := map[string]string{foreign: fmt.Sprintf(`
with p as (insert into ai_providers (id, type, name, base_url)
           select gen_random_uuid(), 'openai', 'foreign-' || i, 'https://foreign.example.com/' from generate_series(1, %d) i returning id)
insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 0, 'foreign' from p`, s.foreign), deleted: fmt.Sprintf(`
insert into ai_providers (id, type, name, base_url, deleted)
select gen_random_uuid(), 'openai', 'provider-00000', 'https://deleted.example.com/', true from generate_series(1, %d)`, s.deleted)}
	var all []contender
	for _, by := range []string{nothing, foreign, deleted} {
		s.database("beside_"+by, seeded(n))
		l := s.line("beside_"+by, 0)
		l.exec(add[by])
		all = append(all, contender{key: key{noOpBeside, by, n, 0}, line: l, run: l.seed(n)})
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
			if seen++; seen%500 == 0 {
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
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}

const parse, caarlos, look = "Parse", "caarlos0-env", "look"

// parsed is what caarlos0/env fills in, and the library. caarlos0/env leaves to its caller that
// indices have no gap, that a key is given in one way only, and everything else that a
// configuration can have wrong.
type parsed struct {
	Providers []parsedProvider `envPrefix:"CODER_AIBRIDGE_PROVIDER"`
}

type parsedProvider struct {
	Type    string   `env:"TYPE"`
	Name    string   `env:"NAME"`
	BaseURL string   `env:"BASE_URL"`
	Keys    []string `env:"KEYS"`
}

// parseWithEnv does what env.Parse does, which also gets the variables of the process as a list.
func parseWithEnv(environ []string) (p parsed, err error) {
	err = env.ParseWithOptions(&p, env.Options{Environment: env.ToMap(environ)})
	return p, err
}

// lookFirstOfEach keeps the first value of each name, as os.Getenv has it. It is
// the least that a parser must do: it has to have the values by name.
func lookFirstOfEach(environ []string) map[string]string {
	first := map[string]string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if _, twice := first[name]; !twice && strings.HasPrefix(name, aiseed.DefaultPrefix) {
			first[name] = value
		}
	}
	return first
}

func (s *suite) parsing() {
	for _, n := range append([]int{12}, s.sizes...) {
		var own parsed
		for _, p := range s.config(n).Providers {
			var keys []string
			for _, k := range p.Keys {
				keys = append(keys, k.Reveal())
			}
			own.Providers = append(own.Providers, parsedProvider{p.Type, p.Name, p.BaseURL, keys})
		}
		other, err := parseWithEnv(environ(n))
		require.NoError(s, err)
		require.Equal(s, own, other, "both parsers are to see the same")
		s.race(max(11, s.rounds(n)/2), s.parsers(n)...)
	}
}

func (s *suite) parsers(n int) []contender {
	at, repeat, variables := key{parse, ours, n, 0}, max(1, 2_000/n), environ(n)
	return []contender{
		{key: at, repeat: repeat, run: func(ctx context.Context) error {
			_, err := aiseed.ParseEnviron(ctx, variables, slog.Logger{})
			return err
		}},
		{key: at.of(caarlos), repeat: repeat, run: func(context.Context) error {
			_, err := parseWithEnv(variables)
			return err
		}},
		{key: at.of(look), repeat: repeat, run: func(context.Context) error {
			lookFirstOfEach(variables)
			return nil
		}},
	}
}
