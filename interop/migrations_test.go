// Package interop tries aiseed together with the tools that a host can use, for real. It is a
// module of its own, so that nobody who uses aiseed gets the tools.
package interop

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
)

// versionTable is the tool's table for the migrations of aiseed.
const versionTable = "aiseed_migrations"

// hostsTables are the tables of the host's own migrations.
var hostsTables = []string{"users", "teams"}

// S8: a host's tool applies the migrations of aiseed next to the host's own, which have the same
// numbers, in the same schema or in another one, and does so once.
func TestS8_AHostsToolAppliesTheMigrationsNextToItsOwn(t *testing.T) {
	t.Parallel()
	for name, tool := range tools {
		for _, schema := range []string{"public", "aiseed"} {
			t.Run(name+" in "+schema, func(t *testing.T) {
				t.Parallel()
				h := setup(t, tool, schema)
				before := h.state("public", append(hostsTables, tool.table)...)

				require.NoError(t, h.to(newest(t)))
				h.requireUsable()
				for _, versions := range []string{`count(*)::text from {schema}.aiseed_schema`, `max(version)::text from {schema}.aiseed_schema`, `max(` + tool.version + `)::text from {schema}.` + versionTable} {
					require.Equal(t, []string{fmt.Sprint(newest(t))}, h.rows(`select `+versions), versions)
				}
				require.Equal(t, before, h.state("public", append(hostsTables, tool.table)...))

				applied := h.state(schema, "aiseed_schema", "ai_providers", "ai_provider_audits", versionTable)
				require.NoError(t, h.to(newest(t)))
				require.Equal(t, applied, h.state(schema, "aiseed_schema", "ai_providers", "ai_provider_audits", versionTable), "the second time")
				if schema != "public" {
					require.Empty(t, h.rows(`select relname::text from pg_class where relnamespace = 'public'::regnamespace and relname ~ '^ai_?'`))
				}
			})
		}
	}
}

// S8: the tool goes on from an older schema. Until then the store does not open.
func TestS8_AHostsToolGoesOnFromAnOlderSchema(t *testing.T) {
	t.Parallel()
	for name, tool := range tools {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setup(t, tool, "aiseed")
			require.NoError(t, h.to(1))
			_, err := h.open()
			require.ErrorIs(t, err, aiseed.ErrSchemaOutdated)
			require.ErrorContains(t, err, "at version 1")
			require.NoError(t, h.to(newest(t)))
			h.requireUsable()
		})
	}
}

// S8: a version is not taken back. The tool says why, the tables stay, and the tool goes on from there.
func TestS8_NoToolTakesAVersionBack(t *testing.T) {
	t.Parallel()
	for name, tool := range tools {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setup(t, tool, "aiseed")
			require.NoError(t, h.to(newest(t)))
			h.requireUsable()
			tables := []string{"aiseed_schema", "ai_providers", "ai_provider_keys", "ai_provider_audits", "ai_encryption_keys"}
			before := h.state("aiseed", tables...)

			err := tool.back(context.Background(), h.address, versionTable, tool.ours, newest(t))
			require.ErrorContains(t, err, tool.noWay)
			require.Equal(t, before, h.state("aiseed", tables...))

			if name == "golang-migrate" { // as its error says
				require.NoError(t, withGolangMigrate(h.address, versionTable, tool.ours, func(m *migrate.Migrate) error { return m.Force(newest(t)) }))
			}
			require.NoError(t, h.to(newest(t)))
			require.Equal(t, before, h.state("aiseed", tables...))
		})
	}
}

// S8: a migration is all or nothing with each tool.
func TestS8_AMigrationByAToolIsAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, tool := range tools {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setup(t, tool, "aiseed")
			// In the way of the last but one statement of the first file.
			h.exec(`create table {schema}.taken (id int); create index ai_provider_audits_undelivered_idx on {schema}.taken (id)`)
			require.ErrorContains(t, h.to(newest(t)), "already exists")
			require.Empty(t, h.rows(`select relname::text from pg_class where relnamespace = 'aiseed'::regnamespace and relname in ('ai_providers', 'aiseed_schema')`))
		})
	}
}

// A host has a database with three migrations of its own, applied with a tool.
type host struct {
	t       *testing.T
	tool    tool
	pool    *pgxpool.Pool
	schema  string  // for aiseed
	address url.URL // with the schema as search_path
}

func setup(t *testing.T, tool tool, schema string) *host {
	t.Helper()
	h := &host{t: t, tool: tool, pool: aiseedtest.NewPool(t), schema: schema}
	h.exec(`drop schema public cascade; create schema public; create schema if not exists {schema}`)
	c := h.pool.Config().ConnConfig
	query := url.Values{"host": {c.Host}, "port": {fmt.Sprint(c.Port)}}
	h.address = url.URL{Scheme: "postgres", User: url.UserPassword(c.User, c.Password), Path: "/" + c.Database, RawQuery: query.Encode()}
	require.NoError(t, tool.to(t.Context(), h.address, "", tool.hosts, 3))
	require.Equal(t, []string{"3"}, h.rows(`select max(`+tool.version+`)::text from `+tool.table))
	query.Set("search_path", schema)
	h.address.RawQuery = query.Encode()
	return h
}

// newest returns the number of the last migration.
func newest(t *testing.T) int {
	t.Helper()
	names, err := fs.Glob(aiseed.Migrations(), "*.sql")
	require.NoError(t, err)
	return len(names)
}

// to applies the migrations of aiseed up to a version.
func (h *host) to(version int) error {
	return h.tool.to(h.t.Context(), h.address, versionTable, h.tool.ours, version)
}

func (h *host) open() (*aiseed.Store, error) {
	return aiseed.Open(h.t.Context(), h.pool, aiseed.StoreOptions{Keyring: aiseedtest.NewKeyring(h.t), Schema: h.schema})
}

func (h *host) requireUsable() {
	h.t.Helper()
	store, err := h.open()
	require.NoError(h.t, err)
	created, err := store.CreateProvider(h.t.Context(), "a test", aiseed.ProviderSpec{Type: aiseed.TypeOpenAI, Name: "openai", Keys: []aiseed.Secret{aiseed.NewSecret("sk-interop")}})
	require.NoError(h.t, err)
	providers, err := store.Providers(h.t.Context())
	require.NoError(h.t, err)
	require.Len(h.t, providers, 1)
	require.Equal(h.t, created.ID, providers[0].ID)
}

func (h *host) sql(text string) string { return strings.ReplaceAll(text, "{schema}", h.schema) }

func (h *host) exec(sql string) {
	h.t.Helper()
	_, err := h.pool.Exec(h.t.Context(), h.sql(sql))
	require.NoError(h.t, err)
}

// rows returns the rows of a query, which has one column of text.
func (h *host) rows(sql string) []string {
	h.t.Helper()
	rows, err := h.pool.Query(h.t.Context(), h.sql(sql))
	require.NoError(h.t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(h.t, err)
	return out
}

// state is every row of the tables, with what tells whether it was written to.
func (h *host) state(schema string, tables ...string) (all []string) {
	h.t.Helper()
	for _, table := range tables {
		all = append(all, h.rows(fmt.Sprintf(`select '%[2]s ' || ctid || ' ' || xmin || ' ' || xmax || ' ' || to_jsonb(t) from %[1]s.%[2]s t order by ctid`, schema, table))...)
	}
	return all
}
