package aiseed

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/pg"
)

// LockKey returns the key of the transaction-scoped advisory lock that every write to
// providers and keys holds: the first 8 bytes of SHA-256 over "aiseed", a zero byte and
// the schema, big-endian. The schema "" means "public", for which it is
// -8830732264031859510.
//
// The lock saves work. Correctness depends on the unique index on the name of live
// providers.
func LockKey(schema string) int64 {
	sum := sha256.Sum256([]byte("aiseed\x00" + cmp.Or(schema, defaultSchema)))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// deliveryLockKey returns the key of the lock of the one process that delivers audits.
func (d *database) deliveryLockKey() int64 { return LockKey(d.schema + "\x00audits") }

// A write is what one attempt of a transaction writes, and what follows it.
type write struct {
	queries []pg.Query // none if there is nothing to write

	// witness is the id of an audit entry among the queries. If the answer to the commit is lost,
	// later attempts look for it. The zero value says that the write can be repeated instead.
	witness uuid.UUID

	seals bool // see Store.locked

	behind func(lost bool) []pg.Query // sent behind the commit, in the same round trip, or behind the look-up of a lost one; nil for none
	then   func(conn *pgxpool.Conn)   // called at most once, when all of behind was answered, on the same connection
	done   func()                     // called if this is the write that was committed
}

// locked runs a transaction that holds the lock, in two round trips, or three if a write
// is checked before the commit. reads run under the lock. decide then returns what to write. If
// there is nothing to write, the transaction is rolled back.
//
// An attempt that cannot have been committed is repeated if it failed for a transient reason. If
// the connection was lost after the commit was sent, the next attempt takes the lock, which
// waits for the end of the earlier transaction, reads, and looks for its witness. The witness
// being there means that it was committed, whatever others did to the rows since. Its absence on a
// server that is no standby means that it was not, and the attempt decides again. Nothing depends
// on ids of transactions: a server that crashed uses them again.
//
// The same look-up follows if the connection is lost after the server said "committed": a server
// that took over can lack what that one had.
//
// A nil error means that the write was committed, or that there was nothing to write. If that
// cannot be found out, the error matches [ErrCommitUnknown].
func (d *database) locked(ctx context.Context, operation string, reads []pg.Query, decide func() (write, error)) error {
	l := &lockedCall{database: d, operation: operation, reads: reads, decide: decide}
	defer l.answered()
	return l.run(ctx)
}

// A lockedCall is one call of locked.
type lockedCall struct {
	*database
	operation string
	reads     []pg.Query
	decide    func() (write, error)
	lost      []*write // whose connection was lost after the commit was sent
	// look is not nil while the outcome of the last of them has not been asked. It outlives the
	// caller's context for a short time. A server has to be found by the deadline.
	look     context.Context
	stop     func()
	deadline time.Time
	reason   error // why the look-up has not succeeded yet
}

func (l *lockedCall) run(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		asked := l.look
		err := l.attempt(ctx)
		switch {
		case err == nil:
			return nil
		case l.look != asked && l.look != nil:
			// What this attempt wrote was lost: look it up, whatever the reason.
			_ = pg.Pause(l.look, attempt)
		case l.look == nil:
			if !tryAgain(err, attempt) || attempt >= pg.MaxAttempts || pg.Pause(ctx, attempt) != nil {
				return err
			}
		default:
			if ctx.Err() == nil {
				err = withoutOurDeadline(err, l.lockTimeout.String())
			}
			if l.reason == nil || time.Now().Before(l.deadline) {
				l.reason = err // later, it says less than what was in the way before
			}
			if (isTransient(err) || isUnreachable(err)) && pg.Pause(l.look, attempt) == nil && time.Now().Before(l.deadline) {
				continue
			}
			return l.unknown(ctx)
		}
	}
}

// attempt runs the transaction once. Before, it looks for the outcome of earlier attempts.
func (l *lockedCall) attempt(ctx context.Context) error {
	asking, reads := ctx, l.reads
	var standby bool
	var lost []uuid.UUID
	var witnesses []string
	for _, w := range l.lost {
		lost = append(lost, w.witness)
	}
	if len(lost) > 0 {
		if l.look != nil {
			asking = l.look
		}
		// The server is asked first whether it is a standby, since it can be promoted
		// meanwhile, and last for the witnesses, so that no read sees more than the look-up.
		reads = slices.Concat([]pg.Query{{SQL: `select pg_is_in_recovery()`, Rows: pg.One(&standby)}}, reads, []pg.Query{l.selectWitnesses(&witnesses, lost...)})
	}
	conn, err := l.acquireBy(asking)
	if err != nil {
		return err
	}
	defer pg.Release(asking, conn)
	if err := l.beginLocked(asking, l.operation, conn.Conn(), reads...); err != nil {
		return err
	}
	for _, w := range l.lost {
		if slices.Contains(witnesses, w.witness.String()) {
			l.answered()
			if w.then != nil && pg.RoundTrip(ctx, conn.Conn(), append([]pg.Query{{SQL: `rollback`}}, w.behind(true)...)...) != nil {
				w.then = nil
			}
			return l.follow(ctx, conn, w)
		}
	}
	if l.look != nil {
		if standby {
			return &DatabaseError{Operation: l.operation, cause: pg.Error{Transient: true, Reason: "the server is a standby, which can lack what its primary committed"}}
		}
		l.answered()
		if err := ctx.Err(); err != nil {
			return &DatabaseError{Operation: l.operation, cause: pg.Error{Context: err}}
		}
		if len(l.lost) >= pg.MaxAttempts {
			return &DatabaseError{Operation: l.operation, cause: pg.Error{
				Lost:   true,
				Reason: "each time, the connection was lost at the commit, and nothing was written; the server's log says why",
			}}
		}
	}
	w, err := l.decide()
	if err != nil {
		return err
	}
	return l.write(ctx, conn, &w)
}

// write writes and commits.
func (l *lockedCall) write(ctx context.Context, conn *pgxpool.Conn, w *write) error {
	if len(w.queries) == 0 {
		w.finish()
		return nil
	}
	writes := w.queries
	if l.notifyChannel != "" {
		writes = append(writes, notification(l.notifyChannel))
	}
	var behind []pg.Query
	if w.behind != nil {
		behind = w.behind(false)
	}
	committed, err := pg.Commit(ctx, conn.Conn(), writes, behind...)
	if committed {
		if err != nil && !conn.Conn().IsClosed() {
			w.finish() // only what is behind the commit failed
			return nil
		}
		return l.follow(ctx, conn, w)
	}
	if conn.Conn().IsClosed() && w.witness != uuid.Nil {
		l.lose(ctx, w)
	}
	return l.failed(ctx, conn.Conn(), l.operation, err)
}

// follow does what follows a write that is committed.
func (l *lockedCall) follow(ctx context.Context, conn *pgxpool.Conn, w *write) error {
	if then := w.then; then != nil && !conn.Conn().IsClosed() {
		w.then = nil
		then(conn)
	}
	if conn.Conn().IsClosed() && w.witness != uuid.Nil && ctx.Err() == nil {
		l.lose(ctx, w)
		return &DatabaseError{Operation: l.operation, cause: pg.Error{Transient: true, Lost: true, Reason: "the connection was lost after the commit"}}
	}
	w.finish()
	return nil
}

func (w *write) finish() {
	if w.done != nil {
		w.done()
	}
}

// lose notes a write whose outcome has to be looked for.
func (l *lockedCall) lose(ctx context.Context, w *write) {
	if !slices.Contains(l.lost, w) {
		l.lost = append(l.lost, w)
	}
	l.deadline = time.Time{}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*l.lockTimeout+pg.CleanupTimeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(pg.CleanupTimeout, cancel) })
	l.answered() // an earlier look-up
	l.look, l.stop, l.reason = look, func() { stop(); cancel() }, nil
}

// answered ends the look-up.
func (l *lockedCall) answered() {
	if l.look != nil {
		l.stop()
		l.look, l.stop = nil, nil
	}
}

// acquireBy takes a connection, for a look-up by its deadline.
func (l *lockedCall) acquireBy(ctx context.Context) (*pgxpool.Conn, error) {
	if l.look != nil {
		if l.deadline.IsZero() {
			l.deadline = time.Now().Add(l.lockTimeout)
		}
		bounded, cancel := context.WithDeadline(ctx, l.deadline)
		defer cancel()
		ctx = bounded
	}
	return l.acquire(ctx, l.operation)
}

// unknown is the error of a look-up that failed.
func (l *lockedCall) unknown(ctx context.Context) error {
	var timeout *LockTimeoutError
	if errors.As(l.reason, &timeout) {
		timeout.unsure = true
	}
	e := &commitUnknownError{operation: l.operation, table: l.sql(`{schema}.ai_provider_audits`), reason: l.reason, cancelled: ctx.Err()}
	for _, w := range l.lost {
		e.witnesses = append(e.witnesses, "'"+w.witness.String()+"'")
	}
	return e
}

// selectWitnesses reads which of some audit entries are there.
func (d *database) selectWitnesses(into *[]string, ids ...uuid.UUID) pg.Query {
	return pg.Query{
		SQL: d.sql(`
select array(select id::text from {schema}.ai_provider_audits
              where id in (select id::uuid from json_array_elements_text($1::json) as lost (id)))`),
		Args: [][]byte{pg.JSON(ids)},
		Rows: pg.One(into),
	}
}

// beginLocked starts a transaction, takes the lock and reads under it, in one round trip.
func (d *database) beginLocked(ctx context.Context, operation string, conn *pgx.Conn, reads ...pg.Query) error {
	var held bool
	lock := pg.Query{
		SQL:  `select pg_advisory_xact_lock($1)`,
		Args: [][]byte{pg.Int64(LockKey(d.schema))},
		Rows: func(rows pgx.Rows) error {
			held = rows.Next()
			return rows.Err()
		},
	}
	err := pg.RoundTrip(ctx, conn, slices.Concat(d.begin(d.lockTimeout, d.silenceTimeout()), []pg.Query{lock}, reads)...)
	if err != nil {
		return d.lockError(ctx, operation, conn, held, err)
	}
	return nil
}

// begin starts a transaction with the isolation that the lock needs: a statement
// after the lock sees what the previous holder committed. Under REPEATABLE READ,
// which a role or a database can make the default, it would not.
func (d *database) begin(lockTimeout, silence time.Duration) []pg.Query {
	return []pg.Query{
		{SQL: `begin isolation level read committed`},
		{
			// A shorter statement_timeout of the role would end the wait for the
			// lock too early, without naming the holder. So would a
			// transaction_timeout, which servers have from version 17 on.
			SQL: `
select set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),
       set_config('statement_timeout', '0', true), set_config('row_security', 'off', true),
       case when current_setting('transaction_timeout', true) <> '0' then set_config('transaction_timeout', '0', true) end`,
			Args: [][]byte{pg.Milliseconds(lockTimeout), pg.Milliseconds(silence)},
		},
	}
}

// silenceTimeout is how long a holder of the lock may be idle: half of the time that
// its waiters have, but enough for a busy machine.
func (d *database) silenceTimeout() time.Duration { return max(d.lockTimeout/2, time.Second) }

// lockError returns the error of beginLocked. held says whether we already held the lock.
func (d *database) lockError(ctx context.Context, operation string, conn *pgx.Conn, held bool, err error) error {
	wrapped := d.failed(ctx, conn, operation, err)
	var db *DatabaseError
	if held || !errors.As(wrapped, &db) || db.SQLState != stateLockTimeout {
		return wrapped
	}
	timeout := &LockTimeoutError{Key: LockKey(d.schema), waited: d.lockTimeout}
	var holder LockHolder
	// Best effort: without the holder the error is still correct.
	_ = pg.RoundTrip(ctx, conn, pg.Query{SQL: `rollback`}, pg.Query{
		SQL:  pg.SelectLockHolder,
		Args: [][]byte{pg.Int64(timeout.Key)},
		Rows: func(rows pgx.Rows) error {
			for rows.Next() {
				var since *time.Time
				if err := rows.Scan(&holder.PID, &holder.ApplicationName, &holder.ClientAddr, &since); err != nil {
					return err
				}
				if since != nil {
					holder.Since = *since
				}
				timeout.Holder = &holder
			}
			return rows.Err()
		},
	})
	return timeout
}
