package aiseed

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/xerrors"
)

// StoreOptions say how [Open] makes a [Store].
type StoreOptions struct {
	// Keyring seals and decrypts the secrets in the tables. nil is an error unless
	// AllowPlaintext is set.
	Keyring *Keyring
	// AllowPlaintext accepts that secrets are stored unencrypted if there is no
	// Keyring. With a Keyring it has no effect.
	AllowPlaintext bool
	// Schema is the schema of the tables. "" means "public".
	Schema string
	// Migrate applies the schema on opening if it is missing or older, and creates Schema. With the
	// name of another schema it creates a second, empty set of tables there.
	Migrate bool
	// LockTimeout bounds each wait for a lock: for the advisory lock while another process
	// writes, and for locks on rows, also when audits are marked as delivered. If the answer
	// to a commit is lost, it also bounds how long we look for a server that knows the
	// outcome. It replaces a statement_timeout of the role.
	//
	// The server ends a process's transaction that is silent while it holds the lock. It
	// waits for half of the LockTimeout of that holder, but at least for a second.
	//
	// 0 means 30 seconds; the maximum is 24 hours. The function [Migrate] always uses 30
	// seconds.
	LockTimeout time.Duration
	// AuditTimeout bounds one delivery of audits: what a seed or an operation does after its
	// commit, or one call of [Store.DeliverAudits]. The first half of it is for the Auditor, the
	// other for marking what the Auditor accepted. What is left then waits for the next delivery.
	// 0 means 10 seconds; the maximum is 24 hours.
	AuditTimeout time.Duration
	// Auditor gets the audit entries of each operation after its commit, like those of a seed,
	// together with those that were left before. The operation waits for it at most AuditTimeout,
	// and does not fail if it fails: a warning goes to Logger. If it is nil, the entries wait for
	// [Store.DeliverAudits] or the next start.
	Auditor Auditor
	// Logger gets what no caller waits for. The zero Logger discards it.
	Logger slog.Logger
	// NotifyChannel gets a notification of every committed write, for [Store.Watch] and
	// for the host's own listeners. "" means a channel that is derived from the schema, so that
	// all processes with the same schema notify one another: "aiseed_" and the schema, or for
	// a schema of more than 56 bytes "aiseed_" and the first 16 hex digits of its SHA-256. At most
	// 63 bytes.
	NotifyChannel string
	// NoNotifications sends no notifications, and [Store.Watch] only polls. NotifyChannel must
	// then be "".
	NoNotifications bool
	// PollInterval is how long [Store.Watch] waits for a notification before it reads the
	// providers anyway. 0 means 30 seconds; the maximum is 24 hours.
	PollInterval time.Duration
}

// A Store reads and writes AI providers. It seals what it writes and decrypts what it reads,
// as soon as it exists. It is safe for concurrent use, holds no connection between calls, and
// needs no closing: the pool stays the caller's. The zero Store is not usable; make one with
// [Open].
type Store struct {
	database
	vault        *vault
	auditor      Auditor // of the operations; nil leaves their entries
	logger       slog.Logger
	pollInterval time.Duration
	watched      *atomic.Pointer[WatchStatus]
}

// WatchStatus says how [Store.Watch] is doing. The zero WatchStatus means that it has not read yet.
type WatchStatus struct {
	Read  time.Time // when it last read the providers
	Heard time.Time // when it was last notified of a change; zero if never

	// Listening reports whether notifications arrive, as far as the last test showed. If it is
	// false, a change shows after the [StoreOptions.PollInterval] at the latest.
	Listening bool
}

// Open makes a Store on a pool. It checks that the schema exists, is ours and not too new to
// write to, and that the keyring has every key that rows still need. It writes nothing, except the
// schema if opts.Migrate is set.
//
// Errors match [ErrSchema], [ErrKeyring] or [ErrDatabase]; with Migrate,
// [ErrLockTimeout] too. The error of a nil pool or of other wrong options matches no class.
func Open(ctx context.Context, pool *pgxpool.Pool, opts StoreOptions) (*Store, error) {
	s, err := newStore("Open", pool, opts)
	if err != nil {
		return nil, err
	}
	ring := s.vault.ring
	err = s.checkSchema(ctx, ring, opts.Migrate, func(stored []storedKey, successor string) error {
		if err := revokedKey(ring, successor); err != nil {
			return err
		}
		return checkKeys(ring, stored)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// newStore makes a Store for a function of this package, and checks nothing in the database.
func newStore(function string, pool *pgxpool.Pool, opts StoreOptions) (*Store, error) {
	switch {
	case pool == nil:
		return nil, xerrors.New("aiseed: " + function + " needs a pool, and got nil")
	case opts.Keyring == nil && !opts.AllowPlaintext:
		return nil, keyringErrorf("there is none; give StoreOptions.Keyring, or set AllowPlaintext to store secrets unencrypted")
	case opts.Keyring != nil && len(opts.Keyring.keys) == 0:
		return nil, keyringErrorf("it has no key; make it with NewKeyring or ParseKeyring")
	case slices.ContainsFunc([]time.Duration{opts.LockTimeout, opts.AuditTimeout, opts.PollInterval}, func(d time.Duration) bool { return d < 0 || d > maxTimeout }):
		return nil, xerrors.New("aiseed: StoreOptions: LockTimeout, AuditTimeout or PollInterval is negative or longer than 24 hours; want a positive one, or 0 for the default")
	case opts.Auditor != nil && checkAuditor(opts.Auditor) != nil:
		return nil, xerrors.New("aiseed: StoreOptions: Auditor is a nil function; give one, or leave it nil")
	case opts.NoNotifications && opts.NotifyChannel != "":
		return nil, xerrors.New("aiseed: StoreOptions: NotifyChannel and NoNotifications are both set; choose one")
	}
	s := &Store{
		database: database{
			pool:          pool,
			schema:        cmp.Or(opts.Schema, defaultSchema),
			lockTimeout:   cmp.Or(opts.LockTimeout, defaultLockTimeout),
			auditTimeout:  cmp.Or(opts.AuditTimeout, defaultAuditTimeout),
			notifyChannel: opts.NotifyChannel,
		},
		vault:        newVault(opts.Keyring),
		auditor:      opts.Auditor,
		logger:       opts.Logger,
		pollInterval: cmp.Or(opts.PollInterval, defaultPollInterval),
		watched:      &atomic.Pointer[WatchStatus]{},
	}
	s.watched.Store(&WatchStatus{})
	if err := checkSchemaName(s.schema); err != nil {
		return nil, err
	}
	if s.notifyChannel == "" && !opts.NoNotifications {
		s.notifyChannel = channelOf(s.schema)
	}
	if len(s.notifyChannel) > maxIdentifierBytes || strings.ContainsRune(s.notifyChannel, 0) || !utf8.ValidString(s.notifyChannel) {
		return nil, xerrors.New("aiseed: StoreOptions: NotifyChannel is longer than 63 bytes, or holds a NUL or something that is not UTF-8; choose another one, or \"\" for that of the schema")
	}
	return s, nil
}

// channelOf returns the channel that the stores of a schema share.
func channelOf(schema string) string {
	const prefix = "aiseed_"
	if len(prefix+schema) > maxIdentifierBytes {
		sum := sha256.Sum256([]byte(schema))
		schema = hex.EncodeToString(sum[:8])
	}
	return prefix + schema
}
