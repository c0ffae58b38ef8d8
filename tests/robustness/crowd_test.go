package robustness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// crowdSize is the number of processes of F3.
const crowdSize = 64

// Without -torture, crowds have these sizes: a process costs more than everything that it does.
const (
	mediumCrowd = 12
	smallCrowd  = 6
)

// A crowd is a group of processes that start at once, again and again. Each start has its
// own pool and store; only the process is the same.
type crowd []*process

// run makes each process do a start, and returns when all have ended.
func (c crowd) run(tb testing.TB, starts func(i int) start) {
	tb.Helper()
	for i, p := range c {
		if p == nil || p.Told != toldDone {
			c.end(i)
			c[i] = newProcess(tb)
		}
		c[i].prepare(tb, starts(i))
	}
	c.await((*process).awaitReady)
	c.start()
}

// start releases all at once, and returns when they have said how it ended.
func (c crowd) start() {
	for _, p := range c {
		p.release()
	}
	c.await((*process).awaitResult)
}

// await waits for all. All waits have one deadline, or the time limits of many would add up.
func (c crowd) await(wait func(*process)) {
	timer := time.AfterFunc(testkit.Patience, func() {
		for _, p := range c {
			_ = p.Process.Kill()
		}
	})
	defer timer.Stop()
	for _, p := range c {
		wait(p)
	}
}

func (c crowd) end(i int) {
	if c[i] != nil {
		c[i].wait()
	}
}

// disband ends all processes.
func (c crowd) disband() {
	for i := range c {
		c.end(i)
	}
}

// check checks what a crowd promises: no error, the rows and audits that starts one after
// the other would leave, and each entry accepted once, by one process.
func (c crowd) check(f *fixture, contents string) error {
	var problems []error
	var accepted []string
	for i, p := range c {
		if p.Told != toldDone {
			problems = append(problems, fmt.Errorf("process %d: %q: %s", i, p.Told, p.Text))
		}
		accepted = append(accepted, p.Audits...)
	}
	if got := f.contents(); got != contents {
		problems = append(problems, fmt.Errorf("the tables hold\n%s\nand not\n%s", got, contents))
	}
	return errors.Join(append(problems, f.accepted(accepted))...)
}

// accepted fails unless each entry was accepted once, and marked.
func (f *fixture) accepted(ids []string) error {
	f.T.Helper()
	slices.Sort(ids)
	if stored := f.Rows(`select id::text from ai_provider_audits order by 1`); !slices.Equal(stored, ids) {
		return fmt.Errorf("audits are %v, and accepted were %v", stored, ids)
	}
	if left := f.Rows(`select id from ai_provider_audits where delivered_at is null`); len(left) > 0 {
		return fmt.Errorf("audits %v are accepted, but not marked", left)
	}
	return nil
}

// contents is what the tables mean: everything except ids and times, with the secrets
// decrypted.
func (f *fixture) contents() string {
	f.T.Helper()
	out := f.Rows(`
select 'row', to_jsonb(p) - '{id,settings,settings_key_id,created_at,updated_at}'::text[] || jsonb_build_object('settings', settings is not null,
       'keys', (select count(*) from ai_provider_keys where provider_id = p.id))::text from ai_providers p
union all
select 'audit', to_jsonb(a) - '{id,seq,created_at,resource_id,provider_id,delivered_at}'::text[] || jsonb_build_object('of_a_row',
       exists (select from ai_providers where id = resource_id) or exists (select from ai_provider_keys k where k.id = resource_id and k.provider_id = a.provider_id))::text
  from ai_provider_audits a
union all
select 'sealed with', count(*)::text from ai_encryption_keys
 order by 1, 2`)
	providers, err := f.Store.Providers(context.Background())
	require.NoError(f.T, err)
	for _, p := range providers {
		line := "secrets " + p.Name
		if b := p.Bedrock; b != nil {
			line += fmt.Sprintf(" %s %s %s", b.Region, b.AccessKey.Reveal(), b.AccessKeySecret.Reveal())
		}
		for _, key := range p.Keys {
			line += " " + key.APIKey.Reveal()
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// L8, A4: also through a proxy that gives each transaction another session, and each entry is accepted once.
func TestF3_CrowdStartsAtOnce(t *testing.T) {
	t.Parallel()
	processes := make(crowd, full(mediumCrowd, crowdSize))
	t.Cleanup(processes.disband)
	rawKey := bytes.Repeat([]byte{3}, aiseed.KeySize)
	gateway := testkit.Environ(t, "../../testdata/gateway.env")
	// Each process has its own provider, so that all of them write and deliver.
	own := func(i int) []string {
		return testkit.With(gateway, fmt.Sprintf("CODER_AIBRIDGE_PROVIDER_7_NAME=own-%d", i), "CODER_AIBRIDGE_PROVIDER_7_TYPE=openai")
	}
	same := func(int) []string { return gateway }
	serially := func(environ func(int) []string, n int) string {
		f := setup(t)
		for i := range n {
			require.NoError(t, f.Seed(f.ParseEnviron(environ(i))))
		}
		return f.contents()
	}
	contentsOfSame := serially(same, 1)
	contentsOfOwn := map[int]string{len(processes): serially(own, len(processes))}
	if !*torture {
		contentsOfOwn[smallCrowd] = serially(own, smallCrowd)
	}

	server, proxy := storetest.BehindPgBouncer(t)

	type variant struct {
		kinds, name                 string // kinds are several, divided by semicolons
		rounds                      int
		size                        int // 0 means all
		empty, own, noLock, bouncer bool
		isolation                   string
	}
	const (
		plain  = "F3 crowd of processes"
		noLock = "F3 crowd, lock that locks nothing"
		pooled = "F3 crowd through PgBouncer"
		levels = "F3 crowd, isolation "
	)
	variants := []variant{
		// All kinds in as few rounds as possible: no kind in a round can hide a failure of another.
		{kinds: plain + ";" + levels + "repeatable read", name: "own, repeatable read", rounds: full(1, 0), own: true, isolation: "repeatable read"},
		{kinds: pooled + ";" + levels + "read committed", name: "bouncer, own, read committed", rounds: full(1, 0), size: smallCrowd, own: true, bouncer: true, isolation: "read committed"},
		{kinds: noLock + ";" + levels + "read uncommitted", name: "nolock, empty, read uncommitted", rounds: full(1, 0), size: smallCrowd, noLock: true, empty: true, isolation: "read uncommitted"},
		{kinds: noLock + ";" + levels + "serializable", name: "nolock, own, serializable", rounds: full(1, 0), size: smallCrowd, noLock: true, own: true, isolation: "serializable"},

		{kinds: plain, name: "empty", rounds: full(0, 30), empty: true},
		{kinds: plain, name: "schema", rounds: full(0, 20)},
		{kinds: plain, name: "own", rounds: full(0, 5), own: true},
		{kinds: noLock, name: "nolock", rounds: full(0, 15), noLock: true, empty: true},
		{kinds: noLock, name: "nolock, own", rounds: full(0, 5), own: true, noLock: true},
		{kinds: pooled, name: "bouncer", rounds: full(0, 15), bouncer: true},
		{kinds: pooled, name: "bouncer, own", rounds: full(0, 5), own: true, bouncer: true},
	}
	for _, isolation := range []string{"read uncommitted", "read committed", "repeatable read", "serializable"} {
		variants = append(variants,
			variant{kinds: levels + isolation, name: isolation, rounds: full(0, 5), empty: true, isolation: isolation},
			variant{kinds: levels + isolation, name: isolation + ", nolock", rounds: full(0, 5), noLock: true, isolation: isolation})
	}
	for _, v := range variants {
		for round := range v.rounds {
			name := fmt.Sprintf("%s, round %d", v.name, round)
			t.Run(name, func(t *testing.T) {
				f := &fixture{&storetest.Fixture{T: t}}
				var err error
				dsn := ""
				if v.bouncer { // always empty: the template is on another server
					database := fmt.Sprintf("round_%d_%t", round, v.own)
					f.Pool = databaseOn(t, server, database)
					dsn = proxy.DSN(database)
				} else {
					f.Pool = aiseedtest.NewPool(t)
					dsn = f.DSN()
				}
				f.Keyring, err = aiseed.NewKeyring(rawKey)
				require.NoError(t, err)
				if v.empty {
					f.Exec(`drop schema public cascade`)
				}
				if v.noLock {
					f.CreateNoLock()
					dsn += ` options='-c search_path=nolock,pg_catalog,public'`
				}
				if v.isolation != "" {
					f.Exec(`do $$ begin execute format('alter database %I set default_transaction_isolation = ''` + v.isolation + `''', current_database()); end $$`)
				}
				processes := processes[:cmp.Or(v.size, len(processes))]
				environ, contents := same, contentsOfSame
				if v.own {
					environ, contents = own, contentsOfOwn[len(processes)]
				}
				processes.run(t, func(i int) start { return start{DSN: dsn, Environ: environ(i), Key: rawKey} })
				f.Store, f.Wire = f.Open()
				problem := processes.check(f, contents)
				for kind := range strings.SplitSeq(v.kinds, ";") {
					cases.check(t, kind, "TestF3_CrowdStartsAtOnce/"+name, problem)
				}
				f.RequireIdle()
			})
		}
	}
}

// databaseOn makes an empty database on a server. The database ends with the server.
func databaseOn(t *testing.T, server *ephemeral.Server, name string) *pgxpool.Pool {
	t.Helper()
	admin, err := pgxpool.New(context.Background(), server.DSN(""))
	require.NoError(t, err)
	defer admin.Close()
	_, err = admin.Exec(context.Background(), "create database "+name)
	require.NoError(t, err)
	pool, err := pgxpool.New(context.Background(), server.DSN(name))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}
