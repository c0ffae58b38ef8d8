package ephemeral

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestLenderKeepsAConnectionAsLongAsItHasUsers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	config, err := pgx.ParseConfig(shared(t).DSN(""))
	require.NoError(t, err)
	var lender Lender
	var lent *pgx.Conn
	lend := func() (pid uint32) {
		require.NoError(t, lender.Lend(ctx, config, func(conn *pgx.Conn) error {
			lent, pid = conn, conn.PgConn().PID()
			return conn.Ping(ctx)
		}))
		return pid
	}
	first, second := lender.Join(), lender.Join()
	pid := lend()
	require.NoError(t, first(ctx))
	require.Equal(t, pid, lend())
	require.NoError(t, lent.Close(ctx))
	require.NotEqual(t, pid, lend(), "one that is lost is replaced")
	require.NoError(t, second(ctx))
	require.True(t, lent.IsClosed())
	third := lender.Join()
	require.NoError(t, third(ctx), "without a loan")
}
