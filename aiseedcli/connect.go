package aiseedcli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/secretfile"
)

// lookup is os.Getenv for the environment of the app.
func (a *app) lookup(name string) string {
	for _, entry := range a.Environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// Variables for the tests, which must not depend on the speed of the machine.
var (
	connectTimeout = 10 * time.Second // if the connection string has none
	checkTimeout   = 20 * time.Second // bounds each check so that doctor always finishes
	lockTimeout    time.Duration      // 0 for the library's default
	lockPatience   = time.Second      // after which to say that another process holds the lock
	// watchPatience is how long a notification may take. Behind a proxy that passes none, a test need not wait.
	watchPatience = func(*pgx.ConnConfig) time.Duration { return 5 * time.Second }
	// closePatience is for what pgx and the library send after the end: a cancellation, a rollback, a
	// look-up of what was committed.
	closePatience = func(*pgx.ConnConfig) time.Duration { return time.Second }
)

// pool makes a pool, which connects when it is first used. No connection outlives ctx for
// long. pgx reads the PG* variables.
func (a *app) pool(ctx context.Context) (*pgxpool.Pool, error) {
	dsn, source, err := a.connectionString()
	if err != nil {
		return nil, err
	}
	config, problem := parseString(dsn)
	if problem != "" {
		return nil, &aboutError{"the connection string of " + source + " " + problem, aiseed.ErrDatabase}
	}
	// Processes that wait for our lock see this name.
	if params := config.ConnConfig.RuntimeParams; params["application_name"] == "" {
		params["application_name"] = a.Name
	}
	config.ConnConfig.ConnectTimeout = cmp.Or(config.ConnConfig.ConnectTimeout, connectTimeout)
	// A transaction-pooling proxy keeps no prepared statements.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	closeAfter(ctx, config.ConnConfig)
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		a.sessions.Store(int(conn.PgConn().PID()), true)
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("the settings of %s make no pool; check its pool_* parameters", source)
	}
	return pool, nil
}

// closeAfter makes every connection end closePatience after ctx has ended, or after it was dialled
// if that is later. Otherwise pgx waits 15 seconds for a server that has stopped answering.
func closeAfter(ctx context.Context, config *pgx.ConnConfig) {
	patience := closePatience(config)
	after := func(end func()) (stop func() bool) {
		return context.AfterFunc(ctx, func() { time.AfterFunc(patience, end) })
	}
	dial := config.DialFunc
	config.DialFunc = func(dialling context.Context, network, address string) (net.Conn, error) {
		dialling, cancel := context.WithCancel(dialling)
		defer cancel()
		defer after(cancel)()
		conn, err := dial(dialling, network, address)
		if err == nil {
			after(func() { _ = conn.Close() })
		}
		return conn, err
	}
}

// connectionString returns the connection string, and where it comes from. It is "" if only the PG* variables say
// where the database is.
func (a *app) connectionString() (dsn, source string, err error) {
	if a.flags.database != "" {
		return a.flags.database, "-database", nil
	}
	dsn, source, err = a.valueOrFile(a.DatabaseVariable, aiseed.ErrDatabase)
	if dsn == "" {
		source = "the PG* variables"
	}
	return dsn, source, err
}

// valueOrFile returns the value of a variable, or of the file that its _FILE twin names, and which of both is set.
func (a *app) valueOrFile(variable string, class error) (value, source string, err error) {
	value, path := a.lookup(variable), a.lookup(variable+"_FILE")
	switch {
	case value != "" && path != "":
		return "", "", &aboutError{fmt.Sprintf("%s and %s_FILE are both set; remove one", variable, variable), class}
	case path == "":
		return value, variable, nil
	}
	variable += "_FILE"
	value, reason := secretfile.Read(path)
	if reason != "" {
		// Do not show the path: it can be the secret, in the wrong variable.
		return "", "", &aboutError{fmt.Sprintf("%s: the file that it names %s", variable, reason), class}
	}
	return value, variable, nil
}

// keyring returns the keyring of the environment, or nil if there is none.
func (a *app) keyring() (*aiseed.Keyring, error) {
	list, variable, err := a.valueOrFile(a.flags.keysVariable, aiseed.ErrKeyring)
	if err != nil || list == "" {
		return nil, err
	}
	keyring, err := aiseed.ParseKeyring(list)
	if err != nil {
		return nil, &aboutError{variable + ": " + bare(err), err}
	}
	return keyring, nil
}

// requiredKeyring returns the keyring, or nil if there is none and -plaintext accepts
// that.
func (a *app) requiredKeyring() (*aiseed.Keyring, error) {
	keyring, err := a.keyring()
	if err == nil && keyring == nil && !a.flags.acceptPlaintext {
		return nil, &aboutError{a.noKeyring(), aiseed.ErrKeyring}
	}
	return keyring, err
}

func (a *app) noKeyring() string {
	text := fmt.Sprintf("there is no keyring: neither %[1]s nor %[1]s_FILE is set; set it as it is for the server", a.flags.keysVariable)
	if strings.HasSuffix(a.verb.name, "seal") || a.verb.name == "rotate" {
		return text
	}
	return text + ", or give -plaintext if the server has none"
}

// withStore opens a store, calls use, and closes the pool afterwards.
func (a *app) withStore(ctx context.Context, use func(*aiseed.Store, *aiseed.Keyring) (result, error)) (result, error) {
	keyring, err := a.requiredKeyring()
	if err != nil {
		return result{}, err
	}
	return a.withPool(ctx, func(pool *pgxpool.Pool) (result, error) {
		if a.flags.migrate {
			if err := a.mayMigrate(ctx, pool); err != nil {
				return result{}, err
			}
		}
		store, err := aiseed.Open(ctx, pool, a.storeOptions(keyring))
		if err != nil {
			return result{}, err
		}
		return use(store, keyring)
	})
}

// withPool makes a pool, calls use, and closes the pool. While use waits for the lock of another
// process, it says so.
func (a *app) withPool(ctx context.Context, use func(*pgxpool.Pool) (result, error)) (result, error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	pool, err := a.pool(ctx)
	if err != nil {
		return result{}, err
	}
	defer pool.Close()
	var watching sync.WaitGroup
	watching.Go(func() { a.watchLock(ctx, pool) })
	defer watching.Wait()
	defer end() // first
	return use(pool)
}

func (a *app) storeOptions(keyring *aiseed.Keyring) aiseed.StoreOptions {
	return aiseed.StoreOptions{
		Keyring: keyring, AllowPlaintext: a.flags.acceptPlaintext, Schema: a.flags.schema, NotifyChannel: a.flags.notifyChannel,
		Migrate: a.flags.migrate, LockTimeout: lockTimeout,
	}
}
