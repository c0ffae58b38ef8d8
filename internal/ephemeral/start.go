package ephemeral

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/xerrors"
)

// postgresScript runs in the keeper's directory. A restart finds the data there. The second
// argument is the name of another server's directory, if this process has one: what initdb
// made for it is there as one file, and to unpack that takes a tenth of the time of initdb.
const postgresScript = `
bin=$1 other=$2
shift 2
if ! id -un >/dev/null 2>&1; then
	echo "PostgreSQL does not run as a user id that has no name, such as $(id -u) here: add it to /etc/passwd," \
		"run this as a user who is there, or set DATABASE_URL to a server that runs"
	exit 1
fi
if [ -n "$other" ] && ! [ -d data ]; then
	tar -xf "../$other/initial.tar" 2>/dev/null || rm -rf data
fi
if ! [ -d data ]; then
	"$bin/initdb" -D data -U postgres -A trust --no-sync -E UTF8 --locale=C >initdb.log 2>&1 || {
		cat initdb.log
		exit 1
	}
	if [ -z "$other" ]; then
		{ tar -cf initial.part data && mv initial.part initial.tar; } 2>/dev/null || rm -f initial.part
	fi
fi
exec "$bin/postgres" -D "$PWD/data" "$@"
`

// serverSettings trade durability, which a server with this life has no use for,
// for speed.
var serverSettings = []string{
	"listen_addresses=",
	"port=5432",
	"fsync=off",
	"full_page_writes=off",
	"synchronous_commit=off",
	"max_connections=300",
	"max_wal_size=256MB",              // the file system may be small
	"dynamic_shared_memory_type=mmap", // files in the data directory, gone with it
}

// Start starts a private server from local binaries and returns when it
// answers. Each setting is a name=value of postgresql.conf and overrides the ones that
// Start makes.
//
// If PGBIN is set, it is the directory of the binaries, and it is an error if initdb or
// postgres is missing there. Otherwise the directory is the first of these that has both:
// pg_config --bindir, PATH, the places that packages use, newest version first.
//
// The server listens on a Unix socket in a directory that only its own user can
// enter, trusts everyone there, and has the superuser postgres.
func Start(ctx context.Context, settings ...string) (*Server, error) {
	return start(ctx, os.Getenv, settings)
}

// initials are the directories of the servers that keep what initdb made, by the directory
// of its binary.
var initials directories

type directories struct {
	mu    sync.Mutex
	byBin map[string]string
}

// first returns the name of the directory that keeps what initdb of bin made, or "" if that is
// to be dir.
func (d *directories) first(bin, dir string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if other := d.byBin[bin]; other != "" {
		if _, err := os.Stat(other); err == nil {
			return filepath.Base(other) // only its own server's command line has the whole path
		}
	}
	if d.byBin == nil {
		d.byBin = map[string]string{}
	}
	d.byBin[bin] = dir
	return ""
}

func start(ctx context.Context, getenv func(string) string, settings []string) (*Server, error) {
	bin, err := findBinaries(ctx, getenv, installations)
	if err != nil {
		return nil, err
	}
	return launch(ctx, bin, postgresScript, func(dir string) string { return initials.first(bin, dir) }, settings, nil)
}

// launch starts a server with a script. The arguments of the script are the directory of the
// binaries, the name of another server's directory, and the arguments of postgres. prepare, if it is not nil, is called
// before the server has to answer.
func launch(ctx context.Context, bin, script string, other func(dir string) string, settings []string, prepare func(*keeper) error) (*Server, error) {
	dir, err := newDir("pg")
	if err != nil {
		return nil, xerrors.Errorf("start PostgreSQL: %w", err)
	}
	args, port := []string{bin, "", "-k", dir}, ""
	for _, setting := range append(serverSettings[:len(serverSettings):len(serverSettings)], settings...) {
		name, value, ok := strings.Cut(setting, "=")
		if !ok || name == "" {
			return nil, xerrors.Errorf("server setting %q: want name=value", setting)
		}
		if name == "port" {
			port = value
		}
		args = append(args, "-c", setting)
	}
	args[1] = other(dir)

	k, err := keep(job{
		name:   "PostgreSQL (" + bin + ")",
		dir:    dir,
		script: script,
		bin:    bin,
		args:   args,
		// Fast shutdown, then immediate. That one kills children that do not
		// obey after five seconds, and each signal gets three.
		signals: "INT QUIT QUIT",
	})
	if err != nil {
		return nil, err
	}
	s := &Server{base: "host=" + quote(dir) + " port=" + port + " user=postgres", database: "postgres", keeper: k, bin: bin}
	if prepare != nil {
		if err := prepare(k); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	err = k.await(ctx, func(ctx context.Context) error {
		var err error
		s.version, err = probe(ctx, s.DSN(""))
		return err
	})
	if err == nil {
		err = checkVersion(s.version)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}
