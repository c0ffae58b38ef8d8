package ephemeral

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/xerrors"
)

// oldest is the oldest version that the library works on.
const oldest = 140000

// probe connects to the server and asks for its version.
func probe(ctx context.Context, dsn string) (version int, err error) {
	config, err := parse(dsn)
	if err != nil {
		return 0, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, "select current_setting('server_version_num')::int", pgx.QueryExecModeExec).Scan(&version)
	return version, err
}

// parse also accepts the pool_* parameters of a connection string for a pool.
func parse(dsn string) (*pgx.ConnConfig, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	return config.ConnConfig, nil
}

func checkVersion(version int) error {
	if version < oldest {
		return xerrors.Errorf("want PostgreSQL %d or later, found %d (server_version_num %d); set DATABASE_URL to a newer server, or PGBIN to the directory of newer binaries",
			oldest/10000, version/10000, version)
	}
	return nil
}

// reason says why the server does not answer. It does not use the texts of pgx:
// they quote what pgx cannot parse, and if a character of a connection string is
// misplaced, any part can be the password.
func reason(err error) string {
	var (
		parseErr *pgconn.ParseConfigError
		pgErr    *pgconn.PgError
		dnsErr   *net.DNSError
		certErr  *tls.CertificateVerificationError
		errno    syscall.Errno
	)
	switch {
	case errors.As(err, &parseErr):
		return "not a connection string or not consistent (want postgres://user:password@host:port/database with special characters percent-encoded, or host=... user=...; files that it names must be readable)"
	case errors.As(err, &pgErr):
		return "it refuses with SQLSTATE " + pgErr.Code + meaning(pgErr.Code)
	case errors.As(err, &certErr):
		return "its TLS certificate is not trusted"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "no answer in time"
	case errors.As(err, &dnsErr):
		return "its host name is unknown"
	case errors.As(err, &errno):
		return errno.Error()
	default:
		return "no connection; psql may say more"
	}
}

func meaning(sqlstate string) string {
	switch sqlstate {
	case "28000", "28P01":
		return " (user, password or address not accepted)"
	case "3D000":
		return " (no such database)"
	case "53300":
		return " (too many connections)"
	case "57P03":
		return " (starting up or shutting down)"
	default:
		return ""
	}
}
