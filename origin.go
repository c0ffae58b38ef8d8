package aiseed

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"example.com/aiseed/internal/baseurl"
	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

// movedSide compares both sides with the row as created, according to its audit.
func movedSide(origin json.RawMessage, stored, want Provider) Side {
	var seeded struct {
		Type    ProviderType `json:"type"`
		BaseURL string       `json:"base_url"`
		Bedrock *struct {
			Region string `json:"region"`
		} `json:"bedrock"`
	}
	if json.Unmarshal(origin, &seeded) != nil || seeded.Type == "" {
		return SideUnknown
	}
	first := Provider{Type: seeded.Type, BaseURL: seeded.BaseURL}
	if seeded.Bedrock != nil {
		first.Bedrock = &BedrockSettings{Region: seeded.Bedrock.Region}
	}
	environment, sure := movedFrom(first, want)
	database, alsoSure := movedFrom(first, stored)
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

// movedFrom compares a side with first, which comes from an audit and has a masked base URL.
// It is not sure if only what is masked could differ.
func movedFrom(first, now Provider) (moved, sure bool) {
	first.BaseURL = baseurl.Normalise(first.BaseURL)
	now.BaseURL = MaskURL(baseurl.Normalise(now.BaseURL))
	moved = canonicalHash(first) != canonicalHash(now)
	return moved, moved || !strings.Contains(now.BaseURL, text.Masked)
}

const selectOrigins = `
select resource_id, new from {schema}.ai_provider_audits
 where action = 'create' and resource = 'ai_provider'
   and resource_id in (select id::uuid from json_array_elements_text($1::json) as drifted (id))`

// explain finds out which side moved, for each step of a plan with a drift. It runs no query
// if there is none.
func (d *database) explain(ctx context.Context, plan *Plan) error {
	var ids []uuid.UUID
	for _, step := range plan.Steps {
		if step.Drift != nil {
			ids = append(ids, step.between().stored.ID)
		}
	}
	if ids == nil {
		return nil
	}
	origins := map[uuid.UUID]json.RawMessage{}
	err := d.read(ctx, "reading the audits of drifted providers", pg.Query{
		SQL:  d.sql(selectOrigins),
		Args: [][]byte{pg.JSON(ids)},
		Rows: func(rows pgx.Rows) error {
			var id uuid.UUID
			var raw []byte
			_, err := pgx.ForEachRow(rows, []any{&id, &raw}, func() error {
				origins[id] = slices.Clone(raw)
				return nil
			})
			return err
		},
	})
	for i := range plan.Steps {
		if step := &plan.Steps[i]; step.Drift != nil {
			both := step.between()
			step.Moved = movedSide(origins[both.stored.ID], both.stored.Provider, both.want.Provider)
		}
	}
	return err
}
