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
	"golang.org/x/xerrors"

	"example.com/aiseed"
	"example.com/aiseed/internal/ephemeral"
)

// NewPool returns a pool on a new database with the schema applied. After the test it
// closes the pool and drops the database. If the test failed, it keeps the database and
// logs how to reach it.
func NewPool(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	s, err := server()
	if err != nil {
		tb.Fatalf("aiseedtest: %v", err)
	}
	name := "aiseed_test_" + strings.ToLower(rand.Text()[:12])
	if err := s.create(ctx, name); err != nil {
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
		if err := s.exec(ctx, "drop database "+name+" with (force)"); err != nil {
			tb.Errorf("aiseedtest: drop database %s: %v", name, err)
		}
	})
	return pool
}

const setupTimeout = time.Minute

type testServer struct {
	*ephemeral.Server
	template string

	mu    sync.Mutex
	admin *pgx.Conn // to the maintenance database; nil until it is needed
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
	s := &testServer{Server: found}
	if s.template, err = templateName(); err != nil {
		return nil, err
	}
	if err := s.prepareTemplate(ctx); err != nil {
		return nil, xerrors.Errorf("prepare the template database: %w", err)
	}
	return s, nil
})

// templateName changes with the schema, so that test processes of different
// versions can share a server.
func templateName() (string, error) {
	hash := sha256.New()
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

// prepareTemplate makes the database that all others are copied from. The database gets
// its name last, so that a database with that name is always complete.
func (s *testServer) prepareTemplate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSN(maintenanceDatabase))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// The lock is held until the connection closes: CREATE DATABASE cannot run in a transaction.
	if _, err := conn.Exec(ctx, "select pg_advisory_lock(hashtextextended($1, 0))", s.template); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", s.template).Scan(&exists); err != nil || exists {
		return err
	}
	draft := s.template + "_draft"
	for _, sql := range []string{"drop database if exists " + draft + " with (force)", "create database " + draft} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if err := migrate(ctx, s.DSN(draft)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "alter database "+draft+" rename to "+s.template)
	return err
}

func migrate(ctx context.Context, dsn string) error {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return err
	}
	defer pool.Close()
	return aiseed.Migrate(ctx, pool, "")
}

const maintenanceDatabase = "postgres"

func (s *testServer) create(ctx context.Context, name string) error {
	sql := "create database " + name + " template " + s.template
	// Copying files ends with a checkpoint. It costs nothing on a private server in
	// memory, but it is a load on somebody's real server.
	if s.Ephemeral() && s.Version() >= 150000 {
		sql += " strategy file_copy"
	}
	return s.exec(ctx, sql)
}

// exec runs one statement at a time on a connection that stays open, because connecting can
// cost more than creating a database.
func (s *testServer) exec(ctx context.Context, sql string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admin == nil || s.admin.IsClosed() {
		conn, err := pgx.Connect(ctx, s.DSN(maintenanceDatabase))
		if err != nil {
			return err
		}
		s.admin = conn
	}
	_, err := s.admin.Exec(ctx, sql)
	return err
}

// describe returns a connection string without a password.
func (s *testServer) describe(c *pgx.ConnConfig) string {
	dsn := fmt.Sprintf("host=%s port=%d user=%s dbname=%s", c.Host, c.Port, c.User, c.Database)
	if s.Ephemeral() {
		dsn += " (until this test process ends; set DATABASE_URL to a server of yours to keep it)"
	}
	return dsn
}
