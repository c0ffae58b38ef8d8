package robustness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/faultproxy"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// points calls try for each message of an operation, in both directions, until try reports
// that the operation did not get that far. Without -torture, or without all, it tries some
// random messages.
func points(t *testing.T, some int, all bool, try func(direction faultproxy.Direction, message int) bool) {
	t.Helper()
	if *torture && all {
		for _, direction := range faultproxy.Directions {
			for n := 1; try(direction, n); n++ {
			}
		}
		return
	}
	random := chance(t.Name())
	for tried, limit := 0, 100; tried < some; {
		n := 1 + random.IntN(limit)
		if try(faultproxy.Directions[random.IntN(2)], n) {
			tried++
		} else {
			limit = max(n, 2) // the operation does not get that far
		}
	}
}

// F2: a process that runs a start is killed at every message, whether the message arrives
// or not.
func TestF2_KilledProcess(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{7}, aiseed.KeySize)
	ring, err := aiseed.NewKeyring(key)
	require.NoError(t, err)
	sealed := func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Keyring = ring }
	for _, op := range operations {
		if op.noStart {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			r := setup(t, sealed).rig(sealed)
			for _, kind := range []faultproxy.Kind{faultproxy.None, faultproxy.CutBefore} {
				points(t, 1, true, func(direction faultproxy.Direction, n int) bool {
					fault := faultproxy.Fault{Direction: direction, Message: n, Kind: kind}
					hit, err := r.kill(op, key, fault)
					if hit {
						cases.check(t, "F2 process killed", fmt.Sprintf("%s, %s", t.Name(), fault), err)
					} else {
						require.NoError(t, err)
					}
					return hit
				})
			}
		})
	}
}

// kill runs an operation in a child and kills it at a message.
func (r *rig) kill(op operation, key []byte, fault faultproxy.Fault) (hit bool, err error) {
	cfg := r.begin(op)
	before, after := r.content(), r.after[op.name]
	marked := r.Rows(`select id::text from ai_provider_audits where delivered_at is not null`)

	environ := storetest.Prefixed(op.lines)
	if len(cfg.DriftAdopt) > 0 {
		environ = append(environ, aiseed.DefaultPrefix+"DRIFT_ADOPT="+strings.Join(cfg.DriftAdopt, ","))
	}
	dsn := r.DSN() + fmt.Sprintf(" host='%s' port=5432 sslmode=disable application_name=%s", r.proxy.Host(), sweptApplication)
	r.proxy.Arm(faultproxy.Fault{}, nil)
	p := launch(r.T, start{DSN: dsn, Environ: environ, Key: key, OpenFirst: true})
	r.proxy.Arm(fault, func() { _ = p.Process.Kill() }) // it may have ended: the last message closes the connection
	p.release()
	p.wait()
	hit = r.proxy.Fired()
	record := r.proxy.Record()

	if err := r.check(p.Told, before, after, marked, p.Audits); err != nil {
		return hit, fmt.Errorf("%w\nwhat happened:\n%s", err, record)
	}
	if !hit && p.Told != op.told {
		return hit, fmt.Errorf("undisturbed it said %q %s", p.Told, p.Text)
	}
	audits := &aiseedtest.AuditRecorder{}
	if err := r.converge(op, cfg, r.content(), after, append(marked, p.Audits...), audits); err != nil {
		return hit, fmt.Errorf("%w\nwhat happened:\n%s", err, record)
	}
	return hit, nil
}

// owned returns a fixture on its own server, which a test may damage.
func owned(t *testing.T, settings ...string) (*fixture, *ephemeral.Server) {
	t.Helper()
	server, err := ephemeral.Start(context.Background(), settings...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Close()) })
	pool, err := pgxpool.New(context.Background(), server.DSN(""))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	f := &fixture{&storetest.Fixture{T: t, Pool: pool, Keyring: aiseedtest.NewKeyring(t), Audits: &aiseedtest.AuditRecorder{}, Logs: &testkit.LogRecorder{}}}
	f.Store, f.Wire = f.Open(func(o *aiseed.StoreOptions, _ *pgxpool.Config) { o.Migrate = true })
	return f, server
}

// F2: the server crashes at a message, and comes back.
func TestF2_ServerIsRestarted(t *testing.T) {
	t.Parallel()
	// What a server reports as committed has to survive a crash.
	f, server := owned(t, "synchronous_commit=on")
	r := f.rig()
	for _, op := range operations {
		if op.constant {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			r.T = t
			points(t, 1, op.name == "first start", func(direction faultproxy.Direction, n int) bool {
				if direction == faultproxy.ToServer {
					n = max(n, 2) // a server that waits for the first message, and so for us, does not end soon
				}
				d := disturbance{fault: faultproxy.Fault{Direction: direction, Message: n, Kind: faultproxy.None}, restart: func() {
					assert.NoError(t, server.Kill())
					assert.NoError(t, server.Restart(context.Background()))
					r.Pool.Reset()
					// A server that crashed gives ids of transactions out again, here to others.
					for range 30 {
						r.Exec(`select pg_current_xact_id()`)
					}
				}}
				hit, err := r.disturb(op, d)
				if hit {
					cases.check(t, "F2 server restarted", fmt.Sprintf("%s, %s", t.Name(), d), err)
				} else {
					require.NoError(t, err)
				}
				return hit
			})
		})
	}
}

// F2: the disk is full for one table after the other, so that the transaction fails at
// each of its statements. A device that is always full replaces the table's file.
func TestF2_DiskIsFull(t *testing.T) {
	t.Parallel()
	const full = "/dev/full"
	if runtime.GOOS != "linux" {
		t.Skip("needs " + full + ", which only Linux has")
	}
	f, _ := owned(t)
	r := f.rig()
	for _, table := range []string{"ai_encryption_keys", "ai_providers", "ai_provider_keys", "ai_provider_audits"} {
		t.Run(table, func(t *testing.T) {
			r.T = t
			op := operations[0]
			cfg := r.begin(op)
			r.empty()
			r.Exec(`truncate ` + table + ` cascade`) // so that its file has no page
			r.Exec(`checkpoint`)
			file := filepath.Join(f.Rows(`show data_directory`)[0], f.Rows(`select pg_relation_filepath($1::regclass)`, table)[0])
			require.NoError(t, os.Rename(file, file+".free"))
			require.NoError(t, os.Symlink(full, file))
			before := r.content()

			r.swept.Reset()
			audits := &aiseedtest.AuditRecorder{}
			err := seedOperation(context.Background(), r, r.patient, cfg, audits)
			var db *aiseed.DatabaseError
			require.ErrorAs(t, err, &db)
			require.Equal(t, "53100", db.SQLState)
			require.ErrorContains(t, err, "the server's disk is full")
			require.Empty(t, audits.Entries())
			checked := r.check(outcome(err), before, r.after[op.name], nil, nil)

			require.NoError(t, os.Remove(file))
			require.NoError(t, os.Rename(file+".free", file))
			// Backends keep files open.
			_, _ = f.Pool.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
			f.Pool.Reset()
			cases.check(t, "F2 disk full", t.Name(), checked)
			require.NoError(t, r.converge(op, cfg, before, r.after[op.name], nil, audits))
		})
	}
}

// F2: the disk is full for the write-ahead log. The server then ends itself in the middle of a
// commit, and cannot recover until there is room again.
func TestF2_DiskIsFullForTheWriteAheadLog(t *testing.T) {
	t.Parallel()
	const full = "/dev/full"
	if runtime.GOOS != "linux" {
		t.Skip("needs " + full + ", which only Linux has")
	}
	// A commit has to write to the log itself, and not a process behind it.
	f, server := owned(t, "synchronous_commit=on")
	r := f.rig()
	for _, op := range operations {
		if op.constant || !*torture && op.name != "first start" {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			r.T = t
			room := make(chan error, 1)
			fill := func() {
				r.Exec(`select pg_switch_wal()`)
				next := filepath.Join(f.Rows(`show data_directory`)[0], "pg_wal", f.Rows(`select pg_walfile_name(pg_current_wal_insert_lsn() + 1)`)[0])
				before := panics(t, server)
				existed := os.Rename(next, next+".free") == nil
				assert.NoError(t, os.Symlink(full, next))
				go func() {
					for deadline := time.Now().Add(testkit.Patience); panics(t, server) == before && time.Now().Before(deadline); {
						time.Sleep(time.Millisecond)
					}
					err := os.Remove(next)
					if existed {
						err = errors.Join(err, os.Rename(next+".free", next))
					}
					err = errors.Join(err, server.Restart(context.Background()))
					r.Pool.Reset()
					room <- err
				}()
			}
			before := panics(t, server)
			r.begin(op) // the undisturbed run
			run := op.run
			op.run = func(ctx context.Context, r *rig, store *aiseed.Store, cfg aiseed.Config, auditor aiseed.Auditor) error {
				err := run(ctx, r, store, cfg, auditor)
				require.NoError(t, <-room)
				return err
			}
			hit, err := r.disturb(op, disturbance{fault: faultproxy.Fault{Direction: faultproxy.ToServer, Message: 1, Kind: faultproxy.None}, restart: fill})
			require.True(t, hit)
			require.Greater(t, panics(t, server), before)
			cases.check(t, "F2 disk full", t.Name(), err)
		})
	}
}

// panics counts how often a server ended itself.
func panics(tb testing.TB, server *ephemeral.Server) int {
	log, err := os.ReadFile(server.LogFile())
	assert.NoError(tb, err)
	return bytes.Count(log, []byte("PANIC:"))
}
