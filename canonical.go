package aiseed

import (
	"crypto/sha256"
	"slices"
	"strconv"

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
	variable string // that the environment's value comes from, a field of E3
	value    func(Provider) string
	compared func(string) string // the form that is compared and hashed
	printed  func(string) string // the form that is shown
}

var shapeFields = []shapeField{
	{"type", fieldType, func(p Provider) string { return string(p.Type) }, verbatim, text.Printable},
	{"base URL", fieldBaseURL, func(p Provider) string { return p.BaseURL }, baseurl.Normalise, MaskURL},
	{"Bedrock region", fieldBedrockRegion, Provider.region, verbatim, text.Printable},
}

func verbatim(s string) string { return s }

// canonicalEncoding returns the shape as bytes: a version, then each field with
// its length before it.
func canonicalEncoding(p Provider) []byte {
	b := []byte("aiseed shape v1\n")
	for _, f := range shapeFields {
		b = seal.AppendFields(b, f.compared(f.value(p)))
	}
	return b
}

// canonicalHash identifies the shape. It is computed on demand from row and
// environment and never stored, so a new version of it needs no migration.
func canonicalHash(p Provider) [sha256.Size]byte { return sha256.Sum256(canonicalEncoding(p)) }

// shapeDrift lists the fields of the shape in which stored and want differ.
func shapeDrift(stored Provider, want desired) []FieldDrift {
	writtenAlike := !slices.ContainsFunc(shapeFields, func(f shapeField) bool { return f.value(stored) != f.value(want.Provider) })
	if writtenAlike || canonicalHash(stored) == canonicalHash(want.Provider) {
		return nil
	}
	var drift []FieldDrift
	for _, f := range shapeFields {
		was, is := f.value(stored), f.value(want.Provider)
		if f.compared(was) == f.compared(is) {
			continue
		}
		field := FieldDrift{
			Field:       f.name,
			Stored:      f.printed(was),
			Environment: f.printed(is),
			Variable:    want.variableOf(f.variable),
		}
		switch {
		case field.Stored == field.Environment:
			field.note = "the masked part differs"
		case f.variable == fieldBaseURL && want.defaultBaseURL:
			field.note = "the default; the variable is not set"
		case f.variable == fieldType && want.legacy:
			field.variableNote = ", which makes a provider of this type: it can only be removed"
		}
		drift = append(drift, field)
	}
	return drift
}

// credentialDifferences and tunableDifferences describe how two providers with
// the same shape differ. They show credentials as fingerprints only.
func credentialDifferences(stored, want Provider, fingerprint func(Secret) string) []string {
	var out []string
	compare := func(what string, was, is Secret) {
		if !was.Equal(is) {
			out = append(out, what+" (database "+fingerprint(was)+", environment "+fingerprint(is)+")")
		}
	}
	for i := range max(len(stored.Keys), len(want.Keys)) {
		compare("API key "+strconv.Itoa(i+1), keyAt(stored, i), keyAt(want, i))
	}
	was, is := settingsOf(stored), settingsOf(want)
	compare("Bedrock access key", was.AccessKey, is.AccessKey)
	compare("Bedrock access key secret", was.AccessKeySecret, is.AccessKeySecret)
	return out
}

func tunableDifferences(stored, want Provider) []string {
	var out []string
	compare := func(what, was, is string) {
		if was != is {
			out = append(out, what+" (database "+text.OrNone(text.Printable(was))+", environment "+text.OrNone(text.Printable(is))+")")
		}
	}
	was, is := settingsOf(stored), settingsOf(want)
	compare("Bedrock model", was.Model, is.Model)
	compare("Bedrock small fast model", was.SmallFastModel, is.SmallFastModel)
	return out
}

func divergence(stored, want Provider, fingerprint func(Secret) string) []string {
	return slices.Concat(credentialDifferences(stored, want, fingerprint), tunableDifferences(stored, want))
}
