package aiseed

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// SealPlaintext seals every value that was stored before there was a keyring,
// tombstones included, and returns how many it sealed. Until then [Store.Providers]
// and a seed refuse to read them. Stop the servers that still run without the
// keyring first: they cannot read what is sealed.
//
// It works in small transactions: after an interruption what was sealed stays
// sealed, and calling it again does the rest. It returns without an error only
// when no plaintext is left. Errors match [ErrKeyring] for a store without a
// keyring, [ErrLockTimeout], [ErrCommitUnknown] or [ErrDatabase].
func (s *Store) SealPlaintext(ctx context.Context) (sealed int, err error) {
	if s.vault.keyring == nil {
		return 0, keyringErrorf("sealing needs one, and the store was opened without; open it with StoreOptions.Keyring")
	}
	for {
		n, err := s.sealSome(ctx)
		if err != nil || n == 0 {
			return sealed, err
		}
		sealed += n
	}
}

// A plainValue is a value to seal. Its row stays locked until it is sealed: the
// plaintext is not sent again, where it could get into the server's log.
type plainValue struct {
	ID       uuid.UUID `json:"id"`
	Provider uuid.UUID `json:"-"`
	Old      string    `json:"-"`
	New      string    `json:"new"`
	KeyID    string    `json:"key_id"`
}

const (
	selectPlainSettings = `
select id, id, settings from {schema}.ai_providers
 where settings is not null and settings_key_id is null order by id limit 100 for update`

	selectPlainKeys = `
select id, provider_id, api_key from {schema}.ai_provider_keys
 where api_key_key_id is null order by id limit 100 for update`

	sealSettings = `
update {schema}.ai_providers t set settings = r.new, settings_key_id = r.key_id
  from json_to_recordset($1::json) as r (id uuid, new text, key_id text)
 where t.id = r.id`

	sealKeys = `
update {schema}.ai_provider_keys t set api_key = r.new, api_key_key_id = r.key_id
  from json_to_recordset($1::json) as r (id uuid, new text, key_id text)
 where t.id = r.id`
)

func (s *Store) sealSome(ctx context.Context) (found int, err error) {
	var settings, keys []plainValue
	read := func(sql string, into *[]plainValue) query {
		return query{sql: s.sql(sql), rows: func(rows pgx.Rows) (err error) {
			*into, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (v plainValue, err error) {
				return v, row.Scan(&v.ID, &v.Provider, &v.Old)
			})
			return err
		}}
	}
	seal := func(values []plainValue, at func(plainValue) cell) []byte {
		for i, v := range values {
			sealed, keyID := s.vault.seal(at(v), NewSecret(v.Old))
			values[i].New, values[i].KeyID = sealed, *keyID
		}
		return jsonArg(values)
	}
	err = retry(ctx, func() error {
		return s.locked(ctx, "sealing plaintext",
			[]query{read(selectPlainSettings, &settings), read(selectPlainKeys, &keys)},
			func() ([]query, error) {
				found = len(settings) + len(keys)
				if found == 0 {
					return nil, nil
				}
				for _, v := range keys {
					// Sealed text whose key id is gone must not be sealed once more.
					if _, err := s.vault.open(apiKeyCell(v.ID, v.Provider), v.Old, nil); errors.Is(err, ErrUndecryptable) {
						return nil, err
					}
				}
				for _, v := range settings {
					if _, err := s.vault.open(settingsCell(v.ID), v.Old, nil); errors.Is(err, ErrUndecryptable) {
						return nil, err
					}
				}
				return append(s.registerKey(),
					query{
						sql:  s.sql(sealSettings),
						args: [][]byte{seal(settings, func(v plainValue) cell { return settingsCell(v.ID) })},
						rows: wantRows(len(settings), "ai_providers"),
					},
					query{
						sql:  s.sql(sealKeys),
						args: [][]byte{seal(keys, func(v plainValue) cell { return apiKeyCell(v.ID, v.Provider) })},
						rows: wantRows(len(keys), "ai_provider_keys"),
					},
				), nil
			})
	})
	return found, err
}

// wantRows fails where a policy, a rule or a trigger kept rows from being written.
func wantRows(n int, table string) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		rows.Close()
		if got := rows.CommandTag().RowsAffected(); rows.Err() == nil && got != int64(n) {
			return &rowsError{table: table, want: n, got: int(got)}
		}
		return rows.Err()
	}
}
