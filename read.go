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

// Providers returns the enabled live providers in order of name, from one
// snapshot, with their secrets opened.
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

// load reads the providers of names, each the live one or else its latest tombstone.
func (s *Store) load(names []string, into *map[string]*storedProvider) pg.Query {
	return s.selectProviders(isNamed, opened, func(stored []*storedProvider) {
		*into = make(map[string]*storedProvider, len(stored))
		for _, p := range slices.Backward(stored) { // the first of a name counts
			(*into)[p.Name] = p
		}
	}, pg.JSON(names))
}

// The providers that a condition chooses, a row each, and then their keys, a row
// each too: a join would send a provider again with each of its keys. It is one
// statement, for one snapshot. The planner does not know how many are chosen, which
// keeps it to index look-ups in any table but a small one, whether or not it was
// analysed yet.
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

// isNamed chooses the providers of the names in the JSON array $1, tombstones too.
const isNamed = `name = any (array(select json_array_elements_text($1::json)))`

// secrecy is what to do with the secrets of providers that are read.
type secrecy bool

const (
	sealed secrecy = false // leave them alone
	opened secrecy = true  // open them, but not those of a tombstone, which come without keys
)

// selectProviders reads the providers that a condition chooses, in order.
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
		id, provider                     uuid.UUID // the same of a provider
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

// A reading reads one provider. The pointer is nil where there is none.
type reading func(found **storedProvider) pg.Query

// byID is with or without opening the secrets.
func (s *Store) byID(id uuid.UUID, secrets secrecy) reading {
	return s.readFirst(`id = $1`, secrets, []byte(id.String()))
}

// byName is the live provider of a name, or else its latest tombstone.
func (s *Store) byName(name string) reading {
	return s.readFirst(isNamed, sealed, pg.JSON([]string{name}))
}

func (s *Store) readFirst(condition string, secrets secrecy, arg []byte) reading {
	return func(found **storedProvider) pg.Query {
		return s.selectProviders(condition, secrets, func(stored []*storedProvider) {
			if *found = nil; len(stored) > 0 { // what an attempt before this one read does not count
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

// ProviderInfo is what [Store.ListProviders] tells of a provider: everything but
// its secrets.
type ProviderInfo struct {
	ID                   uuid.UUID
	Type                 ProviderType
	Name, DisplayName    string
	Enabled, Deleted     bool // Deleted is a tombstone
	BaseURL              string
	Keys                 []uuid.UUID // ids of its bearer keys, in order
	CreatedAt, UpdatedAt time.Time
}

// ListProviders returns all providers in order of name, disabled ones and
// tombstones too, without opening a secret: what an operator needs to find the id
// of one to enable, restore or delete, also where a key is lost. Of one name the live
// one comes first, and then the tombstones, the latest first.
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
