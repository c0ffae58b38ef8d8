package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/internal/leak"
)

// programVariable makes this test binary the real program, with longer time limits.
const programVariable = "HOSTSERVER_TEST_PROGRAM"

func TestMain(m *testing.M) {
	for _, limit := range []*time.Duration{&lockTimeout, &operationTimeout, &writeTimeout, &pingTimeout, &headerTimeout, &readTimeout, &shutdownTimeout} {
		*limit += time.Hour // no limit ends anything any more
	}
	if os.Getenv(programVariable) != "" {
		main()
	}
	leak.VerifyTestMain(m)
}

// patience bounds the wait for what has to happen soon, even on a busy machine. It is
// less than any time limit of the host.
const patience = time.Minute

// The environment of every test asks for three providers, which have three keys in all.
// That makes six audit entries.
var (
	providerVariables = []string{
		"CODER_AIBRIDGE_OPENAI_KEY=zX81-kQ3vLr9TmWbYd5HnCfJs2",
		"CODER_AIBRIDGE_PROVIDER_0_TYPE=anthropic",
		"CODER_AIBRIDGE_PROVIDER_0_NAME=corp",
		"CODER_AIBRIDGE_PROVIDER_0_BASE_URL=https://llm.corp.example/anthropic?token=qUeRy7pVwKx4NbZt6Gm",
		"CODER_AIBRIDGE_PROVIDER_0_KEYS=oNe5-Rf8yHuJ3kLpQaZx7WsEdC,tWo6-Vg9tBnM4jKiOlPy2XqSwA",
		"CODER_AIBRIDGE_PROVIDER_1_TYPE=anthropic",
		"CODER_AIBRIDGE_PROVIDER_1_NAME=aws",
		"CODER_AIBRIDGE_PROVIDER_1_BEDROCK_REGION=eu-central-1",
		"CODER_AIBRIDGE_PROVIDER_1_BEDROCK_ACCESS_KEY=AKIDw4Tz8Lq2Rv6N",
		"CODER_AIBRIDGE_PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET=bEdR-Hj7mPx3Sv9KcY5nWf1ZtG",
	}
	providerSecrets = []string{
		"zX81-kQ3vLr9TmWbYd5HnCfJs2",
		"qUeRy7pVwKx4NbZt6Gm",
		"oNe5-Rf8yHuJ3kLpQaZx7WsEdC", "tWo6-Vg9tBnM4jKiOlPy2XqSwA",
		"AKIDw4Tz8Lq2Rv6N", "bEdR-Hj7mPx3Sv9KcY5nWf1ZtG",
	}
)

const listed = `[
	{"name": "aws", "type": "anthropic", "keys": []},
	{"name": "corp", "type": "anthropic", "base_url": "https://llm.corp.example/anthropic?token=****", "keys": ["****sEdC", "****qSwA"]},
	{"name": "openai", "type": "openai", "base_url": "https://api.openai.com/v1/", "keys": ["****fJs2"]}
]`

// fixture is a database and an environment for hosts that start on it.
type fixture struct {
	t       *testing.T
	pool    *pgxpool.Pool // the test's own, for looking and for tampering
	environ []string
	secrets []string // that no host may show
}

func setup(t *testing.T) *fixture {
	t.Helper()
	pool := aiseedtest.NewPool(t)
	f := &fixture{t: t, pool: pool, secrets: slices.Clone(providerSecrets)}
	if password := pool.Config().ConnConfig.Password; password != "" {
		f.secrets = append(f.secrets, password)
	}
	f.environ = append(slices.Clone(providerVariables),
		databaseVariable+"="+pool.Config().ConnString(),
		keysVariable+"="+f.newKey(),
		addressVariable+"=127.0.0.1:0",
		tokenVariable+"="+token)
	f.secrets = append(f.secrets, token)
	return f
}

// of is the same fixture for a subtest.
func (f *fixture) of(t *testing.T) *fixture {
	part := *f
	part.t = t
	return &part
}

const token = "tOkEn-5Gq8Wz2Rk7Xv4"

// newKey returns a key like those of `openssl rand -base64 32`.
func (f *fixture) newKey() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	key := base64.StdEncoding.EncodeToString(raw)
	f.secrets = append(f.secrets, key)
	return key
}

// with is the fixture's environment with other values for some variables.
func (f *fixture) with(entries ...string) []string {
	return append(entries, f.environ...) // the first one wins
}

// host is one run of the server.
type host struct {
	*fixture
	output    *output
	interrupt context.CancelFunc
	ended     chan struct{}
	err       error // once ended
}

func (f *fixture) start(environ []string, tune ...func(*pgxpool.Config)) *host {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	return f.startContext(ctx, cancel, environ, tune...)
}

func (f *fixture) startContext(ctx context.Context, interrupt context.CancelFunc, environ []string, tune ...func(*pgxpool.Config)) *host {
	h := &host{fixture: f, output: newOutput(), interrupt: interrupt, ended: make(chan struct{})}
	go func() {
		defer close(h.ended)
		h.err = run(ctx, environ, h.output, tune...)
	}()
	f.t.Cleanup(func() {
		interrupt()
		select {
		case <-h.ended:
		case <-time.After(patience):
			f.t.Error("a host does not end")
		}
		if f.t.Failed() {
			f.t.Logf("a host logged:\n%s", h.output)
		}
	})
	return h
}

// serving waits until the host listens, and returns its URL.
func (h *host) serving() string {
	h.t.Helper()
	select {
	case address := <-h.output.address:
		return "http://" + address
	case <-h.ended:
		require.FailNow(h.t, "the host ended instead of serving", "%v", h.err)
	case <-time.After(patience):
		require.FailNow(h.t, "the host neither serves nor ends")
	}
	return ""
}

// end waits until run has returned.
func (h *host) end() {
	h.t.Helper()
	select {
	case <-h.ended:
	case <-time.After(patience):
		require.FailNow(h.t, "the host does not end")
	}
}

// wait waits for the end of a host. It returns the error of run, and what main prints and its
// exit code for that error. It checks that nothing of the host is left, and that its output
// had no secret.
func (h *host) wait() (printed string, code int, err error) {
	h.t.Helper()
	h.end()
	var stderr bytes.Buffer
	code = report(h.err, &stderr)
	h.requireNoSecret(stderr.String())
	h.requireNoSecret(h.output.String())
	h.requireNothingLeft()
	return stderr.String(), code, h.err
}

// refused is wait for a host that must end before it listens.
func (h *host) refused() (printed string, err error) {
	h.t.Helper()
	printed, code, err := h.wait()
	require.Error(h.t, err)
	require.Equal(h.t, 1, code)
	require.Equal(h.t, err.Error()+"\n", printed)
	require.NotContains(h.t, h.output.String(), "msg=listening")
	return printed, err
}

// stop interrupts a host that serves.
func (h *host) stop() {
	h.t.Helper()
	h.interrupt()
	printed, code, err := h.wait()
	require.NoError(h.t, err)
	require.Empty(h.t, printed)
	require.Zero(h.t, code)
}

// output is a host's standard error. It finds the address in the line that says that the
// host listens.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	address chan string
}

func newOutput() *output { return &output{address: make(chan string, 1)} }

var listeningLine = regexp.MustCompile(`msg=listening address=(\S+)`)

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if m := listeningLine.FindSubmatch(p); m != nil {
		o.address <- string(m[1])
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// get sends a request over its own connection.
func (f *fixture) get(url string) (status int, body string) {
	f.t.Helper()
	status, body, err := get(url)
	require.NoError(f.t, err)
	f.requireNoSecret(body)
	return status, body
}

func get(url string) (status int, body string, err error) {
	return call("GET", url, "")
}

// call sends a request to the API, with the token unless headers say otherwise.
func (f *fixture) call(method, url, body string, headers ...string) (status int, answer string) {
	f.t.Helper()
	status, answer, err := call(method, url, body, headers...)
	require.NoError(f.t, err)
	f.requireNoSecret(answer)
	return status, answer
}

func call(method, url, body string, headers ...string) (status int, answer string, err error) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	return response.StatusCode, string(raw), err
}

// eventuallyListed waits until the host lists what the database has.
func (f *fixture) eventuallyListed(url, want string) {
	f.t.Helper()
	require.EventuallyWithT(f.t, func(c *assert.CollectT) {
		_, body, err := get(url + "/providers")
		assert.NoError(c, err)
		assert.JSONEq(c, want, compact(body))
	}, patience, 5*time.Millisecond)
}

// waitForWatcher returns when a serving host waits for changes.
func (f *fixture) waitForWatcher() {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		return len(f.rows(`select pid from pg_stat_activity where datname = current_database() and application_name = 'hostserver' and query like 'listen %' and state = 'idle'`)) > 0
	}, patience, time.Millisecond, "nobody watches")
}

func (f *fixture) requireListed(url string) {
	f.t.Helper()
	status, body := f.get(url + "/providers")
	require.Equal(f.t, http.StatusOK, status)
	require.JSONEq(f.t, listed, compact(body))
}

// compact is what /providers shows, without what differs between tests.
func compact(body string) string {
	var shown struct {
		Providers []struct {
			Name    string                 `json:"name"`
			Type    string                 `json:"type"`
			BaseURL string                 `json:"base_url"`
			Keys    []struct{ Key string } `json:"keys"`
		}
	}
	if err := json.Unmarshal([]byte(body), &shown); err != nil {
		return body
	}
	out := []map[string]any{}
	for _, p := range shown.Providers {
		keys := []string{}
		for _, k := range p.Keys {
			keys = append(keys, k.Key)
		}
		view := map[string]any{"name": p.Name, "type": p.Type, "keys": keys}
		if p.BaseURL != "" {
			view["base_url"] = p.BaseURL
		}
		out = append(out, view)
	}
	shownAgain, _ := json.Marshal(out)
	return string(shownAgain)
}

// requireNoSecret fails if text has 8 consecutive bytes of a secret.
func (f *fixture) requireNoSecret(text string) {
	f.t.Helper()
	for _, secret := range f.secrets {
		for i := 0; i+8 <= len(secret); i++ {
			require.NotContains(f.t, text, secret[i:i+8])
		}
	}
}

// requireNothingLeft fails if a backend or a lock of a host stays. The server needs a
// moment to notice that a client is gone.
func (f *fixture) requireNothingLeft() {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		return len(f.rows(`select pid from pg_stat_activity where datname = current_database() and application_name = 'hostserver'
			union all select l.pid from pg_locks l where l.locktype = 'advisory' and l.database = (select oid from pg_database where datname = current_database())
			             and not exists (select from pg_stat_activity where pid = l.pid and application_name = 'the test')`)) == 0
	}, patience, 2*time.Millisecond, "a backend or a lock is left")
}

// count returns the numbers of rows in the database: all zero if there are no tables.
func (f *fixture) count() string {
	f.t.Helper()
	if f.rows(`select to_regclass('ai_providers') is null`)[0] == "true" {
		return nothing
	}
	return f.rows(`select (select count(*) from ai_providers) || ' providers, ' || (select count(*) from ai_provider_keys) || ' keys, ' || (select count(*) from ai_provider_audits) || ' audits'`)[0]
}

const (
	nothing    = "0 providers, 0 keys, 0 audits"
	everything = "3 providers, 3 keys, 6 audits"
)

// state returns every row of every table, with columns that show whether it was written.
func (f *fixture) state() (all []string) {
	f.t.Helper()
	for _, table := range []string{"ai_providers", "ai_provider_keys", "ai_provider_audits", "ai_encryption_keys", "aiseed_schema"} {
		all = append(all, f.rows(fmt.Sprintf("select '%[1]s', xmin::text, xmax::text, ctid::text, to_jsonb(t)::text from %[1]s t order by ctid", table))...)
	}
	return all
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	_, err := f.pool.Exec(context.Background(), sql, args...)
	require.NoError(f.t, err)
}

// rows runs a query and returns each row as one string.
func (f *fixture) rows(sql string, args ...any) []string {
	f.t.Helper()
	rows, err := f.pool.Query(context.Background(), sql, args...)
	require.NoError(f.t, err)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		return strings.TrimSpace(fmt.Sprintln(values...)), err
	})
	require.NoError(f.t, err)
	return out
}

// hold runs a statement in a transaction that stays open until release is called
// or the test ends.
func (f *fixture) hold(sql string) (release func()) {
	f.t.Helper()
	config := f.pool.Config().ConnConfig.Copy()
	config.RuntimeParams["application_name"] = "the test"
	conn, err := pgx.ConnectConfig(context.Background(), config)
	require.NoError(f.t, err)
	release = func() { _ = conn.Close(context.Background()) }
	f.t.Cleanup(release)
	_, err = conn.Exec(context.Background(), "begin")
	require.NoError(f.t, err)
	_, err = conn.Exec(context.Background(), sql)
	require.NoError(f.t, err)
	return release
}

// waitForWaiter returns when a host waits for a lock that hold holds.
func (f *fixture) waitForWaiter() {
	f.t.Helper()
	f.waitForWaiting("%")
}

// waitForRequest returns when a request for all providers waits for such a lock. The watcher, which
// reads those that can be used, can wait for it before the request does.
func (f *fixture) waitForRequest() {
	f.t.Helper()
	f.waitForWaiting("%where true)%")
}

func (f *fixture) waitForWaiting(query string) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		return len(f.rows(`select pid from pg_stat_activity where datname = current_database() and application_name = 'hostserver' and wait_event_type = 'Lock' and query like $1`, query)) > 0
	}, patience, time.Millisecond, "nobody waits")
}
