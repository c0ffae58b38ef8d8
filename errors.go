package aiseed

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

// The classes of errors, for [errors.Is]. A class whose errors carry data has its own
// type, for [errors.As]. No error quotes a secret.
var (
	// ErrInvalidConfig: the environment or a Config asks for something
	// impossible. See [ConfigError].
	ErrInvalidConfig = errors.New("aiseed: invalid configuration")
	// ErrDrift: environment and database disagree about what a provider does.
	// See [DriftError].
	ErrDrift = errors.New("aiseed: the environment does not match the database")
	// ErrLockTimeout: another process held the lock for too long. See
	// [LockTimeoutError]. An [ErrCommitUnknown] matches it too if the outcome could not be
	// looked up because of that.
	ErrLockTimeout = errors.New("aiseed: timed out waiting for the lock")
	// ErrSchema: the tables are not the ones that this library needs: older, too new for it,
	// incomplete, or somebody else's.
	ErrSchema = errors.New("aiseed: the database schema is not the one needed")
	// ErrSchemaOutdated: there are no tables, or they are older than this library needs:
	// call [Migrate]. It matches [ErrSchema] too.
	ErrSchemaOutdated = fmt.Errorf("%w: it has to be migrated", ErrSchema)
	// ErrSchemaMissing: there are no tables, and none of the library's in another schema of the
	// database either. It matches [ErrSchemaOutdated] too.
	ErrSchemaMissing = fmt.Errorf("%w: there are no tables", ErrSchemaOutdated)
	// ErrKeyring: a keyring cannot be built, or does not fit the database.
	ErrKeyring = errors.New("aiseed: the keyring is not the one needed")
	// ErrUndecryptable: a stored value cannot be decrypted. See [DecryptError] and
	// [ProvidersError].
	ErrUndecryptable = errors.New("aiseed: a stored value cannot be decrypted")
	// ErrPlaintext: a keyring is in use and a stored value is not sealed. See
	// [DecryptError] and [ProvidersError].
	ErrPlaintext = errors.New("aiseed: a stored value is not sealed")
	// ErrCommitUnknown: the connection was lost at the commit, and the library
	// could not find out whether the server committed. Either everything was written or
	// nothing was. It wraps the reason, which can match [ErrDatabase] or [ErrLockTimeout].
	ErrCommitUnknown = errors.New("aiseed: it is not known whether the transaction was committed")
	// ErrDatabase: the database could not be reached, or refused a statement.
	// See [DatabaseError].
	ErrDatabase = errors.New("aiseed: the database cannot be used")
	// ErrNotFound: the provider or key does not exist, or the provider is deleted.
	ErrNotFound = errors.New("aiseed: not found")
	// ErrNameTaken: a live provider already has the name.
	ErrNameTaken = errors.New("aiseed: the name is taken")
	// ErrConflict: the provider has another revision than the one that a change was decided on.
	ErrConflict = errors.New("aiseed: the provider was changed meanwhile")
)

// classError adds a text to a class.
type classError struct {
	class error
	text  string
}

func (e *classError) Error() string { return "aiseed: " + e.text }
func (e *classError) Unwrap() error { return e.class }

// A KeyringError says why a keyring cannot be built, or does not fit the database. It matches
// [ErrKeyring].
type KeyringError struct {
	Missing []string // the ids of keys that the database needs and the keyring lacks; nil if it lacks none
	Revoked string   // the id of its first key, if that was revoked and must seal nothing more; else ""
	text    string
}

func (e *KeyringError) Error() string { return "aiseed: keyring: " + e.text }

// Unwrap returns [ErrKeyring].
func (e *KeyringError) Unwrap() error { return ErrKeyring }

func keyringErrorf(format string, args ...any) error {
	return &KeyringError{text: fmt.Sprintf(format, args...)}
}

func schemaErrorf(class error, format string, args ...any) error {
	return &classError{class: class, text: "schema: " + fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &classError{class: ErrNotFound, text: fmt.Sprintf(format, args...)}
}

// A LockTimeoutError says which lock could not be acquired in time, and who holds it.
// It matches [ErrLockTimeout].
type LockTimeoutError struct {
	Key    int64       // of pg_advisory_xact_lock
	Holder *LockHolder // nil if it was gone when we looked, or if the look-up failed
	waited time.Duration
	unsure bool // something may have been changed before
}

// A commitUnknownError says why the library could not find out the outcome of a commit.
type commitUnknownError struct {
	operation string
	table     string
	witnesses []string // quoted ids of audit entries, one for each attempt
	reason    error
	cancelled error // the error of the caller's context, or nil
}

func (e *commitUnknownError) Error() string {
	reason := strings.TrimPrefix(e.reason.Error(), "aiseed: ")
	return fmt.Sprintf("aiseed: %s: the connection was lost at the commit, and it is not known what became of it: "+
		"either everything was written or nothing was. It could not be looked up, because: %s. "+
		"A start finds out by itself. By hand: select from %s where id in (%s) has a row if it was written",
		e.operation, reason, e.table, strings.Join(e.witnesses, ", "))
}

// Unwrap returns [ErrCommitUnknown], the reason, and the error of the context if it ended.
func (e *commitUnknownError) Unwrap() []error {
	if e.cancelled != nil {
		return []error{ErrCommitUnknown, e.reason, e.cancelled}
	}
	return []error{ErrCommitUnknown, e.reason}
}

// A LockHolder is the session that holds an advisory lock. A field is zero if the server
// does not know it, or does not show it to our role.
type LockHolder struct {
	PID             int
	ApplicationName string
	ClientAddr      string    // "" for a Unix socket
	Since           time.Time // the start of its transaction
}

func (e *LockTimeoutError) Error() string {
	text := fmt.Sprintf("aiseed: waited %s for advisory lock %d, which another process holds while it writes AI providers", e.waited, e.Key)
	if !e.unsure {
		text += "; nothing was changed"
	}
	if e.Holder == nil {
		return text + ". No holder is to be found any more: start again"
	}
	h := e.Holder
	text += ". Holder: " + pg.DescribeSession(h.PID, h.ApplicationName, h.ClientAddr, h.Since)
	return text + fmt.Sprintf(". Start again; if it is still there, end it with: select pg_terminate_backend(%d)", h.PID)
}

// Unwrap returns [ErrLockTimeout].
func (e *LockTimeoutError) Unwrap() error { return ErrLockTimeout }

// A DecryptError names a stored value that cannot be handed out as a secret. It
// matches [ErrUndecryptable], or [ErrPlaintext] if the value is not sealed
// although a keyring is in use.
type DecryptError struct {
	Provider      string // its name
	Table, Column string
	RowID         uuid.UUID
	KeyID         string // the key that should decrypt it; "" if the row names none

	plaintext, malformed bool
	known                bool // the keyring has the key
}

func (e *DecryptError) Error() string {
	where := fmt.Sprintf("aiseed: %s.%s of row %s", e.Table, e.Column, e.RowID)
	if e.Provider != "" {
		where += " (provider " + text.Label(e.Provider) + ")"
	}
	if e.plaintext {
		return where + " is not sealed, but a keyring is in use. If these rows were written before there was a keyring, seal them with Store.SealPlaintext; if not, someone wrote to the table behind the server's back"
	}
	if e.malformed {
		return where + " can be decrypted, but this version of the library did not write its content: a later one did, or something else"
	}
	if e.KeyID == "" {
		return where + " is sealed, but the id of its key is missing next to it; restore the row from a backup"
	}
	if e.known {
		return where + " cannot be decrypted with key " + e.KeyID + ", which the keyring has: the value was damaged, or copied from another row. Replace the provider's keys or settings, or restore the row from a backup"
	}
	return where + " cannot be decrypted: the keyring lacks its key, " + e.KeyID + ". Append that to the keyring, after the key that seals"
}

// Unwrap returns [ErrPlaintext] or [ErrUndecryptable].
func (e *DecryptError) Unwrap() error {
	if e.plaintext {
		return ErrPlaintext
	}
	return ErrUndecryptable
}

// A ProvidersError lists the providers that cannot be used because a secret of theirs cannot be
// decrypted. It matches the error of each.
type ProvidersError struct {
	Providers []ProviderError // at least one, sorted by name
}

// A ProviderError says why a provider cannot be used.
type ProviderError struct {
	ID   uuid.UUID
	Name string
	Err  error // a *[DecryptError], for the first of its values that cannot be decrypted
}

func (e *ProvidersError) Error() string {
	if len(e.Providers) == 1 {
		return e.Providers[0].Err.Error() // names the provider
	}
	var b strings.Builder
	fmt.Fprintf(&b, "aiseed: %s cannot be used", text.Count(len(e.Providers), "provider"))
	for i, p := range e.Providers {
		fmt.Fprintf(&b, "\n  %2d. %s", i+1, strings.TrimPrefix(p.Err.Error(), "aiseed: "))
	}
	return b.String()
}

// Unwrap returns the error of each provider.
func (e *ProvidersError) Unwrap() []error {
	all := make([]error, len(e.Providers))
	for i, p := range e.Providers {
		all[i] = p.Err
	}
	return all
}
