package aiseed

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/xerrors"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

// ProviderSpec is a provider to create. Name and Type are required. The type decides what else
// a provider takes and needs:
//
//   - openai, anthropic: up to 5 keys and a base URL, both optional
//   - anthropic with Bedrock settings in place of keys, and bedrock: a region, an access key or
//     the base URL of a Bedrock endpoint, at least one of them
//   - copilot: a base URL, optional, and no keys
//   - azure, google, openrouter, vercel, openai-compat: a base URL, and up to 5 keys
type ProviderSpec struct {
	Type        ProviderType
	Name        string
	DisplayName string           // "" means Name
	Disabled    bool             // false is enabled
	BaseURL     string           // "" is the default of the type
	Bedrock     *BedrockSettings // a model "" is the default
	Keys        []Secret         // bearer keys, at most 5
}

// ProviderUpdate says what to change in a provider. A nil field stays as it is. A Bedrock
// field adds Bedrock settings to a provider that has none.
type ProviderUpdate struct {
	DisplayName, BaseURL          *string
	Region, Model, SmallFastModel *string
	AccessKey, AccessKeySecret    *Secret // both or neither
}

// CreateProvider creates a provider. A deleted provider with the same name does not prevent
// it, and stays.
//
// It is the first of the operations for a host's own API. Each operation is one transaction
// under the lock of the seed. It checks values like those of the environment, and seals
// secrets. It writes audit entries with the actor: the host's name for whoever asked. After
// the commit, [StoreOptions.Auditor] gets the entries; without one they wait for
// [Store.DeliverAudits] or the next start. An operation never fails because of the Auditor.
//
// The errors of all operations match [ErrInvalidConfig], [ErrNotFound], [ErrNameTaken],
// [ErrUndecryptable], [ErrPlaintext], [ErrLockTimeout], [ErrCommitUnknown] or [ErrDatabase].
// With [ErrInvalidConfig], the variables of a [Problem] are the names of fields.
func (s *Store) CreateProvider(ctx context.Context, actor string, n ProviderSpec) (Provider, error) {
	p := Provider{Type: n.Type, Name: n.Name, DisplayName: n.DisplayName, Enabled: !n.Disabled, BaseURL: n.BaseURL}
	if p.DisplayName == "" {
		p.DisplayName = p.Name
	}
	p.Bedrock = n.Bedrock
	for _, key := range n.Keys {
		p.Keys = append(p.Keys, ProviderKey{APIKey: key})
	}
	if err := p.check(Provider{}); err != nil {
		return Provider{}, err
	}
	if n.Bedrock != nil {
		settings := n.Bedrock.withDefaults()
		p.Bedrock = &settings
	}
	var created Provider
	err := s.operate(ctx, actor, "creating a provider", s.byName(p.Name), func(found *storedProvider, now time.Time) (write, error) {
		if found != nil && !found.deleted {
			return write{}, nameTaken(p.Name)
		}
		p := p
		p.ID, p.CreatedAt, p.UpdatedAt = uuid.New(), now, now
		p.Keys = slices.Clone(p.Keys)
		for i := range p.Keys {
			p.Keys[i].ID, p.Keys[i].CreatedAt, p.Keys[i].UpdatedAt = uuid.New(), now, now
		}
		c := &changes{store: s, actor: actor}
		if err := c.create(p); err != nil {
			return write{}, err
		}
		w := c.write()
		w.done = func() { created = p }
		return w, nil
	})
	return created, err
}

// UpdateProvider changes a live provider, enabled or not.
func (s *Store) UpdateProvider(ctx context.Context, actor string, id uuid.UUID, u ProviderUpdate) (Provider, error) {
	var updated Provider
	err := s.operate(ctx, actor, "updating a provider", s.byID(id), func(found *storedProvider, now time.Time) (write, error) {
		if err := s.wantOpened(found, id); err != nil {
			return write{}, err
		}
		p := u.apply(found.Provider)
		if err := p.check(found.Provider); err != nil {
			return write{}, err
		}
		c := &changes{store: s, actor: actor}
		if err := c.update(found, p); err != nil {
			return write{}, err
		}
		w := c.write()
		if len(w.queries) > 0 {
			p.UpdatedAt = now
		}
		w.done = func() { updated = p }
		return w, nil
	})
	return updated, err
}

// SetProviderEnabled enables or disables a live provider. [Store.Providers] leaves out
// disabled ones. It works even if the provider's secrets cannot be decrypted.
func (s *Store) SetProviderEnabled(ctx context.Context, actor string, id uuid.UUID, enabled bool) error {
	return s.operate(ctx, actor, "enabling or disabling a provider", s.byID(id), func(found *storedProvider, _ time.Time) (write, error) {
		if err := wantLive(found, id); err != nil || found.Enabled == enabled {
			return write{}, err
		}
		return s.flip(actor, AuditUpdate, found.Provider, "enabled", enabled), nil
	})
}

// DeleteProvider marks a live provider as deleted: no start brings it back. It works even if
// the provider's secrets cannot be decrypted.
func (s *Store) DeleteProvider(ctx context.Context, actor string, id uuid.UUID) error {
	return s.operate(ctx, actor, "deleting a provider", s.byID(id), func(found *storedProvider, _ time.Time) (write, error) {
		if err := wantLive(found, id); err != nil {
			return write{}, err
		}
		return s.flip(actor, AuditDelete, found.Provider, "deleted", true), nil
	})
}

// RestoreProvider makes a deleted provider live again, with the keys that it had. It fails
// with [ErrNameTaken] if a live provider has its name now. If the provider's secrets cannot be
// decrypted, it is restored, and the error says so.
func (s *Store) RestoreProvider(ctx context.Context, actor string, id uuid.UUID) (Provider, error) {
	var namesake *storedProvider
	read := func(found **storedProvider) pg.Query {
		return s.selectProviders(isOrNamesake, keysOfAll, func(stored []*storedProvider) {
			*found, namesake = nil, nil
			for _, p := range stored {
				if p.ID == id {
					*found = p
				} else {
					namesake = p
				}
			}
		}, []byte(id.String()))
	}
	var restored storedProvider
	err := s.operate(ctx, actor, "restoring a provider", read, func(found *storedProvider, now time.Time) (write, error) {
		switch {
		case found == nil || !found.deleted:
			return write{}, notFound("there is no deleted provider with id %s", id)
		case namesake != nil:
			return write{}, nameTaken(found.Name)
		}
		w := s.flip(actor, AuditRestore, found.Provider, "deleted", false)
		w.done = func() {
			restored = *found
			restored.deleted, restored.UpdatedAt = false, now
		}
		return w, nil
	})
	if err != nil {
		return Provider{}, err
	}
	if err := s.vault.openProvider(&restored); err != nil {
		return Provider{}, xerrors.Errorf("aiseed: the provider was restored, but: %w", err)
	}
	return restored.Provider, nil
}

// isOrNamesake chooses the provider with the id $1 and the live provider that has its name.
const isOrNamesake = `id = $1 or not deleted and name = (select name from {schema}.ai_providers where id = $1)`

// AddProviderKey adds a bearer key to a live provider, after its other keys.
func (s *Store) AddProviderKey(ctx context.Context, actor string, id uuid.UUID, key Secret) (ProviderKey, error) {
	var added ProviderKey
	err := s.operate(ctx, actor, "adding a key", s.byID(id), func(found *storedProvider, now time.Time) (write, error) {
		if err := s.wantOpened(found, id); err != nil {
			return write{}, err
		}
		p, k := found.Provider, ProviderKey{ID: uuid.New(), APIKey: key, CreatedAt: now, UpdatedAt: now}
		p.Keys = append(slices.Clone(p.Keys), k)
		if err := p.check(found.Provider); err != nil {
			return write{}, err
		}
		position := 0
		if n := len(found.positions); n > 0 {
			position = found.positions[n-1] + 1
		}
		c := &changes{store: s, actor: actor}
		c.addKeys(p, []ProviderKey{k}, position)
		w := c.write()
		w.done = func() { added = k }
		return w, nil
	})
	return added, err
}

// RemoveProviderKey permanently removes a bearer key from a live provider. It works even if
// the key cannot be decrypted.
func (s *Store) RemoveProviderKey(ctx context.Context, actor string, id, key uuid.UUID) error {
	return s.operate(ctx, actor, "removing a key", s.byID(id), func(found *storedProvider, _ time.Time) (write, error) {
		if err := wantLive(found, id); err != nil {
			return write{}, err
		}
		i := slices.IndexFunc(found.Keys, func(k ProviderKey) bool { return k.ID == key })
		if i < 0 {
			return write{}, notFound("provider %s has no key with id %s", found.Name, key)
		}
		audit := auditOfKey(actor, AuditDelete, found.Provider, key, map[string]int{"position": found.positions[i]}, nil)
		return write{witness: audit.ID, queries: []pg.Query{
			{
				SQL: s.sql(`delete from {schema}.ai_provider_keys where id = $1`), Args: [][]byte{[]byte(key.String())},
				Rows: pg.WantRows(1, "ai_provider_keys"), Checked: true,
			},
			s.insertAudits(audit),
		}}, nil
	})
}

func nameTaken(name string) error {
	return &classError{class: ErrNameTaken, text: strings.TrimSpace("there is a live provider "+text.Printable(name)) + " already; choose another name, or update that one"}
}

// operate runs one operation. decide gets what was read under the lock, and the time of the
// transaction, which is that of the rows that it writes.
func (s *Store) operate(ctx context.Context, actor, what string, read reading, decide func(*storedProvider, time.Time) (write, error)) error {
	if strings.TrimSpace(actor) == "" || actor == SystemActor || len(actor) > text.MaxNameBytes || text.Check(actor) != "" {
		return xerrors.New("aiseed: " + what + " needs an actor, for the audit: the name or id of whoever asked, not \"system\", at most 255 bytes of UTF-8 without control characters")
	}
	var found *storedProvider
	var now time.Time
	reads := []pg.Query{{SQL: `select now()`, Rows: pg.One(&now)}, read(&found)}
	audits := handover{store: s, auditor: s.auditor}
	err := s.locked(ctx, what, reads, func() (write, error) {
		w, err := decide(found, now)
		audits.follow(ctx, &w)
		return w, err
	})
	if err == nil {
		_ = audits.rest(ctx)
		audits.warn(ctx, s.logger)
	}
	return err
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

// wantOpened decrypts the secrets of a live provider.
func (s *Store) wantOpened(found *storedProvider, id uuid.UUID) error {
	if err := wantLive(found, id); err != nil {
		return err
	}
	return s.vault.openProvider(found)
}

func (u ProviderUpdate) apply(p Provider) Provider {
	set := func(into *string, value *string) {
		if value != nil {
			*into = *value
		}
	}
	set(&p.DisplayName, u.DisplayName)
	set(&p.BaseURL, u.BaseURL)
	if u.Region == nil && u.Model == nil && u.SmallFastModel == nil && u.AccessKey == nil && u.AccessKeySecret == nil {
		return p
	}
	settings := settingsOf(p)
	set(&settings.Region, u.Region)
	set(&settings.Model, u.Model)
	set(&settings.SmallFastModel, u.SmallFastModel)
	if u.AccessKey != nil {
		settings.AccessKey = *u.AccessKey
	}
	if u.AccessKeySecret != nil {
		settings.AccessKeySecret = *u.AccessKeySecret
	}
	settings = settings.withDefaults()
	p.Bedrock = &settings
	return p
}
