package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
)

// lockWaits is what a look at pg_locks saw while a crowd started.
type lockWaits struct{ looks, waits int }

// foreign measures a no-op start beside rows that the environment does not name.
func (s *suite) foreign(ctx context.Context) error {
	databases := []struct{ contender, name, template string }{
		{noForeign, "seeded_10", ""},
		{notAnalysed, "beside_foreign", "seeded_10"},
		{wasAnalysed, "beside_foreign_analysed", "beside_foreign"},
	}
	for _, d := range databases {
		if d.template != "" {
			if err := s.database(ctx, d.name, d.template); err != nil {
				return err
			}
		}
		if err := s.fill(ctx, d.contender, d.name); err != nil {
			return fmt.Errorf("fill the database with foreign rows: %w", err)
		}
	}
	var contenders []contender
	for _, d := range databases {
		b, err := s.bench(ctx, d.name, 10, 0)
		if err != nil {
			return err
		}
		defer b.close()
		c := b.noOps(ping)[:1]
		if err := warmUp(ctx, c, 6); err != nil {
			return err
		}
		c[0].name = d.contender
		contenders = append(contenders, c...)
	}
	return s.run(ctx, key{operation: foreignRows, n: 10}, s.rounds(10), contenders)
}

// fill leaves no connection: a database is not copied while it is in use.
func (s *suite) fill(ctx context.Context, contender, database string) error {
	pool, err := s.pool(ctx, database, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	switch contender {
	case notAnalysed:
		_, err = pool.Exec(ctx, fmt.Sprintf(`
with p as (insert into ai_providers (id, type, name, base_url)
           select gen_random_uuid(), 'openai', 'foreign-' || i, 'https://foreign.example.com/' from generate_series(1, %d) i returning id)
insert into ai_provider_keys (id, provider_id, position, api_key) select gen_random_uuid(), id, 0, 'foreign' from p`, foreignCount))
	case wasAnalysed:
		_, err = pool.Exec(ctx, "vacuum analyze")
	}
	return err
}

// crowds lets 200 processes start at once, each with a connection of its own. The
// time is that of the last one.
func (s *suite) crowds(ctx context.Context) error {
	contenders, closeAll, err := s.crowd(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	if err := warmUp(ctx, contenders, 6); err != nil {
		return err
	}
	if err := s.run(ctx, key{operation: crowd, n: crowdN}, max(5, s.rounds(crowdN)/4), contenders); err != nil {
		return err
	}
	// Looking for waits costs time, so these rounds are not timed.
	for range 10 {
		if err := s.watchLocks(ctx, contenders[0].run); err != nil {
			return err
		}
	}
	return nil
}

const crowdDatabase = "seeded_10"

func (s *suite) crowd(ctx context.Context) (contenders []contender, closeAll func(), err error) {
	cfg, err := config(ctx, crowdN)
	if err != nil {
		return nil, nil, err
	}
	wanted := names(crowdN)
	var pools []*pgxpool.Pool
	closeAll = func() {
		for _, pool := range pools {
			pool.Close()
		}
	}
	var starts, reads, preparedReads []func(context.Context) error
	for range crowdSize {
		pool, err := s.pool(ctx, crowdDatabase, 0)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("open %d connections: %w", crowdSize, err)
		}
		pools = append(pools, pool)
		store, err := s.store(ctx, pool)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		starts = append(starts, func(ctx context.Context) error {
			return aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, aiseed.DiscardAudits, slog.Logger{})
		})
		reads = append(reads, func(ctx context.Context) error {
			return bareRead(ctx, pool, wanted, pgx.QueryExecModeCacheDescribe)
		})
		preparedReads = append(preparedReads, func(ctx context.Context) error {
			return bareRead(ctx, pool, wanted, pgx.QueryExecModeCacheStatement)
		})
	}
	ready := func(ctx context.Context) error {
		for _, pool := range pools {
			if err := pool.Ping(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	return []contender{
		{name: ours, prepare: ready, run: atOnce(starts)},
		{name: limit, prepare: ready, run: atOnce(reads)},
		{name: prepared, prepare: ready, run: atOnce(preparedReads)},
	}, closeAll, nil
}

func atOnce(all []func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		errs := make([]error, len(all))
		var group sync.WaitGroup
		for i, run := range all {
			group.Go(func() { errs[i] = run(ctx) })
		}
		group.Wait()
		return errors.Join(errs...)
	}
}

// watchLocks looks for sessions that wait for a lock while run does.
func (s *suite) watchLocks(ctx context.Context, run func(context.Context) error) error {
	pool, err := s.pool(ctx, crowdDatabase, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	for {
		var waits int
		if err := pool.QueryRow(ctx, "select count(*) from pg_locks where not granted").Scan(&waits); err != nil {
			return err
		}
		s.locks.looks++
		s.locks.waits += waits
		select {
		case err := <-done:
			return err
		case <-time.After(200 * time.Microsecond):
		}
	}
}
