package aiseed

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/xerrors"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

// ProviderSpec is a provider to create. Name and Type are required.
type ProviderSpec struct {
	Type        ProviderType
	Name        string
	DisplayName string           // "" means Name
	Disabled    bool             // false is enabled
	BaseURL     string           // "" leaves it to the runtime
	Bedrock     *BedrockSettings // type anthropic only, without Keys; a model "" is the default
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
// secrets. It writes audit entries with the actor: the host's name for whoever asked. The
// entries wait for [Store.DeliverAudits] or the next start.
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
	if err := checkProvider(Provider{}, p); err != nil {
		return Provider{}, err
	}
	if n.Bedrock != nil {
		settings := n.Bedrock.withDefaults()
		p.Bedrock = &settings
	}
	var id uuid.UUID
	err := s.operate(ctx, actor, "creating a provider", s.byName(p.Name), func(found *storedProvider) ([]pg.Query, error) {
		if found != nil && !found.deleted {
			return nil, nameTaken(p.Name)
		}
		id = uuid.New()
		p.ID = id
		c := &changes{store: s, actor: actor}
		if err := c.create(p); err != nil {
			return nil, err
		}
		return c.queries(), nil
	})
	if err != nil {
		return Provider{}, err
	}
	return s.provider(ctx, id)
}

// UpdateProvider changes a live provider, enabled or not.
func (s *Store) UpdateProvider(ctx context.Context, actor string, id uuid.UUID, u ProviderUpdate) (Provider, error) {
	err := s.operate(ctx, actor, "updating a provider", s.byID(id, opened), func(found *storedProvider) ([]pg.Query, error) {
		if err := wantLive(found, id); err != nil {
			return nil, err
		}
		p := u.apply(found.Provider)
		if err := checkProvider(found.Provider, p); err != nil {
			return nil, err
		}
		c := &changes{store: s, actor: actor}
		if err := c.update(found, p); err != nil {
			return nil, err
		}
		return c.queries(), nil
	})
	if err != nil {
		return Provider{}, err
	}
	return s.provider(ctx, id)
}

// SetProviderEnabled enables or disables a live provider. [Store.Providers] leaves out
// disabled ones. It works even if the provider's secrets cannot be decrypted.
func (s *Store) SetProviderEnabled(ctx context.Context, actor string, id uuid.UUID, enabled bool) error {
	return s.operate(ctx, actor, "enabling or disabling a provider", s.byID(id, sealed), func(found *storedProvider) ([]pg.Query, error) {
		if err := wantLive(found, id); err != nil || found.Enabled == enabled {
			return nil, err
		}
		return s.flip(actor, AuditUpdate, found.Provider, "enabled", enabled), nil
	})
}

// DeleteProvider marks a live provider as deleted: no start brings it back. It works even if
// the provider's secrets cannot be decrypted.
func (s *Store) DeleteProvider(ctx context.Context, actor string, id uuid.UUID) error {
	return s.operate(ctx, actor, "deleting a provider", s.byID(id, sealed), func(found *storedProvider) ([]pg.Query, error) {
		if err := wantLive(found, id); err != nil {
			return nil, err
		}
		return s.flip(actor, AuditDelete, found.Provider, "deleted", true), nil
	})
}

// RestoreProvider makes a deleted provider live again, with the keys that it had. It fails
// with [ErrNameTaken] if a live provider has its name now.
func (s *Store) RestoreProvider(ctx context.Context, actor string, id uuid.UUID) (Provider, error) {
	err := s.operate(ctx, actor, "restoring a provider", s.byID(id, sealed), func(found *storedProvider) ([]pg.Query, error) {
		if found == nil || !found.deleted {
			return nil, notFound("there is no deleted provider with id %s", id)
		}
		return s.flip(actor, AuditRestore, found.Provider, "deleted", false), nil
	})
	if err != nil {
		return Provider{}, err
	}
	return s.provider(ctx, id)
}

// AddProviderKey adds a bearer key to a live provider, after its other keys.
func (s *Store) AddProviderKey(ctx context.Context, actor string, id uuid.UUID, key Secret) (ProviderKey, error) {
	var added uuid.UUID
	err := s.operate(ctx, actor, "adding a key", s.byID(id, opened), func(found *storedProvider) ([]pg.Query, error) {
		if err := wantLive(found, id); err != nil {
			return nil, err
		}
		p := found.Provider
		p.Keys = append(slices.Clone(p.Keys), ProviderKey{ID: uuid.New(), APIKey: key})
		if err := checkProvider(found.Provider, p); err != nil {
			return nil, err
		}
		added = p.Keys[len(p.Keys)-1].ID
		position := 0
		if n := len(found.positions); n > 0 {
			position = found.positions[n-1] + 1
		}
		c := &changes{store: s, actor: actor}
		c.addKeys(p, p.Keys[len(p.Keys)-1:], position)
		return c.queries(), nil
	})
	if err != nil {
		return ProviderKey{}, err
	}
	p, err := s.provider(ctx, id)
	if err != nil {
		return ProviderKey{}, err
	}
	i := slices.IndexFunc(p.Keys, func(k ProviderKey) bool { return k.ID == added })
	if i < 0 {
		return ProviderKey{}, notFound("the key was added, and removed by someone else since")
	}
	return p.Keys[i], nil
}

// RemoveProviderKey permanently removes a bearer key from a live provider. It works even if
// the key cannot be decrypted.
func (s *Store) RemoveProviderKey(ctx context.Context, actor string, id, key uuid.UUID) error {
	return s.operate(ctx, actor, "removing a key", s.byID(id, sealed), func(found *storedProvider) ([]pg.Query, error) {
		if err := wantLive(found, id); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(found.Keys, func(k ProviderKey) bool { return k.ID == key })
		if i < 0 {
			return nil, notFound("provider %s has no key with id %s", found.Name, key)
		}
		return []pg.Query{
			{
				SQL: s.sql(`delete from {schema}.ai_provider_keys where id = $1`), Args: [][]byte{[]byte(key.String())},
				Rows: pg.WantRows(1, "ai_provider_keys"), Checked: true,
			},
			s.insertAudits(auditOfKey(actor, AuditDelete, found.Provider, key, map[string]int{"position": found.positions[i]}, nil)),
		}, nil
	})
}

func nameTaken(name string) error {
	return &classError{class: ErrNameTaken, text: strings.TrimSpace("there is a live provider "+text.Printable(name)) + " already; choose another name, or update that one"}
}

// operate runs one operation. decide gets what was read under the lock.
func (s *Store) operate(ctx context.Context, actor, what string, read reading, decide func(*storedProvider) ([]pg.Query, error)) error {
	if strings.TrimSpace(actor) == "" || actor == SystemActor || len(actor) > text.MaxNameBytes || text.Check(actor) != "" {
		return xerrors.New("aiseed: " + what + " needs an actor, for the audit: the name or id of whoever asked, not \"system\", at most 255 bytes of UTF-8 without control characters")
	}
	return retry(ctx, func() error {
		var found *storedProvider
		err := s.locked(ctx, what, []pg.Query{read(&found)}, func() ([]pg.Query, error) { return decide(found) })
		var db *DatabaseError
		if errors.As(err, &db) && db.Constraint == liveNameConstraint {
			name := ""
			if found != nil {
				name = found.Name
			}
			return nameTaken(name) // a retry would not help
		}
		return err
	})
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

// checkProvider applies the checks of the environment to p. Bearer keys next to Bedrock
// settings are no problem if old has both too: settling a drift leaves the keys alone.
func checkProvider(old, p Provider) error {
	c := ProviderConfig{Type: string(p.Type), Name: p.Name, BaseURL: p.BaseURL}
	for _, k := range p.Keys {
		c.Keys = append(c.Keys, k.APIKey)
	}
	if b := p.Bedrock; b != nil {
		c.BedrockRegion, c.BedrockModel, c.BedrockSmallFastModel = b.Region, b.Model, b.SmallFastModel
		c.BedrockAccessKeys, c.BedrockAccessKeySecrets = nonZero(b.AccessKey), nonZero(b.AccessKeySecret)
	}
	e := &entry{config: c, variables: &variables{}, source: strings.ToLower}
	n := &normaliser{byName: map[string]int{}}
	if c.Name == "" && c.Type != "" {
		n.problem(e, "required", fieldName)
	}
	if _, supported := providerTypes[p.Type]; !supported && p.Type != "" {
		n.problem(e, "not a supported type; want one of "+supportedTypes(), fieldType)
	} else {
		n.add(e)
	}
	both := func(p Provider) bool { return p.Bedrock != nil && len(p.Keys) > 0 }
	if both(p) && !both(old) {
		n.problem(e, "a provider authenticates with bearer keys or with Bedrock settings, not with both", fieldKey, bedrockGroup+"*")
	}
	switch reason := text.Check(p.DisplayName); {
	case reason != "":
		n.problem(e, reason, "DISPLAY_NAME")
	case len(p.DisplayName) > text.MaxNameBytes:
		n.problem(e, "longer than 255 bytes", "DISPLAY_NAME")
	}
	if b := p.Bedrock; b != nil && b.Region == "" && b.AccessKey.IsZero() && p.BaseURL == "" {
		n.problem(e, "none is set; Bedrock needs a region, a base URL or an access key", fieldBedrockRegion, fieldBaseURL, fieldBedrockAccessKey)
	}
	if len(n.problems) > 0 {
		return configError(n.problems)
	}
	return nil
}
