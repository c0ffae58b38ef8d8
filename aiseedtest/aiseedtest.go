// Package aiseedtest helps to test hosts of aiseed on a real Postgres.
//
// It looks for the server in this order: DATABASE_URL; the PG* variables of libpq;
// local binaries. It starts the binaries as a private server on a private socket. The
// private server is stopped and removed when the test process ends, however it ends.
// Each test gets its own database.
package aiseedtest

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"testing"

	"example.com/aiseed"
)

// NewKeyring returns a keyring with one random key.
func NewKeyring(tb testing.TB) *aiseed.Keyring {
	tb.Helper()
	key := make([]byte, aiseed.KeySize)
	_, _ = rand.Read(key) // never fails since Go 1.24
	keyring, err := aiseed.NewKeyring(key)
	if err != nil {
		tb.Fatalf("aiseedtest: %v", err)
	}
	return keyring
}

// AuditRecorder is an [aiseed.Auditor] that accepts and keeps every entry. The
// zero value is ready to use, and safe for concurrent use.
type AuditRecorder struct {
	mu      sync.Mutex
	entries []aiseed.AuditEntry
}

var _ aiseed.Auditor = (*AuditRecorder)(nil)

// Audit keeps the entry.
func (r *AuditRecorder) Audit(_ context.Context, entry aiseed.AuditEntry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, entry)
	return nil
}

// Entries returns what was recorded so far, in order of arrival.
func (r *AuditRecorder) Entries() []aiseed.AuditEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.entries)
}
