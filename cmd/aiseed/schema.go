package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"example.com/aiseed"
)

func runSchema(ctx context.Context, a *app) (int, error) {
	switch {
	case a.print == a.apply:
		return exitError, errors.New("schema: give either -print or -apply; see aiseed schema -h")
	case a.print:
		return exitDone, a.printSchema()
	}
	pool, err := a.pool(ctx)
	if err != nil {
		return exitError, err
	}
	defer pool.Close()
	if err := aiseed.Migrate(ctx, pool, a.schema); err != nil {
		return exitError, err
	}
	a.printf("The tables in the schema %q are at version %d, the one that this command needs, or later.\n", a.schema, neededVersion())
	return exitDone, nil
}

// migrationFiles returns the names of the schema's files, in order.
func migrationFiles() []string {
	names, _ := fs.Glob(aiseed.Migrations(), "*.sql") // fails only on a bad pattern
	return names
}

// neededVersion returns the number of the last file. The numbers have no gaps.
func neededVersion() int { return len(migrationFiles()) }

func (a *app) printSchema() error {
	for i, name := range migrationFiles() {
		sql, err := fs.ReadFile(aiseed.Migrations(), name)
		if err != nil {
			return err
		}
		if i > 0 {
			a.printf("\n")
		}
		a.printf("-- %s: apply in a transaction of its own, with search_path set to the schema\n\n%s", name, sql)
	}
	return nil
}

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

func runEnv(_ context.Context, a *app) (int, error) {
	if !variablePattern.MatchString(a.keysVariable) {
		return exitError, errors.New("-keys-variable takes the name of a variable, not the keys themselves")
	}
	list := []environmentVariable{
		{Name: databaseVariable, Meaning: "connection string of the database", Default: "the PG* variables", Secret: true},
		{Name: a.keysVariable, Meaning: "keyring: base64 keys of 32 bytes, comma-separated, the first one seals", Secret: true, File: a.keysVariable + "_FILE"},
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
	if a.json {
		return exitDone, a.printJSON(list)
	}
	for _, v := range list {
		a.printVariable(v)
	}
	return exitDone, nil
}

// setAs lists the names under which a variable is set, in the environment's order.
func (a *app) setAs(v environmentVariable) []string {
	names := []string{}
	for _, entry := range a.environ {
		name, value, _ := strings.Cut(entry, "=")
		if value == "" || a.lookup(name) == "" {
			continue
		}
		usual := name
		for _, prefix := range a.prefixes {
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
