package aiseed

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/xerrors"

	"example.com/aiseed/internal/pg"
)

// PruneAudits deletes audit entries that were delivered and are older than olderThan, and returns
// how many. 0 deletes as many as possible.
//
// These stay, however old they are: entries that are not delivered; for each provider in the
// database, live or deleted, the entry of its creation by a seed or of the last adoption, whichever
// is later, because it tells which side moved if there is a drift. An entry stays for at least an
// hour, or for four times the LockTimeout if that is longer, because an operation whose answer
// was lost may still look for it.
//
// It deletes in batches, each in a transaction of its own, without the lock of the writes, and may
// run at any time and more than once. The role needs the privilege to delete from
// ai_provider_audits. If it fails, what it deleted before stays deleted and is counted. A
// transaction whose outcome is not known is repeated; what it deleted is then not counted.
// Errors match [ErrDatabase], except for a negative olderThan.
func (s *Store) PruneAudits(ctx context.Context, olderThan time.Duration) (pruned int, err error) {
	if olderThan < 0 {
		return 0, xerrors.Errorf("aiseed: PruneAudits of entries older than %s; want a positive duration, or 0 for as many as possible", olderThan)
	}
	age := max(olderThan, time.Hour, 4*s.lockTimeout)
	for from := "-infinity"; from != ""; {
		err := retry(ctx, func() error {
			n, next, err := s.pruneSome(ctx, age, from)
			pruned += n
			if err == nil {
				from = next
			}
			return err
		})
		if err != nil {
			return pruned, err
		}
	}
	return pruned, nil
}

const (
	pruneBatch = 1000

	// An entry is kept if it is the last that says what a provider was made from: see originsSQL.
	pruneAudits = `
with old as (
    select id, created_at from {schema}.ai_provider_audits a
     where delivered_at is not null
       and created_at >= $1::timestamptz and created_at < now() - $2::bigint * interval '1 millisecond'
       and not (` + ofStart + `
                and exists (select from {schema}.ai_providers p where p.id = a.resource_id)
                and not exists (select from {schema}.ai_provider_audits later
                                 where later.resource_id = a.resource_id and later.seq > a.seq and ` + ofStart + `))
     order by created_at limit $3 for update skip locked),
gone as (delete from {schema}.ai_provider_audits a using old where a.id = old.id returning 1)
select count(*), (select count(*) from gone), max(created_at) from old`
)

// pruneSome deletes the first entries of an age from a time on, in a transaction of its own. next
// is the time to go on from, or "".
func (s *Store) pruneSome(ctx context.Context, age time.Duration, from string) (pruned int, next string, err error) {
	const operation = "pruning audits"
	conn, err := s.acquire(ctx, operation)
	if err != nil {
		return 0, "", err
	}
	defer pg.Release(ctx, conn)
	var found int
	var last *time.Time
	_, err = pg.Commit(ctx, conn.Conn(), append(s.begin(s.lockTimeout, s.silenceTimeout()), pg.Query{
		SQL:  s.sql(pruneAudits),
		Args: [][]byte{[]byte(from), pg.Milliseconds(age), pg.Int64(pruneBatch)},
		Rows: pg.One(&found, &pruned, &last),
	}))
	switch {
	case err != nil:
		return 0, "", s.failed(ctx, conn.Conn(), operation, err)
	case pruned < found:
		return pruned, "", databaseError(ctx, operation, &pg.Error{
			Table:  "ai_provider_audits",
			Reason: fmt.Sprintf("%d of %d rows of ai_provider_audits could not be deleted, because a trigger forbids it; change that, or do not prune", found-pruned, found),
		})
	case found == pruneBatch:
		next = last.Format(time.RFC3339Nano)
	}
	return pruned, next, nil
}
