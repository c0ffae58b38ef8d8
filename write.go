package aiseed

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"example.com/aiseed/internal/pg"
)

// All rows come in one JSON parameter. So the number of statements does not depend on the
// number of rows, and there is one way to write a null.
const (
	insertProviders = `
insert into {schema}.ai_providers (id, type, name, display_name, enabled, base_url, settings, settings_key_id)
select id, type, name, display_name, enabled, base_url, settings, settings_key_id
  from json_to_recordset($1::json) as r (id uuid, type text, name text, display_name text, enabled boolean,
                                         base_url text, settings text, settings_key_id text)`

	insertKeys = `
insert into {schema}.ai_provider_keys (id, provider_id, position, api_key, api_key_key_id)
select id, provider_id, position, api_key, api_key_key_id
  from json_to_recordset($1::json) as r (id uuid, provider_id uuid, position int, api_key text, api_key_key_id text)`

	// updateProviders writes only what changes, and only if the row is still what it was at
	// the decision: someone can change it in SQL, without the lock. It counts even if only keys
	// change: a trigger counts the changes of the row itself, once.
	updateProviders = `
update {schema}.ai_providers t
   set type = coalesce(r.type, t.type), display_name = coalesce(r.display_name, t.display_name),
       base_url = coalesce(r.base_url, t.base_url), updated_at = now(), revision = t.revision + 1,
       settings = case when r.keep_settings then t.settings else r.settings end,
       settings_key_id = case when r.keep_settings then t.settings_key_id else r.settings_key_id end
  from json_to_recordset($1::json) as r (id uuid, revision bigint, type text, display_name text, base_url text,
                                         settings text, settings_key_id text, keep_settings boolean)
 where t.id = r.id and t.revision = r.revision`

	removeKeys = `
delete from {schema}.ai_provider_keys where id in (select id::uuid from json_array_elements_text($1::json) as removed (id))`

	moveKeys = `
update {schema}.ai_provider_keys t set position = r.position
  from json_to_recordset($1::json) as r (id uuid, position int)
 where t.id = r.id`
)

// A providerRow is a row of ai_providers to insert.
type providerRow struct {
	ID            uuid.UUID    `json:"id"`
	Type          ProviderType `json:"type"`
	Name          string       `json:"name"`
	DisplayName   string       `json:"display_name"`
	Enabled       bool         `json:"enabled"`
	BaseURL       string       `json:"base_url"`
	Settings      *string      `json:"settings"`
	SettingsKeyID *string      `json:"settings_key_id"`
}

// A providerUpdate is a row of ai_providers to change; a nil field stays as it is.
type providerUpdate struct {
	ID            uuid.UUID     `json:"id"`
	Revision      int64         `json:"revision"`
	Type          *ProviderType `json:"type"`
	DisplayName   *string       `json:"display_name"`
	BaseURL       *string       `json:"base_url"`
	KeepSettings  bool          `json:"keep_settings"`
	Settings      *string       `json:"settings"`
	SettingsKeyID *string       `json:"settings_key_id"`
}

// A keyRow is a row of ai_provider_keys to insert.
type keyRow struct {
	ID          uuid.UUID `json:"id"`
	ProviderID  uuid.UUID `json:"provider_id"`
	Position    int       `json:"position"`
	APIKey      string    `json:"api_key"`
	APIKeyKeyID *string   `json:"api_key_key_id"`
}

// A keyMove is a row of ai_provider_keys that gets another position.
type keyMove struct {
	ID       uuid.UUID `json:"id"`
	Position int       `json:"position"`
}

// changes collects and seals what one transaction writes, with one audit entry for each
// change, in order.
type changes struct {
	store   *Store
	actor   string
	inserts []providerRow
	updates []providerUpdate
	removed []uuid.UUID // keys
	moved   []keyMove
	keys    []keyRow
	audits  []auditRow
	seals   bool // a secret is among them
}

// create adds a provider with its keys. It chooses missing ids before it seals anything,
// because the seal binds to them.
func (c *changes) create(p Provider) {
	if p.ID == uuid.Nil {
		p.ID = uuid.New()
	}
	settings, settingsKey := c.store.vault.sealSettings(p.ID, p.Bedrock)
	c.seals = c.seals || settings != nil
	c.inserts = append(c.inserts, providerRow{p.ID, p.Type, p.Name, p.DisplayName, p.Enabled, p.BaseURL, settings, settingsKey})
	c.audits = append(c.audits, auditOfProvider(c.actor, AuditCreate, p, nil, valuesOf(p)))
	c.addKeys(p, p.Keys, 0)
}

// addKeys adds keys to a provider, starting at a position.
func (c *changes) addKeys(p Provider, added []ProviderKey, position int) {
	for i, key := range added {
		if key.ID == uuid.Nil {
			key.ID = uuid.New()
		}
		c.seals = true
		sealed, keyID := c.store.vault.seal(apiKeyCell(key.ID, p.ID), key.APIKey)
		c.keys = append(c.keys, keyRow{key.ID, p.ID, position + i, sealed, keyID})
		c.audits = append(c.audits, auditOfKey(c.actor, AuditCreate, p, key.ID, nil, auditedKey(position+i, key.APIKey)))
	}
}

// update turns a provider and its keys into p. A key that the row has keeps its row, and is known
// by its id; see replaceKeys. It adds nothing if nothing changes.
func (c *changes) update(old *storedProvider, p Provider) {
	row := providerUpdate{ID: p.ID, Revision: old.Revision, KeepSettings: sameSettings(old.Bedrock, p.Bedrock)}
	changed := !row.KeepSettings
	if old.Type != p.Type {
		row.Type, changed = &p.Type, true
	}
	if old.DisplayName != p.DisplayName {
		row.DisplayName, changed = &p.DisplayName, true
	}
	if old.BaseURL != p.BaseURL {
		row.BaseURL, changed = &p.BaseURL, true
	}
	if !row.KeepSettings { // sealing the same again would count as a change
		row.Settings, row.SettingsKeyID = c.store.vault.sealSettings(p.ID, p.Bedrock)
		c.seals = c.seals || row.Settings != nil
	}
	before := len(c.audits)
	if !c.updateKeys(old, p) && !changed {
		return
	}
	c.updates = append(c.updates, row)
	if changed || c.actor == SystemActor { // a start's entry tells what the row was last written as
		c.audits = slices.Insert(c.audits, before, auditOfProvider(c.actor, AuditUpdate, p, valuesOf(old.Provider), valuesOf(p)))
	}
}

// updateKeys gives a provider the keys of p, in their order, and reports whether that changes
// anything.
func (c *changes) updateKeys(old *storedProvider, p Provider) (changed bool) {
	audits := len(c.audits)
	positions := map[uuid.UUID]int{}
	for i, key := range old.Keys {
		positions[key.ID] = old.positions[i]
		if !slices.ContainsFunc(p.Keys, func(k ProviderKey) bool { return k.ID == key.ID }) {
			c.removed = append(c.removed, key.ID)
			c.audits = append(c.audits, auditOfKey(c.actor, AuditDelete, p, key.ID, auditedKey(old.positions[i], key.APIKey), nil))
		}
	}
	for i, position := range newPositions(old, positions, p.Keys) {
		key := p.Keys[i]
		if was, known := positions[key.ID]; !known {
			c.addKeys(p, []ProviderKey{key}, position)
		} else if was != position {
			c.moved = append(c.moved, keyMove{key.ID, position})
			c.audits = append(c.audits, auditOfKey(c.actor, AuditUpdate, p, key.ID, auditedKey(was, key.APIKey), auditedKey(position, key.APIKey)))
		}
	}
	return len(c.audits) > audits
}

// newPositions returns the positions of keys in a row that had old, with the positions of its
// keys. Keys that have to move, and new ones, get positions behind all that were in use. So no
// statement can meet a position that another one has yet to free. If there is no room behind,
// all get positions before the first.
func newPositions(old *storedProvider, positions map[uuid.UUID]int, keys []ProviderKey) []int {
	next, last := 0, math.MinInt
	if n := len(old.positions); n > 0 {
		next = old.positions[n-1] + 1
	}
	placed := make([]int, len(keys))
	for i, key := range keys {
		position, known := positions[key.ID]
		if !known || position < last {
			position, next = next, next+1
		}
		placed[i], last = position, position
	}
	for i := range placed {
		if last > math.MaxInt32 {
			placed[i] = old.positions[0] - len(keys) + i
		}
	}
	return placed
}

// matchKeys returns keys with the secrets of want, in its order. A secret that old has keeps its key;
// another gets one without an id.
func matchKeys(old []ProviderKey, want []Secret) []ProviderKey {
	keys := make([]ProviderKey, len(want))
	for i, secret := range want {
		keys[i].APIKey = secret
		same := func(k ProviderKey) bool { return k.APIKey.Equal(secret) }
		if j := slices.IndexFunc(old, same); j >= 0 && !secret.IsZero() { // a zero one in old cannot be decrypted
			keys[i] = old[j]
		}
	}
	return keys
}

// replaceKeys returns the keys of a provider that had old and gets want, with the ids and times of
// new ones.
func replaceKeys(old []ProviderKey, want []Secret, now time.Time) []ProviderKey {
	keys := matchKeys(old, want)
	for i := range keys {
		if keys[i].ID == uuid.Nil {
			keys[i].ID, keys[i].CreatedAt, keys[i].UpdatedAt = uuid.New(), now, now
		}
	}
	return keys
}

// write returns what to write: nothing if nothing changes.
func (c *changes) write() write {
	if len(c.audits) == 0 {
		return write{}
	}
	var out []pg.Query
	if c.seals {
		out = c.store.registerKey()
	}
	for _, rows := range []struct {
		table string
		sql   string
		count int
		arg   any
	}{
		{"ai_providers", insertProviders, len(c.inserts), c.inserts},
		{"ai_providers", updateProviders, len(c.updates), c.updates},
		{"ai_provider_keys", removeKeys, len(c.removed), c.removed},
		{"ai_provider_keys", moveKeys, len(c.moved), c.moved},
		{"ai_provider_keys", insertKeys, len(c.keys), c.keys},
	} {
		if rows.count > 0 {
			out = append(out, pg.Write(rows.table, rows.count, c.store.sql(rows.sql), pg.JSON(rows.arg)))
		}
	}
	return write{queries: append(out, c.store.insertAudits(c.audits...)), witness: c.audits[0].ID, seals: c.seals}
}

// flip sets a boolean column of a provider to a value.
func (s *Store) flip(actor string, action AuditAction, p Provider, column string, value bool) write {
	audit := auditOfProvider(actor, action, p, map[string]bool{column: !value}, map[string]bool{column: value})
	return write{witness: audit.ID, queries: []pg.Query{
		pg.Write("ai_providers", 1, s.sql(`update {schema}.ai_providers set `+column+` = $2, revision = revision + 1, updated_at = now() where id = $1 and `+column+` <> $2`),
			[]byte(p.ID.String()), pg.JSON(value)),
		s.insertAudits(audit),
	}}
}

// locked is [database.locked] for a store, which can be open for longer than its first key is in
// use. What seals is written only if no rotation has revoked that key, which is read under the lock.
func (s *Store) locked(ctx context.Context, operation string, reads []pg.Query, decide func() (write, error)) error {
	var successor string
	reads = slices.Concat(reads, []pg.Query{s.selectSuccessor(s.vault.ring, &successor)})
	return s.database.locked(ctx, operation, reads, func() (write, error) {
		w, err := decide()
		if err == nil && w.seals {
			err = revokedKey(s.vault.ring, successor)
		}
		if err != nil {
			return write{}, err
		}
		return w, nil
	})
}

// registerKey records the sealing key in the database. If it was revoked, and no key is in use, it
// is in use again.
func (s *Store) registerKey() []pg.Query {
	if len(s.vault.ring) == 0 {
		return nil
	}
	key := s.vault.ring[0]
	return []pg.Query{{
		SQL: s.sql(`
insert into {schema}.ai_encryption_keys (id, canary)
select $1::text, $2::text where not exists (select from {schema}.ai_encryption_keys where id = $1::text and revoked_at is null)
    on conflict (id) do update set revoked_at = null
     where not exists (select from {schema}.ai_encryption_keys where revoked_at is null)`),
		Args: [][]byte{[]byte(key.ID), []byte(key.SealCanary())},
	}}
}
