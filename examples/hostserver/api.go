package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"example.com/aiseed"
)

const (
	maxBodyBytes  = 64 << 10
	maxActorBytes = 255
)

// api lets operators change providers over HTTP. Everybody with the token may do so. It
// does not verify who they say they are.
type api struct {
	store  *aiseed.Store
	logger *slog.Logger
}

// handler makes the routes of the API. It refuses requests without the token.
func (a *api) handler(token string) http.Handler {
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(context.Context, *http.Request) (reply, error){
		"GET /api/providers":                    a.list,
		"POST /api/providers":                   a.create,
		"PATCH /api/providers/{id}":             a.update,
		"POST /api/providers/{id}/enable":       a.enable(true),
		"POST /api/providers/{id}/disable":      a.enable(false),
		"DELETE /api/providers/{id}":            a.delete,
		"POST /api/providers/{id}/restore":      a.restore,
		"POST /api/providers/{id}/keys":         a.addKey,
		"DELETE /api/providers/{id}/keys/{key}": a.removeKey,
	} {
		mux.Handle(pattern, a.answering(answer))
	}
	want := sha256.Sum256([]byte("Bearer " + token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Compare hashes, so that the time does not show the token's length either.
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="hostserver"`)
			writeJSON(w, http.StatusUnauthorized, problemView{Error: "the token is missing or wrong; send the header Authorization: Bearer <token>"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// A reply is the answer to a request that succeeded.
type reply struct {
	status int
	body   any // nil for none
}

var done = reply{status: http.StatusNoContent}

func (a *api) answering(answer func(context.Context, *http.Request) (reply, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), operationTimeout)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		out, err := answer(ctx, r)
		if err != nil {
			status, view := a.problem(ctx, r, err)
			writeJSON(w, status, view)
			return
		}
		if out.body == nil {
			w.WriteHeader(out.status)
			return
		}
		writeJSON(w, out.status, out.body)
	})
}

// A problemView is the body of every answer that is not a success.
type problemView struct {
	Error    string         `json:"error"`
	Problems []fieldProblem `json:"problems,omitempty"`
}

type fieldProblem struct {
	Fields []string `json:"fields"`
	Reason string   `json:"reason"`
}

// badRequest is a request that cannot be understood.
type badRequest string

func (b badRequest) Error() string { return string(b) }

// problem returns the answer to an error. It logs errors that the client cannot do
// anything about.
func (a *api) problem(ctx context.Context, r *http.Request, err error) (int, problemView) {
	var config *aiseed.ConfigError
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest, problemView{Error: bad.Error()}
	case errors.As(err, &config):
		view := problemView{Error: "the provider cannot be like that; nothing was changed"}
		for _, p := range config.Problems {
			view.Problems = append(view.Problems, fieldProblem{p.Variables, p.Reason})
		}
		return http.StatusBadRequest, view
	case errors.Is(err, aiseed.ErrNotFound):
		return http.StatusNotFound, problemView{Error: err.Error()}
	case errors.Is(err, aiseed.ErrNameTaken):
		return http.StatusConflict, problemView{Error: err.Error()}
	}
	a.logger.ErrorContext(ctx, "a request failed", "method", r.Method, "path", r.URL.Path, "reason", err.Error())
	if errors.Is(err, aiseed.ErrLockTimeout) {
		return http.StatusServiceUnavailable, problemView{Error: "another process is changing providers; nothing was changed, try again"}
	}
	return http.StatusInternalServerError, problemView{Error: "it failed, or its outcome is not known; the server's log says why"}
}

// list shows the providers that the runtime uses. With ?all it shows every provider, so
// that an operator can find the id of one that is disabled, deleted or cannot be decrypted.
func (a *api) list(ctx context.Context, r *http.Request) (reply, error) {
	if r.URL.Query().Has("all") {
		infos, err := a.store.ListProviders(ctx)
		views := make([]infoView, len(infos))
		for i, p := range infos {
			views[i] = infoView{p.ID, p.Name, p.Type, p.Enabled, p.Deleted, aiseed.MaskURL(p.BaseURL), p.Keys}
		}
		return reply{http.StatusOK, views}, err
	}
	providers, err := a.store.Providers(ctx)
	views := make([]operatorView, len(providers))
	for i, p := range providers {
		views[i] = newOperatorView(p)
	}
	return reply{http.StatusOK, views}, err
}

type infoView struct {
	ID      uuid.UUID                `json:"id"`
	Name    string                   `json:"name"`
	Type    aiseed.ProviderType      `json:"type"`
	Enabled bool                     `json:"enabled"`
	Deleted bool                     `json:"deleted"`
	BaseURL string                   `json:"base_url,omitempty"`
	Keys    []aiseed.ProviderKeyInfo `json:"keys"`
}

func (a *api) create(ctx context.Context, r *http.Request) (reply, error) {
	var in struct {
		Type        aiseed.ProviderType `json:"type"`
		Name        string              `json:"name"`
		DisplayName string              `json:"display_name"`
		Disabled    bool                `json:"disabled"`
		BaseURL     string              `json:"base_url"`
		Keys        []string            `json:"keys"`
		bedrockFields
	}
	actor, err := read(r, &in)
	if err != nil {
		return reply{}, err
	}
	n := aiseed.ProviderSpec{Type: in.Type, Name: in.Name, DisplayName: in.DisplayName, Disabled: in.Disabled, BaseURL: in.BaseURL}
	for _, key := range in.Keys {
		n.Keys = append(n.Keys, aiseed.NewSecret(key))
	}
	if in.bedrockFields != (bedrockFields{}) {
		n.Bedrock = &aiseed.BedrockSettings{
			Region:          deref(in.Region),
			Model:           deref(in.Model),
			SmallFastModel:  deref(in.SmallFastModel),
			AccessKey:       aiseed.NewSecret(deref(in.AccessKey)),
			AccessKeySecret: aiseed.NewSecret(deref(in.AccessKeySecret)),
		}
	}
	p, err := a.store.CreateProvider(ctx, actor, n)
	return reply{http.StatusCreated, newOperatorView(p)}, err
}

// bedrockFields have the names that the library uses to report problems with them.
type bedrockFields struct {
	Region          *string `json:"bedrock_region"`
	Model           *string `json:"bedrock_model"`
	SmallFastModel  *string `json:"bedrock_small_fast_model"`
	AccessKey       *string `json:"bedrock_access_key"`
	AccessKeySecret *string `json:"bedrock_access_key_secret"`
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (a *api) update(ctx context.Context, r *http.Request) (reply, error) {
	var in struct {
		DisplayName *string `json:"display_name"`
		BaseURL     *string `json:"base_url"`
		bedrockFields
	}
	actor, id, err := readFor(r, &in)
	if err != nil {
		return reply{}, err
	}
	p, err := a.store.UpdateProvider(ctx, actor, id, aiseed.ProviderUpdate{
		DisplayName: in.DisplayName, BaseURL: in.BaseURL,
		Region: in.Region, Model: in.Model, SmallFastModel: in.SmallFastModel,
		AccessKey: secretOf(in.AccessKey), AccessKeySecret: secretOf(in.AccessKeySecret),
	})
	return reply{http.StatusOK, newOperatorView(p)}, err
}

func secretOf(value *string) *aiseed.Secret {
	if value == nil {
		return nil
	}
	secret := aiseed.NewSecret(*value)
	return &secret
}

func (a *api) enable(enabled bool) func(context.Context, *http.Request) (reply, error) {
	return func(ctx context.Context, r *http.Request) (reply, error) {
		actor, id, err := readFor(r, nil)
		if err != nil {
			return reply{}, err
		}
		return done, a.store.SetProviderEnabled(ctx, actor, id, enabled)
	}
}

func (a *api) delete(ctx context.Context, r *http.Request) (reply, error) {
	actor, id, err := readFor(r, nil)
	if err != nil {
		return reply{}, err
	}
	return done, a.store.DeleteProvider(ctx, actor, id)
}

func (a *api) restore(ctx context.Context, r *http.Request) (reply, error) {
	actor, id, err := readFor(r, nil)
	if err != nil {
		return reply{}, err
	}
	p, err := a.store.RestoreProvider(ctx, actor, id)
	return reply{http.StatusOK, newOperatorView(p)}, err
}

func (a *api) addKey(ctx context.Context, r *http.Request) (reply, error) {
	var in struct {
		Key string `json:"key"`
	}
	actor, id, err := readFor(r, &in)
	if err != nil {
		return reply{}, err
	}
	key, err := a.store.AddProviderKey(ctx, actor, id, aiseed.NewSecret(in.Key))
	return reply{http.StatusCreated, newKeyView(key)}, err
}

func (a *api) removeKey(ctx context.Context, r *http.Request) (reply, error) {
	actor, id, err := readFor(r, nil)
	if err != nil {
		return reply{}, err
	}
	key, err := pathID(r, "key")
	if err != nil {
		return reply{}, err
	}
	return done, a.store.RemoveProviderKey(ctx, actor, id, key)
}

// readFor is read for a request about one provider.
func readFor(r *http.Request, body any) (actor string, id uuid.UUID, err error) {
	if id, err = pathID(r, "id"); err != nil {
		return "", id, err
	}
	actor, err = read(r, body)
	return actor, id, err
}

func pathID(r *http.Request, name string) (uuid.UUID, error) {
	id, err := uuid.Parse(r.PathValue(name))
	if err != nil {
		return id, badRequest("the " + name + " in the path is not a UUID")
	}
	return id, nil
}

// read returns the actor of a request and decodes the request's body into body. If body is
// nil, it does not read the request's body.
func read(r *http.Request, body any) (actor string, err error) {
	actor = cmp.Or(strings.TrimSpace(r.Header.Get("X-Actor")), "api")
	if len(actor) > maxActorBytes || !utf8.ValidString(actor) || strings.ContainsFunc(actor, unicode.IsControl) || actor == aiseed.SystemActor {
		return "", badRequest(fmt.Sprintf("X-Actor is longer than %d bytes, not UTF-8, holds a control character, or is %q", maxActorBytes, aiseed.SystemActor))
	}
	if body == nil {
		return actor, nil
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err = decoder.Decode(body)
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return actor, nil
		}
		err = errors.New("something follows the JSON object")
	}
	return "", badRequest("the body cannot be used: " + bodyReason(err))
}

// bodyReason says what is wrong with a body without quoting a value of it.
func bodyReason(err error) string {
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &tooLarge):
		return fmt.Sprintf("it is larger than %d KiB", maxBodyBytes>>10)
	case errors.As(err, &wrongType):
		return fmt.Sprintf("%s is of the wrong type; want %s", cmp.Or(wrongType.Field, "it"), wrongType.Type.Kind())
	case errors.As(err, &syntax):
		return fmt.Sprintf("no JSON at byte %d", syntax.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// An operatorView is a provider as the API shows it. A Secret in it shows its mask.
type operatorView struct {
	ID          uuid.UUID           `json:"id"`
	Type        aiseed.ProviderType `json:"type"`
	Name        string              `json:"name"`
	DisplayName string              `json:"display_name"`
	Enabled     bool                `json:"enabled"`
	BaseURL     string              `json:"base_url"`
	Bedrock     *bedrockView        `json:"bedrock,omitempty"`
	Keys        []keyView           `json:"keys"`
	CreatedAt   time.Time           `json:"created_at"`
	UpdatedAt   time.Time           `json:"updated_at"`
}

type bedrockView struct {
	Region          string        `json:"region"`
	Model           string        `json:"model"`
	SmallFastModel  string        `json:"small_fast_model"`
	AccessKey       aiseed.Secret `json:"access_key"`
	AccessKeySecret aiseed.Secret `json:"access_key_secret"`
}

type keyView struct {
	ID  uuid.UUID     `json:"id"`
	Key aiseed.Secret `json:"key"`
}

func newOperatorView(p aiseed.Provider) operatorView {
	v := operatorView{
		ID: p.ID, Type: p.Type, Name: p.Name, DisplayName: p.DisplayName, Enabled: p.Enabled,
		BaseURL: aiseed.MaskURL(p.BaseURL), Keys: []keyView{}, CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt,
	}
	if b := p.Bedrock; b != nil {
		v.Bedrock = &bedrockView{b.Region, b.Model, b.SmallFastModel, b.AccessKey, b.AccessKeySecret}
	}
	for _, key := range p.Keys {
		v.Keys = append(v.Keys, newKeyView(key))
	}
	return v
}

func newKeyView(key aiseed.ProviderKey) keyView { return keyView{key.ID, key.APIKey} }
