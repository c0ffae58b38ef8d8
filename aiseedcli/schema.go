package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/pg"
	"example.com/aiseed/internal/text"
)

func runSchema(ctx context.Context, a *app) (result, error) {
	switch {
	case a.flags.print == a.flags.apply:
		return result{}, a.usage("give either -print or -apply")
	case a.flags.apply && a.flags.tool+a.flags.dir != "", a.flags.print && a.flags.yes:
		return result{}, a.usage("-tool and -dir are for -print, and -yes is for -apply")
	case a.flags.print:
		return a.printSchema()
	}
	return a.withPool(ctx, func(pool *pgxpool.Pool) (result, error) {
		if err := a.mayMigrate(ctx, pool); err != nil {
			return result{}, err
		}
		if err := aiseed.Migrate(ctx, pool, a.flags.schema); err != nil {
			return result{}, err
		}
		// Migrate looks at versions only.
		if _, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{AllowPlaintext: true, Schema: a.flags.schema}); errors.Is(err, aiseed.ErrSchema) {
			return result{}, err
		}
		return result{
			document: map[string]any{"schema": a.flags.schema, "needed": neededVersion()},
			text: func() {
				a.printf("The tables in the schema %q are at version %d, the one that this command needs, or later.\n", a.flags.schema, neededVersion())
			},
		}, nil
	})
}

// selectRecords finds tables in which goose, golang-migrate, tern and others like them record what they applied, in a
// schema and on the search path.
const selectRecords = `
select coalesce(string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by n.nspname, c.relname), '')
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and (n.nspname = $1 or n.nspname = any(current_schemas(false)))
   and (select string_agg(a.attname, ',' order by a.attname) from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
       in ('id,is_applied,tstamp,version_id', 'dirty,version', 'version')`

// mayMigrate refuses to apply what a migration tool of the host can have to apply: the tool would not know, and fail
// on tables that exist. If it cannot look, the migration says why.
func (a *app) mayMigrate(ctx context.Context, pool *pgxpool.Pool) error {
	if a.flags.yes {
		return nil
	}
	conn, err := pg.Acquire(ctx, pool)
	if err != nil {
		return nil
	}
	defer pg.Release(ctx, conn)
	var version int // 0 if there is none
	var records string
	_ = pg.RoundTrip(ctx, conn.Conn(), pg.Query{SQL: "select coalesce(max(version), 0) from " + identifier(a.flags.schema, "aiseed_schema"), Rows: pg.One(&version)})
	_ = pg.RoundTrip(ctx, conn.Conn(), pg.Query{SQL: selectRecords, Args: [][]byte{[]byte(a.flags.schema)}, Rows: pg.One(&records)})
	if version >= neededVersion() || records == "" {
		return nil
	}
	return &aboutError{"a migration tool works on this database: it records in " + text.Printable(records) + " what it applied. If it makes aiseed's tables, apply them with it: " +
		"it does not know what this command applies, and fails on tables that exist. Nothing was changed. If it does not make them, give -yes", aiseed.ErrSchema}
}

// A schemaFile is one file of the schema.
type schemaFile struct {
	Name string `json:"name"`
	SQL  string `json:"sql"`
}

// printSchema prints one text that makes the tables in the schema, or writes the files of a migration tool.
func (a *app) printSchema() (result, error) {
	files := aiseed.Migrations()
	switch tool := aiseed.MigrationTool(a.flags.tool); tool {
	case "", "tern":
	case aiseed.Goose, aiseed.GolangMigrate:
		files = aiseed.MigrationsFor(tool)
	default:
		return result{}, a.usage("-tool takes goose, golang-migrate or tern")
	}
	if a.flags.tool != "" && a.flags.dir == "" && !a.flags.json {
		return result{}, a.usage("-tool makes several files; name the folder for them with -dir")
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return result{}, err
	}
	list := []schemaFile{}
	for _, name := range names {
		sql, err := fs.ReadFile(files, name)
		if err != nil {
			return result{}, err
		}
		list = append(list, schemaFile{name, string(sql)})
	}
	show := func() { a.print(scriptOf(a.flags.schema, list)) }
	if a.flags.dir != "" {
		if err := writeFiles(a.flags.dir, list); err != nil {
			return result{}, err
		}
		show = func() {
			for _, f := range list {
				a.print(f.Name + "\n")
			}
		}
	}
	return result{document: map[string]any{"files": list}, text: show}, nil
}

// scriptOf returns the files as one text for psql, which makes the tables in a schema, or changes nothing.
func scriptOf(schema string, files []schemaFile) string {
	var b strings.Builder
	b.WriteString("begin;\n")
	if name := identifier(schema); schema != "public" { // "if not exists" requires a privilege that may not be needed
		statement := strings.ReplaceAll("create schema "+name, "'", "''")
		fmt.Fprintf(&b, "do $aiseed$ begin\n  if to_regnamespace('%s') is null then execute '%s'; end if;\nend $aiseed$;\n", strings.ReplaceAll(name, "'", "''"), statement)
	}
	fmt.Fprintf(&b, "set local search_path to %s;\n", identifier(schema))
	for _, f := range files {
		b.WriteString("\n-- " + f.Name + "\n\n" + f.SQL)
	}
	b.WriteString("\ncommit;\n")
	return b.String()
}

// writeFiles writes files into a folder, which can have earlier ones of them: they never change. It does not show the
// path, which can be a secret in the wrong place.
func writeFiles(dir string, files []schemaFile) error {
	var missing []schemaFile
	for _, f := range files {
		switch found, err := os.ReadFile(filepath.Join(dir, f.Name)); {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, f)
		case err != nil:
			return errors.New("-dir: the file " + f.Name + " there cannot be read; nothing was written")
		case string(found) != f.SQL:
			return errors.New("-dir: there is another file " + f.Name + "; name a folder of aiseed's own. Nothing was written")
		}
	}
	err := os.MkdirAll(dir, 0o755)
	for _, f := range missing {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f.Name), []byte(f.SQL), 0o644)
		}
	}
	if err != nil {
		return errors.New("-dir: not all files can be written there; it takes the path of a folder")
	}
	return nil
}

// migrationFiles returns the names of the schema's files, in order.
func migrationFiles() []string {
	names, _ := fs.Glob(aiseed.Migrations(), "*.sql") // fails only on a bad pattern
	return names
}

// neededVersion returns the number of the last file. The numbers have no gaps.
func neededVersion() int { return len(migrationFiles()) }

// environmentVariable is a variable that env lists.
type environmentVariable struct {
	Name    string   `json:"name"`
	Meaning string   `json:"meaning"`
	Default string   `json:"default,omitempty"`
	Secret  bool     `json:"secret"`
	Plural  string   `json:"plural,omitempty"` // takes a list instead
	File    string   `json:"file,omitempty"`   // names a file with the value instead
	Set     []string `json:"set"`              // the names under which it is set
}

func runEnv(_ context.Context, a *app) (result, error) {
	list := []environmentVariable{
		{Name: a.DatabaseVariable, Meaning: "connection string of the database", Default: "the PG* variables", Secret: true, File: a.DatabaseVariable + "_FILE"},
		{Name: a.flags.keysVariable, Meaning: "keyring: base64 keys of 32 bytes, comma-separated, the first one seals", Secret: true, File: a.flags.keysVariable + "_FILE"},
	}
	for _, v := range aiseed.Variables(a.prefix()) {
		e := environmentVariable{Name: v.Name, Meaning: v.Meaning, Default: v.Default, Secret: v.Secret, Plural: v.Plural}
		if v.Secret {
			e.File = v.Name + "_FILE"
		}
		list = append(list, e)
	}
	for i := range list {
		list[i].Set = a.setAs(list[i])
	}
	return result{document: map[string]any{"variables": list}, text: func() {
		for _, v := range list {
			a.printVariable(v)
		}
	}}, nil
}

// setAs lists the names under which a variable is set, in the environment's order.
func (a *app) setAs(v environmentVariable) []string {
	names := []string{}
	for _, entry := range a.Environ {
		name, value, _ := strings.Cut(entry, "=")
		if value == "" || a.lookup(name) == "" {
			continue
		}
		usual := name
		for _, prefix := range a.flags.prefixes {
			if rest, ok := strings.CutPrefix(name, prefix); ok {
				usual = a.prefix() + rest
			}
		}
		usual = withoutIndex(usual, v.Name)
		for _, form := range []string{v.Name, v.File, v.Plural, v.Plural + "_FILE"} {
			if usual == form && form != "_FILE" {
				names = append(names, name)
			}
		}
	}
	return names
}

// withoutIndex replaces the number in a name with <N>, if the pattern has <N> there.
func withoutIndex(name, pattern string) string {
	stem, _, indexed := strings.Cut(pattern, "<N>")
	rest, ok := strings.CutPrefix(name, stem)
	if !indexed || !ok {
		return name
	}
	after := strings.TrimLeft(rest, "0123456789")
	if after == rest {
		return name
	}
	return stem + "<N>" + after
}

func (a *app) printVariable(v environmentVariable) {
	state := "not set"
	if len(v.Set) > 0 {
		state = "set"
	}
	meaning := v.Meaning
	if v.Default != "" {
		meaning += "; default: " + v.Default
	}
	a.printf("%-8s %s\n%9s%s\n", state, v.Name, "", meaning)
	var also []string
	if v.File != "" {
		also = append(also, "_FILE")
	}
	if v.Plural != "" {
		also = append(also, "S", "S_FILE")
	}
	if also != nil {
		a.printf("%9salso with %s behind it\n", "", strings.Join(also, ", "))
	}
	if len(v.Set) > 1 || len(v.Set) == 1 && v.Set[0] != v.Name {
		a.printf("%9sset as %s\n", "", strings.Join(v.Set, ", "))
	}
}
