package aiseed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/xerrors"

	"example.com/aiseed/internal/pg"
)

const (
	selectUndelivered = `
select id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new
  from {schema}.ai_provider_audits
 where delivered_at is null
 order by seq limit $1`

	markDelivered = `
update {schema}.ai_provider_audits set delivered_at = clock_timestamp()
 where id in (select id::uuid from json_array_elements_text($1::json) as delivered (id))`

	// The order makes the planner use the index, however many were delivered.
	selectFirstUndelivered = `
select seq from {schema}.ai_provider_audits where delivered_at is null order by seq limit 1`
)

// pending returns a query that stores in *into whether undelivered entries exist.
func (s *Store) pending(into *bool) pg.Query {
	return pg.Query{SQL: s.sql(selectFirstUndelivered), Rows: func(rows pgx.Rows) error {
		*into = rows.Next()
		rows.Close()
		return rows.Err()
	}}
}

// DeliverAudits hands the undelivered entries to auditor, and returns how many it
// accepted. A seed does this by itself. A host may call it from time to time to
// deliver what an earlier delivery left.
//
// One process delivers at a time. If another process is delivering, DeliverAudits
// returns 0 and nil at once: the other process also delivers what was written
// meanwhile. It also returns 0 and nil if its transaction is read-only, because the
// entries could not be marked as delivered. DeliverAudits stops at the first entry that
// the auditor does not accept, and returns an error.
func (s *Store) DeliverAudits(ctx context.Context, auditor Auditor) (delivered int, err error) {
	if err := checkAuditor(auditor); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.auditTimeout)
	defer cancel()
	for more := true; more && err == nil; {
		var n int
		n, more, err = s.deliverOnce(ctx, auditor)
		delivered += n
	}
	return delivered, err
}

func checkAuditor(auditor Auditor) error {
	if f, ok := auditor.(AuditorFunc); auditor == nil || ok && f == nil {
		return errors.New("aiseed: the auditor is nil; give one, or DiscardAudits to do without")
	}
	return nil
}

// deliverOnce delivers undelivered entries over a connection of its own. more reports whether there
// are others.
func (s *Store) deliverOnce(ctx context.Context, auditor Auditor) (delivered int, more bool, err error) {
	const operation = "delivering audits"
	conn, err := s.acquire(ctx, operation)
	if err != nil {
		return 0, false, err
	}
	defer pg.Release(ctx, conn)
	var d delivery
	if err := pg.RoundTrip(ctx, conn.Conn(), s.beginDelivery(&d, 0)...); err != nil {
		return 0, false, s.failed(ctx, conn.Conn(), operation, err)
	}
	return s.finishDelivery(ctx, conn.Conn(), d, auditor)
}

// A delivery is a transaction that stays open while the auditor gets the entries. Its lock
// prevents two processes from delivering the same entries, and ends with the process.
type delivery struct {
	locked  bool
	entries []AuditEntry
}

// deliveryBatch bounds the entries of a delivery, and so its memory.
const deliveryBatch = 1000

// beginDelivery begins a delivery, and reads its entries: [deliveryBatch], or as many as were
// just written, if that is more.
func (s *Store) beginDelivery(d *delivery, written int) []pg.Query {
	// The server waits longer than the auditor may take, but not for ever.
	return append(s.begin(s.lockTimeout, s.auditTimeout+2*pg.CleanupTimeout),
		pg.Query{
			// Deliver nothing if entries cannot be marked, or each start would
			// deliver them again.
			SQL:  `select current_setting('transaction_read_only') = 'off' and pg_try_advisory_xact_lock($1)`,
			Args: [][]byte{pg.Int64(s.deliveryLockKey())},
			Rows: pg.One(&d.locked),
		},
		pg.Query{SQL: s.sql(selectUndelivered), Args: [][]byte{pg.Int64(int64(max(deliveryBatch, written)))}, Rows: func(rows pgx.Rows) (err error) {
			d.entries, err = pgx.CollectRows(rows, scanAuditEntry)
			return err
		}})
}

// finishDelivery hands the entries of a delivery to auditor, and marks and commits those that it
// accepted. more reports whether there are others.
func (s *Store) finishDelivery(ctx context.Context, conn *pgx.Conn, d delivery, auditor Auditor) (delivered int, more bool, err error) {
	if !d.locked {
		return 0, false, nil
	}
	entries := d.entries

	var accepted []uuid.UUID
	var auditErr error
	for _, entry := range entries {
		if auditErr = offer(ctx, auditor, entry); auditErr != nil {
			auditErr = xerrors.Errorf("aiseed: audit entry %s was not accepted, %d of %d were delivered, the others stay for the next start: %w",
				entry.ID, len(accepted), len(entries), auditErr)
			break
		}
		accepted = append(accepted, entry.ID)
	}

	if pool := s.pool.Stat(); auditErr != nil && ctx.Err() != nil && pool.AcquiredConns() == pool.MaxConns() {
		auditErr = xerrors.Errorf("%w; all %d connections of the pool were in use, one of them by the delivery: if the auditor uses this pool, raise MaxConns",
			auditErr, pool.MaxConns())
	}

	// Mark the accepted entries even if the time is up. Processes that came meanwhile
	// left their entries to us, so look once more after the lock is released.
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(pg.CleanupTimeout, time.Until(deadline)))
	defer cancel()
	marked := int64(len(accepted))
	var finish []pg.Query
	if marked > 0 {
		finish = append(finish, pg.Query{SQL: s.sql(markDelivered), Args: [][]byte{pg.JSON(accepted)}, Rows: func(rows pgx.Rows) error {
			rows.Close()
			marked = rows.CommandTag().RowsAffected()
			return rows.Err()
		}})
	}
	committed, err := pg.Commit(ctx, conn, finish, pg.SeeAllRows, s.pending(&more))
	err = s.failed(ctx, conn, "marking audits as delivered", err)
	if committed && marked < int64(len(accepted)) {
		// A policy or a trigger forbids it. Going on would deliver them again.
		err = xerrors.Errorf("aiseed: %d of %d delivered audit entries could not be marked; allow the role to update ai_provider_audits.delivered_at", int64(len(accepted))-marked, len(accepted))
	}
	return len(accepted), more && auditErr == nil && err == nil, errors.Join(auditErr, err)
}

func scanAuditEntry(row pgx.CollectableRow) (e AuditEntry, err error) {
	var old, new []byte
	err = row.Scan(&e.ID, &e.Time, &e.Actor, &e.Action, &e.Resource, &e.ResourceID, &e.ProviderID, &e.ProviderName, &old, &new)
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
