// Command matrix runs the tests on every version of PostgreSQL that the library works on, and on
// the newest once more with settings that change what SQL means or prints, and with FIPS-only
// cryptography. It prints a table. Run it from the top of the repository; it
// wants a machine that does nothing else, and takes some minutes for each line.
//
//	go run ./tests/matrix [14 15 … settings fips]
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"example.com/aiseed/internal/ephemeral"
)

var versions = []string{"14", "15", "16", "17", "18"}

// settings are legal, and each changes what some SQL means or prints.
var settings = []string{
	"default_transaction_isolation=serializable", "standard_conforming_strings=off", "backslash_quote=on", "escape_string_warning=off",
	"lc_messages=C", "DateStyle=German, DMY", "IntervalStyle=sql_standard", "bytea_output=escape", "TimeZone=Asia/Kathmandu",
	`search_path="$user", public, pg_catalog`, "plan_cache_mode=force_generic_plan", "jit_above_cost=0", "extra_float_digits=-15",
	"quote_all_identifiers=on", "row_security=off", "transform_null_equals=on", "array_nulls=off", "xmloption=document",
	"max_connections=300", "password_encryption=scram-sha-256",
}

// namesAServer matches the variables of the environment that name a server, which would be tested in place of each version.
var namesAServer = regexp.MustCompile(`^(DATABASE_URL|PG(HOST|PORT|SERVICE|DATABASE|USER|PASS|OPTIONS|APPNAME|SSL)[A-Z]*)=`)

// A run is one line of the table.
type run struct {
	name, bin string
	env       []string
}

func main() {
	if err := matrix(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func matrix(names []string) error {
	if len(names) == 0 {
		names = append(slices.Clone(versions), "settings", "fips")
	}
	newest, err := binaries(versions[len(versions)-1])
	if err != nil {
		return err
	}
	failed := false
	fmt.Printf("%-28s %-8s %8s  %s\n", "PostgreSQL", "result", "seconds", "tests that failed")
	for _, name := range names {
		r := run{name: name, bin: newest}
		switch name {
		case "settings":
			server, dsn, err := unusual(newest)
			if err != nil {
				return err
			}
			defer server.Close()
			r.env = []string{"DATABASE_URL=" + dsn}
		case "fips":
			r.env = []string{"GODEBUG=fips140=only"}
		default:
			if r.bin, err = binaries(name); err != nil {
				return err
			}
		}
		if !r.test() {
			failed = true
		}
	}
	if failed {
		return fmt.Errorf("not all passed")
	}
	return nil
}

// binaries returns the directory of the binaries of a version.
func binaries(version string) (string, error) {
	cmd := exec.Command("scripts/postgres.sh", version)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// test runs all tests, and prints a line of the table and the output of those that failed.
func (r run) test() (passed bool) {
	began := time.Now()
	cmd := exec.Command("go", "test", "-race", "-json", "-count=1", "-parallel=4", "-timeout=30m", "-vet=off", "./...")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), namesAServer.MatchString), append(r.env, "PGBIN="+r.bin)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var failures []string
	output := map[string]*bytes.Buffer{}
	for line := range bytes.Lines(out) {
		var event struct{ Action, Package, Test, Output string }
		if json.Unmarshal(line, &event) != nil {
			continue
		}
		key := filepath.Base(event.Package) + "." + event.Test
		if output[key] == nil {
			output[key] = &bytes.Buffer{}
		}
		output[key].WriteString(event.Output)
		if event.Action == "fail" {
			failures = append(failures, key)
		}
	}
	version, _ := exec.Command(filepath.Join(r.bin, "postgres"), "--version").Output()
	name := strings.TrimPrefix(strings.TrimSpace(string(version)), "postgres (PostgreSQL) ")
	name, _, _ = strings.Cut(name, " ")
	if len(r.env) > 0 {
		name += ", " + r.name
	}
	result := "passed"
	if err != nil {
		result = "failed"
	}
	fmt.Printf("%-28s %-8s %8.0f  %s\n", name, result, time.Since(began).Seconds(), strings.Join(failures, " "))
	for _, key := range failures {
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n", key, output[key])
	}
	return err == nil
}

// unusual starts a server with the settings, which lets its user in over TCP with a password of
// special characters. Tests that read what is sent need a connection without TLS.
func unusual(bin string) (*ephemeral.Server, string, error) {
	ctx := context.Background()
	if err := os.Setenv("PGBIN", bin); err != nil {
		return nil, "", err
	}
	server, err := ephemeral.Start(ctx, append(settings, "listen_addresses="+address)...)
	if err != nil {
		return nil, "", err
	}
	conn, err := pgx.Connect(ctx, server.DSN(""))
	if err != nil {
		return nil, "", err
	}
	defer conn.Close(ctx)
	const user, password = "us/er@host", `p@ss/w:rd?#&%25'"\ äß€ `
	quoted := strings.ReplaceAll(strings.ReplaceAll(password, `\`, `\\`), `'`, `''`)
	for _, sql := range []string{
		// The server writes the file itself, since it runs as a user of its own.
		`copy (values ('local all postgres trust'), ('host all all 127.0.0.0/8 scram-sha-256')) to program 'cat > pg_hba.conf'`,
		`create role "` + user + `" login superuser password E'` + quoted + `'`,
		`select pg_reload_conf()`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, "", err
		}
	}
	dsn := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: address, Path: "/postgres", RawQuery: "sslmode=disable"}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) { // it reloads when it comes to it
		conn, err := pgx.Connect(ctx, dsn.String())
		if err == nil {
			return server, dsn.String(), conn.Close(ctx)
		}
		if time.Since(began) > time.Minute {
			return nil, "", err
		}
	}
}

// address is one of the machine's own that nobody else is likely to listen on.
const address = "127.83.71.69"
