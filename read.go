package aiseed

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/xerrors"

	"example.com/aiseed/internal/pg"
)

// Providers returns the enabled live providers sorted by name, from one snapshot, with their
// secrets decrypted.
//
// Errors match [ErrUndecryptable], [ErrPlaintext] or [ErrDatabase].
func (s *Store) Providers(ctx context.Context) ([]Provider, error) {
	var stored []*storedProvider
	err := s.read(ctx, "reading the providers", s.selectProviders(`enabled and not deleted`, opened, func(p []*storedProvider) { stored = p }))
	if err != nil {
		return nil, err
	}
	providers := make([]Provider, len(stored))
	for i, p := range stored {
		providers[i] = p.Provider
	}
	return providers, nil
}

// load reads one provider for each name: the live one, or else its latest tombstone.
func (s *Store) load(names []string, into *map[string]*storedProvider) pg.Query {
	return s.selectProviders(isNamed, opened, func(stored []*storedProvider) {
		*into = make(map[string]*storedProvider, len(stored))
		for _, p := range slices.Backward(stored) { // the first of each name wins
			(*into)[p.Name] = p
		}
	}, pg.JSON(names))
}

// providersAndKeys returns one row for each provider that a condition chooses, and then one
// row for each of their keys. A join would send a provider again with each of its keys. It is
// one statement, for one snapshot. The planner does not know how many providers are chosen.
// So it uses index look-ups in every table except a small one, analysed or not.
const providersAndKeys = `
with chosen as materialized (select * from {schema}.ai_providers where {condition})
select false, id, id, type, name, coalesce(display_name, ''), base_url, enabled, deleted, revision,
       settings, settings_key_id, created_at, updated_at
  from chosen
 union all
select true, id, provider_id, '', '', '', '', false, false, position,
       api_key, api_key_key_id, created_at, updated_at
  from {schema}.ai_provider_keys
 where provider_id = any (array(select id from chosen{live}))`

// isNamed chooses the providers with the names in the JSON array $1, including tombstones.
const isNamed = `name = any (array(select json_array_elements_text($1::json)))`

// secrecy says what to do with the secrets of providers that are read.
type secrecy bool

const (
	sealed secrecy = false // do not decrypt them
	opened secrecy = true  // decrypt them, except those of a tombstone, which comes without keys
)

// selectProviders reads the providers that a condition chooses, and sorts them.
func (s *Store) selectProviders(condition string, secrets secrecy, take func([]*storedProvider), args ...[]byte) pg.Query {
	text, live := strings.Replace(providersAndKeys, "{condition}", condition, 1), ""
	if secrets == opened {
		live = " where not deleted"
	}
	return pg.Query{
		SQL:  s.sql(strings.Replace(text, "{live}", live, 1)),
		Args: args,
		Rows: func(rows pgx.Rows) error {
			stored, err := s.scanProviders(rows, secrets)
			if err == nil {
				take(stored)
			}
			return err
		},
	}
}

func (s *Store) scanProviders(rows pgx.Rows, secrets secrecy) ([]*storedProvider, error) {
	var (
		isKey, enabled, deleted          bool
		id, provider                     uuid.UUID // equal for a provider
		kind, name, displayName, baseURL string
		number                           int64 // the revision, or the position of a key
		value, sealedBy                  pgtype.Text
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
		var err error
		if isKey {
			key := ProviderKey{ID: id, CreatedAt: created, UpdatedAt: updated}
			if secrets == opened {
				key.APIKey, err = s.vault.open(apiKeyCell(id, provider), value.String, pointerTo(sealedBy))
			}
			p.insertKey(key, int(number))
		} else {
			p.ID, p.Type, p.Name, p.DisplayName, p.BaseURL = id, ProviderType(kind), name, displayName, baseURL
			p.Enabled, p.deleted, p.revision, p.CreatedAt, p.UpdatedAt = enabled, deleted, number, created, updated
			if value.Valid && secrets == opened && !deleted {
				p.Bedrock, err = s.vault.openSettings(id, value.String, pointerTo(sealedBy))
			}
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(stored, (*storedProvider).compare)
	return stored, rows.Err()
}

func pointerTo(t pgtype.Text) *string {
	if !t.Valid {
		return nil
	}
	return &t.String
}

// A reading reads one provider. *found is nil if there is none.
type reading func(found **storedProvider) pg.Query

// byID reads the provider with an id, with or without decrypting its secrets.
func (s *Store) byID(id uuid.UUID, secrets secrecy) reading {
	return s.readFirst(`id = $1`, secrets, []byte(id.String()))
}

// byName reads the live provider with a name, or else its latest tombstone, without
// decrypting its secrets.
func (s *Store) byName(name string) reading {
	return s.readFirst(isNamed, sealed, pg.JSON([]string{name}))
}

func (s *Store) readFirst(condition string, secrets secrecy, arg []byte) reading {
	return func(found **storedProvider) pg.Query {
		return s.selectProviders(condition, secrets, func(stored []*storedProvider) {
			if *found = nil; len(stored) > 0 { // discard an earlier attempt's result
				*found = stored[0]
			}
		}, arg)
	}
}

// provider reads a live provider, enabled or not.
func (s *Store) provider(ctx context.Context, id uuid.UUID) (Provider, error) {
	var found *storedProvider
	err := s.read(ctx, "reading a provider", s.byID(id, opened)(&found))
	if err != nil {
		return Provider{}, xerrors.Errorf("aiseed: the change was committed, but reading the provider back failed: %w", err)
	}
	if err := wantLive(found, id); err != nil {
		return Provider{}, err
	}
	return found.Provider, nil
}

// ProviderInfo is what [Store.ListProviders] reports about a provider: everything except its
// secrets and Bedrock settings.
type ProviderInfo struct {
	ID                   uuid.UUID
	Type                 ProviderType
	Name, DisplayName    string
	Enabled, Deleted     bool // Deleted means a deleted provider
	BaseURL              string
	Keys                 []uuid.UUID // ids of its bearer keys, in order
	CreatedAt, UpdatedAt time.Time
}

// ListProviders returns all providers sorted by name, including disabled and deleted ones. It
// decrypts no secret, so an operator can find the id of a provider to enable, restore or
// delete even if a key is lost. For each name, the live provider comes first, then the
// deleted ones, the latest first.
func (s *Store) ListProviders(ctx context.Context) ([]ProviderInfo, error) {
	var stored []*storedProvider
	err := s.read(ctx, "listing the providers", s.selectProviders(`true`, sealed, func(p []*storedProvider) { stored = p }))
	if err != nil {
		return nil, err
	}
	infos := make([]ProviderInfo, len(stored))
	for i, p := range stored {
		infos[i] = ProviderInfo{
			ID: p.ID, Type: p.Type, Name: p.Name, DisplayName: p.DisplayName, Enabled: p.Enabled, Deleted: p.deleted,
			BaseURL: p.BaseURL, CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt,
		}
		for _, key := range p.Keys {
			infos[i].Keys = append(infos[i].Keys, key.ID)
		}
	}
	return infos, nil
}

func wantLive(found *storedProvider, id uuid.UUID) error {
	switch {
	case found == nil:
		return notFound("there is no provider with id %s", id)
	case found.deleted:
		return notFound("provider %s with id %s is deleted; restore it first", found.Name, id)
	}
	return nil
}
