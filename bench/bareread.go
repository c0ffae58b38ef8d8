package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A row is a provider as it stands in the tables, with its keys.
type row struct {
	id               uuid.UUID
	kind, name       string
	displayName      *string
	enabled, deleted bool
	baseURL          string
	revision         int64
	settings         *string
	settingsKey      *string
	created, updated time.Time
	keys             []rowKey
}

type rowKey struct {
	id               uuid.UUID
	position         int
	apiKey           string
	apiKeyKey        *string
	created, updated time.Time
}

// selectRows reads the columns that a start needs. In a benchmark every provider
// has keys.
const selectRows = `
select p.id, p.type, p.name, p.display_name, p.enabled, p.deleted, p.base_url, p.revision,
       p.settings, p.settings_key_id, p.created_at, p.updated_at,
       k.id, k.position, k.api_key, k.api_key_key_id, k.created_at, k.updated_at
  from ai_providers p join ai_provider_keys k on k.provider_id = p.id`

// bareRead is the one statement without which nothing can be known, with its rows as
// structs, and nothing done with them.
func bareRead(ctx context.Context, pool *pgxpool.Pool, names []string, mode pgx.QueryExecMode) error {
	rows, err := pool.Query(ctx, selectRows+` where p.name = any($1) and not p.deleted order by p.name, k.position`, mode, names)
	if err != nil {
		return err
	}
	list, err := scan(rows)
	if err == nil && len(list) != len(names) {
		err = fmt.Errorf("the bare read found %d of %d providers", len(list), len(names))
	}
	return err
}

// readKeysApart is bareRead with the providers first and then the keys, as the library
// reads them: less to send, and more to plan.
func readKeysApart(ctx context.Context, pool *pgxpool.Pool, names []string) error {
	rows, err := pool.Query(ctx, `
with chosen as materialized (select * from ai_providers where name = any ($1))
select false, id, id, type, name, display_name, base_url, enabled, deleted, revision, settings, settings_key_id, created_at, updated_at
  from chosen
 union all
select true, id, provider_id, '', '', '', '', false, false, position, api_key, api_key_key_id, created_at, updated_at
  from ai_provider_keys where provider_id = any (array(select id from chosen))`, pgx.QueryExecModeCacheDescribe, names)
	if err != nil {
		return err
	}
	defer rows.Close()
	var list []*row
	byID := map[uuid.UUID]*row{}
	for rows.Next() {
		var r row
		var isKey bool
		var owner uuid.UUID
		if err := rows.Scan(&isKey, (*[16]byte)(&r.id), (*[16]byte)(&owner), &r.kind, &r.name, &r.displayName, &r.baseURL, &r.enabled, &r.deleted,
			&r.revision, &r.settings, &r.settingsKey, &r.created, &r.updated); err != nil {
			return err
		}
		if !isKey {
			list, byID[r.id] = append(list, &r), &r
			continue
		}
		byID[owner].keys = append(byID[owner].keys, rowKey{r.id, int(r.revision), *r.settings, r.settingsKey, r.created, r.updated})
	}
	if rows.Err() == nil && len(list) != len(names) {
		return fmt.Errorf("the bare read found %d of %d providers", len(list), len(names))
	}
	return rows.Err()
}

func scan(rows pgx.Rows) (list []row, err error) {
	defer rows.Close()
	for rows.Next() {
		var r row
		var k rowKey
		if err := rows.Scan(&r.id, &r.kind, &r.name, &r.displayName, &r.enabled, &r.deleted, &r.baseURL, &r.revision,
			&r.settings, &r.settingsKey, &r.created, &r.updated,
			&k.id, &k.position, &k.apiKey, &k.apiKeyKey, &k.created, &k.updated); err != nil {
			return nil, err
		}
		if n := len(list); n == 0 || list[n-1].id != r.id {
			list = append(list, r)
		}
		last := &list[len(list)-1]
		last.keys = append(last.keys, k)
	}
	return list, rows.Err()
}
