package interop

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"testing/fstest"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/pgx/v5" // the scheme pgx5
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	tern "github.com/jackc/tern/v2/migrate"
	"github.com/pressly/goose/v3"

	"example.com/aiseed"
)

// A tool applies migrations as a host does with it. The address has the search_path, and the name of
// the version table is "" for the tool's default.
type tool struct {
	ours    fs.FS  // the migrations of aiseed
	hosts   fs.FS  // three of the host's own
	table   string // the default version table
	version string // its column
	to      func(ctx context.Context, address url.URL, table string, files fs.FS, version int) error
	back    func(ctx context.Context, address url.URL, table string, files fs.FS, version int) error // by one
	noWay   string                                                                                   // what back says of ours
}

var tools = map[string]tool{
	"goose": {
		ours:    aiseed.MigrationsFor(aiseed.Goose),
		hosts:   hostsFiles(".sql", "-- +goose Up\n"),
		table:   goose.DefaultTablename,
		version: "version_id",
		to: func(ctx context.Context, address url.URL, table string, files fs.FS, version int) error {
			return withGoose(address, table, files, func(p *goose.Provider) error {
				_, err := p.UpTo(ctx, int64(version))
				return err
			})
		},
		back: func(ctx context.Context, address url.URL, table string, files fs.FS, _ int) error {
			return withGoose(address, table, files, func(p *goose.Provider) error {
				_, err := p.Down(ctx)
				return err
			})
		},
		noWay: "is not taken back, because older versions of the library work with it; no table was changed",
	},
	"golang-migrate": {
		ours:    aiseed.MigrationsFor(aiseed.GolangMigrate),
		hosts:   hostsFiles(".up.sql", ""),
		table:   "schema_migrations",
		version: "version",
		to: func(_ context.Context, address url.URL, table string, files fs.FS, version int) error {
			return withGolangMigrate(address, table, files, func(m *migrate.Migrate) error { return m.Migrate(uint(version)) })
		},
		back: func(_ context.Context, address url.URL, table string, files fs.FS, _ int) error {
			return withGolangMigrate(address, table, files, func(m *migrate.Migrate) error { return m.Steps(-1) })
		},
		noWay: "no table was changed; to clean the record: migrate force ",
	},
	"tern": {
		ours:    aiseed.Migrations(),
		hosts:   hostsFiles(".sql", ""),
		table:   "schema_version",
		version: "version",
		to: func(ctx context.Context, address url.URL, table string, files fs.FS, version int) error {
			return withTern(ctx, address, table, files, func(m *tern.Migrator) error { return m.MigrateTo(ctx, int32(version)) })
		},
		back: func(ctx context.Context, address url.URL, table string, files fs.FS, version int) error {
			return withTern(ctx, address, table, files, func(m *tern.Migrator) error { return m.MigrateTo(ctx, int32(version-1)) })
		},
		noWay: "Irreversible migration",
	},
}

// hostsFiles have the same numbers as those of aiseed.
func hostsFiles(suffix, before string) fs.FS {
	return fstest.MapFS{
		"0001_users" + suffix: {Data: []byte(before + "create table users (id int primary key);\n")},
		"0002_teams" + suffix: {Data: []byte(before + "create table teams (id int primary key);\n")},
		"0003_ada" + suffix:   {Data: []byte(before + "insert into users values (1);\n")},
	}
}

func withGoose(address url.URL, table string, files fs.FS, do func(*goose.Provider) error) error {
	db, err := sql.Open("pgx", address.String())
	if err != nil {
		return err
	}
	defer db.Close()
	var options []goose.ProviderOption
	if table != "" {
		options = append(options, goose.WithTableName(table))
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, options...)
	if err != nil {
		return err
	}
	return do(provider)
}

func withGolangMigrate(address url.URL, table string, files fs.FS, do func(*migrate.Migrate) error) error {
	source, err := iofs.New(files, ".")
	if err != nil {
		return err
	}
	address.Scheme = "pgx5"
	if table != "" {
		address.RawQuery += "&x-migrations-table=" + table
	}
	m, err := migrate.NewWithSourceInstance("iofs", source, address.String())
	if err != nil {
		return err
	}
	defer m.Close()
	if err := do(m); !errors.Is(err, migrate.ErrNoChange) {
		return err
	}
	return nil
}

func withTern(ctx context.Context, address url.URL, table string, files fs.FS, do func(*tern.Migrator) error) error {
	conn, err := pgx.Connect(ctx, address.String())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if table == "" {
		table = "schema_version"
	}
	m, err := tern.NewMigrator(ctx, conn, table)
	if err != nil {
		return err
	}
	if err := m.LoadMigrations(files); err != nil {
		return err
	}
	return do(m)
}
