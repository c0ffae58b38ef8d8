package aiseedtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/ephemeral"
)

// An Option changes what [NewPool] makes.
type Option func(*poolOptions)

type poolOptions struct{ schema string }

// WithSchema makes the tables in a schema, for a host that opens its Store with
// [aiseed.StoreOptions.Schema]. "" is "public", as there.
func WithSchema(schema string) Option { return func(o *poolOptions) { o.schema = schema } }

// NewPool returns a pool on a new database with the tables of aiseed in the schema "public",
// or in that of [WithSchema] only. After the test it closes the pool and drops the database. If
// the test failed, it keeps the database and logs how to reach it.
func NewPool(tb testing.TB, opts ...Option) *pgxpool.Pool {
	tb.Helper()
	var options poolOptions
	for _, opt := range opts {
		opt(&options)
	}
	s, err := server()
	if err != nil {
		tb.Fatalf("aiseedtest: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout) // after the start of the server, which has its own
	defer cancel()
	leave := s.admin.Join()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		if err := leave(ctx); err != nil {
			tb.Errorf("aiseedtest: disconnect: %v", err)
		}
	})
	template, err := s.template(ctx, options.schema)
	if err != nil {
		tb.Fatalf("aiseedtest: prepare the template database: %v%s", err, s.hint())
	}
	name := "aiseed_test_" + strings.ToLower(rand.Text()[:12])
	if err := s.create(ctx, name, template); err != nil {
		tb.Fatalf("aiseedtest: create a database: %v", err)
	}
	pool, err := pgxpool.New(ctx, s.DSN(name))
	if err != nil {
		tb.Fatalf("aiseedtest: open a pool: %v", err)
	}
	tb.Cleanup(func() {
		pool.Close()
		if tb.Failed() {
			tb.Logf("aiseedtest: the database stays: %s", s.describe(pool.Config().ConnConfig))
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		if err := s.drop(ctx, name); err != nil {
			tb.Errorf("aiseedtest: drop database %s: %v", name, err)
		}
	})
	return pool
}

const setupTimeout = time.Minute

type testServer struct {
	*ephemeral.Server

	admin ephemeral.Lender

	mu        sync.Mutex
	templates map[string]string // by schema, those that are known to be there
}

// server returns the one server of the test process. A private server stops when the
// process ends.
var server = sync.OnceValues(func() (*testServer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*setupTimeout)
	defer cancel()
	found, err := ephemeral.Find(ctx)
	if err != nil {
		return nil, err
	}
	return &testServer{Server: found, templates: map[string]string{}}, nil
})

// template returns the database that those with the tables in a schema are copied from.
func (s *testServer) template(ctx context.Context, schema string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name, ok := s.templates[schema]; ok {
		return name, nil
	}
	name, err := templateName(schema)
	if err == nil {
		err = s.prepareTemplate(ctx, name, schema)
	}
	if err == nil {
		s.templates[schema] = name
	}
	return name, err
}

// templateName changes with the migrations, so that test processes of different
// versions can share a server.
func templateName(schema string) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%q\n", schema)
	err := fs.WalkDir(aiseed.Migrations(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(aiseed.Migrations(), path)
		fmt.Fprintf(hash, "%s %d\n%s", path, len(raw), raw)
		return err
	})
	return fmt.Sprintf("aiseed_template_%x", hash.Sum(nil)[:8]), err
}

// prepareTemplate makes a template database. It gets its name last, so that a database with that
// name is always complete.
func (s *testServer) prepareTemplate(ctx context.Context, name, schema string) error {
	conn, err := pgx.Connect(ctx, s.DSN(maintenanceDatabase))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// The lock is held until the connection closes: CREATE DATABASE cannot run in a transaction.
	if _, err := conn.Exec(ctx, "select pg_advisory_lock(hashtextextended($1, 0))", name); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", name).Scan(&exists); err != nil || exists {
		return err
	}
	draft := name + "_draft"
	for _, sql := range []string{"drop database if exists " + draft + " with (force)", "create database " + draft} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if err := migrate(ctx, s.DSN(draft), schema); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "alter database "+draft+" rename to "+name)
	return err
}

func migrate(ctx context.Context, dsn, schema string) error {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return err
	}
	defer pool.Close()
	return aiseed.Migrate(ctx, pool, schema)
}

const maintenanceDatabase = "postgres"

func (s *testServer) create(ctx context.Context, name, template string) error {
	sql := "create database " + name + " template " + template
	// Copying files ends with a checkpoint. It costs nothing on a private server in
	// memory, but it is a load on somebody's real server.
	if s.Ephemeral() && s.Version() >= 150000 {
		sql += " strategy file_copy"
	}
	return s.exec(ctx, sql)
}

// drop drops a database, whoever is connected. DROP DATABASE sleeps 100 ms if a session is
// there, even one that is ending as those of the test are, so they get a moment.
func (s *testServer) drop(ctx context.Context, name string) error {
	used := true
	for tries := 0; used && tries < 20; tries++ {
		time.Sleep(time.Duration(tries) * time.Millisecond)
		err := s.maintain(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "select exists (select from pg_stat_activity where datname = $1)", name).Scan(&used)
		})
		if err != nil {
			return err
		}
	}
	return s.exec(ctx, "drop database "+name+" with (force)")
}

func (s *testServer) exec(ctx context.Context, sql string) error {
	return s.maintain(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// maintain lends its callers one connection to the maintenance database.
func (s *testServer) maintain(ctx context.Context, use func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig(s.DSN(maintenanceDatabase))
	if err != nil {
		return err
	}
	return s.admin.Lend(ctx, config, use)
}

// hint says what to do about a server that does not do what a test needs.
func (s *testServer) hint() string {
	if s.Ephemeral() {
		return ""
	}
	return "; it is the server of DATABASE_URL or PG*: give that role CREATEDB, or unset them for a private server"
}

// describe returns a connection string without a password.
func (s *testServer) describe(c *pgx.ConnConfig) string {
	dsn := fmt.Sprintf("host=%s port=%d user=%s dbname=%s", c.Host, c.Port, c.User, c.Database)
	if s.Ephemeral() {
		dsn += " (until this test process ends; set DATABASE_URL to a server of yours to keep it)"
	}
	return dsn
}
