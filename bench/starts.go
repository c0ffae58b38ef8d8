package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
)

// A bench has what a start of n providers needs: everybody has a connection of
// his own, to a database that has the providers, and to one that has none.
type bench struct {
	n          int
	names      []string
	cfg        aiseed.Config
	ours       *aiseed.Store
	oursPool   *pgxpool.Pool
	reference  *rowAtATime
	serverPool *pgxpool.Pool
	limitPool  *pgxpool.Pool
	prepared   *pgxpool.Pool
	administer *pgxpool.Pool // without latency
}

func (s *suite) bench(ctx context.Context, database string, n int, latency time.Duration) (b *bench, err error) {
	b = &bench{n: n, names: names(n), reference: &rowAtATime{sealer: s.sealer, want: providers(n)}}
	for _, pool := range []**pgxpool.Pool{&b.oursPool, &b.reference.pool, &b.serverPool, &b.limitPool, &b.prepared} {
		if *pool, err = s.pool(ctx, database, latency); err != nil {
			return nil, err
		}
	}
	if b.administer, err = s.pool(ctx, database, 0); err != nil {
		return nil, err
	}
	if b.cfg, err = config(ctx, n); err != nil {
		return nil, err
	}
	b.ours, err = s.store(ctx, b.oursPool)
	return b, err
}

func (b *bench) close() {
	for _, pool := range []*pgxpool.Pool{b.oursPool, b.reference.pool, b.serverPool, b.limitPool, b.prepared, b.administer} {
		pool.Close()
	}
}

func (b *bench) seed(ctx context.Context) error {
	return aiseed.SeedAIProvidersFromEnv(ctx, b.ours, b.cfg, aiseed.DiscardAudits, slog.Logger{})
}

// ping keeps the pool from looking after a connection that was idle for long.
func ping(pool *pgxpool.Pool) func(context.Context) error { return pool.Ping }

// reconnect leaves a connection on which nothing was done yet.
func reconnect(pool *pgxpool.Pool) func(context.Context) error {
	return func(ctx context.Context) error {
		pool.Reset()
		return pool.Ping(ctx)
	}
}

func (b *bench) read(pool *pgxpool.Pool, mode pgx.QueryExecMode) func(context.Context) error {
	return func(ctx context.Context) error { return bareRead(ctx, pool, b.names, mode) }
}

// noOps are the contenders on a database that has the providers.
func (b *bench) noOps(before func(*pgxpool.Pool) func(context.Context) error) []contender {
	return []contender{
		{name: ours, prepare: before(b.oursPool), run: b.seed},
		{name: reference, prepare: before(b.reference.pool), run: b.reference.start},
		{name: limit, prepare: before(b.limitPool), run: b.read(b.limitPool, pgx.QueryExecModeCacheDescribe)},
		{name: prepared, prepare: before(b.prepared), run: b.read(b.prepared, pgx.QueryExecModeCacheStatement)},
		{name: keysApart, prepare: before(b.limitPool), run: func(ctx context.Context) error { return readKeysApart(ctx, b.limitPool, b.names) }},
	}
}

// firsts are the contenders on an empty database. warm is whether they come with
// their statements prepared.
func (b *bench) firsts(warm bool) []contender {
	clear := func(ctx context.Context) error {
		_, err := b.administer.Exec(ctx, "truncate ai_providers, ai_provider_keys, ai_provider_audits, ai_encryption_keys")
		return err
	}
	// After a truncate the server plans anew, even what is prepared.
	rehearse := func(ctx context.Context) error {
		if _, err := b.ours.Providers(ctx); err != nil {
			return err
		}
		_, err := b.ours.DeliverAudits(ctx, aiseed.DiscardAudits)
		return err
	}
	rehearseReference := b.reference.rehearse
	if !warm {
		rehearse, rehearseReference = reconnect(b.oursPool), reconnect(b.reference.pool)
	}
	then := func(second func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := clear(ctx); err != nil {
				return err
			}
			return second(ctx)
		}
	}
	return []contender{
		{name: ours, prepare: then(rehearse), run: b.seed},
		{name: reference, prepare: then(rehearseReference), run: b.reference.start},
		{name: serverPart, prepare: then(b.rehearseServer), run: b.serverPart},
	}
}

// keepCopies keeps the rows that a first start has just left behind.
func (b *bench) keepCopies(ctx context.Context) error {
	_, err := b.administer.Exec(ctx, `drop schema if exists copies cascade; create schema copies;
create table copies.encryption_keys as table ai_encryption_keys;
create table copies.providers as table ai_providers;
create table copies.provider_keys as table ai_provider_keys;
create table copies.provider_audits as table ai_provider_audits;
analyze`)
	return err
}

// serverPart writes the same rows from copies of them: what the tables, with their
// indexes and foreign keys, cost whoever fills them, and one round trip.
func (b *bench) serverPart(ctx context.Context) error {
	return b.inOneRoundTrip(ctx, `begin;
insert into ai_encryption_keys table copies.encryption_keys;
insert into ai_providers table copies.providers;
insert into ai_provider_keys table copies.provider_keys;
insert into ai_provider_audits (id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new)
select id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new from copies.provider_audits order by seq;
commit;
update ai_provider_audits set delivered_at = clock_timestamp() where id in (select id from copies.provider_audits)`)
}

func (b *bench) rehearseServer(ctx context.Context) error {
	return b.inOneRoundTrip(ctx, `select from ai_encryption_keys, ai_providers, ai_provider_keys, ai_provider_audits`)
}

func (b *bench) inOneRoundTrip(ctx context.Context, sql string) error {
	conn, err := b.serverPool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	_, err = conn.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// warmUp runs each contender often enough for the server to settle on a plan.
func warmUp(ctx context.Context, contenders []contender, times int) error {
	for _, c := range contenders {
		for range times {
			if _, err := measure(ctx, c); err != nil {
				return fmt.Errorf("warm up %s: %w", c.name, err)
			}
		}
	}
	return nil
}

// starts measures first starts and no-op starts over sizes and latencies.
func (s *suite) starts(ctx context.Context) error {
	for _, n := range s.sizes {
		full, empty := fmt.Sprintf("seeded_%d", n), fmt.Sprintf("empty_%d", n)
		if err := s.seeded(ctx, full, n); err != nil {
			return fmt.Errorf("seed %d providers: %w", n, err)
		}
		if err := s.database(ctx, empty, ""); err != nil {
			return err
		}
		for _, latency := range s.latencies {
			if err := s.noOpStarts(ctx, full, n, latency); err != nil {
				return err
			}
			if err := s.firstStarts(ctx, empty, n, latency); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *suite) noOpStarts(ctx context.Context, database string, n int, latency time.Duration) error {
	b, err := s.bench(ctx, database, n, latency)
	if err != nil {
		return err
	}
	defer b.close()
	contenders := b.noOps(ping)
	if err := warmUp(ctx, contenders, 6); err != nil {
		return err
	}
	at := key{operation: noOpStart, n: n, latency: latency}
	if err := s.run(ctx, at, s.rounds(n), contenders); err != nil || latency > 0 {
		return err
	}
	if err := s.peaks(ctx, at, contenders); err != nil {
		return err
	}
	if err := s.run(ctx, key{operation: readAll, n: n}, s.rounds(n), []contender{{name: ours, prepare: ping(b.oursPool), run: b.readAll}}); err != nil {
		return err
	}
	return s.run(ctx, key{operation: plan, n: n}, s.rounds(n), []contender{{name: ours, prepare: ping(b.oursPool), run: b.plan}})
}

func (b *bench) readAll(ctx context.Context) error {
	list, err := b.ours.Providers(ctx)
	if err == nil && len(list) != b.n {
		err = fmt.Errorf("reading the providers returned %d of %d", len(list), b.n)
	}
	return err
}

func (b *bench) plan(ctx context.Context) error {
	p, err := aiseed.PlanAIProvidersFromEnv(ctx, b.ours, b.cfg, slog.Logger{})
	if err != nil {
		return err
	}
	for _, step := range p.Steps {
		if step.Action != aiseed.ActionUnchanged || len(step.Warnings) > 0 {
			return fmt.Errorf("the plan is not to leave all alone: %v %v", step, step.Warnings)
		}
	}
	return nil
}

func (s *suite) firstStarts(ctx context.Context, database string, n int, latency time.Duration) error {
	b, err := s.bench(ctx, database, n, latency)
	if err != nil {
		return err
	}
	defer b.close()
	contenders, rounds := b.firsts(true), s.rounds(n)

	// A statement takes a tenth of a millisecond or so, and the round trip.
	once := time.Duration(b.reference.statements()) * (latency + 100*time.Microsecond)
	contenders[1].rounds = min(rounds, max(5, int(s.patience/once)))
	if once > s.patience {
		s.leftOut = append(s.leftOut, fmt.Sprintf("N = %s at %d ms", thousands(n), latency.Milliseconds()))
		contenders = slices.Delete(contenders, 1, 2)
	}
	if err := warmUp(ctx, contenders[:1], 1); err != nil {
		return err
	}
	if err := b.keepCopies(ctx); err != nil {
		return fmt.Errorf("keep the rows of a first start: %w", err)
	}
	if latency == 0 {
		if err := b.sameOutcome(ctx, contenders); err != nil {
			return err
		}
	}
	at := key{operation: firstStart, n: n, latency: latency}
	if err := s.run(ctx, at, rounds, contenders); err != nil || latency > 0 {
		return err
	}
	if once > s.patience/4 {
		contenders = contenders[:1]
	}
	return s.peaks(ctx, at, contenders[:min(2, len(contenders))])
}

// sameOutcome fails unless the others leave behind what the library does, but for ids,
// times and ciphertexts, which the library itself reads.
func (b *bench) sameOutcome(ctx context.Context, contenders []contender) error {
	var first string
	for i, c := range contenders {
		if _, err := measure(ctx, c); err != nil {
			return err
		}
		var left string
		if err := b.administer.QueryRow(ctx, `select concat_ws(E'\n',
			(select string_agg(concat_ws('|', type, name, display_name, enabled, deleted, base_url, settings, revision), E'\n' order by name) from ai_providers),
			(select string_agg(concat_ws('|', p.name, k.position, k.api_key_key_id), E'\n' order by p.name, k.position)
			   from ai_provider_keys k join ai_providers p on p.id = k.provider_id),
			(select string_agg(concat_ws('|', actor, action, resource, provider_name, old, new, delivered_at is not null), E'\n' order by seq) from ai_provider_audits),
			(select string_agg(concat_ws('|', id, revoked_at), E'\n') from ai_encryption_keys))`).Scan(&left); err != nil {
			return err
		}
		if err := b.plan(ctx); err != nil {
			return fmt.Errorf("after a start of %s: %w", c.name, err)
		}
		if err := b.readAll(ctx); err != nil {
			return fmt.Errorf("after a start of %s: %w", c.name, err)
		}
		if i == 0 {
			first = left
		}
		if left != first {
			return fmt.Errorf("%s and the library leave different rows behind: bring it up to date with the library", c.name)
		}
	}
	return nil
}

// freshStarts measures starts on connections that nothing was done on yet, as they
// are in a process that starts.
func (s *suite) freshStarts(ctx context.Context) error {
	for _, n := range s.sizes[:3] {
		for _, latency := range s.latencies[:2] {
			if err := s.freshStart(ctx, n, latency); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *suite) freshStart(ctx context.Context, n int, latency time.Duration) error {
	full, err := s.bench(ctx, fmt.Sprintf("seeded_%d", n), n, latency)
	if err != nil {
		return err
	}
	defer full.close()
	if err := s.run(ctx, key{operation: freshNoOp, n: n, latency: latency}, min(21, s.rounds(n)), full.noOps(reconnect)[:3]); err != nil {
		return err
	}
	empty, err := s.bench(ctx, fmt.Sprintf("empty_%d", n), n, latency)
	if err != nil {
		return err
	}
	defer empty.close()
	return s.run(ctx, key{operation: freshFirst, n: n, latency: latency}, min(11, s.rounds(n)), empty.firsts(false)[:2])
}
