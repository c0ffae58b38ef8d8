package aiseedcli

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// silence lets a client log in, and then reads without an answer until the client is gone.
func silence(conn net.Conn) {
	defer conn.Close()
	backend := pgproto3.NewBackend(conn, conn)
	first, err := backend.ReceiveStartupMessage()
	if err != nil {
		return
	}
	if _, login := first.(*pgproto3.StartupMessage); login {
		backend.Send(&pgproto3.AuthenticationOk{})
		backend.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte("1234")})
		backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		_ = backend.Flush()
	}
	_, _ = io.Copy(io.Discard, conn)
}

// The clock of these tests is that of synctest, which does not depend on the machine.
func TestO7_AnInterruptionDoesNotWaitForASilentServer(t *testing.T) {
	t.Parallel()
	for name, answersTheSecond := range map[string]bool{"silent": true, "gone": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config, problem := parseString("postgres://u@127.0.0.1/d?sslmode=disable")
				require.Empty(t, problem)
				dialled := 0
				config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
					if dialled++; dialled > 1 && !answersTheSecond {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					client, server := net.Pipe()
					go silence(server)
					return client, nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				closeAfter(ctx, config.ConnConfig)
				pool, err := pgxpool.NewWithConfig(ctx, config)
				require.NoError(t, err)
				asked := make(chan error, 1)
				go func() {
					_, err := pool.Exec(ctx, `select 1`, pgx.QueryExecModeSimpleProtocol)
					asked <- err
				}()
				synctest.Wait()
				interrupted := time.Now()
				cancel()
				require.ErrorIs(t, <-asked, context.Canceled)
				pool.Close()
				require.Equal(t, closePatience(config.ConnConfig), time.Since(interrupted))
				require.Equal(t, 2, dialled) // the second asks the server to cancel
			})
		})
	}
}

// A connection that nothing else closes ends with the verb, or when it is interrupted.
func TestO7_NoConnectionOutlivesTheVerb(t *testing.T) {
	t.Parallel()
	f := storetest.Setup(t)
	for name, interrupt := range map[string]bool{"interrupted": true, "ended": false} {
		a := &app{Options: Options{}.withDefaults(), flags: flags{database: f.DSN()}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		await := func(conn *pgx.Conn) {
			_, err := conn.WaitForNotification(context.Background())
			ended <- err
		}
		_, err := a.withPool(ctx, func(pool *pgxpool.Pool) (result, error) {
			conn, err := pool.Acquire(ctx)
			require.NoError(t, err)
			go await(conn.Hijack())
			if interrupt {
				cancel()
				require.ErrorIs(t, testkit.Awaited(t, ended), net.ErrClosed, name)
			}
			return result{}, nil
		})
		require.NoError(t, err)
		if !interrupt {
			require.ErrorIs(t, testkit.Awaited(t, ended), net.ErrClosed, name)
		}
	}
}
