package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/ephemeral"
)

// keysEach is how many keys each provider has.
const keysEach = 3

// A laboratory is the private server that everything runs on.
type laboratory struct {
	server *ephemeral.Server
	secret []byte // the one key of the keyring
	pools  []*pgxpool.Pool
}

func newLaboratory(ctx context.Context, settings ...string) (*laboratory, error) {
	// Statistics are gathered by the benchmarks, at known times.
	server, err := ephemeral.Start(ctx, append(settings, "autovacuum=off")...)
	if err != nil {
		return nil, fmt.Errorf("start a private PostgreSQL server (scripts/deps.sh postgres installs one): %w", err)
	}
	return &laboratory{server: server, secret: []byte("0123456789abcdef0123456789abcdef")}, nil
}

func (l *laboratory) close() error {
	for _, pool := range l.pools {
		pool.Close()
	}
	return l.server.Close()
}

// database creates a database, as a copy of another one or else with the schema
// and nothing in it.
func (l *laboratory) database(ctx context.Context, name, template string) error {
	admin, err := l.pool(ctx, "postgres", 0)
	if err != nil {
		return err
	}
	sql := "create database " + name
	if template != "" {
		sql += " template " + template
	}
	if _, err := admin.Exec(ctx, sql); err != nil || template != "" {
		return err
	}
	pool, err := l.pool(ctx, name, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	return aiseed.Migrate(ctx, pool, "")
}

// pool has one connection, which stays.
func (l *laboratory) pool(ctx context.Context, database string, latency time.Duration) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(l.server.DSN(database))
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 1
	cfg.MaxConnLifetime, cfg.MaxConnIdleTime, cfg.HealthCheckPeriod = 24*time.Hour, 24*time.Hour, 24*time.Hour
	if latency > 0 {
		cfg.ConnConfig.DialFunc = delayed(latency)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l.pools = append(l.pools, pool)
	return pool, pool.Ping(ctx)
}

func (l *laboratory) store(ctx context.Context, pool *pgxpool.Pool) (*aiseed.Store, error) {
	keyring, err := aiseed.NewKeyring(l.secret)
	if err != nil {
		return nil, err
	}
	// The longest first start of ten thousand providers fits in.
	return aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: keyring, AuditTimeout: time.Minute})
}

// seeded creates a database that has n providers.
func (l *laboratory) seeded(ctx context.Context, name string, n int) error {
	if err := l.database(ctx, name, ""); err != nil {
		return err
	}
	pool, err := l.pool(ctx, name, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := l.store(ctx, pool)
	if err != nil {
		return err
	}
	cfg, err := config(ctx, n)
	if err != nil {
		return err
	}
	if err := aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, aiseed.DiscardAudits, slog.Logger{}); err != nil {
		return err
	}
	_, err = pool.Exec(ctx, "vacuum analyze")
	return err
}

// A provider is what the environment says of one, for those who do not parse.
type provider struct {
	name, baseURL string
	keys          []string
}

func providers(n int) []provider {
	list := make([]provider, n)
	for i := range list {
		list[i] = provider{name: fmt.Sprintf("provider-%05d", i), baseURL: fmt.Sprintf("https://llm-%05d.example.com/v1/", i)}
		for k := range keysEach {
			list[i].keys = append(list[i].keys, fmt.Sprintf("sk-proj-%05d-%d-abcdefghijklmnopqrstuvwxyz0123456789", i, k))
		}
	}
	return list
}

func names(n int) []string {
	var list []string
	for _, p := range providers(n) {
		list = append(list, p.name)
	}
	return list
}

func environ(n int) []string {
	var list []string
	for i, p := range providers(n) {
		stem := aiseed.DefaultPrefix + "PROVIDER_" + strconv.Itoa(i) + "_"
		list = append(list, stem+"TYPE=openai", stem+"NAME="+p.name, stem+"BASE_URL="+p.baseURL, stem+"KEYS="+strings.Join(p.keys, ","))
	}
	return list
}

func config(ctx context.Context, n int) (aiseed.Config, error) {
	return aiseed.ParseEnviron(ctx, environ(n), slog.Logger{})
}
