package ephemeral

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/xerrors"
)

// PgBouncer is a transaction-pooling proxy in front of a server. Its methods can
// be called concurrently. There is no useful zero PgBouncer.
type PgBouncer struct {
	base     string // connection string
	database string // for DSN("")
	keeper   *keeper
}

// StartPgBouncer starts a PgBouncer that pools transactions of every database of
// the server, and returns when a query succeeds. Each setting is a name=value of the
// section [pgbouncer], such as "default_pool_size=2", and overrides the settings of
// StartPgBouncer. The binary is PGBOUNCER, or in PATH, or in /usr/sbin.
//
// Like a private server it ends with Close or with this process. Close it before the
// server.
func StartPgBouncer(ctx context.Context, server *Server, settings ...string) (*PgBouncer, error) {
	binary, err := findPgBouncer(os.Getenv, "pgbouncer", "/usr/sbin/pgbouncer")
	if err != nil {
		return nil, err
	}
	upstream, err := parse(server.DSN(""))
	if err != nil {
		return nil, xerrors.Errorf("start PgBouncer: %s", reason(err))
	}
	dir, err := newDir("bouncer")
	if err != nil {
		return nil, xerrors.Errorf("start PgBouncer: %w", err)
	}
	config, err := bouncerConfig(dir, upstream, settings)
	if err != nil {
		return nil, err
	}

	k, err := keep(job{
		name:   "PgBouncer (" + binary + ")",
		dir:    dir,
		config: config,
		script: `exec "$1" config`,
		args:   []string{binary},
		// No signals: their meaning depends on the version, and PgBouncer
		// loses nothing if it is killed.
		secret: upstream.Password,
	})
	if err != nil {
		return nil, err
	}
	b := &PgBouncer{base: "host=" + quote(dir) + " port=6432 user=postgres", database: cmp.Or(upstream.Database, upstream.User), keeper: k}
	err = k.await(ctx, func(ctx context.Context) error {
		_, err := probe(ctx, b.DSN(""))
		return err
	})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// DSN returns a connection string for a database of the server, through
// PgBouncer. An empty name means the database of the server's own DSN.
// "pgbouncer" is the console.
func (b *PgBouncer) DSN(database string) string {
	return withDatabase(b.base, cmp.Or(database, b.database))
}

// LogFile returns the path of the log. Close removes the file.
func (b *PgBouncer) LogFile() string { return b.keeper.logFile() }

// Close stops PgBouncer and returns when its process and files are gone. It can
// be called more than once and from several goroutines.
func (b *PgBouncer) Close() error { return b.keeper.close() }

// findPgBouncer looks for the names in PATH, unless they are paths themselves.
func findPgBouncer(getenv func(string) string, names ...string) (string, error) {
	if name := getenv("PGBOUNCER"); name != "" {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", xerrors.Errorf("PGBOUNCER is %q, which is not a program; correct or unset it: %w", name, err)
		}
		return filepath.Abs(path)
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", xerrors.New("no pgbouncer in PGBOUNCER (not set), PATH or /usr/sbin; install it (apt-get install pgbouncer, brew install pgbouncer)")
}

// bouncerConfig returns a configuration that logs every client in to the server as the
// user of its DSN. Only the user who runs PgBouncer can enter its directory.
func bouncerConfig(dir string, upstream *pgx.ConnConfig, settings []string) (string, error) {
	login := fmt.Sprintf("host=%s port=%d user=%s", iniQuote(upstream.Host), upstream.Port, iniQuote(upstream.User))
	if upstream.Password != "" {
		login += " password=" + iniQuote(upstream.Password)
	}
	lines := []string{
		"[databases]",
		"* = " + login,
		"[pgbouncer]",
		"unix_socket_dir = " + dir,
		"listen_port = 6432",
		"auth_type = any",
		"pool_mode = transaction",
		"max_client_conn = 500",
		"ignore_startup_parameters = extra_float_digits",
		"server_tls_sslmode = " + tlsMode(upstream),
	}
	for _, setting := range settings {
		name, value, ok := strings.Cut(setting, "=")
		if !ok || name == "" {
			return "", xerrors.Errorf("PgBouncer setting %q: want name=value", setting)
		}
		lines = append(lines, name+" = "+value)
	}
	for _, line := range lines {
		if strings.ContainsAny(line, "\r\n") {
			return "", xerrors.New("start PgBouncer: its configuration cannot hold a line break, and a setting or the server's DSN has one")
		}
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// tlsMode returns the sslmode that pgx made this configuration from.
func tlsMode(config *pgx.ConnConfig) string {
	switch {
	case config.TLSConfig == nil:
		return "disable"
	case len(config.Fallbacks) > 0 && config.Fallbacks[0].TLSConfig == nil:
		return "prefer"
	case !config.TLSConfig.InsecureSkipVerify:
		return "verify-full"
	case config.TLSConfig.VerifyPeerCertificate != nil:
		return "verify-ca"
	default:
		return "require"
	}
}

// iniQuote writes a value for a connection string in PgBouncer's file.
func iniQuote(value string) string {
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}
