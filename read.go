package aiseed

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

// Providers returns the enabled live providers sorted by name, from one snapshot, with their
// secrets decrypted. If those of some providers cannot be decrypted, it returns the others and a
// *[ProvidersError], so that a host can choose: serve those that it got, or stop at any error.
//
// Errors match [ErrUndecryptable], [ErrPlaintext] or [ErrDatabase].
func (s *Store) Providers(ctx context.Context) ([]Provider, error) {
	var stored []*storedProvider
	err := s.read(ctx, "reading the providers", s.selectProviders(providersWhere(`enabled and not deleted`), keysOfLive, func(p []*storedProvider) { stored = p }))
	if err != nil {
		return nil, err
	}
	opened, err := s.vault.openProviders(stored)
	providers := make([]Provider, len(opened))
	for i, p := range opened {
		providers[i] = p.Provider
	}
	return providers, err
}

// load reads one provider for each of some names: the live one, or else its latest tombstone.
func (s *Store) load(names []string, into *[]*storedProvider) pg.Query {
	return s.selectProviders(latestNamed, keysOfLive, func(stored []*storedProvider) { *into = stored }, pg.JSON(names))
}

// providersAndKeys returns one row for each provider that is chosen, and then one row for each
// of their keys. A join would send a provider again with each of its keys. It is one statement,
// for one snapshot. The planner does not know how many providers are chosen. So it looks their keys
// up in an index, analysed or not, unless the table is small.
const providersAndKeys = `
with chosen as materialized ({choice})
select false, id, id, type, name, coalesce(display_name, ''), base_url, enabled, deleted, revision,
       settings, settings_key_id, created_at, updated_at
  from chosen
 union all
select true, id, provider_id, '', '', '', '', false, false, position,
       api_key, api_key_key_id, created_at, updated_at
  from {schema}.ai_provider_keys
 where provider_id = any (array(select id from chosen {whose}))`

// latestNamed chooses one provider for each of the names in the JSON array $1, in the order of
// [storedProvider.compare], however many tombstones share the name: one look into an index for
// each, see [pg.UseOrderOfIndexes]. To choose their ids first, and rows with "id = any" of those, would
// compare each row of a small table with each id.
const latestNamed = `
select latest.* from json_array_elements_text($1::json) as w (wanted)
 cross join lateral (select * from {schema}.ai_providers where name = wanted order by deleted, updated_at desc, id limit 1) as latest`

// providersWhere chooses the providers that meet a condition.
func providersWhere(condition string) string {
	return `select * from {schema}.ai_providers where ` + condition
}

// keysOf says of which providers the keys are read.
type keysOf string

const (
	keysOfLive keysOf = `where not deleted`
	keysOfAll  keysOf = ``
)

// selectProviders reads the providers of a choice, and sorts them. It decrypts nothing.
func (s *Store) selectProviders(choice string, keys keysOf, take func([]*storedProvider), args ...[]byte) pg.Query {
	return pg.Query{
		SQL:  s.sql(strings.NewReplacer("{choice}", choice, "{whose}", string(keys)).Replace(providersAndKeys)),
		Args: args,
		Rows: func(rows pgx.Rows) error {
			stored, err := scanProviders(rows)
			if err == nil {
				take(stored)
			}
			return err
		},
	}
}

func scanProviders(rows pgx.Rows) ([]*storedProvider, error) {
	var (
		isKey, enabled, deleted          bool
		id, provider                     uuid.UUID // equal for a provider
		kind, name, displayName, baseURL string
		number                           int64 // the revision, or the position of a key
		value                            pgtype.Text
		sealedBy                         repeated
		created, updated                 time.Time
	)
	columns := []any{
		&isKey, (*[16]byte)(&id), (*[16]byte)(&provider), &kind, &name, &displayName, &baseURL, &enabled, &deleted, &number,
		&value, &sealedBy, &created, &updated,
	}
	var stored []*storedProvider
	byID := map[uuid.UUID]*storedProvider{}
	for rows.Next() {
		if err := rows.Scan(columns...); err != nil {
			return nil, err
		}
		p, known := byID[provider]
		if !known {
			p = &storedProvider{}
			stored, byID[provider] = append(stored, p), p
		}
		if isKey {
			p.insertKey(ProviderKey{ID: id, CreatedAt: created, UpdatedAt: updated}, int(number), storedText{text: value.String, keyID: sealedBy.value})
			continue
		}
		p.ID, p.Type, p.Name, p.DisplayName, p.BaseURL = id, ProviderType(kind), name, displayName, baseURL
		p.Enabled, p.deleted, p.Revision, p.CreatedAt, p.UpdatedAt = enabled, deleted, number, created, updated
		if value.Valid {
			p.settings = &storedText{text: value.String, keyID: sealedBy.value}
		}
	}
	slices.SortFunc(stored, (*storedProvider).compare)
	return stored, rows.Err()
}

// repeated is a column that mostly has the text of the row before. Equal ones share their memory.
type repeated struct {
	value *string // nil for null
	last  *string
}

// ScanBytes implements [pgtype.BytesScanner].
func (r *repeated) ScanBytes(text []byte) error {
	if r.value = nil; text == nil {
		return nil
	}
	if r.last == nil || *r.last != string(text) {
		r.last = new(string(text))
	}
	r.value = r.last
	return nil
}

// A reading reads one provider. It sets *found to nil if there is none.
type reading func(found **storedProvider) pg.Query

// byID reads the provider with an id.
func (s *Store) byID(id uuid.UUID) reading {
	return s.readFirst(providersWhere(`id = $1`), []byte(id.String()))
}

// byName reads the live provider with a name, or else its latest tombstone.
func (s *Store) byName(name string) reading { return s.readFirst(latestNamed, pg.JSON([]string{name})) }

func (s *Store) readFirst(choice string, arg []byte) reading {
	return func(found **storedProvider) pg.Query {
		return s.selectProviders(choice, keysOfAll, func(stored []*storedProvider) {
			if *found = nil; len(stored) > 0 { // discard an earlier attempt's result
				*found = stored[0]
			}
		}, arg)
	}
}

// Provider returns the live provider with an id, enabled or not, with its secrets decrypted.
//
// Errors match [ErrNotFound], [ErrUndecryptable], [ErrPlaintext] or [ErrDatabase].
func (s *Store) Provider(ctx context.Context, id uuid.UUID) (Provider, error) {
	return s.readLive(ctx, s.byID(id), withID(id))
}

// ProviderByName is like [Store.Provider], for the live provider with a name.
func (s *Store) ProviderByName(ctx context.Context, name string) (Provider, error) {
	if !text.IsName(name) { // it can be anything, even a secret: do not show or send it
		return Provider{}, notFound("there is no provider with that name, which is not a valid one%s", wantName)
	}
	return s.readLive(ctx, s.byName(name), "with name "+name)
}

func (s *Store) readLive(ctx context.Context, read reading, which string) (Provider, error) {
	var found *storedProvider
	err := s.read(ctx, "reading a provider", read(&found))
	if err == nil {
		err = wantLive(found, which)
	}
	if err == nil {
		err = s.vault.openProvider(found)
	}
	if err != nil {
		return Provider{}, err
	}
	return found.Provider, nil
}

func withID(id uuid.UUID) string { return "with id " + id.String() }

// wantLive returns an error if the provider that was looked for is deleted or was not found.
func wantLive(found *storedProvider, which string) error {
	switch {
	case found == nil:
		return notFound("there is no provider %s; list the providers to see what there is", which)
	case found.deleted:
		return notFound("provider %s with id %s is deleted; restore it first", found.Name, found.ID)
	}
	return nil
}

// ProviderInfo is what [Store.ListProviders] reports about a provider: everything except its
// secrets. It prints like a [Provider].
type ProviderInfo struct {
	ID                    uuid.UUID         `json:"id"`
	Type                  ProviderType      `json:"type"`
	Name                  string            `json:"name"`
	DisplayName           string            `json:"display_name"`
	Enabled               bool              `json:"enabled"`
	Deleted               bool              `json:"deleted"`
	BaseURL               string            `json:"base_url"`
	Region                string            `json:"bedrock_region,omitempty"` // of its Bedrock settings, like the models; "" for none
	Model                 string            `json:"bedrock_model,omitempty"`
	SmallFastModel        string            `json:"bedrock_small_fast_model,omitempty"`
	SettingsUndecryptable bool              `json:"settings_undecryptable,omitempty"` // it has Bedrock settings, and they cannot be decrypted
	Keys                  []ProviderKeyInfo `json:"keys"`                             // its bearer keys, in order
	Revision              int64             `json:"revision"`
	CreatedAt             time.Time         `json:"created_at"`
	UpdatedAt             time.Time         `json:"updated_at"`
}

func (p ProviderInfo) masked() any {
	type masked ProviderInfo
	p.BaseURL, p.Keys = MaskURL(p.BaseURL), append([]ProviderKeyInfo{}, p.Keys...)
	return masked(p)
}

// Format prints the values with the base URL masked.
func (p ProviderInfo) Format(f fmt.State, verb rune) { formatMasked(f, verb, p) }

// MarshalJSON encodes the values with the base URL masked.
func (p ProviderInfo) MarshalJSON() ([]byte, error) { return json.Marshal(p.masked()) }

// ProviderKeyInfo is what [Store.ListProviders] reports about a bearer key.
type ProviderKeyInfo struct {
	ID            uuid.UUID `json:"id"`
	Mask          string    `json:"key"`                     // as the [Secret] prints; "" if it cannot be decrypted
	Undecryptable bool      `json:"undecryptable,omitempty"` // it cannot be decrypted, or is not sealed although a keyring is in use
}

// ListProviders returns all providers sorted by name, including disabled and deleted ones. A
// secret that cannot be decrypted is reported as such and is no error, so an operator can find
// the id of a provider to repair or delete even if a value is damaged; for a key that is lost there
// is [SealedWith]. For each name, the live provider comes first, then the deleted ones, the latest
// first.
//
// Errors match [ErrDatabase].
func (s *Store) ListProviders(ctx context.Context) ([]ProviderInfo, error) {
	var stored []*storedProvider
	err := s.read(ctx, "listing the providers", s.selectProviders(providersWhere(`true`), keysOfAll, func(p []*storedProvider) { stored = p }))
	if err != nil {
		return nil, err
	}
	infos := make([]ProviderInfo, len(stored))
	for i, p := range stored {
		s.vault.openAll(p)
		infos[i] = p.info()
	}
	return infos, nil
}

// info returns what is shown of a provider after openAll.
func (p *storedProvider) info() ProviderInfo {
	settings := settingsOf(p.Provider)
	info := ProviderInfo{
		ID: p.ID, Type: p.Type, Name: p.Name, DisplayName: p.DisplayName, Enabled: p.Enabled, Deleted: p.deleted, BaseURL: p.BaseURL,
		Region: settings.Region, Model: settings.Model, SmallFastModel: settings.SmallFastModel,
		SettingsUndecryptable: p.failure(true, false) != nil,
		Revision:              p.Revision, CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt,
	}
	for i, key := range p.Keys {
		info.Keys = append(info.Keys, ProviderKeyInfo{ID: key.ID, Mask: key.APIKey.String(), Undecryptable: p.texts[i].failed != nil})
	}
	return info
}
