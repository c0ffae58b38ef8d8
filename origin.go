package aiseed

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

// origins are the values that rows had when they were last written from the environment, by the
// ids of the rows: the new values of an audit entry.
type origins map[uuid.UUID]json.RawMessage

// moved compares both sides with the row as it was last written from the environment.
func (o origins) moved(row *storedProvider, want *desired) Side {
	var first auditedValues
	if raw := o[row.ID]; json.Unmarshal(raw, &first) != nil || first.Type == "" || first.Keys == nil {
		return SideUnknown
	}
	environment, sure := want.movedFrom(first, valuesOf(want.Provider))
	database, alsoSure := want.movedFrom(first, valuesOf(row.Provider))
	switch {
	case !sure || !alsoSure:
		return SideUnknown
	case environment && database:
		return SideBoth
	case environment:
		return SideEnvironment
	case database:
		return SideDatabase
	}
	return SideUnknown
}

// movedFrom compares a side with first, in what the environment sets. The masks of secrets are
// compared, so it is not sure if they agree and could hide a difference.
func (d *desired) movedFrom(first, now auditedValues) (moved, sure bool) {
	moved, sure = canonicalHash(first.shape()) != canonicalHash(now.shape()), !strings.Contains(now.BaseURL, text.Masked)
	secrets := func(was, is []string) {
		moved = moved || !slices.Equal(slices.Sorted(slices.Values(was)), slices.Sorted(slices.Values(is)))
		sure = sure && !slices.Contains(is, text.Masked)
	}
	was, is := first.settings(), now.settings()
	moved = moved || d.model && was.Model != is.Model || d.smallFastModel && was.SmallFastModel != is.SmallFastModel
	if !settingsOf(d.Provider).AccessKey.IsZero() {
		secrets([]string{was.AccessKey}, []string{is.AccessKey})
		secrets([]string{was.AccessKeySecret}, []string{is.AccessKeySecret})
	}
	if len(d.Keys) > 0 || !d.takesKeys() {
		secrets(first.Keys, now.Keys)
	}
	return moved, moved || sure
}

// ofStart chooses the audit entries that a start wrote about a provider.
const ofStart = `actor = 'system' and resource = 'ai_provider' and action in ('create', 'update')`

// originsSQL finds, for the provider of each of some names, the latest entry that a start wrote.
const originsSQL = `
select p.id, a.new
  from (` + latestNamed + `) p
 cross join lateral (select new from {schema}.ai_provider_audits
                      where resource_id = p.id and ` + ofStart + `
                      order by seq desc limit 1) a`

// selectOrigins reads the origins of providers with some names.
func (d *database) selectOrigins(names []string, into *origins) pg.Query {
	return pg.Query{
		SQL:  d.sql(originsSQL),
		Args: [][]byte{pg.JSON(names)},
		Rows: func(rows pgx.Rows) error {
			*into = origins{}
			var id uuid.UUID
			var raw []byte
			_, err := pgx.ForEachRow(rows, []any{&id, &raw}, func() error {
				(*into)[id] = slices.Clone(raw)
				return nil
			})
			return err
		},
	}
}
