package aiseed

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/xerrors"

	"example.com/aiseed/internal/pg"
)

// Watch calls changed with the providers of [Store.Providers]: once at the start, and then
// whenever a Store with the same [StoreOptions.NotifyChannel], of this process or another,
// writes something that changes them. When ctx ends, it returns ctx's error. It returns an
// error at once if the Store has no channel.
//
// It keeps its own connection next to the pool's, to the server itself: a transaction-pooling
// proxy does not pass on notifications. If the connection is lost, Watch connects again after
// a pause that grows to a second, and reads the providers again, so no change is missed. If
// they cannot be read, Watch continues, and changed gets the error, once for each kind of
// trouble. changed does not get an error that the next attempt can resolve, such as a lost
// connection. Watch calls changed from the goroutine that called Watch, one call at a time.
func (s *Store) Watch(ctx context.Context, changed func(providers []Provider, err error)) error {
	if s.notifyChannel == "" {
		return xerrors.New("aiseed: Watch needs a channel; set StoreOptions.NotifyChannel of every Store that writes")
	}
	if changed == nil {
		return xerrors.New("aiseed: Watch needs a function to call back")
	}
	w := watcher{store: s, changed: changed}
	for attempt := 1; ; attempt++ {
		began := time.Now()
		err := w.listen(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.tell(nil, err)
		if time.Since(began) > pg.MaxPause {
			attempt = 1
		}
		if err := pg.Pause(ctx, attempt); err != nil {
			return err
		}
	}
}

type watcher struct {
	store   *Store
	changed func([]Provider, error)
	last    []Provider
	told    bool   // changed was called with last
	trouble string // the last error that changed was told
}

// listen reads the providers at the start and at each notification, until that fails.
func (w *watcher) listen(ctx context.Context) error {
	const operation = "watching the providers"
	pooled, err := w.store.acquire(ctx, operation)
	if err != nil {
		return err
	}
	// Hijack it, or the pool would count it as in use for ever.
	conn := pooled.Hijack()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pg.CleanupTimeout)
		defer cancel()
		_ = conn.Close(ctx)
		select { // pgx may be closing it on a goroutine
		case <-conn.PgConn().CleanupDone():
		case <-ctx.Done():
		}
	}()
	listen := pg.Query{SQL: `listen ` + pgx.Identifier{w.store.notifyChannel}.Sanitize()}
	if err := pg.RoundTrip(ctx, conn, listen); err != nil {
		return databaseError(ctx, operation, err)
	}
	for {
		// Read after listening began, so that no change is missed in between.
		providers, err := w.store.Providers(ctx)
		if err != nil {
			return err // and read again after the pause, notified or not
		}
		w.tell(providers, nil)
		if err := pg.WaitForNotification(ctx, conn); err != nil {
			return databaseError(ctx, operation, err)
		}
	}
}

// tell calls changed if there is something new to tell.
func (w *watcher) tell(providers []Provider, err error) {
	if err != nil {
		var db *DatabaseError
		if text := err.Error(); text != w.trouble && !(errors.As(err, &db) && db.cause.Transient) {
			w.trouble = text
			w.changed(nil, err)
		}
		return
	}
	recovered := w.trouble != ""
	w.trouble = ""
	if w.told && !recovered && reflect.DeepEqual(providers, w.last) {
		return
	}
	w.last, w.told = providers, true
	w.changed(providers, nil)
}
