package aiseedtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

func TestNewPoolMakesTheTablesInTheSchemaOnly(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, schema := range []string{"", "gateway", "Of a \"host\""} {
		pool := NewPool(t, WithSchema(schema))
		_, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: NewKeyring(t), Schema: schema})
		require.NoError(t, err)
		rows, err := pool.Query(ctx, `select distinct n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where relname like 'ai\_%'`)
		require.NoError(t, err)
		where, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		if schema == "" {
			schema = "public"
		}
		require.Equal(t, []string{schema}, where)
	}
}
