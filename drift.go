package aiseed

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"example.com/aiseed/internal/seal"
	"example.com/aiseed/internal/text"
)

// A settlement holds the operator's choices about differences: tokens (name@digest), and
// standing keeps.
type settlement struct {
	variables   variables
	adopt, keep []string
}

func (cfg Config) settlement() settlement {
	return settlement{variables: cfg.variables, adopt: cfg.DriftAdopt, keep: cfg.DriftKeep}
}

// A standing keep is name@choice, everybody@choice, or everybody alone, which is always.
const (
	everybody    = "*"
	always       = "*"        // whichever side moved
	databaseOnly = "database" // only if the database alone moved
)

// standing returns the provider and the choice of a standing keep. choice is "" for a token.
func standing(entry string) (provider, choice string) {
	if entry == everybody {
		return everybody, always
	}
	provider, choice, _ = strings.Cut(entry, "@")
	if choice != always && choice != databaseOnly {
		return provider, ""
	}
	return provider, choice
}

// asksWhoMoved reports whether a choice depends on the side that moved.
func (s settlement) asksWhoMoved() bool {
	return slices.ContainsFunc(s.keep, func(entry string) bool { _, choice := standing(entry); return choice == databaseOnly })
}

// A disagreement is a difference between a row and the environment, as an operator settles it.
type disagreement struct {
	provider string
	drift    bool // in the shape
	moved    Side
	digests  []string
}

// choose returns the entry by which an operator settled a disagreement, or "". A token goes before
// a standing keep, adopting before keeping.
func (s settlement) choose(d disagreement) (entry string, adopts bool) {
	for _, entry := range s.adopt {
		if d.isSettledBy(entry, true) {
			return entry, true
		}
	}
	for _, entry := range s.keep {
		if d.isSettledBy(entry, false) {
			return entry, false
		}
	}
	for _, entry := range s.keep {
		provider, choice := standing(entry)
		if (provider == everybody || provider == d.provider) && (choice == always || choice == databaseOnly && d.moved == SideDatabase) {
			return entry, false
		}
	}
	return "", false
}

// isSettledBy reports whether a token is for a disagreement. To keep a drift, its first half is
// enough.
func (d disagreement) isSettledBy(token string, adopts bool) bool {
	name, digest, _ := strings.Cut(token, "@")
	return name == d.provider && len(digest) == 2*digestHalf && slices.ContainsFunc(d.digests, func(ours string) bool {
		return ours == digest || d.drift && !adopts && ours[:digestHalf] == digest[:digestHalf]
	})
}

// digestHalf is the length of half a digest in hex digits.
const digestHalf = 8

// digests identify one difference between a row and the environment, in two halves of 8 hex
// digits, once for each way to fingerprint a credential. The first half covers the row's id and
// the shapes, and nothing else: keeping a drift compares only this half. The second half covers
// everything that adopting overwrites, and what it writes. Once the row changes, by adopting or
// otherwise, the digest never appears again, even if the row gets its old values back.
func digests(stored *storedProvider, want, target Provider, fingerprints []func(Secret) string) []string {
	half := func(fields ...string) string {
		sum := sha256.Sum256(seal.AppendFields([]byte("aiseed drift v1\n"), fields...))
		return hex.EncodeToString(sum[:digestHalf/2])
	}
	was, is := canonicalHash(stored.Provider), canonicalHash(want)
	shapes := half(stored.ID.String(), string(was[:]), string(is[:]))
	list := make([]string, len(fingerprints))
	for i, of := range fingerprints {
		fingerprint := func(s Secret) string {
			if s.IsZero() {
				return ""
			}
			return of(s)
		}
		fields := []string{shapes, strconv.FormatInt(stored.Revision, 10)}
		for _, p := range []Provider{stored.Provider, target} {
			settings := settingsOf(p)
			fields = append(fields, string(p.Type), p.BaseURL, settings.Region, settings.Model, settings.SmallFastModel,
				fingerprint(settings.AccessKey), fingerprint(settings.AccessKeySecret), strconv.Itoa(len(p.Keys)))
			for _, key := range p.Keys {
				fields = append(fields, key.ID.String(), fingerprint(key.APIKey))
			}
		}
		list[i] = shapes + half(fields...)
	}
	return list
}

// adoptedBy returns a row as the environment wants it: its shape, its settings and its
// credentials. What the environment does not set stays, unless the shape does not take it. Equal
// keys keep their ids. A base URL or a type that is only written in another way stays too.
func (d *desired) adoptedBy(stored Provider, drifted bool) Provider {
	p := stored
	if drifted {
		p.Type, p.BaseURL = d.Type, d.BaseURL
	}
	p.Bedrock = nil
	if d.Bedrock != nil {
		is, was := *d.Bedrock, settingsOf(stored)
		if !d.model && was.Model != "" {
			is.Model = was.Model
		}
		if !d.smallFastModel && was.SmallFastModel != "" {
			is.SmallFastModel = was.SmallFastModel
		}
		if is.AccessKey.IsZero() {
			is.AccessKey, is.AccessKeySecret = was.AccessKey, was.AccessKeySecret
		}
		p.Bedrock = &is
	}
	switch {
	case !d.takesKeys():
		p.Keys = nil
	case len(d.Keys) > 0:
		p.Keys = matchKeys(stored.Keys, secretsOf(d.Provider))
	}
	return p
}

func (d *desired) takesKeys() bool { return providerTypes[d.Type].keys && d.Bedrock == nil }

// hasCredentials reports whether the environment sets any, so that those of a row do not simply
// stay.
func hasCredentials(p Provider) bool { return len(p.Keys) > 0 || !settingsOf(p).AccessKey.IsZero() }

// fingerprinted names the credentials of a provider by their fingerprints.
func (p Provider) fingerprinted(fingerprint func(Secret) string) string {
	if p.Bedrock != nil {
		return "the Bedrock access key (" + fingerprint(p.Bedrock.AccessKey) + ")"
	}
	var shown []string
	for _, s := range secretsOf(p) {
		shown = append(shown, fingerprint(s))
	}
	return text.Count(len(shown), "API key") + " (" + strings.Join(shown, ", ") + ")"
}

// endpoint says where the requests of a provider go, masked.
func (p Provider) endpoint() string {
	if url := cmp.Or(p.BaseURL, p.Type.DefaultBaseURL()); url != "" && (p.Bedrock == nil || p.BaseURL != "") {
		return MaskURL(url)
	}
	return "Amazon Bedrock in " + cmp.Or(text.Printable(p.region()), "the region of the AWS environment")
}
