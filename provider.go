package aiseed

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/aiseed/internal/baseurl"
)

// A ProviderType is the kind of upstream that a provider connects to.
type ProviderType string

// The supported types.
const (
	TypeOpenAI    ProviderType = "openai"
	TypeAnthropic ProviderType = "anthropic"
)

// providerTypes is the one table of supported types. CONTRIBUTING.md says what else a new
// type needs.
var providerTypes = map[ProviderType]struct {
	bedrock bool // takes the BEDROCK_* fields
}{
	TypeOpenAI:    {},
	TypeAnthropic: {bedrock: true},
}

func supportedTypes() string {
	var names []string
	for t := range providerTypes {
		names = append(names, string(t))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// The documented defaults. The base URLs are frozen: a new one would make every row that was
// seeded with the old one drift. The models are tunables and can change.
const (
	defaultOpenAIBaseURL         = "https://api.openai.com/v1/"
	defaultAnthropicBaseURL      = "https://api.anthropic.com/"
	defaultBedrockModel          = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
	defaultBedrockSmallFastModel = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
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
	Keys                 []ProviderKey    // bearer keys, in the configured order
	CreatedAt, UpdatedAt time.Time
}

func (p Provider) region() string {
	if p.Bedrock == nil {
		return ""
	}
	return p.Bedrock.Region
}

// BedrockSettings are how a provider authenticates with Amazon Bedrock.
type BedrockSettings struct {
	Region                     string // "" if the base URL contains it
	Model, SmallFastModel      string
	AccessKey, AccessKeySecret Secret // zero to use the AWS environment
}

// withDefaults sets missing models to the defaults of the environment.
func (b BedrockSettings) withDefaults() BedrockSettings {
	if b.Model == "" {
		b.Model = defaultBedrockModel
	}
	if b.SmallFastModel == "" {
		b.SmallFastModel = defaultBedrockSmallFastModel
	}
	return b
}

// A ProviderKey is one bearer key of a provider.
type ProviderKey struct {
	ID                   uuid.UUID
	APIKey               Secret
	CreatedAt, UpdatedAt time.Time
}

// storedProvider is a row of ai_providers with its keys. Its secrets are zero until the vault
// has decrypted them.
type storedProvider struct {
	Provider
	deleted  bool
	revision int64       // counts the changes to what the provider does
	settings *storedText // nil if it has none

	// of its keys
	positions []int
	texts     []storedText
}

// A storedText is a secret as a table holds it, with the id of the key that sealed it, or nil.
type storedText struct {
	text  string
	keyID *string
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

func keyAt(p Provider, i int) Secret {
	if i < len(p.Keys) {
		return p.Keys[i].APIKey
	}
	return Secret{}
}

func settingsOf(p Provider) BedrockSettings {
	if p.Bedrock == nil {
		return BedrockSettings{}
	}
	return *p.Bedrock
}

func sameSettings(a, b *BedrockSettings) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Region == b.Region && a.Model == b.Model && a.SmallFastModel == b.SmallFastModel &&
		a.AccessKey.Equal(b.AccessKey) && a.AccessKeySecret.Equal(b.AccessKeySecret)
}

// credentials describes briefly what a provider authenticates with, masked.
func (p Provider) credentials() string {
	switch keys := len(p.Keys); {
	case p.Bedrock != nil && p.Bedrock.AccessKey.IsZero():
		return "AWS environment"
	case p.Bedrock != nil:
		return "AWS " + p.Bedrock.AccessKey.String()
	case keys == 0:
		return "(none)"
	case keys == 1:
		return p.Keys[0].APIKey.String()
	default:
		return fmt.Sprintf("%s and %d more", p.Keys[0].APIKey, keys-1)
	}
}

// MaskURL returns a base URL with the values of its query masked, because they can be
// credentials. It returns four asterisks for a text that [ParseEnviron] would reject as a
// base URL and that can contain a credential elsewhere. It escapes control characters.
func MaskURL(raw string) string { return baseurl.Mask(raw) }
