package aiseed

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"

	"example.com/aiseed/internal/seal"
)

// A settlement holds the operator's choices about drifts, as tokens (name@digest).
type settlement struct {
	variables   variables
	adopt, keep []string
}

func (cfg Config) settlement() settlement {
	return settlement{variables: cfg.variables, adopt: cfg.DriftAdopt, keep: cfg.DriftKeep}
}

// adopts and keeps report what the operator chose about a drift.
func (s settlement) adopts(entry string) bool { return slices.Contains(s.adopt, entry) }

func (s settlement) keeps(entry string) bool {
	return slices.ContainsFunc(s.keep, func(kept string) bool { return keepable(kept) == keepable(entry) })
}

// driftDigest identifies one difference between a row and the environment, in two
// halves of 8 hex digits. The first half covers the shapes: DRIFT_KEEP applies as
// long as they stay the same. The second half covers everything that adopting
// overwrites, and the row's revision. Once the row changes, by adopting or otherwise,
// the digest never appears again, even if the row gets its old values back.
func driftDigest(stored *storedProvider, want Provider) string {
	half := func(fields ...string) string {
		sum := sha256.Sum256(seal.AppendFields([]byte("aiseed drift v1\n"), fields...))
		return hex.EncodeToString(sum[:digestHalf/2])
	}
	was, is := canonicalHash(stored.Provider), canonicalHash(want)
	shapes := half(stored.ID.String(), string(was[:]), string(is[:]))
	p, keys := adopted(stored.Provider, want)
	settings := settingsOf(p)
	return shapes + half(shapes, strconv.FormatInt(stored.Revision, 10), settings.Model, settings.SmallFastModel,
		strconv.FormatBool(settings.AccessKey.IsZero()), strconv.Itoa(len(keys)))
}

// digestHalf is the length of half a digest in hex digits.
const digestHalf = 8

// keepable returns the part of an entry that DRIFT_KEEP compares.
func keepable(entry string) string { return entry[:len(entry)-digestHalf] }

// adopted returns the row as the environment wants it: shape and settings, and the
// keys only if the row has none.
func adopted(stored, want Provider) (p Provider, keys []ProviderKey) {
	p = stored
	p.Type, p.BaseURL, p.Bedrock = want.Type, want.BaseURL, want.Bedrock
	if len(stored.Keys) == 0 {
		keys = want.Keys
	}
	return p, keys
}
