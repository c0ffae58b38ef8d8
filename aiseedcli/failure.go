package aiseedcli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// A failure is an error in a document.
type failure struct {
	Class   string `json:"class"`
	Message string `json:"message"` // for a person, like the text without -json

	Problems []problem `json:"problems,omitempty"` // class configuration: everything that is wrong

	Drifts  []drift         `json:"drifts,omitempty"`  // class drift
	Choices []aiseed.Choice `json:"choices,omitempty"` // what settles them

	Values []value `json:"values,omitempty"` // classes undecryptable and plaintext

	MissingKeys []string `json:"missing_key_ids,omitempty"` // class keyring: keys that the keyring lacks
	RevokedKey  string   `json:"revoked_key_id,omitempty"`  // class keyring: its first key, which must seal nothing more

	Holder *holder `json:"holder,omitempty"` // class lock_timeout: who holds the lock, if that is known

	SQLState   string `json:"sqlstate,omitempty"` // class database: the server's answer
	Table      string `json:"table,omitempty"`
	Constraint string `json:"constraint,omitempty"`
}

type problem struct {
	Variables []string `json:"variables"`
	Provider  string   `json:"provider,omitempty"`
	Reason    string   `json:"reason"`
}

type drift struct {
	Name     string              `json:"name"`
	ID       string              `json:"id"`
	Moved    aiseed.Side         `json:"moved"`
	Token    string              `json:"token"`
	Fields   []aiseed.FieldDrift `json:"fields"`
	Adopting []string            `json:"adopting,omitempty"`
}

// A value is a stored one that cannot be used.
type value struct {
	Provider string `json:"provider"`
	Table    string `json:"table"`
	Column   string `json:"column"`
	Row      string `json:"row"`
	KeyID    string `json:"key_id,omitempty"`
}

type holder struct {
	PID         int        `json:"pid"`
	Application string     `json:"application,omitempty"`
	Address     string     `json:"address,omitempty"`
	Since       *time.Time `json:"since,omitempty"`
}

// classes are the classes of errors, the more special ones first.
var classes = []struct {
	name string
	is   error
}{
	{"interrupted", errInterrupted},
	{"commit_unknown", aiseed.ErrCommitUnknown},
	{"configuration", aiseed.ErrInvalidConfig},
	{"drift", aiseed.ErrDrift},
	{"lock_timeout", aiseed.ErrLockTimeout},
	{"schema_missing", aiseed.ErrSchemaMissing},
	{"schema_outdated", aiseed.ErrSchemaOutdated},
	{"schema", aiseed.ErrSchema},
	{"keyring", aiseed.ErrKeyring},
	{"undecryptable", aiseed.ErrUndecryptable},
	{"plaintext", aiseed.ErrPlaintext},
	{"not_found", aiseed.ErrNotFound},
	{"name_taken", aiseed.ErrNameTaken},
	{"conflict", aiseed.ErrConflict},
	{"database", aiseed.ErrDatabase},
}

// failureOf returns an error as a part of a document, or nil.
func (a *app) failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Class: "other", Message: a.message(err)}
	if isUsage(err) {
		f.Class = "usage"
	}
	for _, class := range classes {
		if errors.Is(err, class.is) {
			f.Class = class.name
			break
		}
	}
	var config *aiseed.ConfigError
	var drifted *aiseed.DriftError
	var keyring *aiseed.KeyringError
	var lock *aiseed.LockTimeoutError
	var database *aiseed.DatabaseError
	switch {
	case errors.As(err, &config):
		for _, p := range config.Problems {
			f.Problems = append(f.Problems, problem{p.Variables, p.Provider, p.Reason})
		}
	case errors.As(err, &drifted):
		for _, p := range drifted.Providers {
			f.Drifts = append(f.Drifts, drift{p.Name, p.ID.String(), p.Moved, p.Name + "@" + p.Digest, p.Fields, p.Adopting})
		}
		f.Choices = drifted.Choices
	case errors.As(err, &lock) && lock.Holder != nil:
		h := lock.Holder
		f.Holder = &holder{PID: h.PID, Application: h.ApplicationName, Address: h.ClientAddr}
		if !h.Since.IsZero() {
			f.Holder.Since = &h.Since
		}
	case errors.As(err, &keyring):
		f.MissingKeys, f.RevokedKey = keyring.Missing, keyring.Revoked
	case errors.As(err, &database):
		f.SQLState, f.Table, f.Constraint = database.SQLState, database.Table, database.Constraint
	}
	for _, d := range decryptErrors(err) {
		f.Values = append(f.Values, value{d.Provider, d.Table, d.Column, d.RowID.String(), d.KeyID})
	}
	return f
}

// decryptErrors returns the errors about single values that err holds.
func decryptErrors(err error) []*aiseed.DecryptError {
	var all *aiseed.ProvidersError
	var one *aiseed.DecryptError
	var list []*aiseed.DecryptError
	switch {
	case errors.As(err, &all):
		for _, p := range all.Providers {
			list = append(list, decryptErrors(p.Err)...)
		}
	case errors.As(err, &one):
		list = append(list, one)
	}
	return list
}

// message returns an error's text without the library's name, and with what this command can do in
// place of what the author of a server can do.
func (a *app) message(err error) string {
	message := a.withRepairs(err, a.inOurWords(bare(err)))
	if about := (*aboutError)(nil); errors.Is(err, aiseed.ErrCommitUnknown) && !errors.As(err, &about) {
		message += "\nRun the same command again: it finds out, and does what is left"
	}
	return message
}

// Explain returns the text of an error of the library for the operators of a server that ships this
// command with these options: where the error's own text tells the author of the server what to call,
// this one tells what to run. It returns "" for nil.
func Explain(err error, opts Options) string {
	if err == nil {
		return ""
	}
	a := &app{Options: opts.withDefaults()}
	a.flags.schema, a.flags.keysVariable, a.flags.notifyChannel, a.flags.prefixes = a.Schema, a.KeysVariable, a.NotifyChannel, a.Prefixes
	return plain(a.withRepairs(err, a.withVerbs(bare(err))))
}

// withRepairs adds to the message of an error what mends the values that it is about.
func (a *app) withRepairs(err error, message string) string {
	if do, forget := a.lost(err); forget != nil {
		message += ". " + do + " " + forget[0]
	}
	if about := (*aboutError)(nil); errors.As(err, &about) {
		return message // which says what to do
	}
	if commands := a.repairs(err); commands != nil {
		message += mends + strings.Join(commands, "\n  ")
	}
	return message
}

// lost says what to do if a key that the keyring lacks is lost.
func (a *app) lost(err error) (do string, run []string) {
	// With -plaintext it is likelier that the keyring was not given than that it is lost.
	lacks := (*aiseed.KeyringError)(nil)
	if !errors.As(err, &lacks) || len(lacks.Missing) == 0 || a.flags.acceptPlaintext {
		return "", nil
	}
	do = "If it is lost for good:"
	if lacks.Revoked != "" {
		do = "If it is lost for good, put a new key first, and run:"
	}
	return do, []string{a.sibling("forget " + lacks.Missing[0])}
}

const (
	mends   = "\nWhat mends it, with a new key or without one:\n  "
	removes = "\nNo verb changes a deleted provider. What removes its values that nothing can decrypt, and changes nothing else:\n  "
)

// repairs returns the verbs that replace or remove the bearer keys that cannot be decrypted of live providers.
func (a *app) repairs(err error) (commands []string) {
	for _, d := range decryptErrors(err) {
		if d.Column == "api_key" && errors.Is(d, aiseed.ErrUndecryptable) {
			commands = append(commands, a.keyRepairs(d.Provider, d.RowID)...)
		}
	}
	return commands
}

func (a *app) keyRepairs(provider string, key uuid.UUID) []string {
	return []string{a.sibling("key replace " + text.Label(provider)), a.sibling("key remove " + text.Label(provider) + " " + key.String())}
}

// repairsOf returns what replaces or removes the values of a provider that cannot be decrypted and are wanted. The name of
// a deleted provider can be that of a live one, which is not meant, and to restore it for a repair would stop starts.
func (a *app) repairsOf(p aiseed.ProviderInfo, wanted func(row uuid.UUID) bool) (run []string) {
	for _, k := range p.Keys {
		switch {
		case !k.Undecryptable || !wanted(k.ID):
		case p.Deleted:
			run = append(run, unbroken(fmt.Sprintf("delete from %s where id = '%s';", identifier(a.flags.schema, "ai_provider_keys"), k.ID)))
		default:
			run = append(run, a.keyRepairs(p.Name, k.ID)...)
		}
	}
	if p.SettingsUndecryptable && p.Deleted && wanted(p.ID) {
		run = append(run, unbroken(fmt.Sprintf("update %s set settings = null, settings_key_id = null where id = '%s' and deleted;", identifier(a.flags.schema, "ai_providers"), p.ID)))
	}
	return run
}

// inOurWords replaces what the library tells the author of a server by what this command can do.
func (a *app) inOurWords(message string) string {
	return strings.NewReplacer(
		"set StoreOptions.Schema", "give -schema",
		"choose another StoreOptions.Schema", "choose another -schema",
		"this version of the library", "this version of the command",
		"as this library prints it", "as this command prints it",
		"this library", "this command",
		"read the provider again and decide again", "run the command again",
	).Replace(a.withVerbs(message))
}

// withVerbs replaces functions of the library by the verbs that call them.
func (a *app) withVerbs(message string) string {
	return strings.NewReplacer(
		"call aiseed.Migrate or set StoreOptions.Migrate, or apply the files of aiseed.Migrations with your own tool", "apply them with the migration tool that makes them, if one does, or else with: "+a.sibling("schema -apply"),
		"the files of aiseed.Migrations", "the files that "+a.sibling("schema -print")+" prints",
		"aiseed.Migrations", a.sibling("schema -print"),
		"grant it, or connect as their owner", "grant it, or connect as their owner. Which one: "+a.sibling("doctor"),
		"and call Store.Rotate", "and run "+a.sibling("rotate"),
		"list the providers to see", "run "+a.sibling("list")+" to see",
		"seal them with Store.SealPlaintext", "seal them with: "+a.sibling("seal"),
	).Replace(message)
}

// sibling returns another verb with the same flags, to be typed, unbroken.
func (a *app) sibling(words string) string {
	if a.flags.database != "" {
		words += " -database ..." // not its value, which can contain a password
	}
	switch {
	case isIdentifier(a.flags.actor):
		words += " -actor " + shellQuoted(a.flags.actor)
	case a.flags.actor != "":
		words += " -actor ..." // it can be a key, in the wrong place
	}
	if a.flags.acceptPlaintext {
		words += " -plaintext"
	}
	if a.flags.schema != a.Schema {
		words += " -schema " + shellQuoted(a.flags.schema)
	}
	if a.flags.keysVariable != a.KeysVariable {
		words += " -keys-variable " + a.flags.keysVariable
	}
	if a.flags.notifyChannel != a.NotifyChannel {
		words += " -notify-channel " + shellQuoted(a.flags.notifyChannel)
	}
	if strings.Join(a.flags.prefixes, " ") != strings.Join(a.Prefixes, " ") {
		words += " -prefix " + strings.Join(a.flags.prefixes, " -prefix ")
	}
	return unbroken(a.Name + " " + words)
}

// shellQuoted quotes a text as one word for a POSIX shell.
func shellQuoted(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// aboutError is an error with this command's own text and a cause.
type aboutError struct {
	text  string
	cause error
}

func (e *aboutError) Error() string { return e.text }
func (e *aboutError) Unwrap() error { return e.cause }

// bare returns an error's text without the library's name.
func bare(err error) string { return strings.TrimPrefix(err.Error(), "aiseed: ") }
