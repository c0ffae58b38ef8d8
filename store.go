package aiseed

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
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
func (s *Store) load(names []string, into *map[string]*storedProvider) query {
	return s.selectProviders(isNamed, opened, func(stored []*storedProvider) {
		*into = make(map[string]*storedProvider, len(stored))
		for _, p := range slices.Backward(stored) { // the first of a name counts
			(*into)[p.Name] = p
		}
	}, jsonArg(names))
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
func (s *Store) selectProviders(condition string, secrets secrecy, take func([]*storedProvider), args ...[]byte) query {
	text, live := strings.Replace(providersAndKeys, "{condition}", condition, 1), ""
	if secrets == opened {
		live = " where not deleted"
	}
	return query{
		sql:  s.sql(strings.Replace(text, "{live}", live, 1)),
		args: args,
		rows: func(rows pgx.Rows) error {
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
				p.Bedrock, err = s.openSettings(id, value.String, pointerTo(sealedBy))
			}
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(stored, (*storedProvider).compare)
	return stored, rows.Err()
}

// insertKey keeps the keys in the order of their positions.
func (p *storedProvider) insertKey(key ProviderKey, position int) {
	i, _ := slices.BinarySearch(p.positions, position)
	p.Keys, p.positions = slices.Insert(p.Keys, i, key), slices.Insert(p.positions, i, position)
}

// compare orders by name: of one name the live one first, then the tombstones, the
// latest first.
func (p *storedProvider) compare(other *storedProvider) int {
	switch {
	case p.Name == other.Name && p.deleted && !other.deleted:
		return 1
	case p.Name == other.Name && !p.deleted && other.deleted:
		return -1
	}
	return cmp.Or(cmp.Compare(p.Name, other.Name), other.UpdatedAt.Compare(p.UpdatedAt), bytes.Compare(p.ID[:], other.ID[:]))
}

func pointerTo(t pgtype.Text) *string {
	if !t.Valid {
		return nil
	}
	return &t.String
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
