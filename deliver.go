package aiseed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/xerrors"

	"example.com/aiseed/internal/pg"
)

const (
	selectUndelivered = `
select seq, id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new
  from {schema}.ai_provider_audits
 where delivered_at is null and seq > $1
 order by seq limit $2`

	// What comes after the first $2 entries: one row, or none.
	selectNextUndelivered = `
select seq from {schema}.ai_provider_audits where delivered_at is null and seq > $1 order by seq limit 1 offset $2`

	markDelivered = `
update {schema}.ai_provider_audits set delivered_at = clock_timestamp()
 where id in (select id::uuid from json_array_elements_text($1::json) as delivered (id))`
)

const (
	// deliveryBatch bounds the entries of one transaction, and so its memory. It is as large as a
	// usual first start, whose delivery is then one batch.
	deliveryBatch = 1000

	// beforeAll comes before every seq.
	beforeAll = math.MinInt64

	delivering = "delivering audits"
	marking    = "marking audits as delivered"
)

// pending returns a query that stores in *into whether undelivered entries exist.
func (s *Store) pending(into *bool) pg.Query { return s.undeliveredAfter(beforeAll, 0, into) }

// undeliveredAfter returns a query that stores in *into whether there are undelivered entries
// after a seq, without the first skip of them.
func (s *Store) undeliveredAfter(after int64, skip int, into *bool) pg.Query {
	return pg.Query{
		SQL: s.sql(selectNextUndelivered), Args: [][]byte{pg.Int64(after), pg.Int64(int64(skip))},
		Rows: func(rows pgx.Rows) error {
			*into = rows.Next()
			rows.Close()
			return rows.Err()
		},
	}
}

// DeliverAudits hands the undelivered entries to auditor, and returns how many it accepted and
// were marked as delivered. A seed does this by itself, and so does an operation of a Store with
// [StoreOptions.Auditor]. A host may call it to deliver what an earlier delivery left.
//
// It goes on until no entry is left or its time is up; see [StoreOptions.AuditTimeout]. It
// delivers in batches of up to 1,000 entries, and marks each before it reads the next. So each call
// makes progress, and its memory does not depend on how many entries there are.
//
// One process delivers at a time. If another process is delivering, DeliverAudits
// returns 0 and nil at once: the other process also delivers what was written
// meanwhile. It also returns 0 and nil if its transaction is read-only, because the
// entries could not be marked as delivered. DeliverAudits stops at the first entry that
// the auditor does not accept, and returns an error. If the connection is lost while entries are
// marked, they are not counted.
//
// Errors match what the auditor returned or [ErrDatabase], or no class if entries were accepted
// and could not be marked.
func (s *Store) DeliverAudits(ctx context.Context, auditor Auditor) (delivered int, err error) {
	if err := checkAuditor(auditor); err != nil {
		return 0, err
	}
	return s.deliverOver(ctx, auditor, tryDeliveryLock)
}

// deliverOver delivers over a connection of its own.
func (s *Store) deliverOver(ctx context.Context, auditor Auditor, lock deliveryLock) (delivered int, err error) {
	ctx, cancel := s.deliveryContext(ctx)
	defer cancel()
	conn, err := s.acquire(ctx, delivering)
	if err != nil {
		return 0, s.inTime(err)
	}
	defer pg.Release(ctx, conn)
	d, err := s.begunDelivery(ctx, conn.Conn(), lock)
	if err != nil {
		return 0, err
	}
	return s.deliver(ctx, conn.Conn(), d, auditor)
}

// A handover is the delivery of what a seed or an operation wrote, and of what was left before.
type handover struct {
	store   *Store
	auditor Auditor // nil leaves the entries, like LeaveAudits

	pending     bool // there are entries that no delivery has looked at
	lock        deliveryLock
	delivered   int
	undelivered error // why entries are left
}

func (h *handover) leaves() bool {
	_, leave := h.auditor.(leaveAudits)
	return leave || h.auditor == nil
}

// follow lets the delivery begin in the round trip of the commit of w.
func (h *handover) follow(ctx context.Context, w *write) {
	if len(w.queries) == 0 || h.leaves() {
		return
	}
	pending, done := true, w.done
	w.done = func() {
		h.pending = pending
		if done != nil {
			done()
		}
	}
	var d delivery
	w.behind = func(lost bool) []pg.Query {
		if lost {
			h.lock = awaitDeliveryLock
		}
		return h.store.beginDelivery(&d, beforeAll, h.lock)
	}
	w.then = func(conn *pgxpool.Conn) {
		ctx, cancel := h.store.deliveryContext(ctx)
		defer cancel()
		n, err := h.store.deliver(ctx, conn.Conn(), d, h.auditor)
		h.count(n, err)
		pending = n > 0 && isLost(err) // another connection goes on
	}
}

// rest delivers what is pending, over another connection.
func (h *handover) rest(ctx context.Context) error {
	if !h.pending || h.leaves() {
		return nil
	}
	n, err := h.store.deliverOver(ctx, h.auditor, h.lock)
	h.count(n, err)
	return err
}

func (h *handover) count(delivered int, err error) {
	h.delivered, h.undelivered = h.delivered+delivered, err
	if isLost(err) {
		h.lock = awaitDeliveryLock
	}
}

// warn logs why entries are left.
func (h *handover) warn(ctx context.Context, logger slog.Logger) {
	if h.undelivered != nil {
		logger.Warn(ctx, "not all audit entries of AI providers were delivered; the next start tries again",
			slog.F("delivered", h.delivered), slog.F("reason", h.undelivered.Error()))
	}
}

// A delivery is a transaction that stays open while the auditor gets a batch of entries. Its lock
// prevents two processes from delivering the same entries, and ends with the process.
type delivery struct {
	locked  bool
	entries []AuditEntry
	last    int64 // the seq of the last entry
	more    bool  // there are entries after the last
}

// A deliveryLock says how to take the lock of the process that delivers.
type deliveryLock int

const (
	tryDeliveryLock deliveryLock = iota // who holds it delivers our entries too

	// awaitDeliveryLock is for a call that has lost a connection: the session can still be there, and
	// hold the lock for nobody.
	awaitDeliveryLock
)

func (l deliveryLock) sql() string {
	if l == awaitDeliveryLock {
		return `(select true from pg_advisory_xact_lock($1))`
	}
	return `pg_try_advisory_xact_lock($1)`
}

// beginDelivery begins a delivery of the entries after a seq.
func (s *Store) beginDelivery(d *delivery, after int64, lock deliveryLock) []pg.Query {
	// The server waits longer than the auditor may take, but not for ever.
	return append(s.begin(s.lockTimeout, s.auditTimeout+2*pg.CleanupTimeout),
		// If the statistics are older than the entries, they say that few are undelivered, and
		// the planner would read and sort all of them for each batch, instead of using the index.
		pg.UseOrderOfIndexes,
		pg.Query{
			// Deliver nothing if entries cannot be marked, or each start would
			// deliver them again.
			SQL:  `select current_setting('transaction_read_only') = 'off' and ` + lock.sql(),
			Args: [][]byte{pg.Int64(s.deliveryLockKey())},
			Rows: pg.One(&d.locked),
		},
		pg.Query{SQL: s.sql(selectUndelivered), Args: [][]byte{pg.Int64(after), pg.Int64(deliveryBatch)}, Rows: func(rows pgx.Rows) (err error) {
			d.entries, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (AuditEntry, error) { return scanAuditEntry(row, &d.last) })
			return err
		}},
		s.undeliveredAfter(after, deliveryBatch, &d.more))
}

// begunDelivery begins a delivery in a round trip of its own.
func (s *Store) begunDelivery(ctx context.Context, conn *pgx.Conn, lock deliveryLock) (d delivery, err error) {
	err = pg.RoundTrip(ctx, conn, s.beginDelivery(&d, beforeAll, lock)...)
	return d, s.inTime(s.failed(ctx, conn, delivering, err))
}

// deliveryContext limits a delivery, which the caller's cancellation does not reach.
func (s *Store) deliveryContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), s.auditTimeout)
}

// inTime says whose limit it was that ended a delivery.
func (s *Store) inTime(err error) error {
	return withoutOurDeadline(err, fmt.Sprintf("StoreOptions.AuditTimeout, which is %s", s.auditTimeout))
}

// deliver finishes a delivery that has begun, and then delivers batch after batch. It commits the
// marks of one batch and begins the next in the same round trip. The auditor gets the first half of
// the time of ctx, so that what it accepted can be marked in the other.
func (s *Store) deliver(ctx context.Context, conn *pgx.Conn, d delivery, auditor Auditor) (delivered int, err error) {
	deadline, _ := ctx.Deadline()
	asking, cancel := context.WithDeadline(ctx, deadline.Add(-s.auditTimeout/2))
	defer cancel()
	for d.locked {
		accepted, auditErr := s.offerBatch(asking, d.entries, auditor)
		goOn := d.more && auditErr == nil
		var next delivery
		var late bool
		// Processes that came meanwhile left their entries to us, so look once more after the
		// lock is released.
		behind := []pg.Query{pg.SeeAllRows, s.pending(&late)}
		if goOn {
			behind = s.beginDelivery(&next, d.last, tryDeliveryLock)
		}
		marked, err := s.mark(ctx, conn, accepted, behind)
		delivered += marked
		if auditErr != nil || err != nil {
			return delivered, errors.Join(auditErr, err)
		}
		if late {
			if next, err = s.begunDelivery(ctx, conn, tryDeliveryLock); err != nil {
				return delivered, err
			}
		}
		d = next
	}
	return delivered, nil
}

// offerBatch offers entries, up to the first one that is not accepted, and returns the ids of
// those that are.
func (s *Store) offerBatch(ctx context.Context, entries []AuditEntry, auditor Auditor) (accepted []uuid.UUID, err error) {
	for _, entry := range entries {
		if err := offer(ctx, auditor, entry); err != nil {
			hint := ""
			if ctx.Err() != nil {
				hint = fmt.Sprintf(" (the auditor has half of StoreOptions.AuditTimeout, which is %s)", s.auditTimeout)
			}
			if pool := s.pool.Stat(); pool.AcquiredConns() == pool.MaxConns() && (ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded)) {
				hint += fmt.Sprintf("; all %d connections of the pool were in use, one of them by the delivery: if the auditor uses this pool, raise MaxConns", pool.MaxConns())
			}
			return accepted, fmt.Errorf("aiseed: audit entry %s was not accepted; it and all after it stay for the next delivery: %w%s", entry.ID, err, hint)
		}
		accepted = append(accepted, entry.ID)
	}
	return accepted, nil
}

// mark marks accepted entries and commits, with behind in the same round trip. It returns an error
// if it cannot mark all of them.
func (s *Store) mark(ctx context.Context, conn *pgx.Conn, accepted []uuid.UUID, behind []pg.Query) (marked int, err error) {
	var finish []pg.Query
	if len(accepted) > 0 {
		finish = append([]pg.Query{{SQL: `savepoint marked`}}, s.markSome(ctx, accepted, &marked)...)
	}
	committed, err := pg.Commit(ctx, conn, finish, behind...)
	err = s.inTime(s.failed(ctx, conn, marking, err))
	switch {
	case !committed && isTimeLimit(err) && len(accepted) > 0:
		return s.markSlowly(ctx, conn, accepted)
	case !committed:
		return 0, err
	case marked < len(accepted): // going on would deliver the others again
		return marked, xerrors.Errorf("aiseed: %d of %d accepted audit entries could not be marked as delivered: a rule, a policy or a trigger forbids it; "+
			"allow the role to update ai_provider_audits.delivered_at", len(accepted)-marked, len(accepted))
	}
	return marked, err
}

// markSlowly marks accepted entries if marking all at once takes too long: the first ones, as
// many as there is time for, in parts that are as small as necessary.
func (s *Store) markSlowly(ctx context.Context, conn *pgx.Conn, accepted []uuid.UUID) (marked int, err error) {
	more := true
	for size := len(accepted); size > 1 && marked == 0 && more; {
		size = max(1, size/10)
		for err = nil; err == nil && marked < len(accepted); {
			var n int
			part := accepted[marked:min(marked+size, len(accepted))]
			err = pg.RoundTrip(ctx, conn, slices.Concat([]pg.Query{{SQL: `rollback to marked`}}, s.markSome(ctx, part, &n), []pg.Query{{SQL: `savepoint marked`}})...)
			if err == nil {
				marked += n
			}
		}
		more = isTimeLimit(databaseError(ctx, marking, err))
	}
	committed, err := pg.Commit(ctx, conn, []pg.Query{{SQL: `rollback to marked`}})
	if !committed {
		return 0, s.inTime(s.failed(ctx, conn, marking, err))
	}
	return marked, xerrors.Errorf("aiseed: there was time to mark %d of %d accepted audit entries as delivered, and the others will be offered again; "+
		"find what locks rows of ai_provider_audits or slows their updates, or raise StoreOptions.AuditTimeout, which is %s", marked, len(accepted), s.auditTimeout)
}

// markSome returns the queries that mark entries, within two thirds of the time that is left.
func (s *Store) markSome(ctx context.Context, ids []uuid.UUID, marked *int) []pg.Query {
	deadline, _ := ctx.Deadline()
	return []pg.Query{
		{SQL: `select set_config('statement_timeout', $1, true)`, Args: [][]byte{pg.Milliseconds(time.Until(deadline) * 2 / 3)}},
		{SQL: s.sql(markDelivered), Args: [][]byte{pg.JSON(ids)}, Rows: func(rows pgx.Rows) error {
			rows.Close()
			*marked = int(rows.CommandTag().RowsAffected())
			return rows.Err()
		}},
	}
}

func scanAuditEntry(row pgx.CollectableRow, seq *int64) (e AuditEntry, err error) {
	var old, new []byte
	err = row.Scan(seq, &e.ID, &e.Time, &e.Actor, &e.Action, &e.Resource, &e.ResourceID, &e.ProviderID, &e.ProviderName, &old, &new)
	e.Old, e.New = old, new
	return e, err
}

// offer hands one entry to the auditor. It waits until the auditor answers or the
// time is up, whatever the auditor does.
func offer(ctx context.Context, auditor Auditor, entry AuditEntry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	answer := make(chan error, 1)
	go func() {
		err := errors.New("the auditor ended its goroutine")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("the auditor panicked: %v", p)
			}
			answer <- err
		}()
		err = auditor.Audit(ctx, entry)
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	// An auditor that heeds its context gets time to return.
	timer := time.NewTimer(auditorGrace)
	defer timer.Stop()
	select {
	case err := <-answer:
		return err
	case <-timer.C:
		return xerrors.Errorf("the auditor did not answer: %w", ctx.Err())
	}
}

const auditorGrace = 100 * time.Millisecond
