package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"example.com/aiseed"
	"example.com/aiseed/internal/seal"
)

// stored is a provider as it is in the tables, with its keys.
type stored struct {
	id                    uuid.UUID
	kind, name, baseURL   string
	displayName           *string
	enabled, deleted      bool
	revision              int64
	settings, settingsKey *string
	created, updated      time.Time
	keys                  []storedKey
}

type storedKey struct {
	id               uuid.UUID
	position         int64
	apiKey           string
	apiKeyKey        *string
	created, updated time.Time
}

// selectJoined reads the columns that a start needs. In a benchmark every provider
// has keys.
const selectJoined = `
select p.id, p.type, p.name, p.display_name, p.enabled, p.deleted, p.base_url, p.revision,
       p.settings, p.settings_key_id, p.created_at, p.updated_at,
       k.id, k.position, k.api_key, k.api_key_key_id, k.created_at, k.updated_at
  from ai_providers p join ai_provider_keys k on k.provider_id = p.id
 where not p.deleted`

const selectNamed = selectJoined + ` and p.name = any ($1) order by p.name, k.position`

// selectApart reads the providers first and then the keys, as the library does: less to send,
// and more to plan.
const selectApart = `
with chosen as materialized (select * from ai_providers where name = any ($1))
select false, id, id, type, name, display_name, base_url, enabled, deleted, revision, settings, settings_key_id, created_at, updated_at
  from chosen
 union all
select true, id, provider_id, '', '', '', '', false, false, position, api_key, api_key_key_id, created_at, updated_at
  from ai_provider_keys where provider_id = any (array(select id from chosen))`

// bareRead runs the one statement without which nothing can be known, and does nothing with its rows.
func (l *line) bareRead(n int, mode pgx.QueryExecMode, sql string, scan func(pgx.Rows) ([]*stored, error)) func(context.Context) error {
	var names []string
	for _, p := range l.s.config(n).Providers {
		names = append(names, p.Name)
	}
	return func(ctx context.Context) error {
		rows, _ := l.Query(ctx, sql, mode, names) // reading the rows returns the error
		list, err := scan(rows)
		if err == nil && len(list) != n {
			err = fmt.Errorf("the bare read found %d of %d providers", len(list), n)
		}
		return err
	}
}

func scanJoined(rows pgx.Rows) (list []*stored, err error) {
	var p stored
	var k storedKey
	_, err = pgx.ForEachRow(rows, []any{
		(*[16]byte)(&p.id), &p.kind, &p.name, &p.displayName, &p.enabled, &p.deleted, &p.baseURL, &p.revision,
		&p.settings, &p.settingsKey, &p.created, &p.updated,
		(*[16]byte)(&k.id), &k.position, &k.apiKey, &k.apiKeyKey, &k.created, &k.updated,
	}, func() error {
		if n := len(list); n == 0 || list[n-1].id != p.id {
			row := p
			list = append(list, &row)
		}
		last := list[len(list)-1]
		last.keys = append(last.keys, k)
		return nil
	})
	return list, err
}

func scanApart(rows pgx.Rows) (list []*stored, err error) {
	var p stored
	var isKey bool
	var owner uuid.UUID
	byID := map[uuid.UUID]*stored{}
	_, err = pgx.ForEachRow(rows, []any{
		&isKey, (*[16]byte)(&p.id), (*[16]byte)(&owner), &p.kind, &p.name, &p.displayName, &p.baseURL, &p.enabled, &p.deleted,
		&p.revision, &p.settings, &p.settingsKey, &p.created, &p.updated,
	}, func() error {
		if isKey {
			byID[owner].keys = append(byID[owner].keys, storedKey{p.id, p.revision, *p.settings, p.settingsKey, p.created, p.updated})
			return nil
		}
		row := p
		list, byID[p.id] = append(list, &row), &row
		return nil
	})
	return list, err
}

// rowAtATime does what a start does in the way that suggests itself: a statement
// for each step and each row, sent with what pgx offers for it. The rows are the
// same, sealed in the same form; the library reads them as its own.
type rowAtATime struct {
	line *line
	key  seal.Key
	want []aiseed.ProviderConfig
}

// A transaction sends one statement after the other, and none after an error.
type transaction struct {
	pgx.Tx
	ctx context.Context
	err error
}

func (t *transaction) exec(sql string, args ...any) {
	if t.err == nil {
		_, t.err = t.Exec(t.ctx, sql, args...)
	}
}

// transact ends a transaction with a commit or a rollback.
func (r *rowAtATime) transact(ctx context.Context, end func(pgx.Tx, context.Context) error, f func(*transaction)) error {
	tx, err := r.line.Begin(ctx)
	if err != nil {
		return err
	}
	t := &transaction{Tx: tx, ctx: ctx}
	if f(t); t.err != nil {
		end = pgx.Tx.Rollback
	}
	return errors.Join(t.err, end(tx, ctx))
}

func (r *rowAtATime) start(ctx context.Context) error {
	var missing []aiseed.ProviderConfig
	err := r.transact(ctx, pgx.Tx.Commit, func(t *transaction) {
		stored := r.list(t)
		for _, want := range r.want {
			if p, ok := stored[want.Name]; !ok {
				missing = append(missing, want)
			} else if !r.same(want, p) && t.err == nil {
				t.err = fmt.Errorf("provider %s is another one in the database", want.Name)
			}
		}
		if len(missing) > 0 {
			r.insert(t, missing)
		}
	})
	if err != nil || len(missing) == 0 {
		return err
	}
	return r.transact(ctx, pgx.Tx.Commit, r.deliver)
}

// rehearse prepares every statement, and lets the server plan it again after the
// tables were emptied.
func (r *rowAtATime) rehearse(ctx context.Context) error {
	return r.transact(ctx, pgx.Tx.Rollback, func(t *transaction) {
		r.list(t)
		r.insert(t, r.want[:1])
		r.deliver(t)
	})
}

// list takes the lock, and reads all providers with their keys.
func (r *rowAtATime) list(t *transaction) map[string]*stored {
	t.exec(`select set_config('lock_timeout', '30000', true), set_config('idle_in_transaction_session_timeout', '15000', true),
		set_config('statement_timeout', '0', true)`)
	t.exec(`select pg_advisory_xact_lock($1)`, aiseed.LockKey(""))
	rows, _ := t.Query(t.ctx, selectJoined+` order by p.name, k.position`)
	list, err := scanJoined(rows)
	t.err = errors.Join(t.err, err)
	byName := map[string]*stored{}
	for _, p := range list {
		byName[p.name] = p
	}
	return byName
}

func (r *rowAtATime) same(want aiseed.ProviderConfig, p *stored) bool {
	return p.kind == want.Type && p.baseURL == want.BaseURL && slices.EqualFunc(p.keys, want.Keys, func(k storedKey, wanted aiseed.Secret) bool {
		secret, ok := r.key.Open(cell(k.id, p.id), k.apiKey)
		return ok && secret == wanted.Reveal()
	})
}

func cell(key, provider uuid.UUID) seal.Cell {
	return seal.Cell{Table: "ai_provider_keys", Column: "api_key", Row: key.String(), Provider: provider}
}

func (r *rowAtATime) insert(t *transaction, list []aiseed.ProviderConfig) {
	t.exec(`insert into ai_encryption_keys (id, canary) values ($1, $2)
		on conflict (id) do update set revoked_at = null where ai_encryption_keys.revoked_at is not null`, r.key.ID, r.key.SealCanary())
	for _, p := range list {
		id, masks := uuid.New(), []string{}
		for _, secret := range p.Keys {
			masks = append(masks, secret.String())
		}
		t.exec(`insert into ai_providers (id, type, name, display_name, enabled, base_url) values ($1, $2, $3, $3, true, $4)`, id, p.Type, p.Name, p.BaseURL)
		t.audit(aiseed.ResourceProvider, id, id, p.Name, map[string]any{
			"type": p.Type, "name": p.Name, "display_name": p.Name, "enabled": true, "base_url": p.BaseURL, "bedrock": nil, "keys": masks,
		})
		for position, secret := range p.Keys {
			key := uuid.New()
			t.exec(`insert into ai_provider_keys (id, provider_id, position, api_key, api_key_key_id) values ($1, $2, $3, $4, $5)`,
				key, id, position, r.key.Seal(cell(key, id), secret.Reveal()), r.key.ID)
			t.audit(aiseed.ResourceProviderKey, key, id, p.Name, map[string]any{"position": position, "api_key": secret.String()})
		}
	}
}

func (t *transaction) audit(resource string, id, provider uuid.UUID, name string, values map[string]any) {
	t.exec(`insert into ai_provider_audits (id, actor, action, resource, resource_id, provider_id, provider_name, new)
		values ($1, 'system', 'create', $2, $3, $4, $5, $6)`, uuid.New(), resource, id, provider, name, values)
}

// deliver reads the audit entries and marks them, all in one statement: to mark
// each by itself would be slower still.
func (r *rowAtATime) deliver(t *transaction) {
	t.exec(`select pg_try_advisory_xact_lock($1)`, aiseed.LockKey("")+1)
	rows, _ := t.Query(t.ctx, `select id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new
		from ai_provider_audits where delivered_at is null order by seq`)
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[aiseed.AuditEntry])
	ids := make([]uuid.UUID, len(entries))
	for i, entry := range entries {
		err = errors.Join(err, aiseed.DiscardAudits.Audit(t.ctx, entry))
		ids[i] = entry.ID
	}
	t.err = errors.Join(t.err, err)
	t.exec(`update ai_provider_audits set delivered_at = clock_timestamp() where id = any ($1)`, ids)
}

// statements is how many round trips a first start of n providers takes.
func statements(n int) int { return 11 + n*(2+2*keysEach) }
