package robustness

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// A part is what one participant does: the start of a version of the environment, or an
// operation of an operator.
type part func(ctx context.Context, store *aiseed.Store, auditor aiseed.Auditor, logs *testkit.LogRecorder) error

// A participant plays a part. It does a round trip only when the test lets it.
type participant struct {
	name  string
	part  part
	store *aiseed.Store
	pid   string // of its one backend
	state participantState

	wants, goes chan struct{} // to do a round trip
	done        chan error
	err         error
	logs        *testkit.LogRecorder
}

type participantState int

const (
	moving  participantState = iota // does a round trip, and the answer has not come yet
	waiting                         // in the server, for a lock that another participant holds
	ready                           // wants to do a round trip
	ended
)

// A stage is a database that is reset before each play.
type stage struct {
	*fixture
	participants []*participant
	left         chan struct{} // closed when the test ends
}

// newStage makes a stage for the parts of a rollout, which are named A, B and so on.
func newStage(t *testing.T, r rollout, noLock bool) *stage {
	t.Helper()
	f := setup(t)
	f.CreateNoLock()
	if r.before != nil {
		f.Seeded(providers(r.before...)...)
	}
	s := &stage{fixture: f, left: make(chan struct{})}
	for i, part := range r.parts {
		p := &participant{name: string(rune('A' + i)), part: part(f), wants: make(chan struct{}), goes: make(chan struct{}), done: make(chan error, 1)}
		options := []storetest.Option{storetest.LockTimeout(time.Hour), storetest.AuditTimeout(time.Hour), func(_ *aiseed.StoreOptions, c *pgxpool.Config) {
			c.MaxConns = 1
			c.ConnConfig.RuntimeParams["application_name"] = p.name
		}}
		if noLock {
			options = append(options, storetest.WithoutLock)
		}
		var w *testkit.Wire
		p.store, w = f.Open(options...)
		pids := f.Rows(`select pid from pg_stat_activity where datname = current_database() and application_name = $1`, p.name)
		require.Len(t, pids, 1)
		p.pid = pids[0]
		w.Reset(func([]byte) testkit.Action {
			select {
			case p.wants <- struct{}{}:
				select {
				case <-p.goes:
				case <-s.left:
				}
			case <-s.left:
			}
			return testkit.Pass
		})
		s.participants = append(s.participants, p)
	}
	f.T.Cleanup(func() { close(s.left) })
	f.Exec(`create schema before`)
	for _, table := range stageTables {
		f.Exec(fmt.Sprintf(`create table before.%[1]s as table %[1]s`, table))
	}
	return s
}

var stageTables = []string{"ai_encryption_keys", "ai_providers", "ai_provider_keys", "ai_provider_audits"}

// reset makes the tables what they were when the stage was made.
func (s *stage) reset() {
	s.T.Helper()
	sql := "delete from ai_provider_keys; delete from ai_providers; delete from ai_encryption_keys; delete from ai_provider_audits;"
	for _, table := range stageTables {
		sql += fmt.Sprintf("insert into %[1]s overriding system value table before.%[1]s;", table)
	}
	s.Exec(sql)
}

// A chooser picks one of the participants that can move.
type chooser func(able []*participant) (*participant, error)

// play plays all parts on the tables as they were. It returns the schedule, a
// letter for each round trip, and the outcome.
func (s *stage) play(audits bool, choose chooser) (schedule, outcome string, err error) {
	s.T.Helper()
	s.reset()
	recorder := &aiseedtest.AuditRecorder{}
	auditor := aiseed.LeaveAudits
	if audits {
		auditor = recorder
	}
	for _, p := range s.participants {
		p.state, p.logs = moving, &testkit.LogRecorder{}
		go func() { p.done <- p.part(context.Background(), p.store, auditor, p.logs) }()
	}
	for {
		able, over, err := s.settle()
		if err != nil {
			return schedule, "", err
		}
		if over {
			break
		}
		next, err := choose(able)
		if err != nil {
			return schedule, "", err
		}
		schedule += next.name
		next.goes <- struct{}{}
		next.state = moving
	}
	for _, p := range s.participants {
		outcome += p.name + toldOf(p.err) + strings.Join(append([]string{""}, p.logs.Warnings()...), "\n  ") + "\n"
	}
	outcome = printed.ReplaceAllString(outcome, "@...") + s.contents() // they are bound to ids
	if audits {
		var ids []string
		for _, e := range recorder.Entries() {
			ids = append(ids, e.ID.String())
		}
		ids = append(ids, s.Rows(`select id::text from before.ai_provider_audits`)...)
		err = s.accepted(ids)
	}
	return schedule, outcome, err
}

var printed = regexp.MustCompile(`@[0-9a-f]{16}\b`)

// settle returns when each participant wants a round trip, waits for a lock or has ended.
// It returns those that can move.
func (s *stage) settle() (able []*participant, over bool, err error) {
	for deadline := time.Now().Add(testkit.Patience); time.Now().Before(deadline); {
		// First those that move: until they have settled, the others may not wait any more.
		for _, state := range []participantState{moving, waiting} {
			for _, p := range s.participants {
				if p.state == state {
					if err := s.await(p); err != nil {
						return nil, false, err
					}
				}
			}
		}
		over = true
		for _, p := range s.participants {
			if p.state == ready {
				able = append(able, p)
			}
			over = over && p.state == ended
		}
		if len(able) > 0 || over {
			return able, over, nil
		}
	}
	return nil, false, errors.New("all wait for each other")
}

// await returns when p wants a round trip, waits for another participant or has ended.
func (s *stage) await(p *participant) error {
	var others []string
	for _, other := range s.participants {
		others = append(others, other.pid)
	}
	for deadline := time.Now().Add(testkit.Patience); time.Now().Before(deadline); {
		select {
		case <-p.wants:
			p.state = ready
			return nil
		case p.err = <-p.done:
			p.state = ended
			return nil
		case <-time.After(time.Millisecond):
		}
		// Only locks of the others count: the server itself sometimes takes a lock for a moment.
		if len(s.Rows(`select where pg_blocking_pids($1::text::int) && $2::text[]::int[]`, p.pid, others)) > 0 {
			p.state = waiting
			return nil
		}
	}
	return fmt.Errorf("%s neither ends nor wants anything nor waits for another one", p.name)
}

// toldOf is what a participant was told, without ids, which differ in each play.
func toldOf(err error) string {
	var drift *aiseed.DriftError
	switch {
	case errors.Is(err, aiseed.ErrNameTaken):
		return ": name taken"
	case !errors.As(err, &drift):
		return fmt.Sprintf(": %v", err)
	}
	text := ": drift"
	for _, p := range drift.Providers {
		text += " of " + p.Name
		for _, field := range p.Fields {
			text += fmt.Sprintf(" %s %q %q", field.Field, field.Stored, field.Environment)
		}
	}
	return text
}

// serially returns the outcomes of all orders in which the parts run one after another.
func (s *stage) serially(audits bool) (outcomes []string) {
	s.T.Helper()
	for _, order := range orders(s.participants) {
		_, outcome, err := s.play(audits, func(able []*participant) (*participant, error) {
			for _, p := range order {
				if slices.Contains(able, p) {
					return p, nil
				}
			}
			return nil, errors.New("not reached")
		})
		require.NoError(s.T, err)
		outcomes = append(outcomes, outcome)
	}
	return outcomes
}

func orders[T any](of []T) (all [][]T) {
	if len(of) == 0 {
		return [][]T{nil}
	}
	for i, first := range of {
		for _, rest := range orders(slices.Delete(slices.Clone(of), i, i+1)) {
			all = append(all, append([]T{first}, rest...))
		}
	}
	return all
}

// every calls play for each possible sequence of choices, depth first.
func every(play func(choose chooser) error) {
	var path, options []int
	for {
		depth := 0
		err := play(func(ready []*participant) (*participant, error) {
			if depth == len(path) {
				path, options = append(path, 0), append(options, len(ready))
			}
			if options[depth] != len(ready) {
				return nil, fmt.Errorf("after the same %d round trips %d could move, and now %d", depth, options[depth], len(ready))
			}
			depth++
			return ready[path[depth-1]], nil
		})
		if err != nil {
			return
		}
		for len(path) > 0 && path[len(path)-1] == options[len(path)-1]-1 {
			path, options = path[:len(path)-1], options[:len(path)-1]
		}
		if len(path) == 0 {
			return
		}
		path[len(path)-1]++
	}
}

// providers are indexed variables. Each spec is name, type, base URL and keys.
func providers(specs ...string) (lines []string) {
	for i, spec := range specs {
		for j, value := range strings.Fields(spec) {
			lines = append(lines, fmt.Sprintf("PROVIDER_%d_%s=%s", i, []string{"NAME", "TYPE", "BASE_URL", "KEYS"}[j], value))
		}
	}
	return lines
}

// starting starts with lines of the environment.
func starting(lines []string) func(*fixture) part {
	return func(f *fixture) part {
		cfg := f.Parse(slices.Clone(lines)...)
		return func(ctx context.Context, store *aiseed.Store, auditor aiseed.Auditor, logs *testkit.LogRecorder) error {
			return aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, auditor, logs.Logger())
		}
	}
}

// version starts with an environment.
func version(specs ...string) func(*fixture) part { return starting(providers(specs...)) }

// adopting starts with an environment that wins where it differs.
func adopting(specs ...string) func(*fixture) part {
	return func(f *fixture) part {
		lines := providers(specs...)
		return starting(testkit.With(lines, "DRIFT_ADOPT="+strings.Join(storetest.Tokens(f.T, f.Store, f.Parse(slices.Clone(lines)...)), ",")))(f)
	}
}

// operator does something with the provider x, and delivers the audits.
func operator(do func(ctx context.Context, store *aiseed.Store, x uuid.UUID) error) func(*fixture) part {
	return func(f *fixture) part {
		x := uuid.Nil
		for _, id := range f.Rows(`select id::text from ai_providers where name = 'x'`) {
			x = uuid.MustParse(id)
		}
		return func(ctx context.Context, store *aiseed.Store, auditor aiseed.Auditor, _ *testkit.LogRecorder) error {
			err := do(ctx, store, x)
			if err == nil && auditor != aiseed.LeaveAudits {
				_, err = store.DeliverAudits(ctx, auditor)
			}
			return err
		}
	}
}

var (
	deletesX = operator(func(ctx context.Context, store *aiseed.Store, x uuid.UUID) error {
		return store.DeleteProvider(ctx, "operator", x)
	})
	changesX = operator(func(ctx context.Context, store *aiseed.Store, x uuid.UUID) error {
		_, err := store.UpdateProvider(ctx, "operator", x, aiseed.ProviderUpdate{BaseURL: new("https://two/")})
		return err
	})
	replacesTheKeysOfX = operator(func(ctx context.Context, store *aiseed.Store, x uuid.UUID) error {
		_, err := store.ReplaceProviderKeys(ctx, "operator", x, []aiseed.Secret{aiseed.NewSecret("k3"), aiseed.NewSecret("k1")})
		return err
	})
	createsX = operator(func(ctx context.Context, store *aiseed.Store, _ uuid.UUID) error {
		_, err := store.CreateProvider(ctx, "operator", aiseed.ProviderSpec{Name: "x", Type: aiseed.TypeOpenAI, BaseURL: "https://two/"})
		return err
	})
)

// A rollout is what happens at the same time while another version is deployed.
type rollout struct {
	name   string
	before []string // specs of what is seeded before
	parts  []func(*fixture) part
	// takesTheLock says that the outcome needs the lock: each part reads what the other
	// writes, and no index replaces the lock.
	takesTheLock bool
}

var rollouts = []rollout{
	{"another base URL", nil, []func(*fixture) part{
		version("w openai https://w/ k1", "x openai https://one/ k2"),
		version("w openai https://w/ k1", "x openai https://two/ k2", "y openai https://y/ k3"),
	}, false},
	{"other keys", nil, []func(*fixture) part{
		version("x openai https://x/ k1"),
		version("x openai https://x/ k2,k3"),
	}, false},
	{"a provider more", nil, []func(*fixture) part{
		version("x openai https://x/ k1"),
		version("x openai https://x/ k1", "y openai https://y/ k2"),
	}, false},
	{"a provider renamed", []string{"x openai https://x/ k1"}, []func(*fixture) part{
		version("x openai https://x/ k1", "w openai https://w/ k2"),
		version("renamed openai https://x/ k1", "w openai https://w/ k2"),
	}, false},
	{"another type", nil, []func(*fixture) part{
		version("x openai https://x/ k1"),
		version("x anthropic https://x/ k1", "y openai https://y/ k2"),
	}, false},
	{"a type that is not supported", nil, []func(*fixture) part{
		version("x cohere https://x/", "y openai https://y/ k2"),
		version("x openai https://x/ k1", "y openai https://y/ k2"),
	}, false},
	{"a drift adopted", []string{"x openai https://one/ k1"}, []func(*fixture) part{
		version("x openai https://one/ k1", "y openai https://y/ k2"),
		adopting("x openai https://two/ k1"),
	}, false},
	{"a drift adopted in two ways", []string{"x openai https://one/ k1"}, []func(*fixture) part{
		adopting("x openai https://two/ k1"),
		adopting("x openai https://three/ k1"),
	}, false},
	{"each adopts what the other one has as it was", []string{"x openai https://one/ k1", "y openai https://one/ k1"}, []func(*fixture) part{
		adopting("x openai https://one/ k1", "y openai https://two/ k1"),
		adopting("x openai https://two/ k1", "y openai https://one/ k1"),
	}, true},
	{"other keys adopted in two ways", []string{"x openai https://one/ k1,k2"}, []func(*fixture) part{
		adopting("x openai https://one/ k2,k3"),
		adopting("x openai https://one/ k1"),
	}, false},
	{"other keys adopted while an operator replaces them", []string{"x openai https://one/ k1,k2"}, []func(*fixture) part{
		adopting("x openai https://one/ k2,k3"),
		replacesTheKeysOfX,
	}, false},
	{"an operator deletes", []string{"x openai https://x/ k1"}, []func(*fixture) part{
		version("x openai https://x/ k1", "y openai https://y/ k2"),
		deletesX,
	}, false},
	{"an operator changes", []string{"x openai https://one/ k1"}, []func(*fixture) part{
		version("x openai https://one/ k1", "y openai https://y/ k2"),
		changesX,
	}, false},
	{"an operator creates", nil, []func(*fixture) part{
		version("x openai https://one/ k1"),
		createsX,
	}, false},
	{"three base URLs", nil, []func(*fixture) part{
		version("w openai https://w/ k1", "x openai https://one/ k1"),
		version("w openai https://w/ k2", "x openai https://two/ k1", "y openai https://y/ k2"),
		version("w openai https://w/ k3", "x openai https://three/ k1", "z openai https://z/ k3"),
	}, false},
	{"a drift adopted while an operator deletes", []string{"x openai https://one/ k1"}, []func(*fixture) part{
		version("x openai https://one/ k1", "y openai https://y/ k2"),
		adopting("x openai https://two/ k1", "y openai https://y/ k3"),
		deletesX,
	}, false},
}

// The participants do one round trip after the other, in every order: with the lock and
// with one that locks nothing, with the delivery of audits and without. Whatever the
// order, the outcome is one that the parts also have one after the other. If there are too
// many orders, the test picks some at random; without -torture it picks a few of all but
// two rollouts.
func TestF3_Interleavings(t *testing.T) {
	t.Parallel()
	for i, r := range rollouts {
		for variant := range 4 {
			noLock, audits := variant >= 2, variant%2 == 1
			sample := 0 // all
			switch {
			case noLock && r.takesTheLock:
				continue
			case !*torture && !r.takesTheLock && variant > 0 && variant != 1+i%6:
				continue // half of the orders have one of the three
			case len(r.parts) > 2 || noLock && audits:
				sample = full(1, 60)
			case variant == 0 && i > 0 && !r.takesTheLock:
				sample = full(3, 0)
			case audits:
				sample = full(1, 0)
			case noLock:
				sample = full(2, 0)
			}
			name := fmt.Sprintf("%s, nolock %t, audits %t", r.name, noLock, audits)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				kind := "F3 interleavings of two versions"
				switch {
				case noLock:
					kind = "F3 interleavings without a lock"
				case len(r.parts) > 2:
					kind = "F3 interleavings of three versions"
				}
				s := newStage(t, r, noLock)
				serial := s.serially(audits)
				play := func(choose chooser) error {
					schedule, outcome, err := s.play(audits, choose)
					if err == nil && !slices.Contains(serial, outcome) {
						err = fmt.Errorf("no serial order has the outcome\n%s", outcome)
					}
					cases.check(t, kind, "TestF3_Interleavings/"+name+": "+schedule, err)
					return err
				}
				if sample == 0 {
					every(play)
				}
				random := chance(name)
				for range sample {
					_ = play(func(able []*participant) (*participant, error) { return able[random.IntN(len(able))], nil })
				}
			})
		}
	}
}
