package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
)

// rowAtATime does what a start does in the way that suggests itself: a statement
// for each step and each row, sent with what pgx offers for it. The rows are the
// same, sealed in the same form; the library reads them as its own.
type rowAtATime struct {
	pool   *pgxpool.Pool
	sealer *sealer
	want   []provider
}

func (r *rowAtATime) start(ctx context.Context) error {
	wrote, err := r.seed(ctx)
	if err != nil || !wrote {
		return err
	}
	tx, err := r.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	if err := r.deliver(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// rehearse prepares every statement, and lets the server plan it anew after the
// tables were emptied.
func (r *rowAtATime) rehearse(ctx context.Context) error {
	tx, err := r.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	if _, err := r.list(ctx, tx); err != nil {
		return err
	}
	if err := r.insert(ctx, tx, r.want[:1]); err != nil {
		return err
	}
	return r.deliver(ctx, tx)
}

func (r *rowAtATime) seed(ctx context.Context) (wrote bool, err error) {
	tx, err := r.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return false, err
	}
	defer rollback(ctx, tx)
	stored, err := r.list(ctx, tx)
	if err != nil {
		return false, err
	}
	var missing []provider
	for _, want := range r.want {
		row, ok := stored[want.name]
		if !ok {
			missing = append(missing, want)
			continue
		}
		if err := r.compare(want, row); err != nil {
			return false, err
		}
	}
	if len(missing) == 0 {
		return false, tx.Commit(ctx)
	}
	if err := r.insert(ctx, tx, missing); err != nil {
		return false, err
	}
	return true, tx.Commit(ctx)
}

// list takes the lock, and reads all providers with their keys.
func (r *rowAtATime) list(ctx context.Context, tx pgx.Tx) (map[string]*row, error) {
	if _, err := tx.Exec(ctx, `select set_config('lock_timeout', '30000', true), set_config('idle_in_transaction_session_timeout', '15000', true),
		set_config('statement_timeout', '0', true)`); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, aiseed.LockKey("")); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, selectRows+` where not p.deleted order by p.name, k.position`)
	if err != nil {
		return nil, err
	}
	list, err := scan(rows)
	stored := map[string]*row{}
	for i := range list {
		stored[list[i].name] = &list[i]
	}
	return stored, err
}

func (r *rowAtATime) compare(want provider, stored *row) error {
	if stored.kind != "openai" || stored.baseURL != want.baseURL || len(stored.keys) != len(want.keys) {
		return fmt.Errorf("provider %s is another one in the database; a benchmark does not expect that", want.name)
	}
	for i, k := range stored.keys {
		secret, err := r.sealer.open("ai_provider_keys", "api_key", k.id, stored.id, k.apiKey)
		if err != nil {
			return err
		}
		if secret != want.keys[i] {
			return fmt.Errorf("key %d of provider %s is another one in the database; a benchmark does not expect that", i, want.name)
		}
	}
	return nil
}

func (r *rowAtATime) insert(ctx context.Context, tx pgx.Tx, list []provider) error {
	if _, err := tx.Exec(ctx, `insert into ai_encryption_keys (id, canary) values ($1, $2)
		on conflict (id) do update set revoked_at = null where ai_encryption_keys.revoked_at is not null`,
		r.sealer.id, r.sealer.canary()); err != nil {
		return err
	}
	for _, p := range list {
		id := uuid.New()
		masks := []string{}
		for _, secret := range p.keys {
			masks = append(masks, mask(secret))
		}
		if _, err := tx.Exec(ctx, `insert into ai_providers (id, type, name, display_name, enabled, base_url) values ($1, 'openai', $2, $2, true, $3)`,
			id, p.name, p.baseURL); err != nil {
			return err
		}
		if err := r.audit(ctx, tx, aiseed.ResourceProvider, id, id, p.name, map[string]any{
			"type": "openai", "name": p.name, "display_name": p.name, "enabled": true, "base_url": p.baseURL, "bedrock": nil, "keys": masks,
		}); err != nil {
			return err
		}
		for position, secret := range p.keys {
			key := uuid.New()
			if _, err := tx.Exec(ctx, `insert into ai_provider_keys (id, provider_id, position, api_key, api_key_key_id) values ($1, $2, $3, $4, $5)`,
				key, id, position, r.sealer.seal("ai_provider_keys", "api_key", key.String(), id, secret), r.sealer.id); err != nil {
				return err
			}
			if err := r.audit(ctx, tx, aiseed.ResourceProviderKey, key, id, p.name, map[string]any{
				"position": position, "api_key": mask(secret),
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// mask is for the long keys of a benchmark.
func mask(secret string) string { return "****" + secret[len(secret)-4:] }

func (r *rowAtATime) audit(ctx context.Context, tx pgx.Tx, resource string, id, provider uuid.UUID, name string, values map[string]any) error {
	encoded, err := json.Marshal(values)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `insert into ai_provider_audits (id, actor, action, resource, resource_id, provider_id, provider_name, new)
		values ($1, 'system', 'create', $2, $3, $4, $5, $6)`, uuid.New(), resource, id, provider, name, encoded)
	return err
}

// deliver reads the audit entries and marks them, all in one statement: to mark
// each by itself would be slower still.
func (r *rowAtATime) deliver(ctx context.Context, tx pgx.Tx) error {
	var locked bool
	if err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock($1)`, aiseed.LockKey("")+1).Scan(&locked); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `select id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new
		from ai_provider_audits where delivered_at is null order by seq`)
	if err != nil {
		return err
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e aiseed.AuditEntry, err error) {
		var old, new []byte
		err = row.Scan(&e.ID, &e.Time, &e.Actor, &e.Action, &e.Resource, &e.ResourceID, &e.ProviderID, &e.ProviderName, &old, &new)
		e.Old, e.New = old, new
		return e, err
	})
	if err != nil {
		return err
	}
	ids := make([]uuid.UUID, len(entries))
	for i, entry := range entries {
		if err := aiseed.DiscardAudits.Audit(ctx, entry); err != nil {
			return err
		}
		ids[i] = entry.ID
	}
	_, err = tx.Exec(ctx, `update ai_provider_audits set delivered_at = clock_timestamp() where id = any($1)`, ids)
	return err
}

// statements is how many round trips a first start takes.
func (r *rowAtATime) statements() int { return 11 + len(r.want)*(2+2*keysEach) }

func rollback(ctx context.Context, tx pgx.Tx) { _ = tx.Rollback(ctx) } // does nothing after a commit

// A sealer seals as the library does. Its form is written down in the comments of
// keyring.go.
type sealer struct {
	id   string
	aead cipher.AEAD
}

func newSealer(secret []byte) (*sealer, error) {
	derived, err := hkdf.Key(sha256.New, secret, nil, "aiseed v1 seal", aiseed.KeySize)
	if err != nil {
		return nil, err
	}
	id, err := hkdf.Key(sha256.New, secret, nil, "aiseed v1 id", 16)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &sealer{hex.EncodeToString(id), aead}, err
}

const sealedPrefix = "aiseed:v1:"

func (s *sealer) data(table, column, row string, provider uuid.UUID) []byte {
	var data []byte
	for _, field := range []string{sealedPrefix, table, column, row, provider.String(), s.id} {
		data = binary.AppendUvarint(data, uint64(len(field)))
		data = append(data, field...)
	}
	return data
}

func (s *sealer) seal(table, column, row string, provider uuid.UUID, secret string) string {
	return sealedPrefix + base64.StdEncoding.EncodeToString(s.aead.Seal(nil, nil, []byte(secret), s.data(table, column, row, provider)))
}

func (s *sealer) canary() string {
	return s.seal("ai_encryption_keys", "canary", s.id, uuid.Nil, "aiseed canary")
}

func (s *sealer) open(table, column string, row, provider uuid.UUID, sealed string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sealed, sealedPrefix))
	if err != nil {
		return "", err
	}
	secret, err := s.aead.Open(nil, nil, raw, s.data(table, column, row.String(), provider))
	return string(secret), err
}
