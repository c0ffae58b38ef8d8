// Package ephemeral provides the PostgreSQL server that tests, examples and the
// demo run on: an existing one, or a private one that exists exactly as long as
// the process that started it. It can also start a PgBouncer in front of it.
//
// A private server leaves no process and no file behind, however the process that started
// it ends. The package keeps no goroutine, and its error texts contain no password.
package ephemeral

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/xerrors"
)

// Server is a PostgreSQL server, version 14 or later. Its methods can be called
// concurrently. There is no useful zero Server.
type Server struct {
	base     string // connection string
	database string // for DSN(""), if it is not in base
	version  int
	keeper   *keeper // nil for a server that was found
	bin      string  // the directory of the binaries of a private server
}

// Find returns the server that the environment names, or starts a private one if it
// names none. The order is: the server of DATABASE_URL; that of the PG* variables of
// libpq if PGSERVICE, PGHOST or PGPORT is set; otherwise [Start].
//
// If a named server does not answer, Find returns an error and does not try another
// one. The error contains no part of DATABASE_URL.
func Find(ctx context.Context) (*Server, error) {
	return find(ctx, os.Getenv)
}

func find(ctx context.Context, getenv func(string) string) (*Server, error) {
	if base := getenv("DATABASE_URL"); base != "" {
		return found(ctx, base, "DATABASE_URL")
	}
	if base, source := fromVariables(getenv); base != "" {
		return found(ctx, base, source)
	}
	return start(ctx, getenv, nil)
}

func found(ctx context.Context, base, source string) (*Server, error) {
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	version, err := probe(limited, base)
	if ctx.Err() != nil {
		return nil, xerrors.Errorf("ask the server that %s names: %w", source, ctx.Err())
	}
	if err != nil {
		return nil, xerrors.Errorf("%s is set, but the server it names cannot be used: %s; correct it, or unset it to have a private server started",
			source, reason(err))
	}
	if err := checkVersion(version); err != nil {
		return nil, xerrors.Errorf("the server that %s names: %w", source, err)
	}
	return &Server{base: base, version: version}, nil
}

// DSN returns a connection string for a database of this server, for both pgx and
// libpq. Everything but the database is as in the environment. An empty name means
// the database that the environment names, or "postgres" on a private server. The
// string contains a password if the environment has one.
func (s *Server) DSN(database string) string {
	return withDatabase(s.base, cmp.Or(database, s.database))
}

// Ephemeral reports whether this is a private server, which ends with Close.
func (s *Server) Ephemeral() bool { return s.keeper != nil }

// Version returns the version as a number, such as 150012 for 15.12.
func (s *Server) Version() int { return s.version }

// LogFile returns the path of a private server's log, or "" for a server that was
// found. Close removes the file.
func (s *Server) LogFile() string {
	if s.keeper == nil {
		return ""
	}
	return s.keeper.logFile()
}

// PID returns the process id of a private server's postmaster. It is 0 for a
// server that was found or was stopped. A server that was killed keeps its id.
func (s *Server) PID() int {
	if s.keeper == nil {
		return 0
	}
	content, err := os.ReadFile(filepath.Join(s.keeper.dir, "data", "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return 0
	}
	return pid
}

// Restart stops a private server without waiting for its clients, starts it
// again on the same data and returns when it answers. It is an error for a server
// that was found. Calls must not overlap.
func (s *Server) Restart(ctx context.Context) error {
	if s.keeper == nil {
		return xerrors.New("restart PostgreSQL: only a private server can be restarted, and this one was found")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	before := s.PID()
	if _, err := s.keeper.stdin.WriteString("restart\n"); err != nil {
		return xerrors.Errorf("restart PostgreSQL: %w", err)
	}
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for {
		if pid := s.PID(); pid != 0 && pid != before {
			if _, err := probe(ctx, s.DSN("")); err == nil {
				return nil
			}
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return xerrors.Errorf("restart PostgreSQL: it does not answer%s: %w", s.keeper.tail(), ctx.Err())
		}
	}
}

// Close stops a private server and returns when its processes and files are
// gone. It does nothing to a server that was found. It can be called more than
// once and from several goroutines; all calls wait and return the same error.
func (s *Server) Close() error {
	if s.keeper == nil {
		return nil
	}
	return s.keeper.close()
}
