package aiseed

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"example.com/aiseed/internal/text"
)

// A WarningCode says what a [Warning] is about.
type WarningCode string

// The codes of a [Warning].
const (
	WarningUnknownVariable  WarningCode = "unknown_variable"  // a likely misspelt variable is ignored
	WarningRemovedVariable  WarningCode = "removed_variable"  // a variable of an earlier version is ignored
	WarningLetterCase       WarningCode = "letter_case"       // a variable in other letters is ignored
	WarningMisnamedVariable WarningCode = "misnamed_variable" // something around a variable's name made it another one
	WarningMissingKey       WarningCode = "missing_key"       // an unknown variable looks like the key that a provider lacks
	WarningServiceLinks     WarningCode = "service_links"     // Kubernetes sets variables that look like ours
	WarningPlaceholder      WarningCode = "placeholder"       // a secret is that of an example
	WarningUnsupportedType  WarningCode = "unsupported_type"  // the provider is skipped
	WarningIgnored          WarningCode = "ignored"           // a variable is set but has no effect
	WarningUnusedKeys       WarningCode = "unused_keys"       // of several Bedrock access keys, the first is used
	WarningDeleted          WarningCode = "deleted"           // an operator deleted the provider
	WarningDiverged         WarningCode = "diverged"          // credentials or models differ; both stay
	WarningAdopted          WarningCode = "adopted"           // a token settled a difference: the environment wins
	WarningKept             WarningCode = "kept"              // a token settled a difference: the database wins
	WarningStaleToken       WarningCode = "stale_token"       // a token settles nothing
)

// A Warning is something that an operator should look at. It does not stop a start. Its text
// and its encodings are made from the fields. No field holds a secret.
type Warning struct {
	Code        WarningCode
	Variables   []string // full names of the variables concerned
	Provider    string   // the provider that lacks a key
	Type        string   // the type that is not supported
	Meant       string   // the variable or the type that was probably meant, or ""
	Differences []string // between environment and database, or what adopting did about them; with fingerprints of credentials
	Token       string   // that settles the differences, or is stale
	Reason      string   // why the variables are ignored, or what their names have

	AdoptVariable, KeepVariable string // that take the token
}

// String returns the text of the warning.
func (w Warning) String() string {
	variables := strings.Join(w.Variables, ", ")
	switch w.Code {
	case WarningUnknownVariable:
		if w.Reason != "" {
			variables += " (its name has " + w.Reason + ")"
		}
		if w.Meant != "" {
			return variables + ": unknown environment variable is ignored; want " + w.Meant + "?"
		}
		return variables + ": unknown environment variable is ignored; check its spelling"
	case WarningRemovedVariable:
		return variables + ": ignored; earlier versions of the host had this variable, and nothing reads it now: remove it"
	case WarningLetterCase:
		return variables + ": ignored, since its name is in other letters; want " + w.Meant
	case WarningMisnamedVariable:
		return variables + ": ignored; its name has " + w.Reason + ". Want " + w.Meant
	case WarningMissingKey:
		return variables + ": unknown environment variable is ignored, and provider " + w.Provider + " has no key; want " + w.Meant + "?"
	case WarningServiceLinks:
		return w.someVariables() + ": ignored; Kubernetes sets variables like these for a service with such a name. Set enableServiceLinks: false in the pod's spec, or rename the service"
	case WarningPlaceholder:
		return variables + ": a placeholder, as examples have it, and hardly a secret that works. A row keeps what it is created with: set the real one first"
	case WarningUnsupportedType:
		meant := ""
		if w.Meant != "" {
			meant = "; want " + w.Meant + "?"
		}
		return fmt.Sprintf("type %s is not supported, so the provider is skipped%s; supported are %s", strconv.QuoteToGraphic(w.Type), meant, supportedTypes())
	case WarningIgnored, WarningUnusedKeys:
		return variables + ": " + w.Reason
	case WarningDeleted:
		return "an operator deleted it, and it stays deleted: remove its variables from the environment, or restore the provider"
	case WarningDiverged:
		return w.divergence("add " + w.Token + " to " + w.KeepVariable + "; if the environment is, add it to " + w.AdoptVariable)
	case WarningAdopted:
		did := ""
		if len(w.Differences) > 0 {
			did = "; this " + strings.Join(w.Differences, ", ")
		}
		return "settled by " + variables + ": the database takes the environment's values" + did
	case WarningKept:
		return "settled by " + variables + ": the database's values stay in use"
	case WarningStaleToken:
		return variables + ": " + w.Token + " matches no current difference and has no effect; remove it"
	}
	return string(w.Code)
}

// divergence is the text of a divergence that is settled as a text says.
func (w Warning) divergence(settle string) string {
	remove := ""
	if len(w.Variables) > 0 {
		remove = "remove " + strings.Join(w.Variables, " and ") + ", or "
	}
	return "environment and database differ in " + strings.Join(w.Differences, ", ") + "; the database's value is the one in use. If it is right, " + remove + settle
}

// someVariables names the first variables and counts the rest.
func (w Warning) someVariables() string {
	const shown = 3
	if len(w.Variables) <= shown {
		return strings.Join(w.Variables, ", ")
	}
	return strings.Join(w.Variables[:shown], ", ") + " and " + text.Count(len(w.Variables)-shown, "other")
}

// MarshalText returns the text of String.
func (w Warning) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// MarshalJSON encodes the fields, and as "text" what String returns.
func (w Warning) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Code          WarningCode `json:"code"`
		Text          string      `json:"text"`
		Variables     []string    `json:"variables,omitempty"`
		Provider      string      `json:"provider,omitempty"`
		Type          string      `json:"type,omitempty"`
		Meant         string      `json:"meant,omitempty"`
		Differences   []string    `json:"differences,omitempty"`
		Token         string      `json:"token,omitempty"`
		Reason        string      `json:"reason,omitempty"`
		AdoptVariable string      `json:"adopt_variable,omitempty"`
		KeepVariable  string      `json:"keep_variable,omitempty"`
	}{w.Code, w.String(), w.Variables, w.Provider, w.Type, w.Meant, w.Differences, w.Token, w.Reason, w.AdoptVariable, w.KeepVariable})
}
