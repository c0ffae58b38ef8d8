package aiseed

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/xerrors"

	"example.com/aiseed/internal/pg"
)

// Watch calls changed with what [Store.Providers] returns: once at the start, and then whenever the
// providers or the error are not those of the last call. When ctx ends, it returns ctx's error.
//
// Watch reads when a Store with the same [StoreOptions.NotifyChannel], of this process or another,
// has written. It also reads after each [StoreOptions.PollInterval] without a notification, because
// an older version of the library and somebody in SQL can write without one. It listens on a
// connection of its own, next to the pool's. If that is lost, Watch connects again after a pause
// that grows to a second, and reads again, so no change is missed.
//
// A transaction-pooling proxy passes no notifications on, and a standby has none. So Watch tests
// each connection with a notification of its own, on a channel with a random name. If that does not
// arrive within the PollInterval, or within 30 seconds if that is shorter, Watch warns once through
// [StoreOptions.Logger], and only polls. It tests again after 10 polls, for as long as it runs, and replaces a
// connection that no longer passes. A host that wants to hear of each change at once gives the
// Store a pool that connects directly to the primary.
//
// changed does not get an error that the next attempt can resolve, such as a lost connection. After
// any other error of the database Watch tries again, as after a lost connection. Watch calls changed
// from the goroutine that called Watch, one call at a time: a slow one delays the next read. It may
// keep and change providers. See also [Store.WatchStatus].
func (s *Store) Watch(ctx context.Context, changed func(providers []Provider, err error)) error {
	if changed == nil {
		return xerrors.New("aiseed: Watch needs a function to call back")
	}
	w := watcher{store: s, changed: changed}
	for attempt := 1; ; attempt++ {
		began := time.Now()
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			attempt = 0
			continue
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

// WatchStatus returns how [Store.Watch] is doing, for a host's metrics or its health check. If Watch
// was called several times, it speaks of the call that did something last.
func (s *Store) WatchStatus() WatchStatus { return *s.watched.Load() }

const (
	watching = "watching the providers"

	// pollsPerTest is how many polls pass between two tests whether notifications arrive.
	pollsPerTest = 10
)

// A watcher is one call of Watch.
type watcher struct {
	store   *Store
	changed func([]Provider, error)

	told    bool       // changed was called, with
	last    []Provider // these providers and
	trouble string     // an error with this text, or "" for none

	warned bool   // that no notifications arrive
	test   string // the channel of the test
	status WatchStatus
}

// follow reads the providers at the start, at each notification, and after each poll interval
// without one. It returns nil when it is time to connect again.
func (w *watcher) follow(ctx context.Context) error {
	conn, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		w.report(func(s *WatchStatus) { s.Listening = false })
		hangUp(ctx, conn)
	}()
	testing, listening := conn != nil, false
	for polls := 0; ; {
		// Read after listening began, so that no change is missed in between.
		providers, err := w.store.Providers(ctx)
		if db := (*DatabaseError)(nil); errors.As(err, &db) {
			return err // and read again after the pause, notified or not
		}
		w.report(func(s *WatchStatus) { s.Read = time.Now() })
		w.tell(providers, err)

		patience := w.store.pollInterval
		if testing {
			patience = min(patience, defaultPollInterval)
		}
		channel, notified, err := wait(ctx, conn, patience)
		switch {
		case err != nil:
			return databaseError(ctx, watching, err)
		case notified && !listening && channel != w.test && channel != "":
			continue // a proxy passed on the test of an earlier connection while this one began to listen
		case notified:
			testing = false
			if !listening {
				if err := w.listen(ctx, conn, w.store.notifyChannel); err != nil {
					return err
				}
				listening = true
				w.hears(ctx)
			}
			if channel != w.test {
				w.report(func(s *WatchStatus) { s.Heard = time.Now() })
			}
			continue
		case testing && listening:
			return nil // it was lost, and nobody told us
		case testing:
			testing = false
			w.hearsNothing(ctx, "the notification of a test did not arrive, as behind a transaction-pooling proxy")
		}
		if polls++; polls == pollsPerTest {
			if !listening || w.notifyTest(ctx) != nil {
				return nil
			}
			polls, testing = 0, true
		}
	}
}

// connect makes a connection that listens on a channel with a random name, and sends a notification
// there. Once that has arrived, the connection can listen on the channel of the store. It does not
// do so before: a transaction-pooling proxy would give the notifications to its other clients. It
// returns nil if there is nothing to listen to.
func (w *watcher) connect(ctx context.Context) (*pgx.Conn, error) {
	if w.store.notifyChannel == "" {
		return nil, nil
	}
	pooled, err := w.store.acquire(ctx, watching)
	if err != nil {
		return nil, err
	}
	conn := pooled.Hijack() // or the pool would count it as in use for ever
	w.test = "aiseed_test_" + uuid.NewString()
	if err = w.listen(ctx, conn, w.test); err == nil {
		err = w.notifyTest(ctx)
	}
	if err == nil {
		return conn, nil
	}
	hangUp(ctx, conn)
	var db *DatabaseError
	if errors.As(err, &db) && db.SQLState != "" && db.cause.Context == nil && !db.cause.Transient {
		reason := err.Error()
		if db.SQLState == stateReadOnly {
			reason = "the server is a standby"
		}
		w.hearsNothing(ctx, reason)
		return nil, nil
	}
	return nil, err
}

func (w *watcher) listen(ctx context.Context, conn *pgx.Conn, channel string) error {
	query := pg.Query{SQL: `listen ` + pgx.Identifier{channel}.Sanitize()}
	return databaseError(ctx, watching, pg.RoundTrip(ctx, conn, query))
}

// notifyTest sends the notification of a test. It goes through the pool: a proxy passes on what the
// server sends while a statement runs, so over the same connection it could arrive by chance.
func (w *watcher) notifyTest(ctx context.Context) error {
	return w.store.query(ctx, watching, pg.SeeAllRows, notification(w.test))
}

// hearsNothing says once that Watch only polls.
func (w *watcher) hearsNothing(ctx context.Context, reason string) {
	if !w.warned {
		w.warned = true
		w.store.logger.Warn(ctx, "AI providers are polled, since no notifications of changes arrive; "+
			"give the Store of Watch a pool that connects directly to the primary",
			slog.F("reason", reason), slog.F("poll_interval", w.store.pollInterval.String()))
	}
}

// hears notes that notifications arrive.
func (w *watcher) hears(ctx context.Context) {
	w.report(func(s *WatchStatus) { s.Listening = true })
	if w.warned {
		w.warned = false
		w.store.logger.Info(ctx, "notifications of changes of AI providers arrive again")
	}
}

func (w *watcher) report(change func(*WatchStatus)) {
	change(&w.status)
	status := w.status
	w.store.watched.Store(&status)
}

// tell calls changed if there is something new to tell.
func (w *watcher) tell(providers []Provider, err error) {
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	var db *DatabaseError
	known := w.told && trouble == w.trouble && reflect.DeepEqual(providers, w.last)
	if known || errors.As(err, &db) && db.cause.Transient {
		return
	}
	w.told, w.last, w.trouble = true, providers, trouble
	own := slices.Clone(providers) // the host's, to change as it likes
	for i := range own {
		own[i].Keys = slices.Clone(own[i].Keys)
		if bedrock := own[i].Bedrock; bedrock != nil {
			own[i].Bedrock = new(*bedrock)
		}
	}
	w.changed(own, err)
}

// wait waits for a notification. Without a connection none arrives.
func wait(ctx context.Context, conn *pgx.Conn, atMost time.Duration) (channel string, notified bool, err error) {
	if conn != nil {
		return pg.WaitForNotification(ctx, conn, atMost)
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return "", false, ctx.Err()
	case <-timer.C:
		return "", false, nil
	}
}

// hangUp closes a connection that the pool does not know any more, and waits for that.
func hangUp(ctx context.Context, conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pg.CleanupTimeout)
	defer cancel()
	_ = conn.Close(ctx)
	select { // pgx may be closing it on a goroutine
	case <-conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}
