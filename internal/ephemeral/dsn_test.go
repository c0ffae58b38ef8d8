package ephemeral

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestWithDatabaseChangesOnlyTheDatabase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		base, want string
	}{
		"URL":                   {"postgres://me:p%40ss@host:5433/old?sslmode=require", "postgres://me:p%40ss@host:5433/new%20%2F%3F?sslmode=require"},
		"URL without database":  {"postgresql://host", "postgresql://host/new%20%2F%3F"},
		"URL with several":      {"postgres://a:1,b:2/old", "postgres://a:1,b:2/new%20%2F%3F"},
		"URL without host":      {"postgres:///old?host=/run", "postgres:///new%20%2F%3F?host=/run"},
		"URL with it as query":  {"postgres://host?dbname=old&user=me", "postgres://host/new%20%2F%3F?user=me"},
		"keywords and values":   {"host=/run dbname='old'", "host=/run dbname='old' dbname='new /?'"},
		"password like a URL":   {"password=http://x", "password=http://x dbname='new /?'"},
		"nothing but variables": {"", "dbname='new /?'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := withDatabase(test.base, "new /?")
			require.Equal(t, test.want, dsn)
			require.Equal(t, test.base, withDatabase(test.base, ""))

			config, err := pgx.ParseConfig(dsn)
			require.NoError(t, err)
			require.Equal(t, "new /?", config.Database)
		})
	}
}
