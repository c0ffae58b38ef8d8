package ephemeral

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/xerrors"
)

// standbyScript copies the data of another server without its log of changes, which it then
// streams from there. The other server is in backup mode until the file label is there.
const standbyScript = `
bin=$1 primary=$2
shift 2
if ! [ -d data ]; then
	mkdir -p data/pg_wal/archive_status
	for path in "../$primary"/data/*; do
		case ${path##*/} in
		pg_wal | postmaster.* | standby.signal | backup_label*) ;;
		*) cp -R "$path" data/ ;;
		esac
	done
	printf "primary_conninfo = 'host=%s port=5432 user=postgres'\n" "${PWD%/*}/$primary" >>data/postgresql.auto.conf
	: >data/standby.signal
	: >copied
	until [ -f label ]; do
		sleep 0.02
	done
	cp label data/backup_label
fi
exec "$bin/postgres" -D "$PWD/data" "$@"
`

// Standby starts a private server that replicates this private server, and returns when it
// answers. The settings are as for [Start].
func (s *Server) Standby(ctx context.Context, settings ...string) (*Server, error) {
	if s.keeper == nil {
		return nil, xerrors.New("start a standby: only a private server can have one, and this one was found")
	}
	conn, err := pgx.Connect(ctx, s.DSN(""))
	if err != nil {
		return nil, xerrors.Errorf("start a standby: %s", reason(err))
	}
	defer conn.Close(ctx)
	begin, end := `select pg_backup_start('standby', true)`, `select labelfile from pg_backup_stop(false)`
	if s.version < 150000 {
		begin, end = `select pg_start_backup('standby', true, false)`, `select labelfile from pg_stop_backup(false, false)`
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		return nil, xerrors.Errorf("start a standby: begin the backup: %w", err)
	}
	other := func(string) string { return filepath.Base(s.keeper.dir) }
	return launch(ctx, s.bin, standbyScript, other, settings, func(k *keeper) error {
		if err := k.awaitFile(ctx, "copied"); err != nil {
			return err
		}
		var label string
		if err := conn.QueryRow(ctx, end).Scan(&label); err != nil {
			return xerrors.Errorf("end the backup: %w", err)
		}
		part := filepath.Join(k.dir, "label.part")
		// Not everybody who reads it is the user who writes it.
		if err := os.WriteFile(part, []byte(label), 0o644); err != nil {
			return err
		}
		return os.Rename(part, filepath.Join(k.dir, "label"))
	})
}

// Promote makes a standby a primary, and returns when it is one.
func (s *Server) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSN(""))
	if err != nil {
		return xerrors.Errorf("promote: %s", reason(err))
	}
	defer conn.Close(ctx)
	var promoted bool
	if err := conn.QueryRow(ctx, `select pg_promote(true, 600)`).Scan(&promoted); err != nil || !promoted {
		return xerrors.Errorf("promote: %t: %w", promoted, err)
	}
	return nil
}

// Kill ends a private server as a crash does: what it had not written to its log of changes is
// lost. It returns when the server is gone. [Server.Restart] starts it again.
func (s *Server) Kill() error { return s.signal(syscall.SIGQUIT) }

// Stop ends a private server in order, without waiting for its clients. Its standbys get all of
// its changes. It returns when the server is gone. [Server.Restart] starts it again.
func (s *Server) Stop() error { return s.signal(syscall.SIGINT) }

func (s *Server) signal(signal syscall.Signal) error {
	pid := s.PID()
	if pid == 0 {
		return xerrors.New("end PostgreSQL: it does not run, or is not private")
	}
	if err := kill(pid, signal); err != nil {
		return xerrors.Errorf("end PostgreSQL: %w", err)
	}
	// The last thing that the server does is to remove the file with its process id.
	for deadline := time.Now().Add(startTimeout); s.PID() == pid; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return xerrors.Errorf("end PostgreSQL: it is still there%s", s.keeper.tail())
		}
	}
	return nil
}

// awaitFile returns when the job has made a file in its directory.
func (k *keeper) awaitFile(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if _, err := os.Stat(filepath.Join(k.dir, name)); err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-ctx.Done():
			return xerrors.Errorf("%s: %w%s", name, ctx.Err(), k.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
