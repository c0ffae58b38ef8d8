package robustness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/faultproxy"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// A failover is how a standby takes over from a primary.
type failover struct {
	kind        string
	behind      bool // the standby has nothing of what the operation did
	synchronous bool // commits wait for the standby
	orderly     bool // the primary is stopped, not killed
	late        bool // the standby is there for a while before it is promoted
}

var failovers = []failover{
	{kind: "F8 failover, standby up to date"},
	{kind: "F8 failover, standby behind", behind: true},
	{kind: "F8 failover, synchronous standby", synchronous: true},
	{kind: "F8 failover, standby promoted late", behind: true, late: true},
	{kind: "F8 switch-over", orderly: true},
}

// edits are the operations for a host's API, on the providers of sweptLines.
var edits = []operation{
	edit("creating a provider", func(ctx context.Context, _ *rig, store *aiseed.Store) error {
		p, err := store.CreateProvider(ctx, "somebody", aiseed.ProviderSpec{Type: "openai", Name: "made", Keys: []aiseed.Secret{aiseed.NewSecret("sk-key-of-made-00000001")}})
		if err == nil && (p.Name != "made" || len(p.Keys) != 1) {
			return fmt.Errorf("created was %s with %d keys", p.Name, len(p.Keys))
		}
		return err
	}),
	edit("updating a provider", func(ctx context.Context, r *rig, store *aiseed.Store) error {
		p, err := store.UpdateProvider(ctx, "somebody", r.idOf("two"), aiseed.ProviderUpdate{BaseURL: new("https://edited.example")})
		if err == nil && p.BaseURL != "https://edited.example" {
			return fmt.Errorf("the base URL is %s", p.BaseURL)
		}
		return err
	}),
	edit("disabling a provider", func(ctx context.Context, r *rig, store *aiseed.Store) error {
		return store.SetProviderEnabled(ctx, "somebody", r.idOf("two"), false)
	}),
	edit("deleting a provider", func(ctx context.Context, r *rig, store *aiseed.Store) error {
		return store.DeleteProvider(ctx, "somebody", r.idOf("two"))
	}),
	edit("restoring a provider", func(ctx context.Context, r *rig, store *aiseed.Store) error {
		_, err := store.RestoreProvider(ctx, "somebody", r.idOf("deleted"))
		return err
	}),
	edit("adding a key", func(ctx context.Context, r *rig, store *aiseed.Store) error {
		_, err := store.AddProviderKey(ctx, "somebody", r.idOf("two"), aiseed.NewSecret("sk-key-3-of-two-00000003"))
		return err
	}),
	edit("replacing keys", func(ctx context.Context, r *rig, store *aiseed.Store) error {
		keys := []aiseed.Secret{aiseed.NewSecret("sk-key-3-of-two-00000003"), aiseed.NewSecret("sk-key-4-of-two-00000004")}
		p, err := store.ReplaceProviderKeys(ctx, "somebody", r.idOf("two"), keys)
		if err == nil && len(p.Keys) != 2 {
			return fmt.Errorf("it has %d keys", len(p.Keys))
		}
		return err
	}),
	edit("removing a key", func(ctx context.Context, r *rig, store *aiseed.Store) error {
		key := r.Rows(`select k.id::text from ai_provider_keys k join ai_providers p on p.id = provider_id where name = 'two' and position = 0`)
		return store.RemoveProviderKey(ctx, "somebody", r.idOf("two"), uuid.MustParse(key[0]))
	}),
}

func edit(name string, do func(ctx context.Context, r *rig, store *aiseed.Store) error) operation {
	return operation{
		name: name, lines: sweptLines, told: toldDone, edits: true, noStart: true,
		prepare: func(r *rig) {
			r.seedWith(aiseed.DiscardAudits, sweptLines...)
			p, err := r.Store.CreateProvider(context.Background(), "somebody", aiseed.ProviderSpec{Type: "openai", Name: "deleted"})
			require.NoError(r.T, err)
			require.NoError(r.T, r.Store.DeleteProvider(context.Background(), "somebody", p.ID))
		},
		run: func(ctx context.Context, r *rig, store *aiseed.Store, _ aiseed.Config, _ aiseed.Auditor) error {
			return do(ctx, r, store)
		},
	}
}

// A cluster is the server that is the primary at present. Each failover makes a standby of it,
// which then takes its place.
type cluster struct {
	primary *ephemeral.Server
	keyring *aiseed.Keyring
	after   map[string]string // as in a rig
}

// newCluster starts a server that keeps what it says is committed, also over a crash.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{keyring: aiseedtest.NewKeyring(t), after: map[string]string{}}
	var err error
	c.primary, err = ephemeral.Start(context.Background(), clusterSettings...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.primary.Close()) })
	pool := c.pool(t)
	require.NoError(t, aiseed.Migrate(context.Background(), pool, ""))
	return c
}

// wal_recycle would keep files for later that each new standby copies.
var clusterSettings = []string{"synchronous_commit=on", "max_connections=60", "wal_recycle=off", "wal_init_zero=off", "wal_receiver_status_interval=1"}

func (c *cluster) pool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), c.primary.DSN(""))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// F8, L10: the primary fails at a message of an operation, and a standby takes over. What the
// caller is told is true of the server that is left, and the next start converges. The ids of
// transactions of the primary are used by others on the new one before the library can ask.
func TestF8_Failover(t *testing.T) {
	t.Parallel()
	written := slices.Concat(operations[:2], operations[4:6], edits)
	if !*torture {
		written = []operation{written[0], written[1+chance(t.Name()).IntN(len(written)-1)]}
	}
	for _, op := range written {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			random := chance(t.Name())
			messages, _ := c.messages(t, op)
			try := func(how failover, direction faultproxy.Direction, n int) {
				// In a subtest, so that what it opens is closed after it.
				t.Run(fmt.Sprintf("%s at message %d %s", how.kind, n, direction), func(t *testing.T) {
					fault := faultproxy.Fault{Direction: direction, Message: n, Kind: faultproxy.CutBefore}
					cases.check(t, how.kind, t.Name(), c.failOver(t, op, how, fault))
				})
			}
			if !*torture {
				if op.name == written[0].name {
					// What was committed is lost, with the first word of the answer and with the last.
					_, commit := c.messages(t, op, readWrite)
					try(failovers[1], faultproxy.ToClient, commit[0])
					try(failovers[1], faultproxy.ToClient, commit[1])
				}
				hows := failovers
				if op.name != written[0].name {
					first := random.IntN(len(failovers) - 1)
					hows = failovers[first : first+2]
				}
				for _, how := range hows {
					direction := faultproxy.Directions[random.IntN(2)]
					try(how, direction, max(2, 1+random.IntN(messages[direction])))
				}
				return
			}
			first := random.IntN(len(failovers))
			for _, direction := range faultproxy.Directions {
				// A server that waits for the first message of a connection, and so for us, does not end:
				// PostgreSQL 14 waits a minute for it.
				for n := 2; n <= messages[direction]; n++ {
					try(failovers[(first+n)%len(failovers)], direction, n)
				}
			}
		})
	}
}

// rig makes a rig on the primary. Its pool knows other servers too.
func (c *cluster) rig(t *testing.T, opts ...storetest.Option) *rig {
	f := &fixture{&storetest.Fixture{T: t, Pool: c.pool(t), Keyring: c.keyring, Audits: &aiseedtest.AuditRecorder{}, Logs: &testkit.LogRecorder{}}}
	f.Store, f.Wire = f.Open()
	r := f.rig(opts...)
	r.after = c.after
	return r
}

// messages counts the messages of an undisturbed operation. commit are the first and the last
// message of the answer to a start's commit.
func (c *cluster) messages(t *testing.T, op operation, opts ...storetest.Option) (counts map[faultproxy.Direction]int, commit [2]int) {
	r := c.rig(t, opts...)
	cfg := r.begin(op)
	r.arm(faultproxy.Fault{}, nil)
	require.NoError(t, op.run(context.Background(), r, r.patient, cfg, r.Audits))
	counts = map[faultproxy.Direction]int{}
	for _, direction := range faultproxy.Directions {
		for _, match := range regexp.MustCompile(`(?m)`+string(direction)+` (\d+) `).FindAllStringSubmatch(r.proxy.Record(), -1) {
			n, err := strconv.Atoi(match[1])
			require.NoError(t, err)
			counts[direction] = max(counts[direction], n)
		}
		require.NotZero(t, counts[direction])
	}
	var ends []int // of the answers: the last are those to the lock, the commit and the marks
	for _, match := range regexp.MustCompile(`(?m)to client (\d+) ReadyForQuery$`).FindAllStringSubmatch(r.proxy.Record(), -1) {
		n, err := strconv.Atoi(match[1])
		require.NoError(t, err)
		ends = append(ends, n)
	}
	if !op.edits && !op.delivers {
		commit = [2]int{ends[len(ends)-3] + 1, ends[len(ends)-2]}
	}
	return counts, commit
}

// readWrite asks each server for what it is, which is four more messages to the client.
func readWrite(_ *aiseed.StoreOptions, config *pgxpool.Config) {
	config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
}

// catchUp returns when a standby has what its primary has.
func catchUp(ctx context.Context, standby, primary *pgxpool.Pool) error {
	var position string
	if err := primary.QueryRow(ctx, `select pg_current_wal_flush_lsn()::text`).Scan(&position); err != nil {
		return err
	}
	for reached := false; !reached; time.Sleep(time.Millisecond) {
		if err := standby.QueryRow(ctx, `select pg_last_wal_replay_lsn() >= $1::pg_lsn`, position).Scan(&reached); err != nil {
			return err
		}
	}
	return nil
}

// failOver is one case. The standby is then the primary.
func (c *cluster) failOver(t *testing.T, op operation, how failover, fault faultproxy.Fault) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*testkit.Patience)
	defer cancel()
	standby, err := c.primary.Standby(ctx, clusterSettings...)
	require.NoError(t, err)
	primary := c.primary
	defer func() {
		c.primary = standby
		require.NoError(t, primary.Close())
	}()
	there, err := pgxpool.New(ctx, standby.DSN(""))
	require.NoError(t, err)
	t.Cleanup(there.Close)

	r := c.rig(t, func(options *aiseed.StoreOptions, config *pgxpool.Config) {
		config.ConnConfig.Fallbacks = []*pgconn.FallbackConfig{{Host: there.Config().ConnConfig.Host, Port: 5432}}
		if !how.late {
			readWrite(options, config)
		}
	})
	f, here := r.fixture, r.Pool
	cfg := r.begin(op)
	before, after := r.content(), r.after[op.name]

	require.NoError(t, catchUp(ctx, there, here))
	switch {
	case how.behind:
		for _, sql := range []string{`alter system set primary_conninfo = ''`, `select pg_reload_conf()`} {
			_, err := there.Exec(ctx, sql)
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool {
			return len(f.Rows(`select pid from pg_stat_replication`)) == 0
		}, testkit.Patience, time.Millisecond, "it does not receive any more")
	case how.synchronous:
		f.Exec(`alter system set synchronous_standby_names = '*'`)
		f.Exec(`select pg_reload_conf()`)
		require.Eventually(t, func() bool {
			return len(f.Rows(`select pid from pg_stat_replication where sync_state = 'sync'`)) == 1
		}, testkit.Patience, time.Millisecond)
	}

	takeOver := func() error {
		if err := standby.Promote(ctx); err != nil {
			return err
		}
		// On a busy server others use the next ids at once.
		for range 30 {
			if _, err := there.Exec(ctx, `select pg_current_xact_id()`); err != nil {
				return err
			}
		}
		return nil
	}
	failed, returned := make(chan error, 1), make(chan struct{})
	r.arm(fault, func() {
		if how.orderly {
			// A server that is told to stop waits for who is about to log in, and so for this message.
			go func() { failed <- errors.Join(primary.Stop(), takeOver()) }()
			return
		}
		var err error
		if !how.behind && !how.synchronous {
			err = catchUp(ctx, there, here)
		}
		err = errors.Join(err, primary.Kill())
		if !how.late {
			failed <- errors.Join(err, takeOver())
			return
		}
		go func() {
			// The operation meets the standby before it is promoted, if it meets it at all.
			for met := false; !met; time.Sleep(time.Millisecond) {
				select {
				case <-returned:
					met = true
				default:
					_ = there.QueryRow(ctx, `select count(*) > 0 from pg_stat_activity where application_name = $1 and query <> ''`, sweptApplication).Scan(&met)
				}
			}
			failed <- errors.Join(err, takeOver())
		}()
	})
	audits := &aiseedtest.AuditRecorder{}
	said := op.run(ctx, r, r.patient, cfg, audits)
	close(returned)
	record := r.proxy.Record()
	require.True(t, r.proxy.Fired(), "%s", record)
	require.NoError(t, testkit.Awaited(t, failed))
	r.Pool = there
	r.Store, r.Wire = f.Open()

	problems := []error{r.checkFailover(outcome(said), op, before, after)}
	if err := r.convergeAfterFailover(op, cfg, r.content(), after); err != nil {
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("%w\nthe caller was told: %v\nwhat happened:\n%s", err, said, record)
	}
	return nil
}

// checkFailover compares what the caller was told with the server that is left.
func (r *rig) checkFailover(what told, op operation, before, after string) error {
	var problems []error
	for _, row := range r.Rows(integrity) {
		if !op.edits || !strings.HasPrefix(row, "an audit of a row that does not exist") { // one can have been removed
			problems = append(problems, errors.New(row))
		}
	}
	switch content := r.content(); {
	case what == toldUnknown:
		problems = append(problems, errors.New("the outcome is reported as unknown, although there is a server to ask"))
	case content != before && content != after:
		problems = append(problems, fmt.Errorf("neither nothing nor all was written:\n%s", content))
	case what == toldDone && content != after:
		problems = append(problems, errors.New("the caller was told that it is done, and it is not"))
	case what == toldFailed && content != before:
		problems = append(problems, errors.New("the caller was told of a failure, and it was written"))
	}
	return errors.Join(problems...)
}

// convergeAfterFailover is the next clean start. After an edit it is one of an empty environment.
func (r *rig) convergeAfterFailover(op operation, cfg aiseed.Config, before, after string) error {
	marked := r.Rows(`select id::text from ai_provider_audits where delivered_at is not null`)
	audits := &aiseedtest.AuditRecorder{}
	if !op.edits {
		return r.converge(op, cfg, before, after, marked, audits)
	}
	if err := seedOperation(context.Background(), r, r.Store, aiseed.Config{}, audits); err != nil {
		return err
	}
	if left := r.Rows(`select id from ai_provider_audits where delivered_at is null`); len(left) > 0 || r.content() != before {
		return fmt.Errorf("after the next clean start %d entries are left, and there is\n%s", len(left), r.content())
	}
	return nil
}

// idOf returns the id of a provider.
func (r *rig) idOf(name string) uuid.UUID {
	return uuid.MustParse(r.Rows(`select id::text from ai_providers where name = $1`, name)[0])
}

// L10: a connection string with two servers, of which not even one is as it should be. The call
// ends with the truth, or with an error that says what is wrong.
func TestL10_ConnectionStringsWithTwoServers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c := newCluster(t)
	r := c.rig(t)
	cfg := r.begin(operations[0])
	standby, err := c.primary.Standby(ctx, clusterSettings...)
	require.NoError(t, err)
	defer func() { require.NoError(t, standby.Close()) }()
	older, err := ephemeral.Start(ctx, clusterSettings...)
	require.NoError(t, err)
	defer func() { require.NoError(t, older.Close()) }()
	there, err := pgxpool.New(ctx, older.DSN(""))
	require.NoError(t, err)
	defer there.Close()
	files, err := fs.Glob(aiseed.Migrations(), "*.sql")
	require.NoError(t, err)
	first, err := fs.ReadFile(aiseed.Migrations(), files[0])
	require.NoError(t, err)
	_, err = there.Exec(ctx, string(first))
	require.NoError(t, err)

	host := func(s *ephemeral.Server) string {
		config, err := pgx.ParseConfig(s.DSN(""))
		require.NoError(t, err)
		return config.Host
	}
	start := func(attributes string, hosts ...string) error {
		dsn := fmt.Sprintf("host=%s port=5432%s user=postgres dbname=postgres target_session_attrs=%s",
			strings.Join(hosts, ","), strings.Repeat(",5432", len(hosts)-1), attributes)
		pool, err := pgxpool.New(ctx, dsn)
		require.NoError(t, err)
		defer pool.Close()
		store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: c.keyring, LockTimeout: testkit.Patience})
		if err == nil {
			err = aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, aiseed.DiscardAudits, slog.Logger{})
		}
		return err
	}
	gone := t.TempDir()

	var db *aiseed.DatabaseError
	require.NoError(t, start("read-write", gone, host(c.primary)), "one is gone")
	require.Len(t, r.Rows(`select id from ai_providers`), 3)
	r.empty()
	behind, err := pgxpool.New(ctx, standby.DSN(""))
	require.NoError(t, err)
	defer behind.Close()
	require.NoError(t, catchUp(ctx, behind, r.Pool))
	err = start("any", gone, host(standby))
	require.ErrorAs(t, err, &db, "the other is a standby")
	require.Equal(t, "25006", db.SQLState)
	require.ErrorContains(t, err, "the database is read-only; connect to the primary")
	err = start("read-write", host(standby), host(standby))
	require.ErrorAs(t, err, &db, "both are standbys")
	require.ErrorContains(t, err, "the server is not of the kind that target_session_attrs asks for")
	err = start("read-write", gone, gone)
	require.ErrorAs(t, err, &db, "both are gone")
	require.ErrorContains(t, err, "no such file or directory")

	// The second is another cluster, with older tables, and takes over in the middle of a commit.
	require.ErrorIs(t, start("read-write", gone, host(older)), aiseed.ErrSchemaOutdated)
	_, commit := c.messages(t, operations[0])
	r = c.rig(t, func(_ *aiseed.StoreOptions, config *pgxpool.Config) {
		config.ConnConfig.Fallbacks = []*pgconn.FallbackConfig{{Host: host(older), Port: 5432}}
	})
	r.begin(operations[0])
	killed := make(chan error, 1)
	r.arm(faultproxy.Fault{Direction: faultproxy.ToClient, Message: commit[0], Kind: faultproxy.CutBefore}, func() { killed <- c.primary.Kill() })
	err = seedOperation(ctx, r, r.patient, cfg, aiseed.DiscardAudits)
	require.NoError(t, testkit.Awaited(t, killed))
	require.ErrorIs(t, err, aiseed.ErrCommitUnknown)
	require.ErrorAs(t, err, &db)
	require.Equal(t, "42703", db.SQLState)
	require.ErrorContains(t, err, "the tables are not those of aiseed's schema")
	var rows int
	require.NoError(t, there.QueryRow(ctx, `select count(*) from ai_providers`).Scan(&rows))
	require.Zero(t, rows)
}
