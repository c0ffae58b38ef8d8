package aiseedcli

import (
	"context"
	"fmt"
	"sync"
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

// watchLock says for whom the verb waits, if it waits for long. stop ends that.
func (a *app) watchLock(ctx context.Context, pool *pgxpool.Pool) (stop func()) {
	if !a.verb.writes {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lockPatience):
			}
			holder, err := a.lockHolder(ctx, pool, isAwaited)
			if err != nil || holder == nil || a.isOwn(holder.PID) {
				continue
			}
			a.notice("waiting for " + described(holder) + ", which holds the lock for writing AI providers")
			return
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

// lockHolder returns who holds the lock, or nil. narrowed is a further condition.
func (a *app) lockHolder(ctx context.Context, pool *pgxpool.Pool, narrowed string) (*aiseed.LockHolder, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Release(ctx, conn)
	var holder *aiseed.LockHolder
	err = pg.RoundTrip(ctx, conn.Conn(), pg.Query{SQL: pg.SelectLockHolder + narrowed, Args: [][]byte{pg.Int64(aiseed.LockKey(a.flags.schema))}, Rows: func(rows pgx.Rows) error {
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
	text := fmt.Sprintf("pid %d", h.PID)
	if h.ApplicationName != "" {
		text += fmt.Sprintf(", application %q", h.ApplicationName)
	}
	if h.ClientAddr != "" {
		text += ", from " + h.ClientAddr
	}
	if !h.Since.IsZero() {
		text += ", since " + h.Since.UTC().Format(time.RFC3339)
	}
	return text
}

// isOwn reports whether a session is one of this process. Behind a pooler it is not found.
func (a *app) isOwn(pid int) bool {
	_, own := a.sessions.Load(pid)
	return own
}
