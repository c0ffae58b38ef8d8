package aiseed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/xerrors"
)

// An Auditor takes audit entries, at least once each and in order, after the
// change they tell of was committed. An entry counts as delivered once Audit
// returned nil; one that was not is offered again by the next start, under the
// same ID.
//
// Entries are offered one at a time, but on a goroutine that is not the
// caller's. ctx ends after [StoreOptions.AuditTimeout], and not when the caller
// of the seed is cancelled; an Audit that outlasts it is left behind. Delivery
// keeps one connection of the Store's pool meanwhile, so an Auditor that writes
// through the same pool needs a second one to be free.
type Auditor interface {
	Audit(ctx context.Context, entry AuditEntry) error
}

// AuditorFunc is an [Auditor] of one function.
type AuditorFunc func(ctx context.Context, entry AuditEntry) error

var _ Auditor = AuditorFunc(nil)

// Audit calls f.
func (f AuditorFunc) Audit(ctx context.Context, entry AuditEntry) error { return f(ctx, entry) }

// DiscardAudits accepts every entry and does nothing with it: the explicit choice
// not to audit. The entries stay in the table ai_provider_audits all the same.
var DiscardAudits Auditor = AuditorFunc(func(context.Context, AuditEntry) error { return nil })

// LeaveAudits leaves every entry where it is, for the next start or
// [Store.DeliverAudits] to hand to the host's own Auditor: the choice of a tool that
// writes beside the host.
var LeaveAudits Auditor = leaveAudits{}

type leaveAudits struct{}

var errLeft = errors.New("aiseed: the entry is left for the next start")

func (leaveAudits) Audit(context.Context, AuditEntry) error { return errLeft }

// An AuditAction is what was done.
type AuditAction string

// The actions of an [AuditEntry].
const (
	AuditCreate  AuditAction = "create"  // of a provider or a key
	AuditUpdate  AuditAction = "update"  // of a provider
	AuditDelete  AuditAction = "delete"  // of a provider, which becomes a tombstone, or of a key
	AuditRestore AuditAction = "restore" // of a deleted provider
)

// The resources that an [AuditEntry] can be about.
const (
	ResourceProvider    = "ai_provider"
	ResourceProviderKey = "ai_provider_key"
)

// SystemActor is the actor of what a seed does.
const SystemActor = "system"

// An AuditEntry tells of one change. Secrets in it were masked before it was made.
type AuditEntry struct {
	ID           uuid.UUID // stable over repeated deliveries
	Time         time.Time // of the transaction that made the change
	Actor        string    // [SystemActor] for a start, or whom the host named
	Action       AuditAction
	Resource     string // [ResourceProvider] or [ResourceProviderKey]
	ResourceID   uuid.UUID
	ProviderID   uuid.UUID // of the provider that the resource is, or belongs to
	ProviderName string
	Old, New     json.RawMessage // nil where there is none
}

// auditRow is a row to insert into ai_provider_audits.
type auditRow struct {
	ID           uuid.UUID   `json:"id"`
	Actor        string      `json:"actor"`
	Action       AuditAction `json:"action"`
	Resource     string      `json:"resource"`
	ResourceID   uuid.UUID   `json:"resource_id"`
	ProviderID   uuid.UUID   `json:"provider_id"`
	ProviderName string      `json:"provider_name"`
	Old          any         `json:"old"`
	New          any         `json:"new"`
}

func auditOfProvider(actor string, action AuditAction, p Provider, old, new any) auditRow {
	return auditRow{uuid.New(), actor, action, ResourceProvider, p.ID, p.ID, p.Name, old, new}
}

func auditOfKey(actor string, action AuditAction, p Provider, key uuid.UUID, old, new any) auditRow {
	return auditRow{uuid.New(), actor, action, ResourceProviderKey, key, p.ID, p.Name, old, new}
}

// auditedProvider are the values of a provider, masked.
func auditedProvider(p Provider) any {
	type settings struct {
		Region          string `json:"region"`
		Model           string `json:"model"`
		SmallFastModel  string `json:"small_fast_model"`
		AccessKey       Secret `json:"access_key"`
		AccessKeySecret Secret `json:"access_key_secret"`
	}
	values := struct {
		Type        ProviderType `json:"type"`
		Name        string       `json:"name"`
		DisplayName string       `json:"display_name"`
		Enabled     bool         `json:"enabled"`
		BaseURL     string       `json:"base_url"`
		Bedrock     *settings    `json:"bedrock"`
	}{p.Type, p.Name, p.DisplayName, p.Enabled, MaskURL(p.BaseURL), nil}
	if b := p.Bedrock; b != nil {
		values.Bedrock = &settings{b.Region, b.Model, b.SmallFastModel, b.AccessKey, b.AccessKeySecret}
	}
	return values
}

// auditedKey are the values of a key, masked.
func auditedKey(position int, key Secret) any {
	return struct {
		Position int    `json:"position"`
		APIKey   Secret `json:"api_key"`
	}{position, key}
}

func (s *Store) insertAudits(rows ...auditRow) query {
	return query{sql: s.sql(insertAudits), args: [][]byte{jsonArg(rows)}}
}

const (
	insertAudits = `
insert into {schema}.ai_provider_audits (id, actor, action, resource, resource_id, provider_id, provider_name, old, new)
select id, actor, action, resource, resource_id, provider_id, provider_name, old, new
  from rows from (json_to_recordset($1::json) as (id uuid, actor text, action text, resource text, resource_id uuid,
                                                  provider_id uuid, provider_name text, old jsonb, new jsonb))
       with ordinality as r (id, actor, action, resource, resource_id, provider_id, provider_name, old, new, position)
 order by position`

	selectUndelivered = `
select id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new
  from {schema}.ai_provider_audits
 where delivered_at is null
 order by seq`

	markDelivered = `
update {schema}.ai_provider_audits set delivered_at = clock_timestamp()
 where id in (select id::uuid from json_array_elements_text($1::json) as delivered (id))`

	// The order keeps the planner to the index, however many were delivered.
	selectFirstUndelivered = `
select seq from {schema}.ai_provider_audits where delivered_at is null order by seq limit 1`
)

// pending tells whether there are undelivered entries.
func (s *Store) pending(into *bool) query {
	return query{sql: s.sql(selectFirstUndelivered), rows: func(rows pgx.Rows) error {
		*into = rows.Next()
		rows.Close()
		return rows.Err()
	}}
}

// DeliverAudits hands the entries that are not delivered yet to auditor, and
// returns how many it accepted. A seed does this by itself; a host may do it from
// time to time, for what an earlier delivery left.
//
// One process delivers at a time. Where another one does, DeliverAudits returns
// 0 and nil at once: that process also takes what was written meanwhile. It ends
// at the first entry that the auditor does not accept, with an error.
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

// deliverOnce delivers what there is, in a transaction that is open meanwhile: its
// lock is what keeps two processes from delivering the same, and ends with the
// process. more reports that entries came in since.
func (s *Store) deliverOnce(ctx context.Context, auditor Auditor) (delivered int, more bool, err error) {
	const operation = "delivering audits"
	conn, err := s.acquire(ctx, operation)
	if err != nil {
		return 0, false, err
	}
	defer release(ctx, conn)

	var locked bool
	var entries []AuditEntry
	// The server waits longer than the auditor may take, and not for ever.
	if err := roundTrip(ctx, conn.Conn(), append(s.begin(s.lockTimeout, s.auditTimeout+2*cleanupTimeout),
		query{
			// Where an entry cannot be marked it is not delivered, or each start
			// would deliver it again.
			sql:  `select current_setting('transaction_read_only') = 'off' and pg_try_advisory_xact_lock($1)`,
			args: [][]byte{int64Arg(s.deliveryLockKey())},
			rows: one(&locked),
		},
		query{sql: s.sql(selectUndelivered), rows: func(rows pgx.Rows) (err error) {
			entries, err = pgx.CollectRows(rows, scanAuditEntry)
			return err
		}})...); err != nil {
		return 0, false, databaseError(ctx, operation, err)
	}
	if !locked {
		return 0, false, nil
	}

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

	// What was accepted is marked also when the time is up. Whoever came meanwhile
	// left his entries to us, so one more look, after the lock is free again.
	limit := cleanupTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = max(limit, time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	marked := int64(len(accepted))
	var finish []query
	if marked > 0 {
		finish = append(finish, query{sql: s.sql(markDelivered), args: [][]byte{jsonArg(accepted)}, rows: func(rows pgx.Rows) error {
			rows.Close()
			marked = rows.CommandTag().RowsAffected()
			return rows.Err()
		}})
	}
	committed, err := commit(ctx, conn.Conn(), finish, s.pending(&more))
	err = databaseError(ctx, "marking audits as delivered", err)
	if committed && marked < int64(len(accepted)) {
		// A policy or a trigger forbids it. To go on would deliver them again.
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

// offer hands one entry to the auditor and waits until it answers or the time is
// up, whatever the auditor does.
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
	// One that heeds its context is given the time to do so.
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
