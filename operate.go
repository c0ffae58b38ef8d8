package aiseed

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
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
	Bedrock     *BedrockSettings // nil for none; a model "" is the default
	Keys        []Secret         // bearer keys, at most 5
}

func (n ProviderSpec) masked() any {
	type masked ProviderSpec
	n.BaseURL = MaskURL(n.BaseURL)
	return masked(n)
}

// Format prints the values with the base URL masked.
func (n ProviderSpec) Format(f fmt.State, verb rune) { formatMasked(f, verb, n) }

// MarshalJSON encodes the values with the base URL masked.
func (n ProviderSpec) MarshalJSON() ([]byte, error) { return json.Marshal(n.masked()) }

// ProviderUpdate says what to change in a provider. A nil field stays as it is, so the zero
// ProviderUpdate changes nothing. A Bedrock field adds Bedrock settings to a provider that has
// none.
type ProviderUpdate struct {
	// Revision is the [Provider.Revision] that the change was decided on. If the provider has
	// another one, the update fails with [ErrConflict]. 0 means any.
	Revision int64

	DisplayName, BaseURL          *string // a base URL "" is the default of the type
	Region, Model, SmallFastModel *string
	AccessKey, AccessKeySecret    *Secret // both or neither

	// RemoveBedrock takes the Bedrock settings away, also if they cannot be decrypted. If the
	// provider has a base URL, BaseURL is then required: the old one can be that of Amazon
	// Bedrock, to which no bearer key should go. A provider of type bedrock keeps its settings.
	RemoveBedrock bool

	// Keys replaces the bearer keys, also those that cannot be decrypted. A key that the provider
	// has already keeps its id. An empty list that is not nil removes all keys.
	Keys []Secret
}

func (u ProviderUpdate) masked() any {
	type masked ProviderUpdate
	if u.BaseURL != nil {
		u.BaseURL = new(MaskURL(*u.BaseURL))
	}
	return masked(u)
}

// Format prints the values with the base URL masked.
func (u ProviderUpdate) Format(f fmt.State, verb rune) { formatMasked(f, verb, u) }

// MarshalJSON encodes the values with the base URL masked.
func (u ProviderUpdate) MarshalJSON() ([]byte, error) { return json.Marshal(u.masked()) }

// CreateProvider creates a provider. A deleted provider with the same name does not prevent
// it, and stays.
//
// It is the first of the operations for a host's own API. Each operation is one transaction
// under the lock of the seed. It checks values like those of a [Config] built by hand, and seals
// secrets. It writes audit entries with the actor: the host's name for whoever asked. After
// the commit, [StoreOptions.Auditor] gets the entries; without one they wait for
// [Store.DeliverAudits] or the next start. An operation never fails because of the Auditor.
//
// The errors of all operations match [ErrInvalidConfig], [ErrNotFound], [ErrNameTaken],
// [ErrConflict], [ErrKeyring], [ErrUndecryptable], [ErrPlaintext], [ErrLockTimeout],
// [ErrCommitUnknown] or [ErrDatabase]. With [ErrInvalidConfig], the variables of a [Problem] are
// the names of fields.
func (s *Store) CreateProvider(ctx context.Context, actor string, n ProviderSpec) (Provider, error) {
	p := Provider{Type: n.Type, Name: n.Name, DisplayName: n.DisplayName, Enabled: !n.Disabled, BaseURL: n.BaseURL}
	if p.DisplayName == "" {
		p.DisplayName = p.Name
	}
	p.Bedrock = n.Bedrock
	for _, key := range n.Keys {
		p.Keys = append(p.Keys, ProviderKey{APIKey: key})
	}
	problems := fieldProblems{provider: cmp.Or(p.Name, string(p.Type))}
	p.check(Provider{}, problems.report)
	if err := problems.err(); err != nil {
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
		p.ID, p.Revision, p.CreatedAt, p.UpdatedAt = uuid.New(), 1, now, now
		p.Keys = slices.Clone(p.Keys)
		for i := range p.Keys {
			p.Keys[i].ID, p.Keys[i].CreatedAt, p.Keys[i].UpdatedAt = uuid.New(), now, now
		}
		c := &changes{store: s, actor: actor}
		c.create(p)
		w := c.write()
		w.done = func() { created = p }
		return w, nil
	})
	return created, err
}

// UpdateProvider changes a live provider, enabled or not. What the update replaces or removes need
// not be decryptable.
func (s *Store) UpdateProvider(ctx context.Context, actor string, id uuid.UUID, u ProviderUpdate) (Provider, error) {
	return s.update(ctx, actor, "updating a provider", id, u)
}

// ReplaceProviderKeys replaces the bearer keys of a live provider, in the order of keys. It is
// [Store.UpdateProvider] with [ProviderUpdate.Keys], except that nil removes all keys. To name a
// revision, call that.
func (s *Store) ReplaceProviderKeys(ctx context.Context, actor string, id uuid.UUID, keys []Secret) (Provider, error) {
	return s.update(ctx, actor, "replacing keys", id, ProviderUpdate{Keys: append([]Secret{}, keys...)})
}

func (s *Store) update(ctx context.Context, actor, what string, id uuid.UUID, u ProviderUpdate) (Provider, error) {
	var updated Provider
	err := s.operate(ctx, actor, what, s.byID(id), func(found *storedProvider, now time.Time) (write, error) {
		if err := wantLive(found, withID(id)); err != nil {
			return write{}, err
		}
		if u.Revision != 0 && u.Revision != found.Revision {
			return write{}, conflict(found, u.Revision)
		}
		s.vault.openAll(found)
		if err := found.failure(!u.RemoveBedrock && len(u.bedrockFields()) < allBedrockFields, u.Keys == nil); err != nil {
			return write{}, err
		}
		problems := fieldProblems{provider: found.Name}
		p := u.apply(found.Provider, now, problems.report)
		if err := problems.err(); err != nil {
			return write{}, err
		}
		return s.change(actor, found, p, now, func(p Provider) { updated = p }), nil
	})
	return updated, err
}

// SetProviderEnabled enables or disables a live provider. [Store.Providers] leaves out
// disabled ones. It works even if the provider's secrets cannot be decrypted.
func (s *Store) SetProviderEnabled(ctx context.Context, actor string, id uuid.UUID, enabled bool) error {
	return s.operate(ctx, actor, "enabling or disabling a provider", s.byID(id), func(found *storedProvider, _ time.Time) (write, error) {
		if err := wantLive(found, withID(id)); err != nil || found.Enabled == enabled {
			return write{}, err
		}
		return s.flip(actor, AuditUpdate, found.Provider, "enabled", enabled), nil
	})
}

// DeleteProvider marks a live provider as deleted: no start brings it back. It works even if
// the provider's secrets cannot be decrypted.
func (s *Store) DeleteProvider(ctx context.Context, actor string, id uuid.UUID) error {
	return s.operate(ctx, actor, "deleting a provider", s.byID(id), func(found *storedProvider, _ time.Time) (write, error) {
		if err := wantLive(found, withID(id)); err != nil {
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
		return s.selectProviders(providersWhere(isOrNamesake), keysOfAll, func(stored []*storedProvider) {
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
			return write{}, notFound("there is no deleted provider with id %s; list the providers to see what there is", id)
		case namesake != nil:
			return write{}, nameTaken(found.Name)
		}
		w := s.flip(actor, AuditRestore, found.Provider, "deleted", false)
		w.done = func() {
			restored = *found
			restored.deleted, restored.UpdatedAt, restored.Revision = false, now, found.Revision+1
		}
		return w, nil
	})
	if err != nil {
		return Provider{}, err
	}
	if err := s.vault.openProvider(&restored); err != nil {
		return Provider{}, xerrors.Errorf("aiseed: the provider was restored, but it cannot be used: %w", err)
	}
	return restored.Provider, nil
}

// isOrNamesake chooses the provider with the id $1 and the live provider that has its name.
const isOrNamesake = `id = $1 or not deleted and name = (select name from {schema}.ai_providers where id = $1)`

// AddProviderKey adds a bearer key to a live provider, after its other keys.
func (s *Store) AddProviderKey(ctx context.Context, actor string, id uuid.UUID, key Secret) (ProviderKey, error) {
	var added ProviderKey
	err := s.operate(ctx, actor, "adding a key", s.byID(id), func(found *storedProvider, now time.Time) (write, error) {
		if err := wantLive(found, withID(id)); err != nil {
			return write{}, err
		}
		if err := s.vault.openProvider(found); err != nil {
			return write{}, err
		}
		p, k := found.Provider, ProviderKey{ID: uuid.New(), APIKey: key, CreatedAt: now, UpdatedAt: now}
		p.Keys = append(slices.Clone(p.Keys), k)
		problems := fieldProblems{provider: p.Name}
		p.check(found.Provider, problems.report)
		if err := problems.err(); err != nil {
			return write{}, err
		}
		return s.change(actor, found, p, now, func(Provider) { added = k }), nil
	})
	return added, err
}

// RemoveProviderKey permanently removes a bearer key from a live provider. It works even if
// the key cannot be decrypted.
func (s *Store) RemoveProviderKey(ctx context.Context, actor string, id, key uuid.UUID) error {
	return s.operate(ctx, actor, "removing a key", s.byID(id), func(found *storedProvider, now time.Time) (write, error) {
		if err := wantLive(found, withID(id)); err != nil {
			return write{}, err
		}
		i := slices.IndexFunc(found.Keys, func(k ProviderKey) bool { return k.ID == key })
		if i < 0 {
			return write{}, notFound("provider %s has no key with id %s; list the providers to see which keys it has", found.Name, key)
		}
		p := found.Provider
		p.Keys = slices.Delete(slices.Clone(p.Keys), i, i+1)
		return s.change(actor, found, p, now, func(Provider) {}), nil
	})
}

// change turns a provider and its keys into p, and calls done with it if that was committed.
func (s *Store) change(actor string, found *storedProvider, p Provider, now time.Time, done func(Provider)) write {
	c := &changes{store: s, actor: actor}
	c.update(found, p)
	w := c.write()
	if len(w.queries) > 0 {
		p.UpdatedAt, p.Revision = now, found.Revision+1
	}
	w.done = func() { done(p) }
	return w
}

func nameTaken(name string) error {
	return &classError{class: ErrNameTaken, text: strings.TrimSpace("there is a live provider "+text.Printable(name)) + " already; choose another name, or update that one"}
}

// operate runs one operation on one provider. decide gets what was read under the lock, and the
// time of the transaction, which is that of the rows that it writes.
func (s *Store) operate(ctx context.Context, actor, what string, read reading, decide func(*storedProvider, time.Time) (write, error)) error {
	var found *storedProvider
	return s.operateOn(ctx, actor, what, read(&found), func(now time.Time) (write, error) { return decide(found, now) })
}

// operateOn is operate for any number of providers, which read reads.
func (s *Store) operateOn(ctx context.Context, actor, what string, read pg.Query, decide func(time.Time) (write, error)) error {
	if trimmed := strings.TrimSpace(actor); trimmed == "" || trimmed == SystemActor || len(actor) > text.MaxNameBytes || text.Check(actor) != "" {
		problems := fieldProblems{}
		problems.report(what+" needs an actor, for the audit: the name or id of whoever asked, not \"system\", at most 255 bytes of UTF-8 without control characters", "actor")
		return problems.err()
	}
	var now time.Time
	reads := []pg.Query{{SQL: `select now()`, Rows: pg.One(&now)}, read}
	audits := handover{store: s, auditor: s.auditor}
	err := s.locked(ctx, what, reads, func() (write, error) {
		w, err := decide(now)
		audits.follow(ctx, &w)
		return w, err
	})
	if err == nil {
		_ = audits.rest(ctx)
		audits.warn(ctx, s.logger)
	}
	return err
}

// conflict is the error of a change that was decided on another revision.
func conflict(found *storedProvider, wanted int64) error {
	return &classError{class: ErrConflict, text: fmt.Sprintf("provider %s was changed meanwhile: the change was decided on revision %d, and the provider has revision %d; "+
		"nothing was changed; read the provider again and decide again", found.Name, wanted, found.Revision)}
}

// allBedrockFields is how many fields Bedrock settings have.
const allBedrockFields = 5

// bedrockFields are the fields of an update that change Bedrock settings.
func (u ProviderUpdate) bedrockFields() []string {
	return namesOfSet([]setField{
		{fieldBedrockRegion, u.Region != nil},
		{fieldBedrockAccessKey, u.AccessKey != nil},
		{fieldBedrockAccessKeySecret, u.AccessKeySecret != nil},
		{fieldBedrockModel, u.Model != nil},
		{fieldBedrockSmallFastModel, u.SmallFastModel != nil},
	})
}

// removesBedrock reports whether an update takes the Bedrock settings of a provider away, and what
// is wrong with that.
func (u ProviderUpdate) removesBedrock(p Provider, report func(reason string, fields ...string)) bool {
	fields := u.bedrockFields()
	switch {
	case !u.RemoveBedrock:
		return false
	case len(fields) > 0:
		report("one update cannot remove Bedrock settings and change them; choose one", append([]string{fieldRemoveBedrock}, fields...)...)
	case providerTypes[p.Type].needsBedrock:
		report("not for type "+string(p.Type)+", which "+providerTypes[p.Type].insteadOfKeys()+"; delete the provider, and create one of another type", fieldRemoveBedrock)
	default:
		if p.Bedrock != nil && p.BaseURL != "" && u.BaseURL == nil {
			report("required with "+strings.ToLower(fieldRemoveBedrock)+", because the base URL of the provider can be that of Amazon Bedrock; "+
				"give the one that its requests go to from now on, or an empty one for the default of its type", fieldBaseURL)
		}
		return true
	}
	return false
}

// apply returns p with the changes, and reports what is wrong with them.
func (u ProviderUpdate) apply(p Provider, now time.Time, report func(reason string, fields ...string)) Provider {
	old := p
	set := func(into *string, value *string) {
		if value != nil {
			*into = *value
		}
	}
	set(&p.DisplayName, u.DisplayName)
	set(&p.BaseURL, u.BaseURL)
	if u.Keys != nil {
		p.Keys = replaceKeys(p.Keys, u.Keys, now)
	}
	if u.removesBedrock(old, report) {
		p.Bedrock = nil
	} else if len(u.bedrockFields()) > 0 {
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
	}
	p.check(old, report)
	return p
}
