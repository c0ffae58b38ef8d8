package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"example.com/aiseed"
	"example.com/aiseed/internal/pg"
)

// SQLSTATEs that the checks distinguish. PostgreSQL Appendix A.
const (
	undefinedTable        = "42P01"
	insufficientPrivilege = "42501"
)

// A session is what the server says about those of this role.
type session struct {
	role, login, database string // role has the privileges, login the settings
	readOnly, standby     bool
	encodingBy            string // where client_encoding is set, as in pg_settings.source
	readOnlyBy            string // where default_transaction_read_only is
}

// byClient is the source of a setting of the connection string. It goes before those of roles and
// databases.
const byClient = "client"

const selectSession = `
select current_user::text, session_user::text, current_database()::text, current_setting('transaction_read_only') = 'on', pg_is_in_recovery(),
       (select source from pg_settings where name = 'client_encoding'), (select source from pg_settings where name = 'default_transaction_read_only'),
       (select count(*) from pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int`

// connection connects to the database, and counts the server's connection slots.
func (d *doctor) connection(ctx context.Context) []finding {
	if d.poolErr != nil {
		return fail(d.poolErr.Error(), "")
	}
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return d.cannotConnect(ctx, err)
	}
	defer pg.Release(ctx, conn)
	encoding := conn.Conn().PgConn().ParameterStatus("client_encoding")
	var used, slots int
	s := &d.session
	err = pg.RoundTrip(ctx, conn.Conn(), pg.SeeAllRows, pg.Query{
		SQL:  selectSession,
		Rows: pg.One(&s.role, &s.login, &s.database, &s.readOnly, &s.standby, &s.encodingBy, &s.readOnlyBy, &used, &slots),
	})
	at := d.address()
	switch {
	case err != nil:
		return d.trouble(ctx, err)
	case encoding != "UTF8" && s.encodingBy == byClient:
		return fail(fmt.Sprintf("%s: the client_encoding of the connection is %s, and every start refuses any but UTF8", at, encoding),
			"Take client_encoding out of the connection string and its options, or set it there", "client_encoding=UTF8")
	case encoding != "UTF8":
		return fail(fmt.Sprintf("%s: the client_encoding of the connection is %s, and every start refuses any but UTF8", at, encoding),
			"Set it for this role:", d.alterRole("client_encoding = 'UTF8'"))
	}
	return checkSlots(at, used, slots)
}

// alterRole returns the statement that sets something for the sessions of our role. It goes before
// settings of the role alone, of the database and of the server.
func (d *doctor) alterRole(setting string) string {
	return fmt.Sprintf("alter role %s in database %s set %s;", identifier(d.session.login), identifier(d.session.database), setting)
}

// checkSlots warns if at least 90% of the slots are used.
func checkSlots(at string, used, slots int) []finding {
	found := fmt.Sprintf("%s; %d of %d connection slots are used", at, used, slots)
	if used*10 >= slots*9 {
		return warn(found, "Raise max_connections, make the pools smaller, or put a pooler between")
	}
	return ok("%s", found)
}

// cannotConnect uses the text of the library's own error, because the library knows
// what is safe to show.
func (d *doctor) cannotConnect(ctx context.Context, err error) []finding {
	_, openErr := aiseed.Open(ctx, d.pool, aiseed.StoreOptions{AllowPlaintext: true})
	var database *aiseed.DatabaseError
	if !errors.As(openErr, &database) {
		return d.trouble(ctx, err)
	}
	if ctx.Err() != nil {
		return fail(fmt.Sprintf("%s: no answer within %s", d.address(), checkTimeout), "Check host, port and firewall")
	}
	return fail(strings.TrimPrefix(bare(database), database.Operation+": "), "")
}

// address returns where the database is, and the user who connects.
func (d *doctor) address() string {
	c := d.pool.Config().ConnConfig
	return fmt.Sprintf("%s, port %d, database %q, user %q", c.Host, c.Port, c.Database, c.User)
}

func (d *doctor) server(ctx context.Context) []finding {
	var version int
	if err := d.one(ctx, `select current_setting('server_version_num')::int`, &version); err != nil {
		return d.trouble(ctx, err)
	}
	return checkVersion(version)
}

const oldestVersion = 14

// checkVersion checks a server_version_num.
func checkVersion(number int) []finding {
	major, minor := number/10000, number%10000
	if major < oldestVersion {
		return fail(fmt.Sprintf("PostgreSQL %d.%d is too old; %d or later is needed", major, minor, oldestVersion), "Upgrade the server")
	}
	return ok("PostgreSQL %d.%d", major, minor)
}

// writing looks at what a start needs if it writes.
func (d *doctor) writing(ctx context.Context) (findings []finding) {
	switch s := d.session; {
	case s.standby:
		findings = append(findings, d.forWriting(d.writes, "the server is a standby, which takes no writes",
			"Name the primary in the connection string, or all servers with this setting:", "target_session_attrs=read-write")...)
	case s.readOnly && s.readOnlyBy == byClient:
		findings = append(findings, d.forWriting(d.writes, fmt.Sprintf("the role %q may not write, since the connection string sets default_transaction_read_only", s.login),
			"Take it out of the connection string and its options")...)
	case s.readOnly:
		findings = append(findings, d.forWriting(d.writes, fmt.Sprintf("the role %q may not write to the database %q, since default_transaction_read_only is on", s.login, s.database),
			"Unless that is meant:", "set default_transaction_read_only = off;", d.alterRole("default_transaction_read_only = off"))...)
	}
	mayLock := true
	if err := d.one(ctx, `select has_function_privilege('pg_catalog.pg_advisory_xact_lock(bigint)', 'EXECUTE')`, &mayLock); err == nil && !mayLock {
		findings = append(findings, d.forWriting(d.writes, fmt.Sprintf("the role %q lacks EXECUTE on pg_advisory_xact_lock, which makes writers wait for each other", d.session.role), "As a superuser:",
			"grant execute on function pg_catalog.pg_advisory_xact_lock(bigint) to "+identifier(d.session.role)+";")...)
	}
	together, err := d.holdsTogether(ctx)
	switch {
	case ctx.Err() != nil:
		return append(findings, d.trouble(ctx, err)...)
	case err != nil || !together:
		findings = append(findings, d.forWriting(d.writes, "a transaction does not hold together, as behind a pooler of statements",
			"Connect to the server itself, or set in pgbouncer.ini:", "pool_mode = transaction")...)
	}
	findings = append(append(findings, d.lacking()...), d.ruled()...)
	switch {
	case findings != nil:
		return findings
	case d.access.ours:
		return ok("the role %q may write to all tables, and a transaction holds together", d.session.role)
	}
	return ok("the database takes writes, and a transaction holds together")
}

// holdsTogether reports whether the statements of a transaction are one, over several round trips. It
// is an error if they are refused.
func (d *doctor) holdsTogether(ctx context.Context) (bool, error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer pg.Release(ctx, conn)
	var first, second string
	for _, q := range []pg.Query{
		{SQL: `begin read only`},
		{SQL: selectTransaction, Rows: pg.One(&first)},
		{SQL: selectTransaction, Rows: pg.One(&second)},
		{SQL: `rollback`},
	} {
		if err := pg.RoundTrip(ctx, conn.Conn(), q); err != nil {
			return false, err
		}
	}
	return first == second, nil
}

// selectTransaction tells transactions from each other without an id, which a read-only one has not.
const selectTransaction = `select pg_backend_pid() || ' ' || extract(epoch from now())`

// lock looks for a process that holds the lock, and goes on to.
func (d *doctor) lock(ctx context.Context) []finding {
	holder, err := d.lockHolder(ctx, d.pool, "")
	if err == nil && holder != nil {
		before := *holder
		select {
		case <-ctx.Done():
		case <-time.After(lockPatience):
		}
		if holder, err = d.lockHolder(ctx, d.pool, ""); holder != nil && *holder != before {
			holder = nil
		}
	}
	switch {
	case err != nil:
		return d.trouble(ctx, err)
	case holder == nil:
		return ok("nobody holds it")
	}
	found := fmt.Sprintf("advisory lock %d is held by %s", aiseed.LockKey(d.flags.schema), described(holder))
	return d.forWriting(d.writes, found, "Another server that starts holds it for a moment; if it stays, end it:", fmt.Sprintf("select pg_terminate_backend(%d);", holder.PID))
}

// watch looks whether a server hears of changes at once. A start only has to be allowed to notify
// others of what it writes.
func (d *doctor) watch(ctx context.Context) []finding {
	const polls = "servers hear of changes only when they poll: "
	if d.session.standby {
		return warn(polls+"the server is a standby, which passes no notifications on", "Let the servers watch over a pool that connects to the primary")
	}
	heard, err := d.hears(ctx)
	switch {
	case isState(err, insufficientPrivilege):
		return d.forWriting(d.writes, fmt.Sprintf("the role %q lacks EXECUTE on pg_notify, which tells servers of changes", d.session.role), "As a superuser:",
			"grant execute on function pg_catalog.pg_notify(text, text) to "+identifier(d.session.role)+";")
	case err != nil:
		return warn("whether servers hear of changes at once could not be found out: it takes two connections that stay", "")
	case !heard:
		return warn(polls+"the notification of a test did not arrive, as behind a transaction-pooling proxy",
			"Let the servers watch over a pool that connects to the server itself, or live with it: they poll every 30 seconds, unless they set another time")
	}
	return ok("notifications of changes arrive")
}

// hears reports whether a notification arrives, on a channel that nobody else listens on. It is sent
// over another connection: see Store.Watch.
func (d *doctor) hears(ctx context.Context) (bool, error) {
	pooled, err := pg.Acquire(ctx, d.pool)
	if err != nil {
		return false, err
	}
	conn := pooled.Hijack() // it goes on listening
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pg.CleanupTimeout)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	channel := "aiseed_test_" + uuid.NewString()
	if err := pg.RoundTrip(ctx, conn, pg.Query{SQL: "listen " + identifier(channel)}); err != nil {
		return false, err
	}
	if err := d.ask(ctx, pg.Query{SQL: `select pg_notify($1, '')`, Args: [][]byte{[]byte(channel)}}); err != nil {
		return false, err
	}
	_, heard, err := pg.WaitForNotification(ctx, conn, watchPatience(conn.Config()))
	return heard, err
}

// one reads the only row of a query.
func (d *doctor) one(ctx context.Context, sql string, into ...any) error {
	return d.ask(ctx, pg.Query{SQL: d.sql(sql), Rows: pg.One(into...)})
}

// ask runs a query that no row security policy hides rows from.
func (d *doctor) ask(ctx context.Context, q pg.Query) error {
	conn, err := pg.Acquire(ctx, d.pool)
	if err != nil {
		return err
	}
	defer pg.Release(ctx, conn)
	return pg.RoundTrip(ctx, conn.Conn(), pg.SeeAllRows, q)
}

// sql fills in the schema's name.
func (d *doctor) sql(text string) string {
	return strings.ReplaceAll(text, "{schema}", identifier(d.flags.schema))
}

// identifier quotes a name for SQL.
func identifier(name ...string) string { return pgx.Identifier(name).Sanitize() }

func isState(err error, state string) bool {
	var pgErr *pgconn.PgError
	var database *aiseed.DatabaseError
	return errors.As(err, &pgErr) && pgErr.Code == state || errors.As(err, &database) && database.SQLState == state
}

// selectHolders is for an operator.
const selectHolders = `select a.pid, a.application_name, a.state, a.xact_start, l.relation::regclass, l.mode from pg_locks l join pg_stat_activity a using (pid) where l.granted and l.relation::regclass::text ~ 'ai_provider|ai_encryption|aiseed_schema' order by a.xact_start;`

// trouble reports the error that prevented a check. It contains nothing of the server's
// own message, which can quote a row.
func (d *doctor) trouble(ctx context.Context, err error) []finding {
	var pgErr *pgconn.PgError
	reason := pg.Classify(ctx, err).Reason
	switch {
	case ctx.Err() != nil:
		return fail(fmt.Sprintf("no answer within %s", checkTimeout), "Something holds a lock on the tables, or the server is overloaded. Who holds locks there:", selectHolders)
	case strings.HasPrefix(err.Error(), "aiseed: "):
		return fail(d.message(err), "")
	case reason != "":
		return fail(reason, "")
	case isState(err, undefinedTable):
		return fail("a table is missing (SQLSTATE 42P01)", "Restore it from a backup")
	case isState(err, insufficientPrivilege):
		return fail("the role lacks a privilege on the schema or its tables (SQLSTATE 42501)", "Grant it, or connect as their owner")
	case errors.As(err, &pgErr):
		return fail("the server refuses the question with SQLSTATE "+pgErr.Code, pg.StateHint(pgErr.Code))
	}
	return fail("the connection was lost", "Look at the server, and run this again")
}
