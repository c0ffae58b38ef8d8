package aiseed

import (
	"context"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/xerrors"
)

// A Provider is an upstream AI endpoint as the runtime uses it.
type Provider struct {
	ID                   uuid.UUID
	Type                 ProviderType
	Name                 string // unique among live providers
	DisplayName          string // "" for none
	Enabled              bool
	BaseURL              string           // as the operator wrote it, see [MaskURL]; "" leaves it to the runtime
	Bedrock              *BedrockSettings // nil for a provider with bearer keys
	Keys                 []ProviderKey    // bearer keys, in the order in which they were configured
	CreatedAt, UpdatedAt time.Time
}

// BedrockSettings are how a provider authenticates with Amazon Bedrock.
type BedrockSettings struct {
	Region                     string // "" where the base URL says it
	Model, SmallFastModel      string
	AccessKey, AccessKeySecret Secret // zero to use the AWS environment
}

// A ProviderKey is one bearer key of a provider.
type ProviderKey struct {
	ID                   uuid.UUID
	APIKey               Secret
	CreatedAt, UpdatedAt time.Time
}

// StoreOptions say how [Open] makes a [Store].
type StoreOptions struct {
	// Keyring seals and opens the secrets in the tables. nil is an error unless
	// AllowPlaintext is set.
	Keyring *Keyring
	// AllowPlaintext accepts that secrets are stored as they are where there is
	// no Keyring. With a Keyring it has no effect.
	AllowPlaintext bool
	// Schema holds the tables. "" is "public".
	Schema string
	// Migrate applies the schema on opening where it is missing or older.
	Migrate bool
	// LockTimeout bounds the wait for another process's seed, and for the
	// server's word on a commit of which the answer was lost. It takes the place
	// of a statement_timeout of the role. A lock holder that
	// goes silent is ended by the server after half of it, but not before a
	// second. 0 is 30 seconds; at most 24 hours.
	LockTimeout time.Duration
	// AuditTimeout bounds one delivery of audits. 0 is 10 seconds; at most 24 hours.
	AuditTimeout time.Duration
	// NotifyChannel is told of every committed write, for [Store.Watch] and for
	// listeners of the host's own. "" is no channel.
	NotifyChannel string
}

const (
	defaultSchema       = "public"
	defaultLockTimeout  = 30 * time.Second
	defaultAuditTimeout = 10 * time.Second
	maxTimeout          = 24 * time.Hour
)

// A Store reads and writes AI providers. It seals what it writes and opens what
// it reads from the moment that it exists. It is safe for concurrent use, holds
// no connection between calls, and needs no closing: the pool stays the
// caller's. There is no useful zero Store; make one with [Open].
type Store struct {
	pool         *pgxpool.Pool
	vault        *vault
	schema       string
	lockTimeout  time.Duration
	auditTimeout time.Duration

	notifyChannel string // "" for none
}

// Open makes a Store on a pool, after checking that the schema is there and that
// the keyring has every key that rows still need. It writes nothing, except the
// schema where opts.Migrate asks for it.
//
// Errors match [ErrSchema], [ErrKeyring] or [ErrDatabase]; with Migrate,
// [ErrLockTimeout] too.
func Open(ctx context.Context, pool *pgxpool.Pool, opts StoreOptions) (*Store, error) {
	switch {
	case pool == nil:
		return nil, xerrors.New("aiseed: Open needs a pool, and got nil")
	case opts.Keyring == nil && !opts.AllowPlaintext:
		return nil, keyringErrorf("there is none; give StoreOptions.Keyring, or set AllowPlaintext to store secrets unencrypted")
	case opts.Keyring != nil && len(opts.Keyring.keys) == 0:
		return nil, keyringErrorf("it has no key; make it with NewKeyring or ParseKeyring")
	case opts.LockTimeout < 0 || opts.AuditTimeout < 0 || opts.LockTimeout > maxTimeout || opts.AuditTimeout > maxTimeout:
		return nil, xerrors.New("aiseed: StoreOptions: a timeout is negative or longer than 24 hours; want a positive one, or 0 for the default")
	}
	s := &Store{
		pool:         pool,
		vault:        newVault(opts.Keyring),
		schema:       opts.Schema,
		lockTimeout:  opts.LockTimeout,
		auditTimeout: opts.AuditTimeout,

		notifyChannel: opts.NotifyChannel,
	}
	if s.schema == "" {
		s.schema = defaultSchema
	}
	if s.lockTimeout == 0 {
		s.lockTimeout = defaultLockTimeout
	}
	if s.auditTimeout == 0 {
		s.auditTimeout = defaultAuditTimeout
	}
	if err := checkSchemaName(s.schema); err != nil {
		return nil, err
	}
	if len(s.notifyChannel) > maxIdentifierBytes || strings.ContainsRune(s.notifyChannel, 0) || !utf8.ValidString(s.notifyChannel) {
		return nil, xerrors.New("aiseed: StoreOptions: NotifyChannel is longer than 63 bytes, or holds a NUL or something that is not UTF-8")
	}
	if err := s.checkSchema(ctx, opts.Migrate); err != nil {
		return nil, err
	}
	return s, nil
}

// Providers returns the enabled live providers in order of name, from one
// snapshot, with their secrets opened.
//
// Errors match [ErrUndecryptable], [ErrPlaintext] or [ErrDatabase].
func (s *Store) Providers(ctx context.Context) ([]Provider, error) {
	var stored []storedProvider
	err := s.read(ctx, "reading the providers", query{
		sql: s.sql(selectEnabled),
		rows: func(rows pgx.Rows) (err error) {
			stored, _, err = s.scanProviders(rows, true)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	providers := make([]Provider, len(stored))
	for i, p := range stored {
		providers[i] = p.Provider
	}
	return providers, nil
}

// providerColumns is what scanProviders reads, one row per key, or one without a
// key. pending tells whether there are undelivered audits; it comes with every
// row so that one statement tells a start everything.
const providerColumns = `
       p.id, p.type, p.name, p.display_name, p.enabled, p.deleted, p.base_url, p.revision,
       p.settings, p.settings_key_id, p.created_at, p.updated_at,
       k.id, k.position, k.api_key, k.api_key_key_id, k.created_at, k.updated_at`

// The keys of a provider are a subquery with an "offset 0", which keeps the planner to
// one index look-up per provider, whatever else the table holds and whether or not it
// was analysed yet.
const (
	selectEnabled = `
select false,` + providerColumns + `
  from {schema}.ai_providers p
  left join {schema}.ai_provider_keys k on k.provider_id = p.id
 where p.enabled and not p.deleted
 order by p.name, k.position`

	// The live row of each name in the JSON array $1, or else its latest
	// tombstone. The secrets of a tombstone are nobody's business.
	selectNamed = `
with named as materialized (
  select distinct on (name) * from {schema}.ai_providers
   where name = any (array(select json_array_elements_text($1::json)))
   order by name, deleted, updated_at desc, id
)
select audits.pending,` + providerColumns + `
  from (select (` + selectFirstUndelivered + `) is not null as pending) audits
  left join (named p
             left join lateral (select * from {schema}.ai_provider_keys
                                 where provider_id = p.id and not p.deleted
                                offset 0) k on true) on true
 order by p.name, k.position`
)

// state is what a start needs to know.
type state struct {
	providers map[string]storedProvider // by name; only the names asked for
	pending   bool                      // there are undelivered audits
}

// loadQuery reads the state of the named providers into st.
func (s *Store) loadQuery(names []string, st *state) query {
	return query{
		sql:  s.sql(selectNamed),
		args: [][]byte{jsonArg(names)},
		rows: func(rows pgx.Rows) error {
			stored, pending, err := s.scanProviders(rows, true)
			*st = state{providers: map[string]storedProvider{}, pending: pending}
			for _, p := range stored {
				st.providers[p.Name] = p
			}
			return err
		},
	}
}

func (s *Store) load(ctx context.Context, names []string) (st state, err error) {
	err = s.query(ctx, "reading the providers", s.loadQuery(names, &st))
	return st, err
}

// scanProviders reads rows of providerColumns. Secrets are opened only if asked
// for, and those of a tombstone never.
func (s *Store) scanProviders(rows pgx.Rows, secrets bool) (stored []storedProvider, pending bool, err error) {
	for rows.Next() {
		var (
			id, keyID              *uuid.UUID // null where there is no provider, or no key
			kind, name, baseURL    *string
			displayName            *string
			enabled, deleted       *bool
			settings, settingsKey  *string
			created, updated       *time.Time
			revision               *int64
			position               *int
			apiKey, apiKeyKey      *string
			keyCreated, keyUpdated *time.Time
		)
		if err := rows.Scan(&pending, &id, &kind, &name, &displayName, &enabled, &deleted, &baseURL, &revision,
			&settings, &settingsKey, &created, &updated,
			&keyID, &position, &apiKey, &apiKeyKey, &keyCreated, &keyUpdated); err != nil {
			return nil, false, err
		}
		if id == nil {
			continue
		}
		if n := len(stored); n == 0 || stored[n-1].ID != *id {
			p := Provider{
				ID: *id, Type: ProviderType(*kind), Name: *name, Enabled: *enabled, BaseURL: *baseURL,
				CreatedAt: *created, UpdatedAt: *updated,
			}
			if displayName != nil {
				p.DisplayName = *displayName
			}
			if settings != nil && secrets && !*deleted {
				if p.Bedrock, err = s.openSettings(p.ID, *settings, settingsKey); err != nil {
					return nil, false, err
				}
			}
			stored = append(stored, storedProvider{Provider: p, deleted: *deleted, revision: *revision})
		}
		if keyID == nil {
			continue
		}
		p := &stored[len(stored)-1]
		var secret Secret
		if secrets && !p.deleted {
			if secret, err = s.vault.open(apiKeyCell(*keyID, p.ID), *apiKey, apiKeyKey); err != nil {
				return nil, false, err
			}
		}
		p.positions = append(p.positions, *position)
		p.Keys = append(p.Keys, ProviderKey{ID: *keyID, APIKey: secret, CreatedAt: *keyCreated, UpdatedAt: *keyUpdated})
	}
	return stored, pending, rows.Err()
}

func settingsCell(provider uuid.UUID) cell {
	return cell{table: "ai_providers", column: "settings", row: provider.String(), provider: provider}
}

func apiKeyCell(key, provider uuid.UUID) cell {
	return cell{table: "ai_provider_keys", column: "api_key", row: key.String(), provider: provider}
}

// storedSettings is the column ai_providers.settings, before it is sealed:
//
//	{"_type":"bedrock","_version":1,"region":"us-east-1","model":"…","small_fast_model":"…","access_key":"…","access_key_secret":"…"}
type storedSettings struct {
	Type            string `json:"_type"`
	Version         int    `json:"_version"`
	Region          string `json:"region"`
	Model           string `json:"model"`
	SmallFastModel  string `json:"small_fast_model"`
	AccessKey       string `json:"access_key"`
	AccessKeySecret string `json:"access_key_secret"`
}

const (
	settingsType    = "bedrock"
	settingsVersion = 1
)

func (s *Store) sealSettings(provider uuid.UUID, b *BedrockSettings) (stored, keyID *string, err error) {
	if b == nil {
		return nil, nil, nil
	}
	plaintext, err := json.Marshal(storedSettings{
		Type: settingsType, Version: settingsVersion,
		Region: b.Region, Model: b.Model, SmallFastModel: b.SmallFastModel,
		AccessKey: b.AccessKey.Reveal(), AccessKeySecret: b.AccessKeySecret.Reveal(),
	})
	if err != nil {
		return nil, nil, err
	}
	sealed, keyID := s.vault.seal(settingsCell(provider), NewSecret(string(plaintext)))
	return &sealed, keyID, nil
}

func (s *Store) openSettings(provider uuid.UUID, stored string, keyID *string) (*BedrockSettings, error) {
	c := settingsCell(provider)
	plaintext, err := s.vault.open(c, stored, keyID)
	if err != nil {
		return nil, err
	}
	var b storedSettings
	err = json.Unmarshal([]byte(plaintext.Reveal()), &b)
	if err != nil || b.Type != settingsType || b.Version != settingsVersion {
		// The decoder's error can quote what it decodes.
		e := &DecryptError{Table: c.table, Column: c.column, RowID: provider, malformed: true}
		if keyID != nil {
			e.KeyID = *keyID
		}
		return nil, e
	}
	return &BedrockSettings{
		Region: b.Region, Model: b.Model, SmallFastModel: b.SmallFastModel,
		AccessKey: NewSecret(b.AccessKey), AccessKeySecret: NewSecret(b.AccessKeySecret),
	}, nil
}

func (s *Store) sql(text string) string {
	return strings.ReplaceAll(text, "{schema}", pgx.Identifier{s.schema}.Sanitize())
}
