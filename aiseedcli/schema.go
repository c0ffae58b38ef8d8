package aiseedcli

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
)

func runSchema(ctx context.Context, a *app) (result, error) {
	switch {
	case a.flags.print == a.flags.apply:
		return result{}, a.usage("give either -print or -apply")
	case a.flags.print:
		return a.printSchema()
	}
	return a.withPool(ctx, func(pool *pgxpool.Pool) (result, error) {
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

// A schemaFile is one file of the schema.
type schemaFile struct {
	Name string `json:"name"`
	SQL  string `json:"sql"`
}

// printSchema prints the files as they are, or in the form of a tool.
func (a *app) printSchema() (result, error) {
	files, about := aiseed.Migrations(), "apply in a transaction of its own, with search_path set to the schema"
	switch tool := aiseed.MigrationTool(a.flags.tool); tool {
	case "", "tern":
	case aiseed.Goose, aiseed.GolangMigrate:
		files, about = aiseed.MigrationsFor(tool), "a file for "+a.flags.tool
	default:
		return result{}, a.usage("-tool takes goose, golang-migrate or tern")
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
	return result{document: map[string]any{"files": list}, text: func() {
		for i, f := range list {
			if i > 0 {
				a.print("\n")
			}
			a.print("-- " + f.Name + ": " + about + "\n\n" + f.SQL)
		}
	}}, nil
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
