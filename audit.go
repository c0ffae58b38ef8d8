package aiseed

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"example.com/aiseed/internal/pg"
)

// An Auditor receives each audit entry at least once and in order, after the
// change was committed. An entry is delivered once Audit returns nil. An undelivered
// entry is offered again, under the same ID, by the next start, by the next operation of a
// Store with [StoreOptions.Auditor], or by [Store.DeliverAudits].
//
// Entries are offered one at a time, on a goroutine that is not the caller's.
// ctx ends after half of [StoreOptions.AuditTimeout]; it does not end when the caller of
// the seed or the operation is cancelled. Delivery does not wait for an Audit that takes longer;
// the next delivery then calls Audit while that one still runs.
// Delivery holds one connection of the Store's pool meanwhile, so an Auditor that uses the same
// pool needs a second connection. An Auditor may call the Store: the entries of an operation that
// it makes are offered to it later, by the same delivery.
type Auditor interface {
	Audit(ctx context.Context, entry AuditEntry) error
}

// AuditorFunc adapts a function to an [Auditor].
type AuditorFunc func(ctx context.Context, entry AuditEntry) error

var _ Auditor = AuditorFunc(nil)

// Audit calls f.
func (f AuditorFunc) Audit(ctx context.Context, entry AuditEntry) error { return f(ctx, entry) }

// DiscardAudits accepts every entry and does nothing with it. Use it to choose
// explicitly not to audit. The entries still stay in the table ai_provider_audits.
var DiscardAudits Auditor = AuditorFunc(func(context.Context, AuditEntry) error { return nil })

// LeaveAudits leaves every entry undelivered. The host's next delivery then hands it to the
// host's own Auditor. Use it in a tool that writes next to the host.
var LeaveAudits Auditor = leaveAudits{}

type leaveAudits struct{}

var errLeft = errors.New("aiseed: the entry is left for the next start")

func (leaveAudits) Audit(context.Context, AuditEntry) error { return errLeft }

func checkAuditor(auditor Auditor) error {
	if f, ok := auditor.(AuditorFunc); auditor == nil || ok && f == nil {
		return errors.New("aiseed: the auditor is nil; give one, or DiscardAudits to do without")
	}
	return nil
}

// An AuditAction says what was done.
type AuditAction string

// The actions of an [AuditEntry].
const (
	AuditCreate  AuditAction = "create"  // of a provider or a key
	AuditUpdate  AuditAction = "update"  // of a provider, or of the position of a key
	AuditDelete  AuditAction = "delete"  // of a key, or of a provider, which stays as deleted
	AuditRestore AuditAction = "restore" // of a deleted provider
)

// The resources that an [AuditEntry] can be about.
const (
	ResourceProvider    = "ai_provider"
	ResourceProviderKey = "ai_provider_key"
)

// SystemActor is the actor of the changes that a seed makes.
const SystemActor = "system"

// An AuditEntry describes one change. Its secrets were masked before it was made.
type AuditEntry struct {
	ID           uuid.UUID // stable over repeated deliveries
	Time         time.Time // of the transaction that made the change
	Actor        string    // [SystemActor] for a start, or the actor that the host named
	Action       AuditAction
	Resource     string // [ResourceProvider] or [ResourceProviderKey]
	ResourceID   uuid.UUID
	ProviderID   uuid.UUID // of the provider that the resource is, or belongs to
	ProviderName string
	Old, New     json.RawMessage // nil if there is none
}

// auditRow is a row to insert into ai_provider_audits.
type auditRow struct {
	ID           uuid.UUID   `json:"id"`
	Actor        string      `json:"actor"`
	Action       AuditAction `json:"action"`
	Resource     string      `json:"resource"`
	ResourceID   uuid.UUID   `json:"resource_id"`
	ProviderID   uuid.UUID   `json:"provider_id"`
	ProviderName string      `json:"provider_name"`
	Old          any         `json:"old"`
	New          any         `json:"new"`
}

func auditOfProvider(actor string, action AuditAction, p Provider, old, new any) auditRow {
	return auditRow{uuid.New(), actor, action, ResourceProvider, p.ID, p.ID, p.Name, old, new}
}

func auditOfKey(actor string, action AuditAction, p Provider, key uuid.UUID, old, new any) auditRow {
	return auditRow{uuid.New(), actor, action, ResourceProviderKey, key, p.ID, p.Name, old, new}
}

// auditedValues are the values of a provider as an audit entry has them: with masks in place of
// secrets. Entries of earlier versions have no keys.
type auditedValues struct {
	Type        ProviderType     `json:"type"`
	Name        string           `json:"name"`
	DisplayName string           `json:"display_name"`
	Enabled     bool             `json:"enabled"`
	BaseURL     string           `json:"base_url"`
	Bedrock     *auditedSettings `json:"bedrock"`
	Keys        []string         `json:"keys"`
}

type auditedSettings struct {
	Region          string `json:"region"`
	Model           string `json:"model"`
	SmallFastModel  string `json:"small_fast_model"`
	AccessKey       string `json:"access_key"`
	AccessKeySecret string `json:"access_key_secret"`
}

func valuesOf(p Provider) auditedValues {
	v := auditedValues{p.Type, p.Name, p.DisplayName, p.Enabled, MaskURL(p.BaseURL), nil, []string{}}
	if b := p.Bedrock; b != nil {
		v.Bedrock = &auditedSettings{b.Region, b.Model, b.SmallFastModel, b.AccessKey.String(), b.AccessKeySecret.String()}
	}
	for _, key := range secretsOf(p) {
		v.Keys = append(v.Keys, key.String())
	}
	return v
}

// settings are the Bedrock settings, or empty ones.
func (v auditedValues) settings() auditedSettings {
	if v.Bedrock == nil {
		return auditedSettings{}
	}
	return *v.Bedrock
}

// shape returns a provider of the same shape, apart from what the base URL masks.
func (v auditedValues) shape() Provider {
	p := Provider{Type: v.Type, BaseURL: v.BaseURL}
	if v.Bedrock != nil {
		p.Bedrock = &BedrockSettings{Region: v.Bedrock.Region}
	}
	return p
}

// auditedKey returns the values of a key, masked.
func auditedKey(position int, key Secret) any {
	return struct {
		Position int    `json:"position"`
		APIKey   Secret `json:"api_key,omitzero"` // none if it was not decrypted
	}{position, key}
}

func (d *database) insertAudits(rows ...auditRow) pg.Query {
	return pg.Write("ai_provider_audits", len(rows), d.sql(auditsSQL), pg.JSON(rows))
}

const auditsSQL = `
insert into {schema}.ai_provider_audits (id, actor, action, resource, resource_id, provider_id, provider_name, old, new)
select id, actor, action, resource, resource_id, provider_id, provider_name, old, new
  from rows from (json_to_recordset($1::json) as (id uuid, actor text, action text, resource text, resource_id uuid,
                                                  provider_id uuid, provider_name text, old jsonb, new jsonb))
       with ordinality as r (id, actor, action, resource, resource_id, provider_id, provider_name, old, new, position)
 order by position`
