package aiseedcli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/ephemeral"
	"example.com/aiseed/internal/leak"
	"example.com/aiseed/internal/testkit"
)

func TestMain(m *testing.M) {
	connectTimeout, checkTimeout, lockTimeout, lockPatience = time.Hour, time.Hour, time.Hour, 50*time.Millisecond
	watchPatience = func(c *pgx.ConnConfig) time.Duration {
		if c.Port == 6432 { // a pooler, which passes none
			return time.Millisecond
		}
		return time.Hour
	}
	closePatience = func(c *pgx.ConnConfig) time.Duration {
		if c.RuntimeParams["application_name"] == "patient" || c.Port == 6432 {
			return time.Hour
		}
		return 10 * time.Millisecond
	}
	leak.VerifyTestMain(m)
}

// O7. A script is what an operator types and sees, on a database of its own.
//
//	NAME=value          sets a variable; ${key1}, ${id1}, ${dsn}, ${dir}, ${words} are filled in
//	> sql ...           runs SQL on the database
//	> let NAME ...      makes the result of SQL ${NAME}, which is printed as NAME
//	> hold ...          runs SQL in a transaction that stays open
//	> release           ends that transaction
//	> migrate NAME N    applies the first N files of the schema to the schema NAME
//	> file NAME TEXT    writes ${dir}/NAME
//	> server            starts a server that asks guest for a password; ${server} is its address
//	$ aiseed ...        runs the command; what follows is its output, "! " before a line of stderr
//	$ aiseed ... < TEXT the same, with TEXT on standard input, in which \n is a line break
//	$ aiseed ... ^C     the same, and Ctrl-C as soon as it waits for a lock
//
// ${words} are the last tokens that settle a drift, as they were printed.
func TestScripts(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			got := newScript(t).play(string(raw))
			if testkit.Updating() {
				require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
				return
			}
			require.Equal(t, string(raw), got)
		})
	}
}

// run runs the command aiseed, with lines that are not wrapped if environ has no COLUMNS: the addresses of test databases have various lengths.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	return runWith(ctx, args, environ, strings.NewReader(""), stdout, stderr)
}

func runWith(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return Run(ctx, args, Options{Version: "v0.0.0-test", Environ: append(slices.Clone(environ), "COLUMNS=10000"), Stdin: stdin, Stdout: stdout, Stderr: stderr})
}

// passwordOfScripts is in each place where an operator could type a secret by mistake.
const passwordOfScripts = "b7d92e4f60c1"

type script struct {
	t        *testing.T
	pool     *pgxpool.Pool
	vars     map[string]string
	environ  []string
	secrets  []string
	literals []string // pairs of a random value and its placeholder
	held     pgx.Tx
	out      strings.Builder
}

func newScript(t *testing.T) *script {
	s := &script{t: t, pool: aiseedtest.NewPool(t), secrets: []string{passwordOfScripts}, vars: map[string]string{"words": "none", "dir": t.TempDir()}}
	s.vars["dsn"] = s.pool.Config().ConnString()
	c := s.pool.Config().ConnConfig
	s.literals = []string{s.vars["dir"], "DIR"}
	s.place(c)
	for _, name := range []string{"key1", "key2", "key3", "key4"} {
		sum := sha256.Sum256([]byte("a key of a test: " + name))
		s.vars[name] = base64.StdEncoding.EncodeToString(sum[:])
		s.secrets = append(s.secrets, s.vars[name])
		keyring, err := aiseed.ParseKeyring(s.vars[name])
		require.NoError(t, err)
		s.vars["id"+name[len("key"):]] = keyring.IDs()[0]
		s.literals = append(s.literals, keyring.IDs()[0], "ID-OF-"+strings.ToUpper(name))
	}
	if c.Password != "" {
		s.secrets = append(s.secrets, c.Password)
	}
	t.Cleanup(func() {
		if s.held != nil {
			_ = s.held.Rollback(context.Background())
		}
	})
	return s
}

func (s *script) place(c *pgx.ConnConfig) {
	s.literals = append(s.literals,
		fmt.Sprintf("%s, port %d, database %q, user %q", c.Host, c.Port, c.Database, c.User), "HOST, port PORT, database DATABASE, user USER",
		fmt.Sprintf(`%s, port %d, database \"%s\", user \"%s\"`, c.Host, c.Port, c.Database, c.User), "HOST, port PORT, database DATABASE, user USER",
		fmt.Sprintf("%s, port %d, database %s", c.Host, c.Port, c.Database), "HOST, port PORT, database DATABASE",
		fmt.Sprintf("role %q", c.User), "role USER", fmt.Sprintf(`role \"%s\"`, c.User), "role USER", fmt.Sprintf("database %q", c.Database), "database DATABASE")
}

var (
	assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	printed    = regexp.MustCompile(`DRIFT_KEEP=(\S+)`)
)

func (s *script) play(text string) string {
	output := false
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if output {
			output = !strings.HasPrefix(line, "[exit ")
			continue
		}
		s.out.WriteString(line + "\n")
		switch verb, rest, _ := strings.Cut(line, " "); {
		case verb == "$":
			output = true
			s.command(rest)
		case verb == ">":
			s.direct(rest)
		case assignment.MatchString(line):
			s.set(os.Expand(line, s.expand))
		}
	}
	return s.out.String()
}

func (s *script) expand(name string) string {
	if name == "$" {
		return "$$" // a quotation mark of SQL
	}
	value, ok := s.vars[name]
	require.True(s.t, ok, "${%s}", name)
	return value
}

// set replaces a variable, and notes which parts of it must never be printed.
func (s *script) set(entry string) {
	name, value, _ := strings.Cut(entry, "=")
	s.environ = slices.DeleteFunc(s.environ, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	s.environ = append(s.environ, entry)
	if strings.Contains(name, "KEY") && !strings.HasSuffix(name, "_FILE") {
		s.secrets = append(s.secrets, strings.Split(value, ",")...)
	}
	if _, password, ok := strings.Cut(value, "password="); ok {
		s.secrets = append(s.secrets, strings.Fields(password)[0])
	}
}

func (s *script) direct(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	ctx := s.t.Context()
	var err error
	switch verb {
	case "sql":
		_, err = s.pool.Exec(ctx, os.Expand(rest, s.expand), pgx.QueryExecModeSimpleProtocol)
	case "let":
		name, sql, _ := strings.Cut(rest, " ")
		var value string
		err = s.pool.QueryRow(ctx, sql).Scan(&value)
		s.vars[name] = value
		s.literals = append(s.literals, value, name)
	case "hold":
		s.held, err = s.pool.Begin(ctx)
		require.NoError(s.t, err)
		_, err = s.held.Exec(ctx, rest, pgx.QueryExecModeSimpleProtocol)
	case "release":
		err = s.held.Rollback(ctx)
		s.held = nil
		// The session of a command that was interrupted can have got what it waited for.
		require.Eventually(s.t, func() bool {
			var n int
			return s.pool.QueryRow(ctx, `select count(*) from pg_stat_activity where datname = current_database() and application_name = 'aiseed'`).Scan(&n) == nil && n == 0
		}, time.Minute, time.Millisecond)
	case "migrate":
		name, n, _ := strings.Cut(rest, " ")
		s.migrate(name, n)
	case "file":
		name, content, _ := strings.Cut(rest, " ")
		err = os.WriteFile(filepath.Join(s.vars["dir"], name), []byte(os.Expand(content, s.expand)+"\n"), 0o600)
	case "server":
		s.server()
	default:
		s.t.Fatalf("no such line: > %s", line)
	}
	require.NoError(s.t, err, line)
}

func (s *script) migrate(name, n string) {
	files, err := strconv.Atoi(n)
	require.NoError(s.t, err)
	sql := "create schema " + name + "; set local search_path to " + name + ";"
	for _, file := range migrationFiles()[:files] {
		raw, err := fs.ReadFile(aiseed.Migrations(), file)
		require.NoError(s.t, err)
		sql += string(raw)
	}
	_, err = s.pool.Exec(s.t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(s.t, err)
}

func (s *script) server() {
	server, err := ephemeral.Start(s.t.Context())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, server.Close()) })
	conn, err := pgx.Connect(s.t.Context(), server.DSN(""))
	require.NoError(s.t, err)
	var rules string
	require.NoError(s.t, conn.QueryRow(s.t.Context(), "show hba_file").Scan(&rules))
	_, err = conn.Exec(s.t.Context(), "create role guest login password 'right'; create role crowded login connection limit 0", pgx.QueryExecModeSimpleProtocol)
	require.NoError(s.t, err)
	require.NoError(s.t, conn.Close(s.t.Context()))
	require.NoError(s.t, os.WriteFile(rules, []byte("local all guest scram-sha-256\nlocal all all trust\n"), 0o600))
	require.NoError(s.t, server.Restart(s.t.Context()))
	s.vars["server"] = server.DSN("")
	c, err := pgx.ParseConfig(server.DSN(""))
	require.NoError(s.t, err)
	s.literals = append(s.literals, c.Host, "HOST")
}

func (s *script) command(line string) {
	line, interrupted := strings.CutSuffix(line, " ^C")
	line, stdin, _ := strings.Cut(line, " < ")
	stdin = strings.NewReplacer(`\n`, "\n", `\r`, "\r").Replace(stdin)
	s.secrets = append(s.secrets, strings.Fields(stdin)...)
	args := strings.Fields(os.Expand(line, s.expand))
	require.Equal(s.t, "aiseed", args[0])
	var stdout bytes.Buffer
	stderr := await("waiting for pid ")
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	exit := make(chan int, 1)
	go func() { exit <- runWith(ctx, args[1:], s.environ, strings.NewReader(stdin), &stdout, stderr) }()
	if interrupted {
		if s.awaitLock() == "advisory" {
			testkit.Awaited(s.t, stderr.seen)
		}
		cancel()
	}
	code := <-exit

	all := stdout.String()
	for _, l := range strings.SplitAfter(stderr.String(), "\n") {
		if l != "" {
			all += "! " + l
		}
	}
	s.requireNoSecret(line, all)
	if found := printed.FindStringSubmatch(all); found != nil {
		s.vars["words"] = found[1]
	}
	fmt.Fprintf(&s.out, "%s[exit %d]\n", s.redact(all), code)
}

// awaitLock returns when a session of the command waits for a lock, and the kind of lock. All commits of a server that
// notify wait for each other, for a lock on an object.
func (s *script) awaitLock() (kind string) {
	require.Eventually(s.t, func() bool {
		return s.pool.QueryRow(s.t.Context(), `
select wait_event from pg_stat_activity
 where datname = current_database() and application_name = 'aiseed' and wait_event_type = 'Lock' and wait_event <> 'object'`).Scan(&kind) == nil
	}, time.Minute, time.Millisecond)
	return kind
}

// S11: output shows no part of a secret, except the mask.
func (s *script) requireNoSecret(line, output string) {
	const part = 8
	for _, secret := range s.secrets {
		for i := 0; i+part <= len(secret); i++ {
			require.NotContains(s.t, output, secret[i:i+part], line)
		}
	}
	require.NotContains(s.t, output, "goroutine ", line)
}

var random = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`@[0-9a-f]{16}\b`), "@DIGEST"},
	{regexp.MustCompile(`("digest": ")[0-9a-f]{16}`), "${1}DIGEST"},
	{regexp.MustCompile(`( |\()[0-9a-f]{8}\b`), "${1}FINGERPRINT"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\bpid \d+`), "pid PID"},
	{regexp.MustCompile(`pg_terminate_backend\(\d+\)`), "pg_terminate_backend(PID)"},
	{regexp.MustCompile(`, from [0-9a-f.:]+,`), ","},
	{regexp.MustCompile(`\bgo1\.[0-9.]+`), "GO"},
	{regexp.MustCompile(`PostgreSQL \d+\.\d+`), "PostgreSQL VERSION"},
	{regexp.MustCompile(`\d+ of \d+ connection slots`), "N of N connection slots"},
	{regexp.MustCompile(`(version|needs|the) ` + strconv.Itoa(neededVersion()) + `\b`), "$1 LATEST"},
}

func (s *script) redact(text string) string {
	text = strings.ReplaceAll(strings.NewReplacer(s.literals...).Replace(text), "\x1b", "ESC")
	for _, r := range random {
		text = r.pattern.ReplaceAllString(text, r.with)
	}
	return text
}

func TestServerVersions(t *testing.T) {
	t.Parallel()
	for number, state := range map[int]string{96024: stateFail, 130014: stateFail, 140000: stateOK, 180001: stateOK} {
		found := checkVersion(number)
		require.Len(t, found, 1)
		require.Equal(t, state, found[0].State, number)
	}
	require.Equal(t, "PostgreSQL 13.14 is too old; 14 or later is needed", checkVersion(130014)[0].Found)
}

func TestConnectionSlots(t *testing.T) {
	t.Parallel()
	require.Equal(t, stateOK, checkSlots("HOST", 86, 97)[0].State)
	require.Equal(t, warn("HOST; 88 of 97 connection slots are used", "Raise max_connections, make the pools smaller, or put a pooler between"), checkSlots("HOST", 88, 97))
}

// Not parallel: pgx reads the PG* variables of the process.
func TestDatabaseOfThePGVariables(t *testing.T) {
	c := aiseedtest.NewPool(t).Config().ConnConfig
	for name, value := range map[string]string{"PGHOST": c.Host, "PGPORT": strconv.Itoa(int(c.Port)), "PGUSER": c.User, "PGPASSWORD": c.Password, "PGDATABASE": c.Database} {
		t.Setenv(name, value)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"doctor", "-plaintext"}, nil, &stdout, &stderr)
	require.Zero(t, code, stdout.String()+stderr.String())
	require.Contains(t, stdout.String(), c.Database)
}

// Each command explains itself and each of its flags.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, v := range verbs() {
		var asked, told, stderr bytes.Buffer
		require.Zero(t, run(t.Context(), append(strings.Fields(v.name), "-h"), nil, &asked, &stderr))
		require.Zero(t, run(t.Context(), append([]string{"help"}, strings.Fields(v.name)...), nil, &told, &stderr))
		require.Empty(t, stderr.String())
		require.Equal(t, asked.String(), told.String())
		for _, f := range v.own {
			require.Contains(t, asked.String(), "  -"+f)
		}
		require.Contains(t, asked.String(), "Exit codes:")
		require.Contains(t, asked.String(), "Example:\n  ")
	}
}

// If the disk behind stdout is full, the command does not succeed.
func TestOutputThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	require.Equal(t, exitError, run(t.Context(), []string{"env"}, nil, fullDisk{}, &stderr))
	require.Contains(t, stderr.String(), "could not be written")
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, fs.ErrInvalid }

// What schema -print prints is what schema -apply applies.
func TestPrintedSchemaIsTheSchema(t *testing.T) {
	t.Parallel()
	pool := aiseedtest.NewPool(t)
	environ := []string{"DATABASE_URL=" + pool.Config().ConnString()}
	var printed, stdout, stderr bytes.Buffer
	_, err := pool.Exec(t.Context(), "drop schema public cascade; create schema public", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	for _, schema := range []string{"public", `O'Neil "x"`} {
		printed.Reset()
		require.Zero(t, run(t.Context(), []string{"schema", "-print", "-schema", schema}, nil, &printed, &stderr))
		for _, name := range migrationFiles() {
			require.Contains(t, printed.String(), "-- "+name+"\n")
		}
		_, err = pool.Exec(t.Context(), printed.String(), pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		require.Zero(t, run(t.Context(), []string{"doctor", "-plaintext", "-schema", schema}, environ, &stdout, &stderr), stdout.String())
		require.Empty(t, stderr.String())
	}
}

// The files of a tool are those of the library, and are written once.
func TestO7_FilesForAMigrationTool(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	command := func(want int, args ...string) string {
		var out bytes.Buffer
		require.Equal(t, want, run(t.Context(), append([]string{"schema", "-print", "-tool", "goose"}, args...), nil, &out, &out), out.String())
		return out.String()
	}
	require.Contains(t, command(exitError), "name the folder for them with -dir")
	for range 2 {
		require.Equal(t, strings.Join(migrationFiles(), "\n")+"\n", command(exitDone, "-dir", dir))
		for _, name := range migrationFiles() {
			want, err := fs.ReadFile(aiseed.MigrationsFor(aiseed.Goose), name)
			require.NoError(t, err)
			got, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		}
	}
	first := filepath.Join(dir, migrationFiles()[0])
	require.NoError(t, os.WriteFile(first, []byte("the host's own"), 0o600))
	require.Contains(t, command(exitError, "-dir", dir), "Nothing was written")
	require.Contains(t, command(exitError, "-dir", first), "-dir: ")
}

// What a migration tool may have to apply is not applied behind its back.
func TestO7_AMigrationToolIsNotOvertaken(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]string{
		"goose":          "public.goose_db_version (id int, version_id bigint, is_applied boolean, tstamp timestamp)",
		"golang-migrate": "older.aiseed_migrations (version bigint, dirty boolean)",
		"tern":           "public.schema_version (version int)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, args := range []string{"schema -apply", "apply -migrate -plaintext"} {
				s := newScript(t)
				s.migrate("older", "1")
				s.direct("sql create table " + table)
				environ := []string{"DATABASE_URL=" + s.vars["dsn"]}
				var out bytes.Buffer
				args := append(strings.Fields(args), "-schema", "older")
				require.Equal(t, exitError, run(t.Context(), args, environ, &out, &out))
				require.Contains(t, out.String(), "records in "+written(t, s.pool, strings.Fields(table)[0])+" what it applied")
				require.Zero(t, run(t.Context(), append(args, "-yes"), environ, &out, &out), out.String())
				require.Zero(t, run(t.Context(), args, environ, &out, &out), out.String()) // nothing is left to apply
			}
		})
	}
}

// L8: behind a transaction-pooling proxy.
func TestBehindPgBouncer(t *testing.T) {
	t.Parallel()
	server, err := ephemeral.Start(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	bouncer, err := ephemeral.StartPgBouncer(t.Context(), server, "default_pool_size=2")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bouncer.Close()) })
	environ := []string{"DATABASE_URL=" + bouncer.DSN(""), aiseed.DefaultPrefix + "OPENAI_KEY=sk-6f1e9b07c2d84a53b1907e"}
	for _, args := range []string{"schema -apply", "apply -plaintext", "doctor -plaintext", "plan -plaintext"} {
		var stdout, stderr bytes.Buffer
		require.Zero(t, run(t.Context(), strings.Fields(args), environ, &stdout, &stderr), "%s\n%s%s", args, stdout.String(), stderr.String())
	}
}

// What the command writes is told to the servers, also to those with a channel of their own.
func TestO8_TheCommandNotifiesTheServers(t *testing.T) {
	t.Parallel()
	pool := aiseedtest.NewPool(t)
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `listen aiseed_public; listen aiseed_fleet; listen own; listen the_end`)
	require.NoError(t, err)
	apply := func(key string, args ...string) {
		var stdout, stderr bytes.Buffer
		environ := []string{"DATABASE_URL=" + pool.Config().ConnString(), aiseed.DefaultPrefix + key + "=sk-6f1e9b07c2d84a53b1907e"}
		require.Zero(t, run(t.Context(), append([]string{"apply", "-plaintext", "-migrate"}, args...), environ, &stdout, &stderr), stderr.String())
	}
	apply("OPENAI_KEY")
	apply("OPENAI_KEY", "-schema", "fleet")
	apply("ANTHROPIC_KEY", "-notify-channel", "own")
	_, err = pool.Exec(t.Context(), `notify the_end`)
	require.NoError(t, err)
	for _, channel := range []string{"aiseed_public", "aiseed_fleet", "own", "the_end"} {
		n, err := conn.WaitForNotification(t.Context())
		require.NoError(t, err)
		require.Equal(t, channel, n.Channel)
	}
}

// Each field of a document is described for operators.
func TestO7_FieldsOfDocumentsAreDescribed(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/operators.md")
	require.NoError(t, err)
	paths, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	fields := regexp.MustCompile(`(?m)^ +"([a-z_]+)": `)
	described := 0
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, field := range fields.FindAllStringSubmatch(string(raw), -1) {
			assert.Contains(t, string(page), "`"+field[1]+"`", "%s has a field that the page for operators does not have", path)
			described++
		}
	}
	require.Greater(t, described, 100)
	for _, class := range classes {
		assert.Contains(t, string(page), "`"+class.name+"`", "the page for operators lacks a class of errors")
	}
}
