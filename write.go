package aiseed

import (
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
	// the decision: someone can change it in SQL, without the lock.
	updateProviders = `
update {schema}.ai_providers t
   set type = coalesce(r.type, t.type), display_name = coalesce(r.display_name, t.display_name),
       base_url = coalesce(r.base_url, t.base_url), updated_at = now(),
       settings = case when r.keep_settings then t.settings else r.settings end,
       settings_key_id = case when r.keep_settings then t.settings_key_id else r.settings_key_id end
  from json_to_recordset($1::json) as r (id uuid, revision bigint, type text, display_name text, base_url text,
                                         settings text, settings_key_id text, keep_settings boolean, old_display_name text)
 where t.id = r.id and t.revision = r.revision and coalesce(t.display_name, '') = r.old_display_name`
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

	OldDisplayName string `json:"old_display_name"` // the revision does not count its changes
}

// A keyRow is a row of ai_provider_keys to insert.
type keyRow struct {
	ID          uuid.UUID `json:"id"`
	ProviderID  uuid.UUID `json:"provider_id"`
	Position    int       `json:"position"`
	APIKey      string    `json:"api_key"`
	APIKeyKeyID *string   `json:"api_key_key_id"`
}

// changes collects and seals what one transaction writes, with one audit entry for each
// change, in order.
type changes struct {
	store   *Store
	actor   string
	inserts []providerRow
	updates []providerUpdate
	keys    []keyRow
	audits  []auditRow
}

// create adds a provider with its keys. It chooses missing ids before it seals anything,
// because the seal binds to them.
func (c *changes) create(p Provider) error {
	if p.ID == uuid.Nil {
		p.ID = uuid.New()
	}
	settings, settingsKey, err := c.store.vault.sealSettings(p.ID, p.Bedrock)
	if err != nil {
		return err
	}
	c.inserts = append(c.inserts, providerRow{p.ID, p.Type, p.Name, p.DisplayName, p.Enabled, p.BaseURL, settings, settingsKey})
	c.audits = append(c.audits, auditOfProvider(c.actor, AuditCreate, p, nil, valuesOf(p)))
	c.addKeys(p, p.Keys, 0)
	return nil
}

// addKeys adds keys to a provider, starting at a position.
func (c *changes) addKeys(p Provider, added []ProviderKey, position int) {
	for i, key := range added {
		if key.ID == uuid.Nil {
			key.ID = uuid.New()
		}
		sealed, keyID := c.store.vault.seal(apiKeyCell(key.ID, p.ID), key.APIKey)
		c.keys = append(c.keys, keyRow{key.ID, p.ID, position + i, sealed, keyID})
		c.audits = append(c.audits, auditOfKey(c.actor, AuditCreate, p, key.ID, nil, auditedKey(position+i, key.APIKey)))
	}
}

// update changes a provider, but not its keys. It adds nothing if nothing changes.
func (c *changes) update(old *storedProvider, p Provider) error {
	row := providerUpdate{ID: p.ID, Revision: old.revision, OldDisplayName: old.DisplayName, KeepSettings: sameSettings(old.Bedrock, p.Bedrock)}
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
	if !changed {
		return nil
	}
	if !row.KeepSettings { // sealing the same again would count as a change
		var err error
		if row.Settings, row.SettingsKeyID, err = c.store.vault.sealSettings(p.ID, p.Bedrock); err != nil {
			return err
		}
	}
	c.updates = append(c.updates, row)
	c.audits = append(c.audits, auditOfProvider(c.actor, AuditUpdate, p, valuesOf(old.Provider), valuesOf(p)))
	return nil
}

// write returns what to write: nothing if nothing changes.
func (c *changes) write() write {
	if len(c.audits) == 0 {
		return write{}
	}
	out := c.store.registerKey()
	for _, rows := range []struct {
		sql   string
		count int
		arg   any
	}{{insertProviders, len(c.inserts), c.inserts}, {insertKeys, len(c.keys), c.keys}} {
		if rows.count > 0 {
			out = append(out, pg.Query{SQL: c.store.sql(rows.sql), Args: [][]byte{pg.JSON(rows.arg)}})
		}
	}
	if len(c.updates) > 0 {
		out = append(out, pg.Query{
			SQL:  c.store.sql(updateProviders),
			Args: [][]byte{pg.JSON(c.updates)},
			Rows: pg.WantRows(len(c.updates), "ai_providers"), Checked: true,
		})
	}
	return write{queries: append(out, c.store.insertAudits(c.audits...)), witness: c.audits[0].ID}
}

// flip sets a boolean column of a provider to a value.
func (s *Store) flip(actor string, action AuditAction, p Provider, column string, value bool) write {
	audit := auditOfProvider(actor, action, p, map[string]bool{column: !value}, map[string]bool{column: value})
	return write{witness: audit.ID, queries: []pg.Query{
		{
			SQL:  s.sql(`update {schema}.ai_providers set ` + column + ` = $2, updated_at = now() where id = $1 and ` + column + ` <> $2`),
			Args: [][]byte{[]byte(p.ID.String()), pg.JSON(value)},
			Rows: pg.WantRows(1, "ai_providers"), Checked: true,
		},
		s.insertAudits(audit),
	}}
}

// registerKey records the sealing key in the database. A revoked key is in use again.
func (s *Store) registerKey() []pg.Query {
	if len(s.vault.ring) == 0 {
		return nil
	}
	key := s.vault.ring[0]
	return []pg.Query{{
		SQL: s.sql(`
insert into {schema}.ai_encryption_keys (id, canary) values ($1, $2)
    on conflict (id) do update set revoked_at = null where ai_encryption_keys.revoked_at is not null`),
		Args: [][]byte{[]byte(key.ID), []byte(key.SealCanary())},
	}}
}
