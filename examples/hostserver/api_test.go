package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/aiseedtest"
	"example.com/aiseed/stdslog"
)

const (
	failed = `{"error": "it failed, or its outcome is not known; the server's log says why"}`

	// Requests send this, and no answer or log line may show it.
	sentKey    = "sEnT-9Yc3Jx6Lp2Hf8Tn5Vb"
	anotherKey = "aNoT-4Dk7Rw1Zs9Gm3Qx6Ue"
)

// startAPI starts a host with an API, and returns the prefix of the API's paths.
func startAPI(t *testing.T) (h *host, api string) {
	t.Helper()
	f := setup(t)
	f.secrets = append(f.secrets, sentKey, anotherKey)
	h = f.start(f.environ)
	return h, h.serving() + "/api/providers"
}

// want calls the API, requires the status, and decodes the answer.
func (f *fixture) want(status int, method, url, body string) (out operatorAnswer) {
	f.t.Helper()
	got, answer := f.call(method, url, body, "X-Actor", "ada")
	require.Equal(f.t, status, got, answer)
	if status != http.StatusNoContent {
		require.NoError(f.t, json.Unmarshal([]byte(answer), &out), answer)
	}
	return out
}

type operatorAnswer struct {
	ID          string
	Name        string
	DisplayName string `json:"display_name"`
	Enabled     bool
	BaseURL     string `json:"base_url"`
	Bedrock     *struct{ Region, Model string }
	Key         string
	Keys        []struct{ ID, Key string }
	Error       string
	Problems    []fieldProblem
}

func (f *fixture) idOf(name string) string {
	f.t.Helper()
	return f.rows(`select id::text from ai_providers where name = $1 and not deleted`, name)[0]
}

func TestO4_EveryOperation(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)

	p := h.want(http.StatusCreated, "POST", api, `{"type": "openai", "name": "second", "base_url": "https://second.example/v1?token=`+anotherKey+`", "keys": ["`+sentKey+`"]}`)
	require.Equal(t, "https://second.example/v1?token=****", p.BaseURL)
	require.True(t, p.Enabled)
	require.Equal(t, "****n5Vb", p.Keys[0].Key)
	one := api + "/" + p.ID

	p = h.want(http.StatusOK, "PATCH", one, `{"display_name": "Second", "base_url": "https://moved.example/v1"}`)
	require.Equal(t, "Second", p.DisplayName)
	require.Equal(t, "https://moved.example/v1", p.BaseURL)

	key := h.want(http.StatusCreated, "POST", one+"/keys", `{"key": "`+anotherKey+`"}`)
	require.Equal(t, "****x6Ue", key.Key)
	h.want(http.StatusNoContent, "DELETE", one+"/keys/"+p.Keys[0].ID, "")

	h.want(http.StatusNoContent, "POST", one+"/disable", "")
	_, body := h.call("GET", one, "")
	require.Contains(t, body, `"enabled":false`)
	h.want(http.StatusNoContent, "POST", one+"/enable", "")
	_, body = h.call("GET", one, "")
	require.Contains(t, body, `"name":"second","display_name":"Second","enabled":true,"base_url":"https://moved.example/v1","keys":[{"id":"`+key.ID+`","key":"****x6Ue",`)

	h.want(http.StatusNoContent, "DELETE", one, "")
	h.want(http.StatusNotFound, "PATCH", one, `{"base_url": ""}`)
	p = h.want(http.StatusOK, "POST", one+"/restore", "")
	require.Equal(t, key.ID, p.Keys[0].ID, "with the keys that it had")

	require.Equal(t, []string{
		"ada create ai_provider", "ada create ai_provider_key", "ada update ai_provider", "ada create ai_provider_key",
		"ada delete ai_provider_key", "ada update ai_provider", "ada update ai_provider", "ada delete ai_provider", "ada restore ai_provider",
	}, h.rows(`select actor || ' ' || action || ' ' || resource from ai_provider_audits where provider_name = 'second' order by seq`))
	require.Empty(t, h.rows(`select id from ai_provider_audits where delivered_at is null`), "each was delivered with its request")
	require.Equal(t, 9, strings.Count(h.output.String(), "actor=ada"))
	h.stop()
}

func TestO4_BedrockOverTheAPI(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	p := h.want(http.StatusCreated, "POST", api, `{"type": "anthropic", "name": "bed", "disabled": true, "bedrock_region": "eu-west-1", "bedrock_access_key": "AKID", "bedrock_access_key_secret": "`+sentKey+`"}`)
	require.False(t, p.Enabled)
	require.Equal(t, "global.anthropic.claude-sonnet-4-5-20250929-v1:0", p.Bedrock.Model)
	p = h.want(http.StatusOK, "PATCH", api+"/"+p.ID, `{"bedrock_region": "eu-west-3"}`)
	require.Equal(t, "eu-west-3", p.Bedrock.Region)
	h.stop()
}

func TestActorIsTheAPIUnlessNamed(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	status, _ := h.call("POST", api+"/"+h.idOf("aws")+"/disable", "")
	require.Equal(t, http.StatusNoContent, status)
	require.Equal(t, []string{"api"}, h.rows(`select actor from ai_provider_audits where action = 'update'`))
	for _, actor := range []string{strings.Repeat("a", 256), "\xff"} {
		status, _ = h.call("POST", api+"/"+h.idOf("aws")+"/enable", "", "X-Actor", actor)
		require.Equal(t, http.StatusBadRequest, status)
	}
	h.stop()
}

func TestErrorsOfTheAPI(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	aws, nobody := h.idOf("aws"), uuid.NewString()
	_, deleted := h.call("DELETE", api+"/"+h.idOf("openai"), "")
	require.Empty(t, deleted)
	tombstone := h.rows(`select id::text from ai_providers where deleted`)[0]
	h.want(http.StatusCreated, "POST", api, `{"type": "openai", "name": "openai"}`)
	before := h.state()

	for _, tt := range []struct {
		what               string
		status             int
		method, path, body string
		want               string
	}{
		{"malformed JSON", 400, "POST", "", `{"type": `, `{"error": "the body cannot be used: it ends too early"}`},
		{"no JSON", 400, "POST", "", `type=openai`, `{"error": "the body cannot be used: no JSON at byte 2"}`},
		{"no body", 400, "POST", "", ``, `{"error": "the body cannot be used: it ends too early"}`},
		{"unknown field", 400, "POST", "", `{"tpye": "openai"}`, `{"error": "the body cannot be used: unknown field \"tpye\""}`},
		{"wrong type", 400, "POST", "", `{"keys": "` + sentKey + `"}`, `{"error": "the body cannot be used: keys is of the wrong type; want slice"}`},
		{"two objects", 400, "POST", "", `{"type": "openai"} {}`, `{"error": "the body cannot be used: something follows the JSON object"}`},
		{"large body", 413, "POST", "", `{"name": "` + strings.Repeat("a", 64<<10) + `"}`, `{"error": "the body is larger than 64 KiB"}`},
		{"large space", 413, "POST", "", `{}` + strings.Repeat(" ", 64<<10), `{"error": "the body is larger than 64 KiB"}`},
		{"no keys", 400, "PUT", "/" + aws + "/keys", `{}`, `{"error": "keys is missing; send an empty list to remove all keys"}`},
		{"id that is none", 400, "DELETE", "/corp", ``, `{"error": "the id in the path is not a UUID"}`},
		{"key that is none", 400, "DELETE", "/" + aws + "/keys/1", ``, `{"error": "the key in the path is not a UUID"}`},
		{
			"impossible provider", 400, "POST", "", `{"type": "anthropic", "name": "A b", "base_url": "https://user:` + sentKey + `@host", "keys": ["` + sentKey + ` "], "bedrock_region": "eu west"}`,
			`{"error": "the provider cannot be like that; nothing was changed", "problems": [
				{"fields": ["name"], "reason": "not a valid name; want lower-case letters, digits and single hyphens between them, at most 255 bytes"},
				{"fields": ["base_url"], "reason": "a URL with user info (user:password@); put the credential into a key variable instead"},
				{"fields": ["bedrock_region"], "reason": "a space in it"},
				{"fields": ["keys"], "reason": "a space in it"},
				{"fields": ["keys", "bedrock_region"], "reason": "a provider authenticates with bearer keys or with Bedrock settings, not with both; remove one"}]}`,
		},
		{"impossible key", 400, "POST", "/" + aws + "/keys", `{"key": "` + sentKey + `"}`, ``},
		{"empty key", 400, "POST", "/" + h.idOf("corp") + "/keys", `{"key": ""}`, `{"error": "the provider cannot be like that; nothing was changed", "problems": [{"fields": ["keys"], "reason": "element 3: empty"}]}`},
		{"nobody", 404, "PATCH", "/" + nobody, `{"base_url": "https://x"}`, `{"error": "aiseed: there is no provider with id ` + nobody + `; list the providers to see what there is"}`},
		{"no such key", 404, "DELETE", "/" + aws + "/keys/" + nobody, ``, `{"error": "aiseed: provider aws has no key with id ` + nobody + `; list the providers to see which keys it has"}`},
		{"tombstone", 404, "POST", "/" + tombstone + "/enable", ``, `{"error": "aiseed: provider openai with id ` + tombstone + ` is deleted; restore it first"}`},
		{"not deleted", 404, "POST", "/" + aws + "/restore", ``, `{"error": "aiseed: there is no deleted provider with id ` + aws + `; list the providers to see what there is"}`},
		{"name taken", 409, "POST", "", `{"type": "openai", "name": "corp"}`, `{"error": "aiseed: there is a live provider corp already; choose another name, or update that one"}`},
	} {
		t.Run(tt.what, func(t *testing.T) {
			status, body := h.call(tt.method, api+tt.path, tt.body)
			require.Equal(t, tt.status, status, body)
			if tt.want != "" {
				require.JSONEq(t, tt.want, body)
			}
		})
	}
	require.Equal(t, before, h.state(), "nothing was changed")
	h.want(http.StatusConflict, "POST", api+"/"+tombstone+"/restore", "")

	h.exec(`alter table ai_providers rename to elsewhere`)
	status, body := h.call("DELETE", api+"/"+aws, "")
	require.Equal(t, http.StatusInternalServerError, status)
	require.JSONEq(t, failed, body)
	require.Contains(t, h.output.String(), "SQLSTATE 42P01")
	h.stop()
}

func TestLockThatIsHeldIsUnavailable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	store, err := aiseed.Open(context.Background(), f.pool, aiseed.StoreOptions{Keyring: aiseedtest.NewKeyring(t), LockTimeout: 50 * time.Millisecond})
	require.NoError(t, err)
	var log bytes.Buffer
	operators := &api{store: store, logger: slog.New(slog.NewTextHandler(&log, nil))}
	server := httptest.NewServer(operators.handler(token))
	t.Cleanup(server.Close)
	f.hold(fmt.Sprintf(`select pg_advisory_xact_lock(%d)`, aiseed.LockKey("")))
	status, body := f.call("POST", server.URL+"/api/providers", `{"type": "openai", "name": "x"}`)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.JSONEq(t, `{"error": "another process is changing providers; nothing was changed, try again"}`, body)
	require.Contains(t, log.String(), `application \"the test\"`, "the log names the holder")
}

func TestNoAPIWithoutAToken(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := f.start(f.with(tokenVariable + "="))
	url := h.serving()
	for _, header := range []string{"Bearer " + token, "Bearer ", "Bearer", ""} {
		status, _ := f.call("GET", url+"/api/providers", "", "Authorization", header)
		require.Equal(t, http.StatusNotFound, status)
	}
	h.stop()
}

func TestWrongTokenIsRefused(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	before := h.state()
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer x", "bearer " + token, token, "Bearer " + token + "x"} {
		for _, path := range []string{"", "/" + h.idOf("aws"), "/nowhere/at/all"} {
			status, body := h.call("DELETE", api+path, "", "Authorization", header)
			require.Equal(t, http.StatusUnauthorized, status, "%q", header)
			require.JSONEq(t, `{"error": "the token is missing or wrong; send the header Authorization: Bearer <token>"}`, body)
		}
	}
	response, err := http.Get(api)
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, response.Body)
	require.NoError(t, response.Body.Close())
	require.Equal(t, `Bearer realm="hostserver"`, response.Header.Get("WWW-Authenticate"))
	http.DefaultClient.CloseIdleConnections()
	require.Equal(t, before, h.state())
	h.stop()
}

func TestO8_ChangeOfAnotherInstanceShowsUp(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first, second := f.start(f.environ), f.start(f.environ)
	changed, looked := first.serving(), second.serving()
	f.requireListed(looked)
	status, _ := f.call("POST", changed+"/api/providers/"+f.idOf("corp")+"/disable", "")
	require.Equal(t, http.StatusNoContent, status)
	want := `[{"name": "aws", "type": "anthropic", "keys": []}, {"name": "openai", "type": "openai", "base_url": "https://api.openai.com/v1/", "keys": ["****fJs2"]}]`
	f.eventuallyListed(looked, want)
	f.eventuallyListed(changed, want)
	first.interrupt()
	second.interrupt()
	first.end()
	second.end()
	first.stop()
	second.stop()
}

// A start either came before the edit and succeeded, or came after it and found a
// drift. The database contains the same in both cases.
func TestStartAndEditAtTheSameTime(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	id := h.idOf("openai")
	keyring, err := aiseed.ParseKeyring(lookup(h.environ, keysVariable))
	require.NoError(t, err)
	store, err := aiseed.Open(context.Background(), h.pool, aiseed.StoreOptions{Keyring: keyring, LockTimeout: time.Hour})
	require.NoError(t, err)
	environ := append([]string{"CODER_AIBRIDGE_PROVIDER_2_TYPE=openai", "CODER_AIBRIDGE_PROVIDER_2_NAME=both"}, h.environ...)
	cfg, err := aiseed.ParseEnviron(context.Background(), environ, stdslog.New(nil))
	require.NoError(t, err)

	const starts = 8
	errs := make([]error, starts)
	var statuses [2]int
	var wg sync.WaitGroup
	for i := range starts {
		wg.Go(func() {
			errs[i] = aiseed.SeedAIProvidersFromEnv(context.Background(), store, cfg, aiseed.LeaveAudits, stdslog.New(nil))
		})
	}
	wg.Go(func() {
		statuses[0], _, _ = call("PATCH", api+"/"+id, `{"base_url": "https://edited.example/v1"}`)
	})
	wg.Go(func() { statuses[1], _, _ = call("POST", api, `{"type": "openai", "name": "both"}`) })
	wg.Wait()

	for _, err := range errs {
		if err != nil {
			require.ErrorIs(t, err, aiseed.ErrDrift)
		}
	}
	require.Equal(t, http.StatusOK, statuses[0])
	require.Contains(t, []int{http.StatusCreated, http.StatusConflict}, statuses[1])
	require.Equal(t, []string{"https://edited.example/v1 true"}, h.rows(`select base_url, enabled from ai_providers where id = $1`, id))
	require.Equal(t, []string{"1"}, h.rows(`select count(*)::text from ai_provider_audits where action = 'update'`))
	if made := h.rows(`select count(*)::text from ai_providers where name = 'both'`)[0]; statuses[1] == http.StatusCreated {
		require.Equal(t, "1", made)
	}
	require.Equal(t, h.rows(`select id::text from ai_providers order by id`),
		h.rows(`select resource_id::text from ai_provider_audits where action = 'create' and resource = 'ai_provider' order by resource_id`), "one entry per row, none without")
	h.stop()
}

func TestO4_TheListShowsEveryProviderWithItsID(t *testing.T) {
	t.Parallel()
	h, url := startAPI(t)
	h.want(http.StatusNoContent, "DELETE", url+"/"+h.idOf("corp"), "")
	h.exec(`update ai_provider_keys set api_key = 'damaged' where provider_id = $1`, h.idOf("openai"))
	status, body := h.call("GET", url, "")
	require.Equal(t, http.StatusOK, status)
	var all []aiseed.ProviderInfo
	require.NoError(t, json.Unmarshal([]byte(body), &all))
	require.Len(t, all, 3)
	require.Equal(t, "eu-central-1", all[0].Region)
	require.True(t, all[1].Deleted)
	require.Equal(t, []string{"****sEdC", "****qSwA"}, []string{all[1].Keys[0].Mask, all[1].Keys[1].Mask})
	require.Equal(t, "https://llm.corp.example/anthropic?token=****", all[1].BaseURL)
	require.True(t, all[2].Keys[0].Undecryptable)
	h.want(http.StatusOK, "POST", url+"/"+all[1].ID.String()+"/restore", "")
	h.stop()
}

// callFor is call, with the ETag of the answer.
func (f *fixture) callFor(method, url, body, ifMatch string) (status int, etag, answer string) {
	f.t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(f.t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	if ifMatch != "" {
		request.Header.Set("If-Match", ifMatch)
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	require.NoError(f.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	require.Equal(f.t, "application/json", response.Header.Get("Content-Type"))
	f.requireNoSecret(string(raw))
	return response.StatusCode, response.Header.Get("ETag"), string(raw)
}

func TestO4_AChangeNamesTheETagThatItWasDecidedOn(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	one := api + "/" + h.idOf("corp")
	status, etag, read := h.callFor("GET", one, "", "")
	require.Equal(t, []any{200, `"1"`}, []any{status, etag}, read)
	_, named, byName := h.callFor("GET", api+"?name=corp", "", "")
	require.Equal(t, []string{etag, read}, []string{named, byName})

	status, moved, _ := h.callFor("PATCH", one, `{"display_name": "Corp"}`, etag)
	require.Equal(t, []any{200, `"2"`}, []any{status, moved})
	before := h.state()
	for _, stale := range []string{"PATCH", "PUT"} {
		url, body := one, `{"display_name": "lost"}`
		if stale == "PUT" {
			url, body = one+"/keys", `{"keys": ["`+sentKey+`"]}`
		}
		status, _, body = h.callFor(stale, url, body, etag)
		require.Equal(t, http.StatusPreconditionFailed, status)
		require.Contains(t, body, "the change was decided on revision 1, and the provider has revision 2; nothing was changed; read the provider again")
	}
	for _, bad := range []struct{ method, match string }{{"PATCH", `W/"2"`}, {"PATCH", `"1", "2"`}, {"PATCH", `"0"`}, {"DELETE", `"2"`}} {
		status, _, body := h.callFor(bad.method, one, `{}`, bad.match)
		require.Equal(t, http.StatusBadRequest, status, body)
	}
	require.Equal(t, before, h.state())

	status, replaced, body := h.callFor("PUT", one+"/keys", `{"keys": ["tWo6-Vg9tBnM4jKiOlPy2XqSwA", "`+sentKey+`"]}`, moved)
	require.Equal(t, []any{200, `"3"`}, []any{status, replaced}, body)
	var was, is operatorAnswer
	require.NoError(t, json.Unmarshal([]byte(read), &was))
	require.NoError(t, json.Unmarshal([]byte(body), &is))
	require.Equal(t, was.Keys[1], is.Keys[0], "the same key")
	require.Equal(t, "****n5Vb", is.Keys[1].Key)
	status, _, _ = h.callFor("PUT", one+"/keys", `{"keys": []}`, "*")
	require.Equal(t, http.StatusOK, status)
	h.stop()
}

func TestO4_BedrockSettingsAreTakenAwayOverTheAPI(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	one := api + "/" + h.idOf("aws")
	p := h.want(http.StatusOK, "PATCH", one, `{"remove_bedrock": true, "base_url": ""}`)
	require.Nil(t, p.Bedrock)
	p = h.want(http.StatusBadRequest, "PATCH", one, `{"remove_bedrock": true, "bedrock_region": "r"}`)
	require.Equal(t, []string{"remove_bedrock", "bedrock_region"}, p.Problems[0].Fields)
	h.stop()
}

func TestNothingMatchesInJSON(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	root := strings.TrimSuffix(api, "/api/providers")
	for _, tt := range []struct {
		method, url string
		status      int
		want        string
	}{
		{"GET", root + "/nowhere", 404, `{"error": "not found"}`},
		{"POST", root + "/providers", 405, `{"error": "method not allowed"}`},
		{"GET", api + "/x/y/z", 404, `{"error": "not found"}`},
		{"PUT", api, 405, `{"error": "method not allowed"}`},
	} {
		status, _, body := h.callFor(tt.method, tt.url, "", "")
		require.Equal(t, tt.status, status, tt.url)
		require.JSONEq(t, tt.want, body)
	}
	h.stop()
}

// O3: what operators change through the API stops no restart, as long as the environment stays.
func TestO3_WhatTheAPIChangedStopsNoRestart(t *testing.T) {
	t.Parallel()
	h, api := startAPI(t)
	h.want(http.StatusOK, "PATCH", api+"/"+h.idOf("openai"), `{"base_url": "https://moved.example/v1"}`)
	h.stop()
	again := h.start(h.environ)
	again.serving()
	require.Contains(t, again.output.String(), "it differs from the environment in base URL and stays as it is")
	again.stop()
	_, err := h.start(h.with("CODER_AIBRIDGE_OPENAI_BASE_URL=https://elsewhere.example/v1")).refused()
	require.ErrorIs(t, err, aiseed.ErrDrift)
}
