package aiseed

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"example.com/aiseed/internal/pg"
)

// LockKey returns the key of the transaction-scoped advisory lock that every write to
// providers and keys holds: the first 8 bytes of SHA-256 over "aiseed", a zero byte and
// the schema, big-endian. The schema "" means "public", for which it is
// -8830732264031859510.
//
// The lock saves work. Correctness depends on the unique index on the name of live
// providers.
func LockKey(schema string) int64 { return lockKey(cmp.Or(schema, defaultSchema)) }

func lockKey(schema string) int64 {
	sum := sha256.Sum256([]byte("aiseed\x00" + schema))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

func (d *database) lockKey() int64 { return lockKey(d.schema) }

// deliveryLockKey returns the key of the lock of the one process that delivers audits.
func (d *database) deliveryLockKey() int64 { return lockKey(d.schema + "\x00audits") }

// locked runs one transaction that holds the lock, in two round trips, or three if a write
// is checked before the commit. reads run under the lock. decide then returns what to write.
// If decide returns no writes, the transaction is rolled back.
//
// A nil error means that the server said "committed", or that there was nothing
// to write.
func (d *database) locked(ctx context.Context, operation string, reads []pg.Query, decide func() ([]pg.Query, error)) error {
	transaction, err := d.tryLocked(ctx, operation, reads, decide)
	if transaction == "" {
		return err
	}
	committed, askErr := d.askCommitted(ctx, transaction)
	switch {
	case committed:
		return nil
	case askErr != nil:
		return askErr
	}
	return err
}

// tryLocked is locked, but returns the id of the transaction if the connection was
// lost after its commit was sent.
func (d *database) tryLocked(ctx context.Context, operation string, reads []pg.Query, decide func() ([]pg.Query, error)) (lost string, err error) {
	conn, err := d.acquire(ctx, operation)
	if err != nil {
		return "", err
	}
	defer pg.Release(ctx, conn)

	// The server can report the outcome of the transaction by this id.
	var transaction string
	id := pg.Query{SQL: `select pg_current_xact_id()::text`, Rows: pg.One(&transaction)}
	if err := d.beginLocked(ctx, operation, conn.Conn(), append([]pg.Query{id}, reads...)...); err != nil {
		return "", err
	}
	writes, err := decide()
	if err != nil || len(writes) == 0 {
		return "", err
	}
	if d.notifyChannel != "" {
		writes = append(writes, d.notification())
	}
	if pg.AnyChecked(writes) {
		if err := pg.RoundTrip(ctx, conn.Conn(), writes...); err != nil {
			return "", databaseError(ctx, operation, err)
		}
		writes = nil
	}
	committed, err := pg.Commit(ctx, conn.Conn(), writes)
	switch {
	case committed:
		return "", nil
	case conn.Conn().IsClosed():
		return transaction, databaseError(ctx, operation, err)
	}
	return "", databaseError(ctx, operation, err)
}

// beginLocked starts a transaction, takes the lock and reads under it, in one round trip.
func (d *database) beginLocked(ctx context.Context, operation string, conn *pgx.Conn, reads ...pg.Query) error {
	var held bool
	lock := pg.Query{
		SQL:  `select pg_advisory_xact_lock($1)`,
		Args: [][]byte{pg.Int64(d.lockKey())},
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
			// lock too early, without naming the holder.
			SQL: `
select set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),
       set_config('statement_timeout', '0', true)`,
			Args: [][]byte{pg.Milliseconds(lockTimeout), pg.Milliseconds(silence)},
		},
	}
}

// silenceTimeout is how long a holder of the lock may be idle: half of the time that
// its waiters have, but enough for a busy machine.
func (d *database) silenceTimeout() time.Duration { return max(d.lockTimeout/2, time.Second) }

// askCommitted asks for the outcome of a transaction whose connection was lost after
// its commit was sent. It takes up to the time in which the server ends any
// transaction that holds the lock. If the caller is cancelled, it still returns the
// outcome if the server reports it soon.
func (d *database) askCommitted(ctx context.Context, transaction string) (bool, error) {
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.lockTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(pg.CleanupTimeout, cancel) })
	defer stop()
	for attempt := 1; ; attempt++ {
		var status string
		err := d.query(ask, "asking for the outcome of a commit", pg.Query{
			SQL:  `select coalesce(pg_xact_status($1::xid8), 'forgotten')`,
			Args: [][]byte{[]byte(transaction)},
			Rows: pg.One(&status),
		})
		switch {
		case err == nil && status == "committed":
			return true, nil
		case err == nil && status == "aborted", isLostByCrash(err):
			return false, nil
		}
		// Not reachable yet, or "in progress".
		if pg.Pause(ask, attempt) != nil {
			return false, &classError{class: ErrCommitUnknown, text: fmt.Sprintf(
				"the connection was lost after commit was sent, and the server could not be asked what became of it: either everything was written or nothing was. Start again, which finds out and does what is left. By hand: select pg_xact_status('%s')",
				transaction)}
		}
	}
}

// isLostByCrash reports whether the server says that the id is in the future. A server
// that crashed does not know the transactions that it had not written to disk.
func isLostByCrash(err error) bool {
	var db *DatabaseError
	return errors.As(err, &db) && db.SQLState == stateInvalidValue
}

// lockError returns the error of beginLocked. held says whether we already held the lock.
func (d *database) lockError(ctx context.Context, operation string, conn *pgx.Conn, held bool, err error) error {
	wrapped := databaseError(ctx, operation, err)
	var db *DatabaseError
	if held || !errors.As(wrapped, &db) || db.SQLState != stateLockTimeout {
		return wrapped
	}
	timeout := &LockTimeoutError{Key: d.lockKey(), waited: d.lockTimeout}
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
