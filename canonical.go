package aiseed

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"

	"example.com/aiseed/internal/baseurl"
	"example.com/aiseed/internal/seal"
	"example.com/aiseed/internal/text"
)

// The canonical shape of a provider decides where its requests go: type, base URL
// and Bedrock region. Two providers with the same name and different shapes have
// drifted. Everything else may differ: credentials are rotated and tunables are
// tuned in the database, which does not stop the next start.
type shapeField struct {
	name     string
	variable string                // that the environment's value comes from, a field of E3
	value    func(Provider) string // what is compared and hashed
	printed  func(Provider) string // what is shown
}

var shapeFields = []shapeField{
	{"type", fieldType, canonicalType, printedType},
	{"base URL", fieldBaseURL, canonicalBaseURL, func(p Provider) string { return MaskURL(p.BaseURL) }},
	{"Bedrock region", fieldBedrockRegion, Provider.region, func(p Provider) string { return text.Printable(p.region()) }},
}

// canonicalType is one type for Bedrock, which can be written as anthropic or as bedrock.
func canonicalType(p Provider) string {
	if p.Type == TypeAnthropic && p.Bedrock != nil {
		return string(TypeBedrock)
	}
	return string(p.Type)
}

func printedType(p Provider) string {
	if canonicalType(p) != string(p.Type) {
		return text.Printable(string(p.Type)) + " with Bedrock settings"
	}
	return text.Printable(string(p.Type))
}

// canonicalBaseURL is the base URL where requests go, in its normal form.
func canonicalBaseURL(p Provider) string {
	return baseurl.Normalise(cmp.Or(p.BaseURL, ProviderType(canonicalType(p)).DefaultBaseURL()))
}

// canonicalEncoding returns the shape as bytes: a version, then each field with
// its length before it.
func canonicalEncoding(p Provider) []byte {
	b := []byte("aiseed shape v1\n")
	for _, f := range shapeFields {
		b = seal.AppendFields(b, f.value(p))
	}
	return b
}

// canonicalHash identifies the shape. It is computed on demand from row and
// environment and never stored, so a new version of it needs no migration.
func canonicalHash(p Provider) [sha256.Size]byte { return sha256.Sum256(canonicalEncoding(p)) }

// shapeDrift lists the fields of the shape in which stored and want differ.
func shapeDrift(stored Provider, want desired) []FieldDrift {
	var drift []FieldDrift
	for _, f := range shapeFields {
		was, is := f.value(stored), f.value(want.Provider)
		if was == is || f.variable == fieldBaseURL && baseurl.Normalise(stored.BaseURL) == baseurl.Normalise(want.BaseURL) {
			continue // the defaults of two types can differ, where no base URL is set
		}
		field := FieldDrift{
			Field:       f.name,
			Stored:      f.printed(stored),
			Environment: f.printed(want.Provider),
			Variable:    want.variableOf(f.variable),
		}
		switch {
		case field.Stored == field.Environment:
			field.note = "the masked part differs"
		case f.variable == fieldBaseURL && want.defaultBaseURL:
			field.note = "the default; the variable is not set"
		case f.variable == fieldBaseURL && strings.TrimSuffix(was, "/") == strings.TrimSuffix(is, "/"):
			field.note = "only the slash at the end differs"
		case f.variable == fieldType && stored.Type == want.Type:
			field.Variable = want.variableOf(bedrockMaker(want.Provider))
		case f.variable == fieldType && want.legacy:
			field.variableNote = ", which makes a provider of this type: it can only be removed"
		}
		drift = append(drift, field)
	}
	return drift
}

// bedrockMaker returns the field that gives a provider Bedrock settings, or would.
func bedrockMaker(p Provider) string {
	switch is := settingsOf(p); {
	case is.Region == "" && p.BaseURL != "" && p.Bedrock != nil:
		return fieldBedrockBaseURL
	case is.Region == "" && !is.AccessKey.IsZero():
		return fieldBedrockAccessKey
	}
	return fieldBedrockRegion
}

// A difference is one credential or tunable that adopting changes in a row.
type difference struct {
	field   string // that sets it
	what    string
	was, is string // a credential's fingerprint; "" for none
}

// String compares both sides.
func (d difference) String() string {
	return d.what + " (database " + cmp.Or(d.was, "none") + ", environment " + cmp.Or(d.is, "none") + ")"
}

// adopting says what adopting does about it.
func (d difference) adopting() string {
	switch {
	case d.is == "":
		return "removes " + d.what + " (" + d.was + ")"
	case d.was == "":
		return "adds " + d.what + " (" + d.is + ")"
	}
	return "replaces " + d.String()
}

// differences lists what differs between a row and what adopting makes of it, without the shape. It
// shows credentials as fingerprints only. Keys are a set: their order is no difference.
func differences(stored, target Provider, fingerprint func(Secret) string) (list []difference) {
	credential := func(field, what string, was, is Secret) {
		shown := func(s Secret) string {
			if s.IsZero() {
				return ""
			}
			return fingerprint(s)
		}
		if !was.Equal(is) {
			list = append(list, difference{field, what, shown(was), shown(is)})
		}
	}
	tunable := func(field, what, was, is string) {
		if was != is {
			list = append(list, difference{field, what, text.Printable(was), text.Printable(is)})
		}
	}
	had, has := secretsOf(stored), secretsOf(target)
	stale, missing := without(had, has), without(has, had)
	for i := range max(len(stale), len(missing)) {
		var was, is Secret
		number := 0 // in the database, or else in the environment
		if i < len(missing) {
			number, is = missing[i]+1, has[missing[i]]
		}
		if i < len(stale) {
			number, was = stale[i]+1, had[stale[i]]
		}
		credential(fieldKey, "API key "+strconv.Itoa(number), was, is)
	}
	was, is := settingsOf(stored), settingsOf(target)
	credential(fieldBedrockAccessKey, "Bedrock access key", was.AccessKey, is.AccessKey)
	credential(fieldBedrockAccessKeySecret, "Bedrock access key secret", was.AccessKeySecret, is.AccessKeySecret)
	tunable(fieldBedrockModel, "Bedrock model", was.Model, is.Model)
	tunable(fieldBedrockSmallFastModel, "Bedrock small fast model", was.SmallFastModel, is.SmallFastModel)
	return list
}

// without returns the positions of the secrets of a that are not in b.
func without(a, b []Secret) (positions []int) {
	for i, s := range a {
		if !slices.ContainsFunc(b, s.Equal) {
			positions = append(positions, i)
		}
	}
	return positions
}
