package aiseedcli

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/pg"
)

// isAwaited narrows pg.SelectLockHolder to a lock that somebody waits for.
const isAwaited = `
   and exists (select from pg_locks w
                where w.locktype = 'advisory' and not w.granted and (w.database, w.classid, w.objid, w.objsubid) = (l.database, l.classid, l.objid, l.objsubid))`

// watchLock says for whom the verb waits, if it waits for long, until ctx ends. It looks on a
// connection of its own, after the verb has one: a limit can leave the verb only one. If it cannot
// look, it says nothing. A question that it has asked it does not cancel, because that can end a
// pooler. See [closeAfter] for how long an answer can take.
func (a *app) watchLock(ctx context.Context, pool *pgxpool.Pool) {
	if !a.verb.writes {
		return
	}
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
			<-conn.PgConn().CleanupDone()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lockPatience):
		}
		if has := pool.Stat(); has.AcquiredConns()+has.IdleConns() == 0 {
			continue
		}
		var err error
		if conn == nil {
			if conn, err = pgx.ConnectConfig(ctx, pool.Config().ConnConfig); err != nil {
				return
			}
		}
		holder, err := a.holderOn(context.WithoutCancel(ctx), conn, isAwaited)
		switch {
		case err != nil:
			return
		case holder != nil && !a.isOwn(holder.PID):
			a.notice("waiting for " + described(holder) + ", which holds the lock for writing AI providers")
			return
		}
	}
}

// lockHolder returns who holds the lock, or nil. narrowed is a further condition.
func (a *app) lockHolder(ctx context.Context, pool *pgxpool.Pool, narrowed string) (*aiseed.LockHolder, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Release(ctx, conn)
	return a.holderOn(ctx, conn.Conn(), narrowed)
}

func (a *app) holderOn(ctx context.Context, conn *pgx.Conn, narrowed string) (holder *aiseed.LockHolder, err error) {
	err = pg.RoundTrip(ctx, conn, pg.Query{SQL: pg.SelectLockHolder + narrowed, Args: [][]byte{pg.Int64(aiseed.LockKey(a.flags.schema))}, Rows: func(rows pgx.Rows) error {
		for rows.Next() {
			var since *time.Time
			holder = &aiseed.LockHolder{}
			if err := rows.Scan(&holder.PID, &holder.ApplicationName, &holder.ClientAddr, &since); err != nil {
				return err
			}
			if since != nil {
				holder.Since = *since
			}
		}
		return rows.Err()
	}})
	return holder, err
}

// described says who holds a lock.
func described(h *aiseed.LockHolder) string {
	return pg.DescribeSession(h.PID, h.ApplicationName, h.ClientAddr, h.Since)
}

// isOwn reports whether a session is one of this process. Behind a pooler it is not found.
func (a *app) isOwn(pid int) bool {
	_, own := a.sessions.Load(pid)
	return own
}
