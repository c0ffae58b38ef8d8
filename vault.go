package aiseed

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/seal"
)

// storedProvider is a row of ai_providers with its keys. Its secrets are zero until the vault
// has decrypted them.
type storedProvider struct {
	Provider
	deleted  bool
	settings *storedText // nil if it has none

	// of its keys
	positions []int
	texts     []storedText
}

// A storedText is a secret as a table holds it, with the id of the key that sealed it, or nil.
type storedText struct {
	text   string
	keyID  *string
	failed error // why the vault could not decrypt it
}

// insertKey adds a key and keeps the keys in the order of their positions.
func (p *storedProvider) insertKey(key ProviderKey, position int, text storedText) {
	i, _ := slices.BinarySearch(p.positions, position)
	p.Keys, p.positions, p.texts = slices.Insert(p.Keys, i, key), slices.Insert(p.positions, i, position), slices.Insert(p.texts, i, text)
}

// compare orders by name. For each name, the live provider comes first, then the tombstones,
// the latest first.
func (p *storedProvider) compare(other *storedProvider) int {
	switch {
	case p.Name == other.Name && p.deleted && !other.deleted:
		return 1
	case p.Name == other.Name && !p.deleted && other.deleted:
		return -1
	}
	return cmp.Or(cmp.Compare(p.Name, other.Name), other.UpdatedAt.Compare(p.UpdatedAt), bytes.Compare(p.ID[:], other.ID[:]))
}

// failure returns why the settings or the keys of a provider were not decrypted.
func (p *storedProvider) failure(settings, keys bool) error {
	if settings && p.settings != nil && p.settings.failed != nil {
		return p.settings.failed
	}
	for i := range p.texts {
		if keys && p.texts[i].failed != nil {
			return p.texts[i].failed
		}
	}
	return nil
}

// sealed returns a copy with only the settings and the keys for which is chooses the id of the key
// that sealed them, which is "" for none.
func (p *storedProvider) sealed(is func(keyID string) bool) *storedProvider {
	chosen := *p
	chosen.settings, chosen.Bedrock = nil, nil
	chosen.Keys, chosen.positions, chosen.texts = nil, nil, nil
	if p.settings != nil && is(p.settings.sealedBy()) {
		chosen.settings, chosen.Bedrock = p.settings, p.Bedrock
	}
	for i, text := range p.texts {
		if is(text.sealedBy()) {
			chosen.insertKey(p.Keys[i], p.positions[i], text)
		}
	}
	return &chosen
}

// sealedBy returns the id of the key, or "".
func (t storedText) sealedBy() string {
	if t.keyID == nil {
		return ""
	}
	return *t.keyID
}

// A vault seals and decrypts the values of one store. It uses the keys of a keyring, or none
// if plaintext was accepted.
type vault struct {
	ring        seal.Ring // empty in plaintext mode
	fingerprint func(Secret) string
}

func newVault(keyring *Keyring) *vault {
	if keyring == nil {
		return &vault{fingerprint: processFingerprint()}
	}
	return &vault{ring: keyring.keys, fingerprint: ofSecret(keyring.keys[0].Fingerprint)}
}

// processFingerprint is for the stores without a keyring.
var processFingerprint = sync.OnceValue(func() func(Secret) string {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails since Go 1.24
	return ofSecret(seal.NewFingerprint(key))
})

// fingerprints are how a plan shows secrets, and how the digests of differences are bound to them.
type fingerprints struct {
	shown func(Secret) string
	bound []func(Secret) string // the first is that of the digest to print
}

// fingerprints binds with any key of the ring, so that a token outlives a rotation, and without a
// keyring to what each process can tell.
func (v *vault) fingerprints() fingerprints {
	of := fingerprints{shown: v.fingerprint}
	for _, key := range v.ring {
		of.bound = append(of.bound, ofSecret(key.Fingerprint))
	}
	if of.bound == nil {
		of.bound = []func(Secret) string{func(s Secret) string { return s.String() + " " + strconv.Itoa(len(s.Reveal())) }}
	}
	return of
}

// ofSecret turns a function of a text into a function of a secret.
func ofSecret(fingerprint func(string) string) func(Secret) string {
	return func(s Secret) string { return fingerprint(s.Reveal()) }
}

// seal returns what to store in c and in its key-id column (nil for plaintext).
func (v *vault) seal(c seal.Cell, s Secret) (stored string, keyID *string) {
	return v.ring.Seal(c, s.Reveal())
}

// open returns the secret that is stored in c. Its errors are *[DecryptError].
func (v *vault) open(c seal.Cell, stored storedText) (Secret, error) {
	plaintext, err := v.ring.Open(c, stored.text, stored.keyID)
	if err != nil {
		row, _ := uuid.Parse(c.Row)
		e := &DecryptError{Table: c.Table, Column: c.Column, RowID: row, plaintext: errors.Is(err, seal.ErrPlaintext)}
		if stored.keyID != nil {
			e.KeyID = *stored.keyID
			_, e.known = v.ring.ByID(e.KeyID)
		}
		return Secret{}, e
	}
	return NewSecret(plaintext), nil
}

// openProvider decrypts the secrets of a provider that was read. It leaves those of a tombstone.
func (v *vault) openProvider(p *storedProvider) error {
	if p.deleted {
		return nil
	}
	v.openAll(p)
	return p.failure(true, true)
}

// openAll decrypts what it can of a provider that was read. What it cannot is empty, and has a
// failure.
func (v *vault) openAll(p *storedProvider) {
	if p.settings != nil {
		if p.Bedrock, p.settings.failed = v.openSettings(p.ID, *p.settings); p.settings.failed != nil {
			p.Bedrock = &BedrockSettings{}
		}
		named(p.settings.failed, p.Name)
	}
	for i := range p.texts {
		p.Keys[i].APIKey, p.texts[i].failed = v.open(apiKeyCell(p.Keys[i].ID, p.ID), p.texts[i])
		named(p.texts[i].failed, p.Name)
	}
}

// named gives an error of the vault the name of its provider.
func named(err error, provider string) {
	var e *DecryptError
	if errors.As(err, &e) {
		e.Provider = provider
	}
}

// openProviders decrypts the secrets of providers that were read, and returns those for which that
// succeeded. A *[ProvidersError] lists the others.
func (v *vault) openProviders(stored []*storedProvider) ([]*storedProvider, error) {
	opened := make([]*storedProvider, 0, len(stored))
	var failed []ProviderError
	for _, p := range stored {
		if err := v.openProvider(p); err != nil {
			failed = append(failed, ProviderError{ID: p.ID, Name: p.Name, Err: err})
			continue
		}
		opened = append(opened, p)
	}
	if failed != nil {
		return opened, &ProvidersError{Providers: failed}
	}
	return opened, nil
}

// openedByName decrypts providers that were read, one for each name.
func (v *vault) openedByName(stored []*storedProvider) (map[string]*storedProvider, error) {
	opened, err := v.openProviders(stored)
	if err != nil {
		return nil, err
	}
	chosen := make(map[string]*storedProvider, len(opened))
	for _, p := range opened {
		chosen[p.Name] = p
	}
	return chosen, nil
}

// sealedCells are the columns with sealed values, without a row. A rotation finds them, and those
// of a later version, by their foreign keys.
var sealedCells = [...]seal.Cell{{Table: "ai_providers", Column: "settings"}, {Table: "ai_provider_keys", Column: "api_key"}}

func settingsCell(provider uuid.UUID) seal.Cell {
	c := sealedCells[0]
	c.Row, c.Provider = provider.String(), provider
	return c
}

func apiKeyCell(key, provider uuid.UUID) seal.Cell {
	c := sealedCells[1]
	c.Row, c.Provider = key.String(), provider
	return c
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

func (v *vault) sealSettings(provider uuid.UUID, b *BedrockSettings) (stored, keyID *string) {
	if b == nil {
		return nil, nil
	}
	plaintext := pg.JSON(storedSettings{
		Type: settingsType, Version: settingsVersion,
		Region: b.Region, Model: b.Model, SmallFastModel: b.SmallFastModel,
		AccessKey: b.AccessKey.Reveal(), AccessKeySecret: b.AccessKeySecret.Reveal(),
	})
	sealed, keyID := v.seal(settingsCell(provider), NewSecret(string(plaintext)))
	return &sealed, keyID
}

func (v *vault) openSettings(provider uuid.UUID, stored storedText) (*BedrockSettings, error) {
	c := settingsCell(provider)
	plaintext, err := v.open(c, stored)
	if err != nil {
		return nil, err
	}
	var b storedSettings
	err = json.Unmarshal([]byte(plaintext.Reveal()), &b)
	if err != nil || b.Type != settingsType || b.Version != settingsVersion {
		// Leave out the decoder's error: it can quote what it decodes.
		e := &DecryptError{Table: c.Table, Column: c.Column, RowID: provider, malformed: true}
		if stored.keyID != nil {
			e.KeyID = *stored.keyID
		}
		return nil, e
	}
	return &BedrockSettings{
		Region: b.Region, Model: b.Model, SmallFastModel: b.SmallFastModel,
		AccessKey: NewSecret(b.AccessKey), AccessKeySecret: NewSecret(b.AccessKeySecret),
	}, nil
}

// storedKey is a row of ai_encryption_keys, and the columns with values that need it.
type storedKey struct {
	ID, Canary string
	Needed     []string
}

// selectStoredKeys reads the keys in one statement, since opening takes one round trip.
var selectStoredKeys = func() string {
	var needed []string
	for _, c := range sealedCells {
		needed = append(needed, fmt.Sprintf(`case when exists (select from {schema}.%[1]s where %[2]s_key_id = k.id) then '%[1]s.%[2]s' end`, c.Table, c.Column))
	}
	return `select k.id, k.canary, array_remove(array[` + strings.Join(needed, ", ") + `], null) from {schema}.ai_encryption_keys k order by k.created_at, k.id`
}()

// selectSuccessor finds the key that is in use in place of the first key of a keyring, or sets
// *successor to "" if the first may seal: it was not revoked, or no key is in use, as after an
// unseal.
func (d *database) selectSuccessor(ring seal.Ring, successor *string) pg.Query {
	var first string
	if len(ring) > 0 {
		first = ring[0].ID
	}
	return pg.Query{
		SQL: d.sql(`
select coalesce((select u.id from {schema}.ai_encryption_keys u where u.revoked_at is null order by u.created_at desc, u.id limit 1), '')
 where exists (select from {schema}.ai_encryption_keys k where k.id = $1 and k.revoked_at is not null)`),
		Args: [][]byte{[]byte(first)},
		Rows: func(rows pgx.Rows) error {
			*successor = ""
			_, err := pgx.ForEachRow(rows, []any{successor}, func() error { return nil })
			return err
		},
	}
}

// revokedKey is the error of a keyring whose first key has a successor.
func revokedKey(ring seal.Ring, successor string) error {
	if successor == "" {
		return nil
	}
	e := &KeyringError{Revoked: ring[0].ID}
	do := "put %[2]s first, and the other, if at all, after it"
	if _, has := ring.ByID(successor); !has {
		e.Missing = []string{successor}
		do = "give the keyring that has %[2]s, and put that first"
	}
	e.text = fmt.Sprintf("its first key, %s, is revoked: a rotation has put %s in its place, so it must seal nothing more; "+do, e.Revoked, successor)
	return e
}

// checkKeys compares the keyring with the keys that sealed the values in the tables.
func checkKeys(ring seal.Ring, stored []storedKey) error {
	var missing, needs []string
	for _, k := range stored {
		key, ok := ring.ByID(k.ID)
		switch {
		case ok && !key.OpensCanary(k.Canary):
			return keyringErrorf("key %s cannot decrypt its own canary in ai_encryption_keys; the row was changed, restore it from a backup", k.ID)
		case !ok && len(k.Needed) > 0:
			missing = append(missing, k.ID)
			needs = append(needs, k.ID+" (for "+strings.Join(k.Needed, " and ")+")")
		}
	}
	text := "it lacks %s, which stored values are sealed with; append it to the keyring, after the key that seals"
	switch {
	case len(missing) == 0:
		return nil
	case len(ring) == 0:
		text = "there is none, and the tables hold values that are sealed with %s; give the keyring that sealed them"
	}
	return &KeyringError{Missing: missing, text: fmt.Sprintf(text, strings.Join(needs, ", "))}
}
