package main

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

func TestStartsSeedsAndServes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := f.start(f.environ)
	url := h.serving()
	f.requireListed(url)
	status, body := f.get(url + "/healthz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok", body)
	h.stop()

	require.Equal(t, everything, f.count())
	require.Equal(t, 6, strings.Count(h.output.String(), "msg=audit"), "A1: one entry per provider and key")
	require.NotContains(t, h.output.String(), "level=WARN")
	require.Empty(t, f.rows(`select settings from ai_providers where settings not like 'aiseed:v1:%'
		union all select api_key from ai_provider_keys where api_key not like 'aiseed:v1:%'`), "S1: nothing at rest is plaintext")
}

const emptyDatabase = `drop schema public cascade; create schema public`

func TestR8_SecondStartChangesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := f.start(f.environ)
	first.serving()
	first.stop()
	before := f.state()

	second := f.start(f.environ)
	f.requireListed(second.serving())
	second.stop()
	require.Equal(t, before, f.state())
	require.NotContains(t, second.output.String(), "msg=audit")
}

func TestManyHostsStartAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(emptyDatabase)
	hosts := make([]*host, 4)
	for i := range hosts {
		hosts[i] = f.start(f.environ)
	}
	for _, h := range hosts {
		f.requireListed(h.serving())
	}
	for _, h := range hosts {
		h.interrupt()
	}
	for _, h := range hosts {
		h.stop()
	}
	require.Equal(t, everything, f.count())
}

func TestProvidersFollowTheDatabase(t *testing.T) {
	t.Parallel()
	f := setup(t)
	url := f.start(f.environ).serving()
	f.requireListed(url)
	// In SQL, as an operator would: the library tells watchers by itself.
	f.exec(`update ai_providers set enabled = false where name <> 'aws'`)
	f.exec(`notify aiseed_public`)
	f.eventuallyListed(url, `[{"name": "aws", "type": "anthropic", "keys": []}]`)
	f.exec(`update ai_providers set enabled = false`)
	f.exec(`notify aiseed_public`)
	f.eventuallyListed(url, `[]`)
}

func TestProvidersAreFollowedAfterALostConnection(t *testing.T) {
	t.Parallel()
	f := setup(t)
	url := f.start(f.environ).serving()
	f.waitForWatcher()
	f.exec(`update ai_providers set enabled = false where name <> 'aws'`)
	f.exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'hostserver'`)
	f.eventuallyListed(url, `[{"name": "aws", "type": "anthropic", "keys": []}]`)
}

// occupy makes a host fail if it listens too early.
func occupy(t *testing.T) (entry string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	return addressVariable + "=" + listener.Addr().String()
}

func TestR3_DriftRefusesToStart(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := f.start(f.environ)
	first.serving()
	first.stop()
	before := f.state()

	printed, err := f.start(f.with(
		"CODER_AIBRIDGE_OPENAI_BASE_URL=https://elsewhere.example/v1",
		"CODER_AIBRIDGE_PROVIDER_1_BEDROCK_REGION=us-east-1",
		"CODER_AIBRIDGE_PROVIDER_2_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_2_NAME=new",
		occupy(t))).refused()
	require.ErrorIs(t, err, aiseed.ErrDrift)
	for _, part := range []string{
		"openai", "https://api.openai.com/v1/", "https://elsewhere.example/v1", "CODER_AIBRIDGE_OPENAI_BASE_URL",
		"aws", "eu-central-1", "us-east-1", "CODER_AIBRIDGE_PROVIDER_1_BEDROCK_REGION",
	} {
		require.Contains(t, printed, part)
	}
	require.Equal(t, before, f.state())
}

func TestE10_BadEnvironmentRefusesToStart(t *testing.T) {
	t.Parallel()
	f := setup(t)
	printed, err := f.start(f.with(
		"CODER_AIBRIDGE_OPENAI_BASE_URL=api.openai.com",
		"CODER_AIBRIDGE_PROVIDER_0_KEY=dOuBlE-2kV6mQ9xRt4",
		"CODER_AIBRIDGE_PROVIDER_3_TYPE=openai",
		databaseVariable+"="+nobodyThere, // the database is not used at all
		occupy(t))).refused()
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	for _, variable := range []string{"CODER_AIBRIDGE_OPENAI_BASE_URL", "CODER_AIBRIDGE_PROVIDER_0_KEY, CODER_AIBRIDGE_PROVIDER_0_KEYS", "CODER_AIBRIDGE_PROVIDER_3_TYPE"} {
		require.Contains(t, printed, variable)
	}
	require.NotContains(t, printed, "dOuBlE")
	require.Equal(t, nothing, f.count())
}

func TestS1_NoStartWithoutAKeyring(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"missing": "", "not base64": "nO-bAsE64-3Hq8Zv", "too short": "c2hvcnQtU2VDcmVU"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			if value != "" {
				f.secrets = append(f.secrets, value)
			}
			printed, err := f.start(f.with(keysVariable+"="+value, occupy(t))).refused()
			require.ErrorIs(t, err, aiseed.ErrKeyring)
			require.Contains(t, printed, "CODER_EXTERNAL_TOKEN_ENCRYPTION_KEYS: ")
			if name == "missing" {
				require.Contains(t, printed, "openssl rand -base64 32")
			}
			require.Equal(t, nothing, f.count())
		})
	}
}

func TestS4_AnotherKeyringRefusesToStart(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := f.start(f.environ)
	first.serving()
	first.stop()
	before := f.state()
	old, added := lookup(f.environ, keysVariable), f.newKey()

	printed, err := f.start(f.with(keysVariable+"="+added, occupy(t))).refused()
	require.ErrorIs(t, err, aiseed.ErrKeyring)
	require.Contains(t, printed, f.rows(`select id from ai_encryption_keys`)[0], "the error names the key that is missing")
	require.Equal(t, before, f.state())

	second := f.start(f.with(keysVariable + "=" + added + "," + old))
	f.requireListed(second.serving())
	second.stop()
}

const nobodyThere = "postgres://app:pAsS-Wt7Kz3Mq9Xv@127.0.0.1:1/app"

func TestDatabaseThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ url, want string }{
		"not set":       {"", "DATABASE_URL is not set; want postgres://user:password@host:port/database"},
		"unreachable":   {nobodyThere, `cannot connect to 127.0.0.1, port 1, database app: connection refused`},
		"malformed URL": {"postgres://app:pAsS-Wt7Kz3Mq9Xv%@host/app", "DATABASE_URL cannot be read; want postgres://user:password@host:port/database"},
		"no URL":        {"app:pAsS-Wt7Kz3Mq9Xv@host", "DATABASE_URL cannot be read; want postgres://user:password@host:port/database"},
		"bad option":    {nobodyThere + "?pool_max_conns=pAsS-Wt7Kz3Mq9Xv", "DATABASE_URL cannot be read; want postgres://user:password@host:port/database"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.secrets = append(f.secrets, "pAsS-Wt7Kz3Mq9Xv")
			printed, _ := f.start(f.with(databaseVariable+"="+tt.url, occupy(t))).refused()
			require.Contains(t, printed, tt.want)
			require.Equal(t, 1, strings.Count(printed, "\n"), printed)
		})
	}
}

func TestAddressThatIsTaken(t *testing.T) {
	t.Parallel()
	f := setup(t)
	printed, _ := f.start(f.with(occupy(t))).refused()
	require.Contains(t, printed, "HOSTSERVER_ADDRESS: listen tcp 127.0.0.1:")
	require.Contains(t, printed, "address already in use")
	require.Equal(t, everything, f.count(), "what was seeded stays")
	f.start(f.environ).serving()
}

func TestDatabaseThatGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var down atomic.Bool
	w := &wire{before: func() error {
		if down.Load() {
			return errors.New("the wire is cut")
		}
		return nil
	}}
	url := f.start(f.environ, w.tune).serving()
	f.requireListed(url)

	down.Store(true)
	status, body := f.get(url + "/healthz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.JSONEq(t, `{"error": "the database does not answer"}`, body)
	f.requireListed(url) // as they were

	down.Store(false)
	require.Eventually(t, func() bool { status, _ := f.get(url + "/healthz"); return status == http.StatusOK }, patience, time.Millisecond)
	f.requireListed(url)
}

func TestS5_ValueThatDoesNotOpenIsAnErrorWithoutIt(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := f.start(f.environ)
	url := h.serving()
	f.waitForWatcher()
	sealed := f.rows(`select api_key from ai_provider_keys where position = 1`)[0]
	f.exec(`update ai_provider_keys set api_key = $1 where position = 0`, sealed)
	f.exec(`notify aiseed_public`)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, body, err := get(url + "/providers")
		require.NoError(c, err)
		require.Contains(c, body, `"unusable":["corp","openai"]`)
	}, patience, time.Millisecond)
	require.Contains(t, h.output.String(), "ai_provider_keys.api_key of row ")
	status, body := f.call("GET", url+"/api/providers?name=openai", "")
	require.Equal(t, http.StatusInternalServerError, status)
	require.JSONEq(t, failed, body)
	require.NotContains(t, h.output.String(), sealed)
	h.stop()

	_, err := f.start(f.with(occupy(t))).refused()
	require.ErrorIs(t, err, aiseed.ErrUndecryptable)
}

// S7: a row that the environment does not name and that cannot be decrypted takes no other down.
func TestS7_TheOthersAreServed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := f.start(f.environ)
	h.serving()
	f.exec(`insert into ai_providers (id, type, name) values ('11111111-1111-4111-8111-111111111111', 'openai', 'damaged')`)
	f.exec(`insert into ai_provider_keys (id, provider_id, position, api_key) values (gen_random_uuid(), '11111111-1111-4111-8111-111111111111', 0, 'plain-text')`)
	h.stop()

	again := f.start(f.environ)
	url := again.serving()
	f.requireListed(url)
	_, body := f.get(url + "/providers")
	require.Contains(t, body, `"unusable":["damaged"]`)
	require.Contains(t, again.output.String(), "some AI providers cannot be used; the others can")
	require.NotContains(t, again.output.String()+body, "plain-text")
	again.stop()
}
