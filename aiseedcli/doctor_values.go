package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"example.com/aiseed"
	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

// keys compares the keyring with the database.
func (d *doctor) keys(ctx context.Context) []finding {
	known, err := d.list(ctx, pg.Query{SQL: d.sql(`select id from {schema}.ai_encryption_keys`)})
	if err != nil {
		return d.trouble(ctx, err)
	}
	ours := d.keyring.IDs()
	do, forget := d.lost(d.openErr)
	foreign := !slices.ContainsFunc(ours, func(id string) bool { return slices.Contains(known, id) })
	switch {
	case d.openErr != nil && d.keyring != nil && foreign:
		return fail("this database knows none of the keyring's keys: is it the wrong keyring, or the wrong database? "+d.inOurWords(bare(d.openErr)), do, forget...)
	case d.openErr != nil:
		return fail(d.inOurWords(bare(d.openErr)), do, forget...)
	case d.keyring == nil:
		return ok("nothing is sealed")
	case !slices.Contains(known, ours[0]) && len(known) > 0:
		return warn("key "+ours[0]+" seals from now on, and has sealed nothing yet", "If that is meant:", d.sibling("rotate"))
	}
	return ok("the keyring has every key that stored values are sealed with")
}

// selectSealed finds the columns with sealed values as a rotation does, and makes for each a query
// that counts the plaintext in it.
const selectSealed = `
select format('select count(*) from %s where %I is not null and %I is null', t.oid::regclass, left(k.attname, -length('_key_id')), k.attname)
  from pg_constraint f join pg_class t on t.oid = f.conrelid join pg_attribute k on k.attrelid = t.oid and k.attnum = f.conkey[1]
  join pg_attribute v on v.attrelid = t.oid and not v.attisdropped and v.attname = left(k.attname, -length('_key_id'))
 where f.contype = 'f' and f.confrelid = $1::regclass`

func (d *doctor) plaintext(ctx context.Context) []finding {
	if d.keyring == nil {
		return ok("there is no keyring, so every value is stored as plaintext")
	}
	counts, err := d.list(ctx, pg.Query{SQL: selectSealed, Args: [][]byte{[]byte(d.table("ai_encryption_keys"))}})
	if err != nil {
		return d.trouble(ctx, err)
	}
	var n int
	if err := d.one(ctx, "select ("+strings.Join(append(counts, "select 0"), ") + (")+")", &n); err != nil {
		return d.trouble(ctx, err)
	}
	if d.unsealed = n > 0; d.unsealed {
		return warn(text.Count(n, "value")+" stored as plaintext, which a server with this keyring refuses to read",
			"If there was no keyring when they were written, seal them; if there was, find out who wrote to the tables:", d.sibling("seal"))
	}
	return ok("none left")
}

// values decrypts all that is stored: first what a server reads when it starts, and then what only an
// operation or a rotation reads.
func (d *doctor) values(ctx context.Context) (findings []finding) {
	providers, err := d.store.Providers(ctx)
	var unusable *aiseed.ProvidersError
	switch {
	case errors.As(err, &unusable):
		findings = d.unusable(unusable)
	case err != nil:
		return d.trouble(ctx, err)
	}
	all, err := d.store.ListProviders(ctx)
	if err != nil {
		return append(findings, d.trouble(ctx, err)...)
	}
	for _, p := range all {
		undecryptable := isDamaged(p)
		live := p.Enabled && !p.Deleted
		switch {
		case live && !undecryptable && lacksCredentials(p):
			findings = append(findings, warn(fmt.Sprintf("%s is enabled, and has no credentials", text.Label(p.Name)), "Give it some, or disable it:", d.givesCredentials(p)...)...)
			continue
		case !undecryptable || live:
			continue
		}
		is := "disabled: a start reads it only if the environment names the provider"
		do := "Replace its keys or its settings, or restore the row from a backup"
		if p.Deleted {
			is = "deleted: no start reads it"
			do = "Restore the row from a backup, or remove what nothing can decrypt:"
		}
		run := d.repairsOf(p, func(uuid.UUID) bool { return true })
		if d.unsealed {
			do, run = "First seal what is plaintext, and run this again", nil
		}
		findings = append(findings, warn(fmt.Sprintf("%s, id %s, has a secret that cannot be decrypted or is not sealed, and is %s, but a rotation fails for it", text.Label(p.Name), p.ID, is),
			do, run...)...)
	}
	if findings == nil {
		return ok("every value can be decrypted; %s, %s", text.Count(len(providers), "enabled provider"), countOf(len(all)-len(providers), "other", "others"))
	}
	return findings
}

// givesCredentials returns what an operator can run for a provider without credentials.
func (d *doctor) givesCredentials(p aiseed.ProviderInfo) []string {
	disable := d.sibling("disable " + text.Label(p.Name))
	if p.Type == aiseed.TypeBedrock {
		return []string{disable}
	}
	return []string{d.sibling("key add " + text.Label(p.Name)), disable}
}

// unusable reports each provider that was not reported yet.
func (d *doctor) unusable(err *aiseed.ProvidersError) (findings []finding) {
	for _, p := range err.Providers {
		if d.damaged[p.ID] {
			continue
		}
		d.damaged[p.ID] = true
		run := d.repairs(p.Err)
		if errors.Is(p.Err, aiseed.ErrPlaintext) {
			run = []string{d.sibling("seal")}
		}
		findings = append(findings, fail(d.inOurWords(bare(p.Err)), "", run...)...)
	}
	return findings
}

// audits counts the entries that wait, and looks whether new ones come behind the others.
func (d *doctor) audits(ctx context.Context) []finding {
	var n int
	var since *time.Time
	err := d.one(ctx, `select count(*), min(created_at) from {schema}.ai_provider_audits where delivered_at is null`, &n, &since)
	switch {
	case err != nil:
		return d.trouble(ctx, err)
	case n > 0:
		return append(warn(fmt.Sprintf("%s not delivered, since %s", countOf(n, "entry is", "entries are"), since.UTC().Format(time.RFC3339)),
			"The server's next start delivers them; if starts leave them, its log says why"), d.sequence(ctx)...)
	}
	return append(ok("all delivered"), d.sequence(ctx)...)
}

const selectSequence = `
select n.nspname::text, s.relname::text, (select coalesce(max(seq), 0) from {schema}.ai_provider_audits), has_sequence_privilege(s.oid, 'USAGE, SELECT'),
       case when has_sequence_privilege(s.oid, 'USAGE, SELECT') then coalesce(pg_sequence_last_value(s.oid), 0) else 0 end
  from pg_class s join pg_namespace n on n.oid = s.relnamespace where s.oid = pg_get_serial_sequence($1, 'seq')::regclass`

// sequence looks whether the sequence of the entries is behind them. No start fails for it, so
// nothing is said of a role that may not see it. (Inserting needs no privilege on it: the column is an identity.)
func (d *doctor) sequence(ctx context.Context) []finding {
	var schema, name string
	var last, at int64
	var visible bool
	table := d.table("ai_provider_audits")
	err := d.ask(ctx, pg.Query{SQL: d.sql(selectSequence), Args: [][]byte{[]byte(table)}, Rows: pg.One(&schema, &name, &last, &visible, &at)})
	sequence := identifier(schema, name)
	switch {
	case err != nil:
		return skip("whether the sequence of %s is behind its rows could not be found out", table)
	case !visible:
		return skip("whether %s is behind the rows of %s shows only to a role that may SELECT it, such as the owner", sequence, table)
	case at < last:
		return warn(fmt.Sprintf("the sequence %s is at %d, behind the rows of %s, which go up to %d, as after a restore: new entries are delivered before older ones, and plans can be wrong about which side of a drift moved", sequence, at, table, last),
			asOwner, fmt.Sprintf("select setval('%s', (select max(seq) from %s));", strings.ReplaceAll(sequence, "'", "''"), table))
	}
	return nil
}

func countOf(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// plan finds what would stop a start or make it warn.
func (d *doctor) plan(ctx context.Context) (findings []finding) {
	plan, err := aiseed.PlanAIProvidersFromEnv(ctx, d.store, d.cfg, slog.Logger{})
	var unusable *aiseed.ProvidersError
	switch {
	case errors.As(err, &unusable):
		if findings = d.unusable(unusable); findings == nil {
			return skipFor("values")
		}
		return findings
	case err != nil:
		return d.trouble(ctx, err)
	}
	d.steps = plan.Steps
	var creates, adopts int
	lastDrift := -1
	for _, step := range plan.Steps {
		switch step.Action {
		case aiseed.ActionDrifted:
			lastDrift = len(findings)
			findings = append(findings, fail(drifted(step), "")...)
		case aiseed.ActionCreate:
			creates++
		case aiseed.ActionAdopt:
			adopts++
		}
		for _, w := range step.Warnings {
			if w.Code == aiseed.WarningDeleted {
				findings = append(findings, warn(step.Name+": an operator deleted it, and it stays deleted", "Remove its variables from the environment, or bring it back:", d.sibling("restore "+text.Label(step.Name)))...)
				continue
			}
			findings = append(findings, warn(step.Name+": "+w.String(), "")...)
		}
	}
	d.writes = lastDrift < 0 && creates+adopts > 0
	for _, w := range notShown(plan, d.cfg) { // environment shows the others
		findings = append(findings, warn(w.String(), "")...)
	}
	if lastDrift >= 0 {
		f := &findings[lastDrift]
		for _, choice := range plan.Choices {
			f.Run = append(f.Run, "# "+choice.Meaning+":", choice.String())
		}
		f.Do = "See: " + d.sibling("plan") + ". Then set one of these for the server, and only one:"
	}
	if findings == nil {
		findings = ok("no drift, and nothing to create")
		if creates > 0 {
			findings = ok("no drift; a start creates %d of %s", creates, text.Count(len(plan.Steps), "provider"))
		}
	}
	return findings
}

func drifted(step aiseed.Step) string {
	var fields []string
	for _, f := range step.Drift {
		fields = append(fields, fmt.Sprintf("%s is %s in the database, and %s in the environment (%s)", f.Field, text.OrNone(f.Stored), text.OrNone(f.Environment), f.Variable))
	}
	return step.Name + ": a start stops, because its " + strings.Join(fields, "; its ")
}

func (d *doctor) list(ctx context.Context, q pg.Query) (out []string, err error) {
	q.Rows = func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}
	return out, d.ask(ctx, q)
}
