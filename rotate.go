package aiseed

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/seal"
)

// A RotateResult reports what [Store.Rotate], [Store.SealPlaintext] or [Store.Unseal] did,
// even if it returned an error: completed changes stay.
type RotateResult struct {
	Changed   int             // number of values that were rewritten
	Revoked   []string        // ids of the keys that were marked as revoked: no row needs them any more; nil if none
	Left      []*DecryptError // values that cannot be decrypted; they stay as they are
	Plaintext int             // number of values that are not sealed, whoever wrote them; 0 if it was interrupted
}

// Rotate seals again every value that is not sealed with the first key of the keyring,
// including values of deleted providers. Then it marks the keys that no row needs any more as
// revoked. First give every server a keyring with both keys; otherwise it finds values that
// it cannot decrypt.
//
// It works in small transactions while others read and write. After an interruption, call it
// again to do the rest. It reports each value that cannot be decrypted, and continues with
// the others. It does not touch plaintext, but counts it.
//
// Afterwards, the first key is the one that seals. A Store whose first key was revoked cannot
// be opened, and one that is open seals nothing more: its writes of secrets match [ErrKeyring].
//
// A transaction whose outcome is not known is repeated. What it did is then not reported.
//
// Errors match [ErrKeyring], [ErrUndecryptable] if values are left, [ErrLockTimeout] or
// [ErrDatabase]. [ErrKeyring] also means that a column refers to
// ai_encryption_keys in a way that is not understood.
func (s *Store) Rotate(ctx context.Context) (RotateResult, error) {
	return s.reseal(ctx, "rotating keys", resealing{
		from: `{key} is not null and {key} <> $2`,
		seal: true,
	})
}

// SealPlaintext seals every value that was stored before there was a keyring, including
// values of deleted providers. Until then [Store.Providers] and a seed refuse to read them.
// First stop the servers that still run without the keyring: they cannot read sealed values.
// Check [RotateResult.Plaintext], which is 0 if no plaintext is left: it can be more without an
// error if another process writes plaintext meanwhile. Otherwise it works like [Store.Rotate].
func (s *Store) SealPlaintext(ctx context.Context) (RotateResult, error) {
	return s.reseal(ctx, "sealing plaintext", resealing{
		from: `{key} is null`,
		seal: true,
	})
}

// Unseal stores every value as plaintext, for a host that stops using a keyring. First stop
// the servers that still have one: they refuse plaintext. Afterwards, open the Store with
// [StoreOptions.AllowPlaintext] and without Keyring. Otherwise it works like [Store.Rotate].
func (s *Store) Unseal(ctx context.Context) (RotateResult, error) {
	return s.reseal(ctx, "unsealing", resealing{from: `{key} is not null`})
}

// resealing says which values to rewrite, and how.
type resealing struct {
	from string // a condition; {key} is the key-id column and $2 the sealing key's id
	seal bool   // seal with the first key; otherwise store plaintext
}

// A sealedColumn is a column of sealed values. It is found by the foreign key from its key-id
// column to ai_encryption_keys.
type sealedColumn struct {
	table, value, key string
	provider          string // the column with the provider's id
	problem           string
}

// The value's column has the name of its key-id column without the suffix.
const selectSealedColumns = `
select t.relname, left(k.attname, -length('_key_id')), k.attname,
       case when t.relname = 'ai_providers' then 'id' else coalesce(p.attname, '') end,
       case when cardinality(f.conkey) <> 1 then 'its foreign key has several columns'
            when right(k.attname, 7) <> '_key_id' then 'its name does not end in _key_id'
            when v.attname is null then 'there is no column ' || left(k.attname, -length('_key_id')) || ' beside it'
            when i.attname is null then 'its table has no column id of type uuid'
            when t.relname <> 'ai_providers' and p.attname is null then 'its table has no column provider_id of type uuid'
            when t.relnamespace <> s.oid then 'its table is in another schema'
            when not exists (select from pg_index x where x.indrelid = t.oid and x.indisunique and x.indpred is null
                                and x.indnkeyatts = 1 and x.indkey[0] = i.attnum) then 'its table has no unique index on id alone'
            else '' end
  from pg_namespace s
  join pg_class e on e.relnamespace = s.oid and e.relname = 'ai_encryption_keys'
  join pg_constraint f on f.confrelid = e.oid and f.contype = 'f' and f.conparentid = 0
  join pg_class t on t.oid = f.conrelid
  join pg_attribute k on k.attrelid = t.oid and k.attnum = f.conkey[1]
  left join pg_attribute v on v.attrelid = t.oid and not v.attisdropped and v.atttypid = 'text'::regtype and v.attname = left(k.attname, -length('_key_id'))
  left join pg_attribute i on i.attrelid = t.oid and not i.attisdropped and i.atttypid = 'uuid'::regtype and i.attname = 'id'
  left join pg_attribute p on p.attrelid = t.oid and not p.attisdropped and p.atttypid = 'uuid'::regtype and p.attname = 'provider_id'
 where s.nspname = $1
 order by t.relname, k.attname`

func (s *Store) sealedColumns(ctx context.Context, operation string) ([]sealedColumn, error) {
	var columns []sealedColumn
	err := s.read(ctx, operation, pg.Query{
		SQL:  selectSealedColumns,
		Args: [][]byte{[]byte(s.schema)},
		Rows: func(rows pgx.Rows) (err error) {
			columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c sealedColumn, err error) {
				return c, row.Scan(&c.table, &c.value, &c.key, &c.provider, &c.problem)
			})
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	for _, c := range columns {
		if c.problem != "" {
			return nil, keyringErrorf("%s.%s refers to ai_encryption_keys, but what it seals is not clear: %s. Nothing was changed", c.table, c.key, c.problem)
		}
	}
	return columns, nil
}

// A storedValue is one value to rewrite. Its row stays locked until then, so the old value is
// not sent again: as plaintext it could get into the server's log.
type storedValue struct {
	ID       uuid.UUID `json:"id"`
	Old      string    `json:"-"`
	New      string    `json:"new"`
	NewKey   *string   `json:"new_key"`
	provider uuid.UUID
	name     string // the provider's
	oldKey   *string
}

const (
	resealBatch = 100
	maxPasses   = 20

	selectValues = `
select id, {provider}, coalesce((select p.name from {schema}.ai_providers p where p.id = t.{provider}), ''), {value}, {key} from {schema}.{table} t
 where {value} is not null and {from} and ($1 = '' or id > $1::uuid) order by id limit {batch} for update`

	updateValues = `
update {schema}.{table} t set {value} = r.new, {key} = r.new_key
  from json_to_recordset($1::json) as r (id uuid, new text, new_key text)
 where t.id = r.id`

	revokeKeys = `
update {schema}.ai_encryption_keys k set revoked_at = now()
 where revoked_at is null and id {is} $1{unused}
returning id`
)

func (s *Store) reseal(ctx context.Context, operation string, how resealing) (report RotateResult, err error) {
	if len(s.vault.ring) == 0 {
		return report, keyringErrorf("%s needs one, and the store was opened without; open it with StoreOptions.Keyring", operation)
	}
	columns, err := s.sealedColumns(ctx, operation)
	if err != nil {
		return report, err
	}
	// Repeat until a pass finds nothing to do: others write at the same time.
	for pass, before := 1, -1; report.Changed > before; pass++ {
		if pass > maxPasses {
			return report, &DatabaseError{Operation: operation, cause: pg.Error{Reason: "each time that all was written, there was more to write; a trigger undoes it, or servers still seal with an earlier keyring"}}
		}
		before, report.Left = report.Changed, nil
		for _, column := range columns {
			for last, more := "", true; more && err == nil; {
				last, more, err = s.resealSome(ctx, operation, how, column, last, &report)
			}
			if err != nil {
				return report, err
			}
		}
	}
	if err := s.revoke(ctx, operation, how, columns, &report); err != nil {
		return report, err
	}
	if len(report.Left) > 0 {
		return report, report.Left[0]
	}
	return report, nil
}

// sqlFor fills in the names of a column.
func (s *Store) sqlFor(text string, c sealedColumn) string {
	name := func(n string) string { return pgx.Identifier{n}.Sanitize() }
	return strings.NewReplacer("{schema}", name(s.schema), "{table}", name(c.table), "{value}", name(c.value), "{key}", name(c.key), "{provider}", name(c.provider), "{batch}", strconv.Itoa(resealBatch)).Replace(text)
}

// resealSome rewrites the next few values of a column, in one transaction.
func (s *Store) resealSome(ctx context.Context, operation string, how resealing, c sealedColumn, after string, report *RotateResult) (last string, more bool, err error) {
	var values []storedValue
	var changed int
	var left []*DecryptError
	read := pg.Query{
		SQL:  s.sqlFor(strings.ReplaceAll(selectValues, "{from}", how.from), c),
		Args: [][]byte{[]byte(after)},
		Rows: func(rows pgx.Rows) (err error) {
			values, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (v storedValue, err error) {
				return v, row.Scan(&v.ID, &v.provider, &v.name, &v.Old, &v.oldKey)
			})
			return err
		},
	}
	if strings.Contains(how.from, "$2") {
		read.Args = append(read.Args, []byte(s.vault.ring[0].ID))
	}
	err = s.locked(ctx, operation, []pg.Query{read}, func() (write, error) {
		var rewritten []storedValue
		left = nil
		for _, v := range values {
			if !s.rewrite(c, how, &v, &left) {
				continue
			}
			rewritten = append(rewritten, v)
		}
		if changed = len(rewritten); changed == 0 {
			return write{}, nil
		}
		update := pg.Write(c.table, changed, s.sqlFor(updateValues, c), pg.JSON(rewritten))
		writes := []pg.Query{{SQL: `select set_config('aiseed.resealing', 'on', true)`}, update}
		if how.seal {
			writes = append(s.registerKey(), writes...)
		}
		return write{queries: writes, seals: how.seal}, nil
	})
	if err != nil || len(values) == 0 {
		return after, false, err
	}
	report.Changed += changed
	report.Left = append(report.Left, left...)
	return values[len(values)-1].ID.String(), len(values) == resealBatch, nil
}

// rewrite decrypts a value and seals it as how says.
func (s *Store) rewrite(c sealedColumn, how resealing, v *storedValue, left *[]*DecryptError) bool {
	at := seal.Cell{Table: c.table, Column: c.value, Row: v.ID.String(), Provider: v.provider}
	secret, err := s.vault.open(at, storedText{text: v.Old, keyID: v.oldKey})
	named(err, v.name)
	var problem *DecryptError
	switch {
	case errors.As(err, &problem) && problem.plaintext:
		secret = NewSecret(v.Old)
	case err != nil:
		*left = append(*left, problem)
		return false
	}
	if how.seal {
		v.New, v.NewKey = s.vault.seal(at, secret)
	} else {
		v.New, v.NewKey = secret.Reveal(), nil
	}
	return true
}

// revoke marks the keys that no row needs as revoked, except the one that seals, which it
// registers. It counts the plaintext.
func (s *Store) revoke(ctx context.Context, operation string, how resealing, columns []sealedColumn, report *RotateResult) error {
	sealing := ""
	var register []pg.Query
	if how.seal {
		sealing, register = s.vault.ring[0].ID, s.registerKey()
	}
	var plaintext strings.Builder
	for _, c := range columns {
		plaintext.WriteString(s.sqlFor("\n + (select count(*) from {schema}.{table} t where t.{value} is not null and t.{key} is null)", c))
	}
	var revoked []string
	var unsealed int
	count := pg.Query{SQL: "select 0" + plaintext.String(), Rows: pg.One(&unsealed)}
	err := s.locked(ctx, operation, []pg.Query{count}, func() (write, error) {
		return write{seals: how.seal, queries: append(register, s.revokeUnused(columns, "<>", sealing, &revoked))}, nil
	})
	if err != nil {
		return err
	}
	if report.Plaintext = unsealed; len(revoked) > 0 {
		report.Revoked = revoked
	}
	return nil
}

// revokeUnused marks keys that no column needs as revoked: the key with an id if is is "=", all
// others if it is "<>".
func (s *Store) revokeUnused(columns []sealedColumn, is, id string, revoked *[]string) pg.Query {
	var unused strings.Builder
	for _, c := range columns {
		unused.WriteString(s.sqlFor("\n   and not exists (select from {schema}.{table} t where t.{key} = k.id)", c))
	}
	return pg.Query{
		SQL:  strings.NewReplacer("{schema}", pgx.Identifier{s.schema}.Sanitize(), "{is}", is, "{unused}", unused.String()).Replace(revokeKeys),
		Args: [][]byte{[]byte(id)},
		Rows: func(rows pgx.Rows) (err error) {
			*revoked, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		},
	}
}

// ForgetKey removes what a sealing key that is lost has sealed, so that a Store can be opened again:
// bearer keys, and Bedrock settings with their region and models, also those of deleted providers.
// It marks the key as revoked and registers the first key of the keyring, all in one transaction,
// audited with the actor like the operations of a Store. It returns the providers that it changed
// as they are now, like [Store.ListProviders]; none if the key has sealed nothing.
//
// Nothing brings back what it removes: [SealedWith] lists it before. A provider keeps its row and
// everything else. The operations give it new keys or settings, and so does a start by
// [Config.DriftAdopt] if the environment has the provider.
//
// opts are those of [Open]. The keyring must not have the key: then it is not lost, and
// [Store.Rotate] replaces it. Other keys that the keyring lacks do not prevent it.
//
// Errors match [ErrNotFound] if the database does not know the key, or those of [Open] and of the
// operations. [ErrKeyring] also means that the keyring has the key, that its first key is revoked, or that a column refers to
// ai_encryption_keys in a way that is not understood. Nothing was changed then.
func ForgetKey(ctx context.Context, pool *pgxpool.Pool, opts StoreOptions, actor, keyID string) (forgotten []ProviderInfo, err error) {
	const operation = "forgetting a key"
	s, err := openWithout(ctx, "ForgetKey", pool, opts, keyID)
	if err != nil {
		return nil, err
	}
	columns, err := s.sealedColumns(ctx, operation)
	if err != nil {
		return nil, err
	}
	for _, c := range columns {
		if !slices.ContainsFunc(sealedCells[:], func(known seal.Cell) bool { return known.Table == c.table && known.Column == c.value }) {
			return nil, keyringErrorf("%s.%s holds sealed values too, and this version of the library does not know what it means to remove them; "+
				"use the version that created the column. Nothing was changed", c.table, c.value)
		}
	}
	var stored []*storedProvider
	err = s.operateOn(ctx, actor, operation, s.selectSealed(keyID, &stored), func(now time.Time) (write, error) {
		c := &changes{store: s, actor: actor}
		var left []ProviderInfo
		for _, p := range stored {
			s.vault.openAll(p)
			rest := p.sealed(func(id string) bool { return id != keyID })
			c.update(p, rest.Provider)
			rest.UpdatedAt, rest.Revision = now, p.Revision+1
			left = append(left, rest.info())
		}
		w := c.write()
		var revoked []string
		w.queries = append(append(w.queries, s.revokeUnused(columns, "=", keyID, &revoked)), s.registerKey()...)
		w.done = func() { forgotten = left }
		return w, nil
	})
	return forgotten, err
}

// SealedWith lists what a sealing key that is lost has sealed, and what [ForgetKey] would remove.
// Each provider is shown as by [Store.ListProviders], but with nothing else: Keys has only the keys
// that are sealed with it, and SettingsUndecryptable says whether its Bedrock settings are. It
// writes nothing and takes no lock. The options and the errors are those of [ForgetKey].
func SealedWith(ctx context.Context, pool *pgxpool.Pool, opts StoreOptions, keyID string) ([]ProviderInfo, error) {
	opts.Migrate = false // this writes nothing
	s, err := openWithout(ctx, "SealedWith", pool, opts, keyID)
	if err != nil {
		return nil, err
	}
	var stored []*storedProvider
	if err := s.read(ctx, "looking for what a key has sealed", s.selectSealed(keyID, &stored)); err != nil {
		return nil, err
	}
	infos := make([]ProviderInfo, len(stored))
	for i, p := range stored {
		s.vault.openAll(p)
		infos[i] = p.sealed(func(id string) bool { return id == keyID }).info()
	}
	return infos, nil
}

// openWithout is Open for a key that is lost. It does not need the other keys either.
func openWithout(ctx context.Context, function string, pool *pgxpool.Pool, opts StoreOptions, keyID string) (*Store, error) {
	if !seal.IsID(keyID) { // it can be anything, even a key: do not show or send it
		return nil, notFound("there is no sealing key with that id, which is not a valid one; want 32 hex digits, as the error has them that says what the keyring lacks")
	}
	s, err := newStore(function, pool, opts)
	if err != nil {
		return nil, err
	}
	if _, has := s.vault.ring.ByID(keyID); has {
		return nil, keyringErrorf("it has key %s, so nothing is lost; to stop using the key, put another one first and call Store.Rotate. Nothing was changed", keyID)
	}
	err = s.checkSchema(ctx, s.vault.ring, opts.Migrate, func(stored []storedKey, successor string) error {
		if !slices.ContainsFunc(stored, func(k storedKey) bool { return k.ID == keyID }) {
			return notFound("there is no sealing key with id %s in the schema %q: nothing there was ever sealed with it; check the id, the database and the schema", keyID, s.schema)
		}
		if successor != "" { // to take it back into use would undo a rotation
			first := s.vault.ring[0].ID
			return &KeyringError{Revoked: first, text: "its first key, " + first + ", is revoked, and must seal nothing more; make a new key with: openssl rand -base64 32, put it first, and the others after it. Nothing was changed"}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// selectSealed reads the providers of which a key has sealed something.
func (s *Store) selectSealed(keyID string, into *[]*storedProvider) pg.Query {
	return s.selectProviders(providersWhere(`settings_key_id = $1 or id in (select provider_id from {schema}.ai_provider_keys where api_key_key_id = $1)`), keysOfAll,
		func(stored []*storedProvider) { *into = stored }, []byte(keyID))
}
