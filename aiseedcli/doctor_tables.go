package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"example.com/aiseed"
	"example.com/aiseed/internal/pg"
)

// A need is a privilege on a table that a server's role needs.
type need struct {
	table, privilege string
	columns          string // that are written, comma-separated; "" for all
	purpose          string
	step             func(*doctor, aiseed.Step) bool // reports whether a start with this step needs it; nil if none does
}

// needs are all privileges that a server needs, besides USAGE of the schema. Every start needs
// each SELECT. PruneAudits needs to delete audits too, but not every server prunes.
var needs = []need{
	{table: "aiseed_schema", privilege: "SELECT"},
	{table: "ai_encryption_keys", privilege: "SELECT"},
	{table: "ai_providers", privilege: "SELECT"},
	{table: "ai_provider_keys", privilege: "SELECT"},
	{table: "ai_provider_audits", privilege: "SELECT"},

	{"ai_encryption_keys", "INSERT", "id,canary", "seal secrets", seals},
	{"ai_encryption_keys", "UPDATE", "revoked_at", "seal secrets", seals},
	{"ai_providers", "INSERT", "id,type,name,display_name,enabled,base_url,settings,settings_key_id", "create providers", creates},
	{"ai_providers", "UPDATE", "type,display_name,base_url,settings,settings_key_id,updated_at,revision", "adopt, change, disable and delete providers", adopts},
	{"ai_providers", "UPDATE", "enabled,deleted", "adopt, change, disable and delete providers", nil},
	{"ai_provider_keys", "INSERT", "id,provider_id,position,api_key,api_key_key_id", "create keys", createsKeys},
	{"ai_provider_keys", "UPDATE", "position", "reorder and rotate keys", movesKeys},
	{"ai_provider_keys", "UPDATE", "api_key,api_key_key_id", "reorder and rotate keys", nil},
	{"ai_provider_keys", "DELETE", "", "remove and replace keys", removesKeys},
	{"ai_provider_audits", "INSERT", "id,actor,action,resource,resource_id,provider_id,provider_name,old,new", "write anything", always},
	{"ai_provider_audits", "UPDATE", "delivered_at", "mark audit entries as delivered", nil},
}

// These report what a step of a start that is carried out needs. Of an adoption a step says what it
// removes, replaces and adds.

func always(*doctor, aiseed.Step) bool { return true }

func creates(_ *doctor, s aiseed.Step) bool { return s.Action == aiseed.ActionCreate }

func adopts(_ *doctor, s aiseed.Step) bool { return s.Action == aiseed.ActionAdopt }

func createsKeys(d *doctor, s aiseed.Step) bool {
	return creates(d, s) && s.Keys > 0 || adopting(s, "adds API key", "replaces API key")
}

func movesKeys(d *doctor, s aiseed.Step) bool { return adopts(d, s) && s.Keys > 1 }

func removesKeys(_ *doctor, s aiseed.Step) bool {
	return adopting(s, "removes API key", "replaces API key")
}

func seals(d *doctor, s aiseed.Step) bool {
	bedrock := s.Type == aiseed.TypeBedrock || s.Type == aiseed.TypeAnthropic && s.Keys == 0
	return d.keyring != nil && (createsKeys(d, s) || creates(d, s) && bedrock || adopts(d, s) && bedrock)
}

func adopting(s aiseed.Step, changes ...string) bool {
	return s.Action == aiseed.ActionAdopt && slices.ContainsFunc(s.Adopting, func(text string) bool {
		return slices.ContainsFunc(changes, func(change string) bool { return strings.HasPrefix(text, change) })
	})
}

// access is what the catalogs say about the tables and our role. Everybody may read them.
type access struct {
	schema, usage bool // it exists, and the role may use it
	create        bool // the role may create tables in it, or else the schema
	ours          bool // there is an aiseed_schema, and it is ours
	tables        []tableAccess
}

// A tableAccess is one table, or one that should be there.
type tableAccess struct {
	name           string
	exists, policy bool // a row security policy applies to the role
	owner          bool // the role is or may be its owner, so that the policy is forced
	ownerName      string
	rule           string // one of its rules, or ""
	ruleOnInsert   bool
	lacks          []need
}

// selectAccess takes the schema, and the needs.
const selectAccess = `
with n as (select oid from pg_namespace where nspname = $1),
     need as (select * from json_to_recordset($2::json) as need (id int, name text, privilege text, columns text))
select exists (select from n), coalesce((select has_schema_privilege(oid, 'USAGE') from n), false),
       coalesce((select has_schema_privilege(oid, 'CREATE') from n), has_database_privilege(current_database(), 'CREATE')),
       2 = (select count(*) from n join pg_class s on s.relnamespace = n.oid and s.relname = 'aiseed_schema' join pg_attribute a on a.attrelid = s.oid and not a.attisdropped
             where a.attname = 'version' and a.atttypid = 'int4'::regtype or a.attname = 'applied_at' and a.atttypid = 'timestamptz'::regtype),
       c.oid is not null, coalesce(row_security_active(c.oid), false), coalesce(pg_has_role(c.relowner, 'USAGE'), false), coalesce(pg_get_userbyid(c.relowner)::text, ''),
       coalesce(r.rulename::text, ''), coalesce(r.ev_type = '3', false),
       coalesce(case when has_table_privilege(c.oid, need.privilege) then true
                     when need.privilege = 'DELETE' then false
                     else (select bool_and(has_column_privilege(c.oid, a.attnum, need.privilege)) from pg_attribute a
                            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and (need.columns = '' or a.attname = any(string_to_array(need.columns, ','))))
                end, false)
  from need left join n on true left join pg_class c on c.relnamespace = n.oid and c.relname = need.name and c.relkind in ('r', 'p', 'v')
       left join lateral (select rulename, ev_type from pg_rewrite where ev_class = c.oid and ev_type <> '1' order by ev_type = '3' desc, rulename limit 1) r on true
 order by need.id`

// readAccess asks for all tables and all needs in one round trip.
func (d *doctor) readAccess(ctx context.Context) error {
	type asked struct {
		ID        int    `json:"id"`
		Name      string `json:"name"`
		Privilege string `json:"privilege"`
		Columns   string `json:"columns"`
	}
	var list []asked
	for i, n := range needs {
		list = append(list, asked{i, n.table, n.privilege, n.columns})
	}
	d.access = access{}
	return d.ask(ctx, pg.Query{SQL: selectAccess, Args: [][]byte{[]byte(d.flags.schema), pg.JSON(list)}, Rows: func(rows pgx.Rows) error {
		for i := 0; rows.Next(); i++ {
			var t tableAccess
			var granted bool
			if err := rows.Scan(&d.access.schema, &d.access.usage, &d.access.create, &d.access.ours, &t.exists, &t.policy, &t.owner, &t.ownerName, &t.rule, &t.ruleOnInsert, &granted); err != nil {
				return err
			}
			t.name = needs[i].table
			known := slices.IndexFunc(d.access.tables, func(other tableAccess) bool { return other.name == t.name })
			if known < 0 {
				known, d.access.tables = len(d.access.tables), append(d.access.tables, t)
			}
			if t.exists && !granted {
				d.access.tables[known].lacks = append(d.access.tables[known].lacks, needs[i])
			}
		}
		return rows.Err()
	}})
}

// tables looks at the schema as opening a store does, and at what each table lets the role read.
func (d *doctor) tables(ctx context.Context) []finding {
	if err := d.readAccess(ctx); err != nil {
		return d.trouble(ctx, err)
	}
	version, needed := 0, neededVersion()
	if d.access.ours {
		if findings := d.hidden(); findings != nil {
			return findings
		}
		if err := d.one(ctx, `select coalesce(max(version), 0) from {schema}.aiseed_schema`, &version); err != nil {
			return d.trouble(ctx, err)
		}
		if findings := d.missing(version); findings != nil {
			return findings
		}
	}
	opts := d.storeOptions(d.keyring)
	opts.AllowPlaintext = true
	d.store, d.openErr = aiseed.Open(ctx, d.pool, opts)
	apply := d.sibling("schema -apply")
	const migrates = "Apply the schema: with the migration tool that makes these tables, if one does; if the server sets StoreOptions.Migrate, by starting it; else:"
	switch err := d.openErr; {
	case errors.Is(err, aiseed.ErrSchemaMissing), d.access.schema && !d.access.usage:
		return append(d.cannotApply(), fail(fmt.Sprintf("there are no aiseed tables in the schema %q", d.flags.schema), migrates, apply)...)
	case errors.Is(err, aiseed.ErrSchemaOutdated) && !d.access.ours:
		found, _, _ := strings.Cut(strings.TrimPrefix(bare(err), "schema: "), ";") // which names another schema with such tables
		return append(d.cannotApply(), fail(found, "If those are meant, give -schema. "+migrates, apply)...)
	case errors.Is(err, aiseed.ErrSchema) && !(d.access.ours && errors.Is(err, aiseed.ErrSchemaOutdated)):
		return fail(strings.TrimPrefix(d.message(err), "schema: "), "")
	case version < needed: // a keyring that does not fit hides it
		return append(d.cannotApply(), fail(fmt.Sprintf("the tables in %q are at version %d, and version %d is needed", d.flags.schema, version, needed), migrates, apply)...)
	case err != nil && !errors.Is(err, aiseed.ErrKeyring):
		return d.trouble(ctx, err)
	case version > needed:
		return ok("version %d in %q, later than the %d that this command knows, which is fine", version, d.flags.schema, needed)
	}
	return ok("version %d in %q", version, d.flags.schema)
}

const asOwner = "As the owner or a superuser:"

// cannotApply finds what the role lacks to apply the schema. Another role can be the one that does.
func (d *doctor) cannotApply() (findings []finding) {
	role, schema, database := identifier(d.session.role), identifier(d.flags.schema), identifier(d.session.database)
	lacks := fmt.Sprintf("the role %q may not apply the schema: it ", d.session.role)
	const do = "Apply it as a role that may, or as the owner or a superuser:"
	switch has := d.access; {
	case !has.schema && !has.create:
		findings = warn(lacks+"lacks CREATE on the database "+database, do, fmt.Sprintf("grant create on database %s to %s;", database, role))
	case has.schema && !(has.usage && has.create):
		findings = warn(lacks+"lacks USAGE or CREATE on the schema "+schema, do, fmt.Sprintf("grant usage, create on schema %s to %s;", schema, role))
	}
	if i := slices.IndexFunc(d.access.tables, func(t tableAccess) bool { return t.exists && !t.owner }); i >= 0 {
		t := d.access.tables[i]
		findings = append(findings, warn(lacks+"does not own "+d.table(t.name), fmt.Sprintf("Apply it as the owner, %q", t.ownerName))...)
	}
	return findings
}

// hidden finds what the role may not see. Every start reads all tables.
func (d *doctor) hidden() (findings []finding) {
	role := d.session.role
	if !d.access.usage {
		findings = append(findings, fail(fmt.Sprintf("the role %q lacks USAGE on the schema %s, which every start needs", role, identifier(d.flags.schema)), asOwner,
			fmt.Sprintf("grant usage on schema %s to %s;", identifier(d.flags.schema), identifier(d.session.role)))...)
	}
	for _, t := range d.access.tables {
		if slices.ContainsFunc(t.lacks, func(n need) bool { return n.privilege == "SELECT" }) {
			findings = append(findings, fail(fmt.Sprintf("the role %q lacks SELECT on %s, which every start needs", role, d.table(t.name)), asOwner, d.grant(t.name, "SELECT"))...)
		}
		if !t.policy {
			continue
		}
		found := fmt.Sprintf("a row security policy applies to the role %q on %s, so it could hide rows, and every start refuses that", role, d.table(t.name))
		if t.owner {
			findings = append(findings, fail(found, "Give the role BYPASSRLS, or as the owner:", "alter table "+d.table(t.name)+" no force row level security;")...)
		} else {
			findings = append(findings, fail(found, "Connect as the owner, give the role BYPASSRLS, or as the owner:", "alter table "+d.table(t.name)+" disable row level security;")...)
		}
	}
	return findings
}

// ruled finds rules, which hide from the client what it writes. Writes are refused then.
func (d *doctor) ruled() (findings []finding) {
	adopts := slices.ContainsFunc(d.steps, func(s aiseed.Step) bool { return s.Action == aiseed.ActionAdopt })
	for _, t := range d.access.tables {
		if t.rule != "" {
			rule := identifier(t.rule)
			findings = append(findings, d.forWriting(d.writes && (t.ruleOnInsert || adopts), fmt.Sprintf("the rule %s on %s hides what is written", rule, d.table(t.name)), "Make it a trigger, and as the owner:",
				fmt.Sprintf("drop rule %s on %s;", rule, d.table(t.name)))...)
		}
	}
	return findings
}

// missing finds tables that the recorded version says are there.
func (d *doctor) missing(version int) (findings []finding) {
	for _, t := range d.access.tables {
		if !t.exists && version >= neededVersion() {
			findings = append(findings, fail(fmt.Sprintf("there is no table %s, although aiseed_schema says that version %d was applied", d.table(t.name), version),
				"Restore it from a backup. How it is made:", d.sibling("schema -print"))...)
		}
	}
	return findings
}

// lacking finds the privileges that the role lacks to write, table by table.
func (d *doctor) lacking() (findings []finding) {
	for _, t := range d.access.tables {
		var privileges, purposes []string
		byStarts, byNext := false, false // a start that writes can need one of them, and the next one does
		for _, n := range t.lacks {
			if n.privilege == "SELECT" || !d.access.ours {
				continue
			}
			if !slices.Contains(privileges, n.privilege) {
				privileges = append(privileges, n.privilege)
			}
			if purpose := "to " + n.purpose; !slices.Contains(purposes, purpose) {
				purposes = append(purposes, purpose)
			}
			byStarts = byStarts || n.step != nil
			byNext = byNext || d.writes && n.step != nil && slices.ContainsFunc(d.steps, func(s aiseed.Step) bool { return writes(s) && n.step(d, s) })
		}
		found := fmt.Sprintf("the role %q lacks %s on %s (%s)", d.session.role, strings.Join(privileges, ", "), d.table(t.name), strings.Join(purposes, ", "))
		switch {
		case privileges == nil:
		case byStarts:
			findings = append(findings, d.forWriting(byNext, found, asOwner, d.grant(t.name, privileges...))...)
		default:
			findings = append(findings, warn(found+"; no start fails for it", asOwner, d.grant(t.name, privileges...))...)
		}
	}
	return findings
}

func (d *doctor) table(name string) string { return identifier(d.flags.schema, name) }

func (d *doctor) grant(table string, privileges ...string) string {
	return fmt.Sprintf("grant %s on %s to %s;", strings.ToLower(strings.Join(privileges, ", ")), d.table(table), identifier(d.session.role))
}
