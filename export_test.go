package aiseed

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/seal"
)

// What the tests of the package and those from outside share.

var (
	SchemaVersion = schemaVersion
	TablesAfter   = tablesAfter
	IndexedNames  = indexedNames
	Pause         = pg.Pause
	Offer         = offer
	AuditorGrace  = auditorGrace
)

// LoadSQL is how a start reads the providers of the names in its one parameter.
func LoadSQL(s *Store) string { return s.load(nil, nil).SQL }

// OriginsSQL is how a start that settles by the side that moved reads what the providers of the names
// in its one parameter were made from.
func OriginsSQL(s *Store) string { return s.selectOrigins(nil, nil).SQL }

// FoundAgain reads a provider by its id twice, like a read that is tried again, and
// reports whether the second read found it.
func FoundAgain(ctx context.Context, s *Store, id uuid.UUID, between func()) (bool, error) {
	var found *storedProvider
	read := s.byID(id)(&found)
	if err := s.query(ctx, "reading", read); err != nil {
		return false, err
	}
	between()
	err := s.query(ctx, "reading", read)
	return found != nil, err
}

// SealFor seals a value for a cell of a table that only a test has.
func SealFor(tb testing.TB, ring *Keyring, table, column, row, provider, plaintext string) string {
	tb.Helper()
	id, err := uuid.Parse(provider)
	require.NoError(tb, err)
	return ring.keys[0].Seal(seal.Cell{Table: table, Column: column, Row: row, Provider: id}, plaintext)
}

// checked returns what an operation has against p in the place of old.
func checked(p, old Provider) error {
	problems := fieldProblems{provider: p.Name}
	p.check(old, problems.report)
	return problems.err()
}
