package ephemeral

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStandbyFollowsAndTakesOver(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	primary := startServer(t, "synchronous_commit=on")
	conn := connect(t, primary.DSN(""))
	_, err := conn.Exec(ctx, `create table numbers as select 1 as n`)
	require.NoError(t, err)
	standby, err := primary.Standby(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })
	_, err = conn.Exec(ctx, `insert into numbers values (2)`)
	require.NoError(t, err)

	there := connect(t, standby.DSN(""))
	require.Eventually(t, func() bool {
		var sum int
		return there.QueryRow(ctx, `select sum(n) from numbers`).Scan(&sum) == nil && sum == 3
	}, time.Minute, time.Millisecond)
	_, err = there.Exec(ctx, `insert into numbers values (3)`)
	require.ErrorContains(t, err, "25006")

	require.NoError(t, primary.Kill())
	require.Error(t, conn.Ping(ctx))
	require.NoError(t, standby.Promote(ctx))
	_, err = there.Exec(ctx, `insert into numbers values (3)`)
	require.NoError(t, err)

	require.NoError(t, primary.Restart(ctx))
	var sum int
	require.NoError(t, connect(t, primary.DSN("")).QueryRow(ctx, `select sum(n) from numbers`).Scan(&sum))
	require.Equal(t, 3, sum, "what was committed survives a crash")
	require.NoError(t, primary.Stop())
	require.Error(t, primary.Stop())
}

func TestStandbyOfAServerThatWasFound(t *testing.T) {
	t.Parallel()
	_, err := (&Server{}).Standby(context.Background())
	require.ErrorContains(t, err, "only a private server can have one")
	require.Error(t, (&Server{}).Kill())
}
