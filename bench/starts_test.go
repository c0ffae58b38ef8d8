package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

// The operations, and the ways to do them.
const (
	firstStart = "FirstStart"
	freshStart = "FirstStartOnFreshConnection"
	noOpStart  = "NoOpStart"
	startPath  = "OpenSeedRead"

	ours         = "aiseed"
	reference    = "row-at-a-time"
	serverPart   = "server-part"
	joinedRead   = "bare-read"
	apartRead    = "bare-read-keys-apart"
	preparedRead = "bare-read-prepared"
)

// starts measures starts over sizes and latencies.
func (s *suite) starts() {
	for _, latency := range s.latencies {
		for _, n := range s.sizes {
			rounds := s.rounds(n)
			s.race(rounds, s.noOps(n, latency)...)
			if r := s.referenceRounds(n, latency); r > 0 {
				rounds = max(s.least, min(r, rounds))
			}
			firsts := s.firsts(firstStart, n, latency)
			if latency == 0 {
				s.requireSameOutcome(n, firsts)
			}
			s.race(rounds, firsts...)
		}
		s.race(s.rounds(10), s.path(10, latency))
	}
	fresh := s.firsts(freshStart, 1, 0)
	s.race(s.rounds(1), fresh[0], fresh[2])
}

// noOps are the contenders on a database that has the providers. Each has a line of its own.
func (s *suite) noOps(n int, latency time.Duration) []contender {
	at, db := key{noOpStart, ours, n, latency}, seeded(n)
	own, joined, apart, prepared, rows := s.line(db, latency), s.line(db, latency), s.line(db, latency), s.line(db, latency), s.line(db, latency)
	const anew = pgx.QueryExecModeCacheDescribe // the server parses and plans each time, as it does for a start
	return s.warmUp(
		contender{key: at, line: own, run: own.seed(n)},
		contender{key: at.of(joinedRead), line: joined, run: joined.bareRead(n, anew, selectNamed, scanJoined)},
		contender{key: at.of(apartRead), line: apart, run: apart.bareRead(n, anew, selectApart, scanApart)},
		contender{key: at.of(preparedRead), line: prepared, run: prepared.bareRead(n, pgx.QueryExecModeCacheStatement, selectNamed, scanJoined)},
		contender{key: at.of(reference), line: rows, run: (&rowAtATime{rows, s.sealer, s.config(n).Providers}).start})
}

// firsts are the contenders on an empty database. A fresh start has a connection on which nothing
// was done yet, as a process has; otherwise they come with their statements prepared.
func (s *suite) firsts(operation string, n int, latency time.Duration) []contender {
	at, db := key{operation, ours, n, latency}, empty(n)
	own, rows, server, admin := s.line(db, latency), s.line(db, latency), s.line(db, latency), s.line(db, 0)
	byRow := &rowAtATime{rows, s.sealer, s.config(n).Providers}

	truncate := admin.script(`truncate ai_providers, ai_provider_keys, ai_provider_audits, ai_encryption_keys`)
	// After a truncate each connection has to look at the tables again.
	const look = `select from ai_encryption_keys, ai_providers, ai_provider_keys, ai_provider_audits`
	rehearse, rehearseRows := own.script(look), byRow.rehearse
	if operation == freshStart {
		rehearse, rehearseRows = own.reconnect, rows.reconnect
	}
	contenders := []contender{
		{key: at, line: own, prepare: both(truncate, rehearse), run: own.seed(n)},
		{key: at.of(serverPart), line: server, prepare: both(truncate, server.script(look)), run: server.script(insertCopies)},
		{key: at.of(reference), line: rows, prepare: both(truncate, rehearseRows), run: byRow.start},
	}
	if s.referenceRounds(n, latency) == 0 {
		contenders = contenders[:2]
	}
	s.measure(contenders[0])
	admin.exec(copyRows)
	return contenders
}

func both(a, b func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error { return errors.Join(a(ctx), b(ctx)) }
}

// copyRows keeps the rows that a first start has just left.
const copyRows = `drop schema if exists copies cascade; create schema copies;
create table copies.encryption_keys as table ai_encryption_keys;
create table copies.providers as table ai_providers;
create table copies.provider_keys as table ai_provider_keys;
create table copies.provider_audits as table ai_provider_audits;
analyze`

// insertCopies writes the same rows from copies of them: what the tables, with their
// indexes and foreign keys, cost whoever fills them, and one round trip.
const insertCopies = `begin;
insert into ai_encryption_keys table copies.encryption_keys;
insert into ai_providers table copies.providers;
insert into ai_provider_keys table copies.provider_keys;
insert into ai_provider_audits (id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new)
select id, created_at, actor, action, resource, resource_id, provider_id, provider_name, old, new from copies.provider_audits order by seq;
commit;
update ai_provider_audits set delivered_at = clock_timestamp() where id in (select id from copies.provider_audits)`

// referenceRounds is how often row at a time can run. It is left out if that is 0. A statement
// takes a tenth of a millisecond or so, and the round trip.
func (s scale) referenceRounds(n int, latency time.Duration) int {
	return int(s.patience / (time.Duration(statements(n)) * (latency + 100*time.Microsecond)))
}

// requireSameOutcome fails unless the others leave what the library does, except for ids,
// times and ciphertexts, which the library itself reads.
func (s *suite) requireSameOutcome(n int, contenders []contender) {
	const rows = `select concat_ws(E'\n',
		(select string_agg(concat_ws('|', type, name, display_name, enabled, deleted, base_url, settings, revision), E'\n' order by name) from ai_providers),
		(select string_agg(concat_ws('|', p.name, k.position, k.api_key_key_id), E'\n' order by p.name, k.position)
		   from ai_provider_keys k join ai_providers p on p.id = k.provider_id),
		(select string_agg(concat_ws('|', actor, action, resource, provider_name, old, new, delivered_at is not null), E'\n' order by seq) from ai_provider_audits),
		(select string_agg(concat_ws('|', id, revoked_at), E'\n') from ai_encryption_keys))`
	l, left := s.line(empty(n), 0), make([]string, len(contenders))
	for i, c := range contenders {
		s.measure(c)
		require.NoError(s, l.QueryRow(s.Context(), rows).Scan(&left[i]))
		require.NoError(s, both(l.plan(n), l.read(n))(s.Context()), "after a start by %s", c.by)
		require.Equal(s, left[0], left[i], "%s and the library leave different rows: bring it up to date with the library", c.by)
	}
}

// read returns a reading of all providers.
func (l *line) read(n int) func(context.Context) error {
	store := l.store()
	return func(ctx context.Context) error {
		list, err := store.Providers(ctx)
		if err == nil && len(list) != n {
			err = fmt.Errorf("reading the providers returned %d of %d", len(list), n)
		}
		return err
	}
}

// plan returns a plan that leaves everything as it is.
func (l *line) plan(n int) func(context.Context) error {
	store, cfg := l.store(), l.s.config(n)
	return func(ctx context.Context) error {
		p, err := aiseed.PlanAIProvidersFromEnv(ctx, store, cfg, slog.Logger{})
		for i := 0; err == nil && i < len(p.Steps); i++ {
			if step := p.Steps[i]; step.Action != aiseed.ActionUnchanged || len(step.Warnings) > 0 {
				err = fmt.Errorf("the plan is not to leave all alone: %v %v", step, step.Warnings)
			}
		}
		return err
	}
}

// path is what a host does when it starts: open, seed, read. Nothing changes.
func (s *suite) path(n int, latency time.Duration) contender {
	l, cfg := s.line(seeded(n), latency), s.config(n)
	return contender{key: key{startPath, ours, n, latency}, line: l, prepare: l.reconnect, run: func(ctx context.Context) error {
		store, err := aiseed.Open(ctx, l.Pool, s.options)
		if err != nil {
			return err
		}
		err = aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, aiseed.DiscardAudits, slog.Logger{})
		_, unread := store.Providers(ctx)
		return errors.Join(err, unread)
	}}
}
