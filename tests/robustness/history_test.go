package robustness

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// F4: random histories of environments, starts, operators, rotations, crashes and
// auditors run on the library and on the model. After each step both have to agree.
//
// A round is as many histories as rapid has checks, on its own database. The line that
// rapid prints for a failing history runs only this history.
func TestF4_HistoriesAgreeWithTheModel(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	all, different, reached := 0, map[uint64]bool{}, map[string]int{}
	t.Cleanup(func() {
		if len(different) < all*9/10 {
			t.Errorf("only %d of %d histories are different", len(different), all)
		}
		for what := range strings.FieldsFuncSeq(toReach, func(r rune) bool { return r == ',' || r == '\n' }) {
			if what = strings.TrimSpace(what); *torture && all >= 500 && reached[what] == 0 {
				t.Errorf("no history came to: %s", what)
			}
		}
		if *torture {
			t.Logf("%d histories came to: %v", all, reached)
		}
	})
	for round := range full(1, 100) {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			w := newHistoryWorld(t, round)
			t.Cleanup(func() {
				if t.Failed() {
					cases.check(t, "F4 histories", fmt.Sprintf("-run '%s'", t.Name()), errors.New("a history does not agree with the model"))
				}
			})
			rapid.Check(t, func(rt *rapid.T) {
				h := w.begin(rt)
				steps := 8 + h.pick("steps", 5)
				for range steps {
					h.step()
				}
				h.finish()
				mu.Lock()
				defer mu.Unlock()
				all++
				for what, n := range h.reached {
					reached[what] += n
				}
				if story := h.story.Sum64(); !different[story] {
					different[story] = true
					cases.add("F4 histories", 1)
					cases.add("F4 steps of histories", h.steps)
				}
			})
		})
	}
}

// toReach are outcomes that the histories of -torture must reach, or they would test too
// little. A smaller number of histories reaches all of them only by chance.
const toReach = `
start, start: invalid configuration, start: drift, start: plaintext, start against a rival, start against a rival: drift,
step create, step unchanged, step diverged, step adopt, step keep, step deleted, step unsupported, unused words, refused, left, delivered again,
create, create: name taken, create: invalid configuration, update, update: not found, update: invalid configuration,
enable, enable: not found, delete, delete: not found, restore, restore: not found,
add a key to, add a key to: not found, add a key to: invalid configuration, remove a key of, remove a key of: not found,
replace the keys of, replace the keys of: not found, replace the keys of: conflict, a revoked key,
rotate, seal, unseal, start died at end 0, start died at end 1, start lost at end 2`

// A historyWorld is the database of a round.
type historyWorld struct {
	t     *testing.T
	round int
	pool  *pgxpool.Pool // to look and to tamper
	wired *pgxpool.Pool // of the server
	wire  *testkit.Wire
}

const historyApplication = "history"

func newHistoryWorld(t *testing.T, round int) *historyWorld {
	w := &historyWorld{t: t, round: round, pool: aiseedtest.NewPool(t), wire: &testkit.Wire{}}
	config := w.pool.Config().Copy()
	config.ConnConfig.DialFunc = w.wire.Dial
	config.ConnConfig.RuntimeParams["application_name"] = historyApplication
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	var err error
	w.wired, err = pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(w.wired.Close)
	return w
}

// A history is one run on an empty database.
type history struct {
	*rapid.T
	*historyWorld
	ctx   context.Context
	story interface {
		Write([]byte) (int, error)
		Sum64() uint64
	}
	steps   int
	reached map[string]int

	model *model
	seen  *snapshot
	ring  []int // the server's keyring; empty means plaintext

	store     *aiseed.Store // of the last process
	storeRing []int         // the keyring of that store
	env       modelEnv      // of the last start
	fresh     []string      // the tokens that it was told
	words     []string      // all tokens that were ever told
	meanings  map[string]difference
	accepted  []string // audits, in the order in which they were first accepted
}

func (w *historyWorld) begin(rt *rapid.T) *history {
	h := &history{
		T: rt, historyWorld: w, ctx: context.Background(), story: fnv.New64(),
		model:    &model{known: map[int]bool{}, keyIDs: map[string]int{}},
		meanings: map[string]difference{},
		reached:  map[string]int{},
	}
	h.sql(`delete from ai_providers; delete from ai_provider_audits; delete from ai_encryption_keys`)
	h.seen = h.look()
	if h.pick("keyring", 4) > 0 {
		h.ring = []int{1}
	}
	return h
}

// pick draws a number below n. Each round shifts it by another amount, or all rounds would
// run the same histories.
func (h *history) pick(label string, n int) int {
	angle := fnv.New32()
	fmt.Fprint(angle, label, h.round)
	return (rapid.IntRange(0, n-1).Draw(h.T, label) + int(angle.Sum32()%uint32(n))) % n
}

func pickFrom[E any](h *history, label string, list ...E) E { return list[h.pick(label, len(list))] }

func (h *history) tell(format string, args ...any) {
	h.Logf(format, args...)
	fmt.Fprintf(h.story, format+"\n", args...)
}

func (h *history) sql(sql string, args ...any) {
	_, err := h.pool.Exec(h.ctx, sql, args...)
	require.NoError(h.T, err)
}

func (h *history) look() *snapshot {
	var raw []byte
	require.NoError(h.T, h.pool.QueryRow(h.ctx, selectSnapshot).Scan(&raw))
	s, err := readSnapshot(raw)
	require.NoError(h.T, err)
	return s
}

// open is a server's start up to where it has a Store.
func (h *history) open(ring ...int) (*aiseed.Store, error) {
	// No process can be too slow.
	options := aiseed.StoreOptions{AllowPlaintext: true, LockTimeout: time.Hour, AuditTimeout: time.Hour}
	var keys []byte
	for _, k := range ring {
		keys = append(keys, byte(k))
	}
	if len(keys) > 0 {
		options.Keyring = storetest.Keyring(h.t, keys...)
	}
	return aiseed.Open(h.ctx, h.wired, options)
}

// A call is one call of the library, in a process of its own.
type call struct {
	name string
	what string // name, and everything else
	ring []int  // of that process
	do   func(context.Context, *aiseed.Store) error
	want error // nil or its class

	// ends are the states that are allowed afterwards if the process dies. If it
	// survives a lost connection, only the last few of them are allowed, and without a
	// fault only the last one.
	ends []*model
	few  int
	// aLostConnectionEndsIt says that a lost connection causes an error, in any of ends.
	aLostConnectionEndsIt bool
	rival                 func([]byte) testkit.Action // what happens meanwhile; then there is no other fault
}

type fault string

const (
	noFault fault = ""
	lost    fault = "lost"
	died    fault = "died"
)

// run makes a call, finds out which of the allowed states the database is in, and continues
// from it. It returns what the process was told, if it was told something.
func (h *history) run(c call) (end int, suffered fault, err error) {
	// Draw always, so that a history does not depend on how an earlier fault ended.
	planned := pickFrom(h, "fault", noFault, noFault, noFault, noFault, noFault, noFault, noFault, noFault, lost, died)
	cut, at := pickFrom(h, "cut", testkit.CutBefore, testkit.CutAfter, testkit.CutUnheard), 1+h.pick("at", 6)
	if c.rival != nil {
		planned = noFault
	}
	h.tell("%s", c.what)
	if planned != noFault {
		h.tell("  %s (%d) at message %d", planned, cut, at)
	}
	store, err := h.open(c.ring...)
	require.NoError(h.T, err)
	h.store, h.storeRing = store, c.ring

	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	messages := 0
	decide := func([]byte) testkit.Action {
		messages++
		switch {
		case suffered == died:
			return testkit.CutBefore
		case messages != at:
			return testkit.Pass
		}
		if suffered = planned; planned == died {
			// So short is the time in which a dead process looks up its commit.
			storetest.SetLockTimeout(store, time.Millisecond)
			cancel()
		}
		return cut
	}
	switch {
	case c.rival != nil:
		h.wire.Reset(c.rival)
	case planned != noFault:
		h.wire.Reset(decide)
	}
	err = c.do(ctx, store)
	h.wire.Reset(nil)
	if suffered != noFault {
		h.bury()
	}

	first := len(c.ends) - 1
	switch {
	case suffered == died && err != nil, suffered == lost && err != nil && c.aLostConnectionEndsIt:
		first = 0
	case suffered != noFault:
		first = len(c.ends) - c.few
	}
	now := h.look()
	var problems []error
	for end = len(c.ends) - 1; ; end-- {
		candidate := c.ends[end].clone()
		problem := candidate.match(now, h.seen)
		if problem == nil {
			h.model, h.seen = candidate, now
			break
		}
		if problems = append(problems, problem); end == first {
			require.NoError(h.T, errors.Join(problems...), "%s %s: %v", c.what, suffered, err)
		}
	}

	reached := c.name
	if c.rival != nil {
		reached += " against a rival"
	}
	if suffered != noFault {
		reached += fmt.Sprintf(" %s at end %d", suffered, end)
	} else if c.want != nil {
		reached += ": " + classes[c.want]
	}
	h.reached[reached]++
	mayFail := suffered == died || suffered == lost && c.aLostConnectionEndsIt
	switch {
	case mayFail && (err == nil || errors.Is(err, aiseed.ErrDatabase) || errors.Is(err, aiseed.ErrCommitUnknown)):
	case c.want == nil:
		require.NoError(h.T, err, c.what)
	default:
		require.ErrorIs(h.T, err, c.want, c.what)
	}
	h.steps++
	return end, suffered, err
}

var classes = map[error]string{
	aiseed.ErrInvalidConfig: "invalid configuration", aiseed.ErrDrift: "drift", aiseed.ErrPlaintext: "plaintext",
	aiseed.ErrNameTaken: "name taken", aiseed.ErrNotFound: "not found", aiseed.ErrConflict: "conflict",
}

// bury waits until nothing of the cut connections is left on the server. A pool can still
// be making a connection for which the caller does not wait any more.
func (h *history) bury() {
	require.Eventually(h.T, func() bool {
		h.wired.Reset()
		var n int
		err := h.pool.QueryRow(h.ctx, `select count(*) from pg_stat_activity where datname = current_database() and application_name = $1`, historyApplication).Scan(&n)
		return err == nil && n == 0
	}, testkit.Patience, 2*time.Millisecond)
}

// requireProviders compares what the runtime gets.
func (h *history) requireProviders(ring ...int) {
	if h.store == nil || !slices.Equal(ring, h.storeRing) {
		store, err := h.open(ring...)
		require.NoError(h.T, err)
		h.store, h.storeRing = store, ring
	}
	want, wantErr := h.model.runtime(ring)
	providers, err := h.store.Providers(h.ctx)
	require.ErrorIs(h.T, err, wantErr)
	var got []string
	for _, p := range providers {
		var b *modelBedrock
		if p.Bedrock != nil {
			b = &modelBedrock{p.Bedrock.Region, p.Bedrock.Model, p.Bedrock.SmallFastModel, p.Bedrock.AccessKey.Reveal(), p.Bedrock.AccessKeySecret.Reveal()}
		}
		var secrets []string
		for _, key := range p.Keys {
			secrets = append(secrets, key.APIKey.Reveal())
		}
		got = append(got, fmt.Sprint(p.Name, " ", p.ID, " ", string(p.Type), " ", p.DisplayName, " ", p.BaseURL, " ", b, " ", secrets))
	}
	require.Equal(h.T, want, got)
}

func (h *history) step() {
	switch h.pick("step", 13) {
	case 0, 1, 2, 3:
		h.start(h.environ(), h.staleWords("adopt"), append(h.staleWords("keep"), h.standing()...))
	case 4, 5:
		h.settle()
	case 6, 7, 8, 9:
		h.operate()
	case 10, 11:
		h.tamper()
	case 12:
		h.reseal()
	}
	h.requireProviders(h.ring...)
}

var historyNames = []string{"a", "anthropic", "b", "openai"}

const (
	urlX, urlY  = "https://x.example/v1/", "https://y.example/"
	longKey     = "sk-long-enough-to-show-its-tail"
	bedrockUser = "AKIA"
)

// environ draws an environment and its meaning.
func (h *history) environ() (e modelEnv) {
	index := 0
	add := func(lines ...string) { e.lines = append(e.lines, lines...) }
	indexed := func(fields ...string) {
		for _, field := range fields {
			add(fmt.Sprintf("PROVIDER_%d_%s", index, field))
		}
		index++
	}
	set := func(name, value string) string { return name + "=" + value } // an empty value means not set
	legacyOpenAI := false
	for _, name := range historyNames {
		w := modelWant{name: name, url: pickFrom(h, "url", "", urlX, respelt(urlX), urlY)}
		w.keys = pickFrom(h, "keys", nil, []string{"k1"}, []string{"k1", longKey}, []string{longKey, "k3", "k1"})
		w.kind = pickFrom(h, "kind", "", "openai", "openai", "anthropic", "bedrock", "cohere")
		legacy := h.pick("legacy", 2) == 0
		switch {
		case w.kind == "":
			continue
		case w.kind == "bedrock":
			w.kind = "anthropic"
			legacy = legacy && name == "anthropic"
			if !h.bedrock(&w, legacy, add, indexed) {
				continue
			}
		case legacy && name == w.kind && len(w.keys) > 0:
			w.keys = w.keys[:1]
			add(set(strings.ToUpper(name)+"_KEY", w.keys[0]), set(strings.ToUpper(name)+"_BASE_URL", w.url))
			legacyOpenAI = legacyOpenAI || name == "openai"
			if w.url == "" {
				w.url = map[string]string{"openai": "https://api.openai.com/v1/", "anthropic": "https://api.anthropic.com/"}[name]
			}
		default:
			w.unsupported = w.kind == "cohere"
			if w.unsupported { // its values are not checked
				w.keys = nil
			}
			indexed(set("TYPE", w.kind), set("NAME", name), set("BASE_URL", w.url), set("KEYS", strings.Join(w.keys, ",")))
			if h.pick("twice", 6) == 0 {
				backwards := slices.Clone(w.keys)
				slices.Reverse(backwards)
				indexed(set("TYPE", w.kind), set("NAME", name), set("BASE_URL", w.url), set("KEYS", strings.Join(backwards, ",")))
				if w.unsupported {
					e.want = append(e.want, w)
				}
			}
		}
		e.want = append(e.want, w)
	}
	switch h.pick("mistake", 60) {
	case 0:
		indexed("TYPE=openai", "NAME=Not_A_Name")
	case 1:
		indexed("NAME=c")
	case 2:
		indexed("TYPE=openai", "NAME=c", "BEDROCK_REGION=us")
	case 3:
		indexed("TYPE=openai", "NAME=c")
		indexed("TYPE=openai", "NAME=c", "KEY=second")
	case 4:
		if !legacyOpenAI {
			add("OPENAI_KEY=k")
		}
		indexed("TYPE=openai")
	case 5:
		index++
		indexed("TYPE=openai", "NAME=after-a-gap")
	default:
		return e
	}
	e.invalid = true
	return e
}

// bedrock draws the Bedrock settings of a provider. Without a signal among them, the
// provider has bearer keys, or there is no provider.
func (h *history) bedrock(w *modelWant, legacy bool, add, indexed func(...string)) bool {
	b := modelBedrock{region: pickFrom(h, "region", "", "us", "eu"), model: pickFrom(h, "model", "", "m1")}
	if h.pick("access", 2) == 0 {
		b.access, b.secret = bedrockUser, pickFrom(h, "secret", "s1", "s2-long-enough-to-show-its-tail")
	}
	signal, model := b.region+b.access+w.url != "", b.model != ""
	fields := []string{
		"BEDROCK_BASE_URL=" + w.url, "BEDROCK_REGION=" + b.region, "BEDROCK_MODEL=" + b.model,
		"BEDROCK_ACCESS_KEY=" + b.access, "BEDROCK_ACCESS_KEY_SECRET=" + b.secret,
	}
	switch {
	case !legacy:
		if signal {
			w.kind = pickFrom(h, "type", "anthropic", "bedrock")
		}
		indexed(append(fields, "TYPE="+w.kind, "NAME="+w.name)...)
		w.keys = nil
	case len(w.keys) > 0:
		w.keys = w.keys[:1]
		add(append(fields, "ANTHROPIC_KEY="+w.keys[0])...)
	default:
		add(fields...)
	}
	switch {
	case signal:
		b = b.withDefaults()
		w.keys, w.bedrock, w.model = nil, &b, model
	case legacy && len(w.keys) == 0:
		return false
	case legacy:
		w.url = "https://api.anthropic.com/"
	}
	return true
}

// staleWords returns some of the tokens of earlier drifts.
func (h *history) staleWords(label string) (words []string) {
	for range h.pick(label, 4) - 1 {
		if at := h.pick("word", 8); at < len(h.words) && !slices.Contains(words, h.words[at]) {
			words = append(words, h.words[at])
		}
	}
	return words
}

// standing returns at most one choice that is not bound to one difference.
func (h *history) standing() []string {
	name := pickFrom(h, "standing of", historyNames...)
	return pickFrom(h, "standing", nil, nil, nil, []string{"*"}, []string{name + "@*"}, []string{"*@database"}, []string{name + "@database"}, []string{"*@database"})
}

// settle starts again with the environment of the last start, and with the tokens that it
// was told.
func (h *history) settle() {
	var adopt, keep []string
	choice := h.pick("choice", 4)
	for i, word := range h.fresh {
		switch {
		case choice == 0 || choice == 2 && i%2 == 0:
			adopt = append(adopt, word)
		case choice == 1 || choice == 2:
			keep = append(keep, word)
		}
	}
	h.start(h.env, adopt, keep)
}

// start is a server's start.
func (h *history) start(e modelEnv, adopt, keep []string) {
	lines := slices.Clone(e.lines)
	if len(adopt) > 0 {
		lines = append(lines, "DRIFT_ADOPT="+strings.Join(adopt, ","))
	}
	if len(keep) > 0 {
		lines = append(lines, "DRIFT_KEEP="+strings.Join(keep, ","))
	}
	for i := range lines {
		lines[i] = aiseed.DefaultPrefix + lines[i]
	}
	auditor := &historyAuditor{refuseAt: pickFrom(h, "refuse", -1, -1, -1, 0, 1, 2), panics: h.pick("panics", 2) == 0}
	leaves := h.pick("leaves", 8) == 0
	isRival := h.pick("rival", 4) == 0

	cfg, err := aiseed.ParseEnviron(h.ctx, lines, slog.Logger{})
	if e.invalid || slices.ContainsFunc(adopt, func(word string) bool { return slices.Contains(keep, word) }) {
		h.tell("a mistake: %d lines", len(lines))
		h.reached["start: invalid configuration"]++
		require.ErrorIs(h.T, err, aiseed.ErrInvalidConfig)
		return
	}
	require.NoError(h.T, err)
	h.env, h.fresh = e, nil

	before := h.model.next()
	after := before.clone()
	result := after.start(h.ring, e.want, adopt, keep, h.meanings)
	c := call{name: "start", ring: h.ring, what: fmt.Sprintf("start with %q, ring %v, refusing %d, leaving %v", e.lines, h.ring, auditor.refuseAt, leaves)}
	if isRival {
		if c.rival = h.rival(before, result); c.rival != nil {
			c.what += ", against a rival"
			after = before.clone()
			result = after.start(h.ring, e.want, adopt, keep, h.meanings)
		}
	}
	c.want = result.err

	// After the commit come the audits: offered in order, marked together.
	var offered, accepted []int
	marked := after
	if result.err == nil && !leaves {
		for i, a := range after.audits {
			if !a.delivered {
				offered = append(offered, i)
			}
		}
		accepted = offered
		if n := auditor.refuseAt; n >= 0 && n < len(offered) {
			offered, accepted = offered[:n+1], offered[:n]
		}
		marked = after.marked(accepted)
	}
	c.ends, c.few = []*model{before, after, marked}, 2
	if result.err != nil {
		c.ends, c.few = []*model{after}, 1
	}

	logs := &testkit.LogRecorder{}
	var plan *aiseed.Plan
	c.do = func(ctx context.Context, s *aiseed.Store) error {
		var to aiseed.Auditor = auditor
		if leaves {
			to = aiseed.LeaveAudits
		}
		var err error
		plan, err = s.Seed(ctx, cfg, to, logs.Logger())
		return err
	}
	end, suffered, err := h.run(c)

	var want []string
	for _, i := range offered {
		if i < len(h.model.audits) { // otherwise they were never written
			want = append(want, h.model.audits[i].id)
		}
	}
	// A process that was cut off may have offered only some entries, but in order.
	if wasMarked := c.ends[end] == marked && len(accepted) > 0; suffered != noFault && !wasMarked && len(auditor.offered) < len(want) {
		want = want[:len(auditor.offered)]
	}
	// A1: a delivery that lost its connection while it marked is repeated, once, with what is
	// not marked.
	if suffered == lost && len(auditor.offered) > len(want) {
		unmarked := want
		if len(auditor.offered) < 2*len(want) {
			unmarked = want[len(accepted):]
		}
		want = slices.Concat(want, unmarked)
		h.reached["delivered again"]++
	}
	require.Equal(h.T, fmt.Sprint(want), fmt.Sprint(auditor.offered), "what the auditor was offered")
	for _, id := range auditor.accepted() {
		if !slices.Contains(h.accepted, id) {
			h.accepted = append(h.accepted, id)
		}
	}

	if plan != nil && (err == nil || errors.Is(err, aiseed.ErrDrift)) {
		h.learn(plan, result.open)
	}
	if suffered == died || result.err != nil && result.err != aiseed.ErrDrift {
		return
	}
	if result.err == nil {
		require.Contains(h.T, logs.String(), " are in the database "+result.steps)
		for step := range strings.FieldsSeq(result.steps) {
			if name, n, _ := strings.Cut(step, "="); n != "0" {
				h.reached["step "+name]++
			}
		}
	}
	for what, is := range map[string]bool{
		"unused words": len(result.unused) > 0, "refused": len(accepted) < len(offered), "left": leaves && slices.ContainsFunc(after.audits, func(a modelAudit) bool { return !a.delivered }),
	} {
		if is {
			h.reached[what]++
		}
	}
	require.Equal(h.T, len(result.unused), strings.Count(logs.String(), "matches no current difference"))
	for _, word := range result.unused {
		require.Contains(h.T, logs.String(), word+" matches no current difference")
	}
}

// rival is an operator who changes a row in SQL, after a start has read it under the lock and
// before the start writes. The lock does not stop SQL. rival also changes the model.
func (h *history) rival(m *model, s modelStart) func([]byte) testkit.Action {
	switch {
	case s.err != nil:
		return nil
	case len(s.creates) > 0:
		name := s.creates[0]
		m.rows = append(m.rows, modelRow{name: name, kind: "openai", url: urlX, enabled: true, revision: 1, touched: true})
		return testkit.Once(testkit.Pass, `insert into "public".ai_providers (`, func() {
			_, _ = h.pool.Exec(h.ctx, `insert into ai_providers (id, type, name, base_url) values (gen_random_uuid(), 'openai', $1, $2)`, name, urlX)
		})
	case len(s.adopts) > 0:
		row := &m.rows[s.adopts[0]]
		row.revision++
		row.url = fmt.Sprintf("https://moved-%d.example/", row.revision)
		row.touched = true
		id, url := row.id, row.url
		return testkit.Once(testkit.Pass, `update "public".ai_providers t`, func() {
			_, _ = h.pool.Exec(h.ctx, `update ai_providers set base_url = $2 where id = $1`, id, url)
		})
	}
	return nil
}

// learn compares what nothing settled with the model. Equal differences have equal tokens, and
// different ones have different tokens.
func (h *history) learn(got *aiseed.Plan, want []difference) {
	open := slices.DeleteFunc(slices.Clone(got.Steps), func(s aiseed.Step) bool {
		return s.Action != aiseed.ActionDrifted && s.Action != aiseed.ActionDiverged
	})
	require.Len(h.T, open, len(want), "%+v", want)
	for i, p := range open {
		require.Equal(h.T, want[i].name, p.Name)
		word := p.Name + "@" + p.Digest
		h.fresh = append(h.fresh, word)
		if known, seen := h.meanings[word]; seen {
			require.Equal(h.T, known, want[i], word)
			continue
		}
		for other, known := range h.meanings {
			require.NotEqual(h.T, known, want[i], "%s and %s", other, word)
		}
		h.meanings[word] = want[i]
		h.words = append(h.words, word)
	}
}

func (m *model) marked(accepted []int) *model {
	c := m.clone()
	for _, i := range accepted {
		c.audits[i].delivered, c.audits[i].touched = true, true
	}
	return c
}

// historyAuditor refuses one entry, the one that comes after refuseAt others, whenever it is
// offered, and in different ways.
type historyAuditor struct {
	refuseAt int
	panics   bool
	offered  []string
	refused  string
}

func (a *historyAuditor) Audit(_ context.Context, entry aiseed.AuditEntry) error {
	id := entry.ID.String()
	if !slices.Contains(a.offered, id) && len(a.offered) == a.refuseAt {
		a.refused = id
	}
	a.offered = append(a.offered, id)
	switch {
	case id != a.refused:
		return nil
	case a.panics:
		panic("refused")
	}
	return errors.New("refused")
}

func (a *historyAuditor) accepted() []string {
	return slices.DeleteFunc(slices.Clone(a.offered), func(id string) bool { return id == a.refused })
}

// target draws a name, and finds its live row or tombstone. With search, it can take the next
// name that has one.
func (h *history) target(search, deleted bool) (name string, row int) {
	at := h.pick("name", len(historyNames))
	for i := range historyNames {
		name = historyNames[(at+i)%len(historyNames)]
		if row = h.model.find(name, deleted); row >= 0 || !search {
			return name, row
		}
	}
	return name, row
}

// operate is an operation of the host's own API.
func (h *history) operate() {
	operation := pickFrom(h, "operation", "create", "update", "update", "enable", "delete", "restore", "add a key to", "remove a key of", "replace the keys of")
	after := h.model.next()
	tombstone := operation == "restore"
	name, row := h.target(operation != "create" && h.pick("any", 6) > 0, tombstone != (h.pick("the other", 8) == 0))
	id := uuid.Max
	if row >= 0 {
		id = uuid.MustParse(after.rows[row].id)
	}
	c := call{ring: h.ring}
	value := ""
	switch operation {
	case "create":
		kind := pickFrom(h, "new kind", "openai", "anthropic")
		w := modelWant{name: name, kind: kind, url: pickFrom(h, "url", "", urlX, urlY), keys: []string{"k1"}}
		n := aiseed.ProviderSpec{Type: aiseed.ProviderType(kind), Name: name, BaseURL: w.url, Disabled: h.pick("disabled", 3) == 0}
		if h.pick("with Bedrock", 2) == 0 {
			b := modelBedrock{region: "us"}.withDefaults()
			w.bedrock, w.keys = &b, nil
			n.Bedrock = &aiseed.BedrockSettings{Region: "us"}
		}
		for _, key := range w.keys {
			n.Keys = append(n.Keys, aiseed.NewSecret(key))
		}
		value = fmt.Sprintf("%s %q %v", kind, w.url, w.bedrock)
		c.want = after.operateCreate(h.ring, w, !n.Disabled)
		c.do = func(ctx context.Context, s *aiseed.Store) error {
			_, err := s.CreateProvider(ctx, "op", n)
			return err
		}
	case "update":
		field := pickFrom(h, "field", "display name", "base URL", "region", "model")
		to := pickFrom(h, "value", "", urlX, urlY)
		var u aiseed.ProviderUpdate
		*map[string]**string{"display name": &u.DisplayName, "base URL": &u.BaseURL, "region": &u.Region, "model": &u.Model}[field] = &to
		c.want = after.operateUpdate(h.ring, row, field, to)
		c.do = func(ctx context.Context, s *aiseed.Store) error {
			_, err := s.UpdateProvider(ctx, "op", id, u)
			return err
		}
		value = field + " " + to
	case "enable":
		enabled := h.pick("enabled", 2) == 0
		value = fmt.Sprint(enabled)
		c.want = after.operateEnable(row, enabled)
		c.do = func(ctx context.Context, s *aiseed.Store) error { return s.SetProviderEnabled(ctx, "op", id, enabled) }
	case "delete":
		c.want = after.operateDelete(row)
		c.do = func(ctx context.Context, s *aiseed.Store) error { return s.DeleteProvider(ctx, "op", id) }
	case "restore":
		c.want = after.operateRestore(h.ring, row)
		c.do = func(ctx context.Context, s *aiseed.Store) error {
			_, err := s.RestoreProvider(ctx, "op", id)
			return err
		}
	case "add a key to":
		value = pickFrom(h, "key", "k1", longKey, "k4", "k5", "k6")
		c.want = after.operateAddKey(h.ring, row, value)
		key := aiseed.NewSecret(value)
		c.do = func(ctx context.Context, s *aiseed.Store) error {
			_, err := s.AddProviderKey(ctx, "op", id, key)
			return err
		}
	case "remove a key of":
		at := h.pick("key to remove", 3)
		value = fmt.Sprint(at)
		key := uuid.Max
		if row >= 0 {
			if keys := after.keysOf(row); at < len(keys) {
				key = uuid.MustParse(after.keys[keys[at]].id)
			}
		}
		c.want = after.operateRemoveKey(row, at)
		c.do = func(ctx context.Context, s *aiseed.Store) error { return s.RemoveProviderKey(ctx, "op", id, key) }
	case "replace the keys of":
		var secrets []string
		for range h.pick("number of keys", 4) {
			if s := pickFrom(h, "key", "k1", "k2", longKey, "k4"); !slices.Contains(secrets, s) {
				secrets = append(secrets, s)
			}
		}
		u := aiseed.ProviderUpdate{Keys: []aiseed.Secret{}}
		for _, s := range secrets {
			u.Keys = append(u.Keys, aiseed.NewSecret(s))
		}
		if row >= 0 && h.pick("with the revision", 2) == 0 {
			u.Revision = int64(after.rows[row].revision - h.pick("stale", 3)/2)
		}
		value = fmt.Sprint(secrets, " ", u.Revision)
		c.want = after.operateReplaceKeys(h.ring, row, int(u.Revision), secrets)
		c.do = func(ctx context.Context, s *aiseed.Store) error {
			_, err := s.UpdateProvider(ctx, "op", id, u)
			return err
		}
	}
	c.name = operation
	c.what = fmt.Sprintf("%s %s (%d) %s, ring %v", operation, name, row, value, h.ring)
	c.ends, c.few = []*model{h.model.next(), after}, 1
	h.run(c)
}

// tamper is what an operator does in SQL.
func (h *history) tamper() {
	name, i := h.target(true, false)
	what := pickFrom(h, "tampering", "disable", "point elsewhere", "point elsewhere", "delete", "take the keys of")
	url := pickFrom(h, "url", urlX, respelt(urlX), urlY)
	h.tell("in SQL: %s %s %s", what, name, url)
	after := h.model.next()
	if i >= 0 {
		row := &after.rows[i]
		row.touched = what != "take the keys of"
		switch what {
		case "disable":
			h.sql(`update ai_providers set enabled = not enabled where id = $1`, row.id)
			row.enabled = !row.enabled
			row.revision++
		case "point elsewhere":
			h.sql(`update ai_providers set base_url = $2 where id = $1`, row.id, url)
			if row.url != url {
				row.revision++
			}
			row.url = url
		case "delete":
			h.sql(`update ai_providers set deleted = true where id = $1`, row.id)
			after.setDeleted(i, true)
		case "take the keys of":
			h.sql(`delete from ai_provider_keys where provider_id = $1`, row.id)
			for _, k := range after.keysOf(i) {
				after.keys[k].gone = true
			}
		}
	}
	h.agree(after)
}

// agree compares the database with the model after something that cannot fail.
func (h *history) agree(after *model) {
	now := h.look()
	require.NoError(h.T, after.match(now, h.seen))
	h.model, h.seen = after, now
	h.steps++
}

// reseal rotates, seals, goes back to plaintext, or gives a wrong keyring.
func (h *history) reseal() {
	key := 1 + h.pick("sealing key", 3)
	if h.model.refuses([]int{key}) {
		_, err := h.open(append([]int{key}, h.without(key)...)...)
		require.ErrorIs(h.T, err, aiseed.ErrKeyring)
		h.reached["a revoked key"]++
		key = 10 + len(h.model.known) // a new one
	}
	next := append([]int{key}, h.without(key)...)
	what := pickFrom(h, "resealing", "rotate", "rotate", "seal", "unseal", "give a keyring", "give a wrong keyring")
	var r modelResealing
	c := call{name: what, what: fmt.Sprintf("%s with %v after %v", what, next, h.ring), ring: next, few: 1, aLostConnectionEndsIt: true}
	var report aiseed.RotateResult
	switch {
	case what == "give a wrong keyring":
		h.tell("%s", what)
		_, err := h.open(9)
		if len(h.model.sealedWith()) > 0 {
			require.ErrorIs(h.T, err, aiseed.ErrKeyring)
		} else {
			require.NoError(h.T, err)
		}
		return
	case what == "give a keyring" || len(h.ring) == 0 && what != "seal":
		// Existing values stay as they are, and are not read until they are sealed.
		h.tell("a keyring %v after %v", next, h.ring)
		h.ring = next
		return
	case what == "rotate":
		r = modelResealing{func(sealed int) bool { return sealed != 0 && sealed != key }, key}
		c.do = func(ctx context.Context, s *aiseed.Store) (err error) { report, err = s.Rotate(ctx); return err }
	case what == "seal":
		r = modelResealing{func(sealed int) bool { return sealed == 0 }, key}
		c.do = func(ctx context.Context, s *aiseed.Store) (err error) { report, err = s.SealPlaintext(ctx); return err }
	case what == "unseal":
		r = modelResealing{func(sealed int) bool { return sealed != 0 }, 0}
		c.do = func(ctx context.Context, s *aiseed.Store) (err error) { report, err = s.Unseal(ctx); return err }
	}
	// A server that got both keys before can still read, if no earlier rotation to this key revoked
	// its first one.
	otherRing := append(h.without(key), key)
	other, err := h.open(otherRing...)
	if h.model.refuses(otherRing) {
		require.ErrorIs(h.T, err, aiseed.ErrKeyring)
	} else {
		require.NoError(h.T, err)
	}
	// First each column, and then the keys that are not needed any more.
	keys := h.model.next()
	changed := keys.resealKeys(r)
	settings := keys.clone()
	changed += settings.resealSettings(r)
	revoked := settings.clone()
	n := revoked.revoke(r)
	c.ends = []*model{h.model.next(), keys, settings, revoked}
	_, suffered, err := h.run(c)
	if suffered == noFault {
		require.Equal(h.T, changed, report.Changed)
		require.Len(h.T, report.Revoked, n)
	}
	if what == "rotate" && other != nil {
		h.store, h.storeRing = other, otherRing
		h.requireProviders(h.storeRing...)
	}
	switch {
	case err == nil && suffered == noFault && what == "unseal":
		h.ring = nil
	case err == nil && suffered == noFault && what == "rotate":
		h.ring = []int{key}
	case what != "unseal":
		h.ring = next
	}
}

// without is the server's keyring without a key.
func (h *history) without(key int) []int {
	return slices.DeleteFunc(slices.Clone(h.ring), func(k int) bool { return k == key })
}

// finish is a clean end: nothing fails any more, and all remaining work is done.
func (h *history) finish() {
	h.tell("finish")
	h.wire.Reset(nil)
	store, err := h.open(h.ring...)
	require.NoError(h.T, err)
	after := h.model.next()
	if len(h.ring) > 0 && slices.ContainsFunc(after.numbers(), after.plaintext) {
		_, err := store.SealPlaintext(h.ctx)
		require.NoError(h.T, err)
		r := modelResealing{func(sealed int) bool { return sealed == 0 }, h.ring[0]}
		after.resealKeys(r)
		after.resealSettings(r)
		after.revoke(r)
		h.agree(after)
	}

	env := h.env
	lines := make([]string, len(env.lines))
	for i, line := range env.lines {
		lines[i] = aiseed.DefaultPrefix + line
	}
	cfg, err := aiseed.ParseEnviron(h.ctx, lines, slog.Logger{})
	require.NoError(h.T, err)
	auditor := &historyAuditor{refuseAt: -1}
	var words []string
	plan, err := aiseed.PlanAIProvidersFromEnv(h.ctx, store, cfg, slog.Logger{})
	require.NoError(h.T, err)
	for _, s := range plan.Steps {
		if s.Digest != "" {
			words = append(words, s.Name+"@"+s.Digest)
		}
	}
	after = h.model.next()
	h.learn(plan, after.start(h.ring, env.want, nil, nil, h.meanings).open)
	cfg.DriftAdopt = words
	require.NoError(h.T, aiseed.SeedAIProvidersFromEnv(h.ctx, store, cfg, auditor, slog.Logger{}))
	after = h.model.next()
	require.NoError(h.T, after.start(h.ring, env.want, words, nil, h.meanings).err)
	for i, a := range after.audits {
		after.audits[i].touched = !a.delivered
		after.audits[i].delivered = true
	}
	h.agree(after)

	// Every entry was accepted, in order. After that there is nothing to do.
	for _, id := range auditor.offered {
		if !slices.Contains(h.accepted, id) {
			h.accepted = append(h.accepted, id)
		}
	}
	var all []string
	for _, a := range h.seen.Audits {
		all = append(all, a.ID)
	}
	require.Equal(h.T, all, h.accepted, "what was audited, in order")
	cfg.DriftAdopt = nil
	plan, err = store.Seed(h.ctx, cfg, auditor, slog.Logger{})
	require.NoError(h.T, err)
	for _, s := range plan.Steps {
		require.Empty(h.T, s.Digest, "what was adopted differs no more")
	}
	h.agree(h.model.next())

	// The secrets of the disabled ones too.
	h.sql(`update ai_providers set enabled = true where not deleted`)
	after = h.model.next()
	for i := range after.rows {
		if r := &after.rows[i]; !r.deleted {
			if r.touched = true; !r.enabled {
				r.enabled = true
				r.revision++
			}
		}
	}
	h.agree(after)
	h.requireProviders(h.ring...)
}
