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
	"regexp"
	"strconv"
	"strings"
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

// An operation answers a request. It returns a status and a body, nil for none.
type operation func(context.Context, *request) (status int, body any, err error)

// handler makes the routes of the API. It refuses requests without the token.
func (a *api) handler(token string) http.Handler {
	mux := http.NewServeMux()
	for pattern, do := range map[string]operation{
		"GET /api/providers":           a.list,
		"POST /api/providers":          a.create,
		"GET /api/providers/{id}":      a.get,
		"PATCH /api/providers/{id}":    a.update,
		"PUT /api/providers/{id}/keys": a.replaceKeys,
		"POST /api/providers/{id}/keys": func(ctx context.Context, r *request) (int, any, error) {
			var in struct {
				Key string `json:"key"`
			}
			if err := r.read(&in); err != nil {
				return 0, nil, err
			}
			key, err := a.store.AddProviderKey(ctx, r.actor, r.id, aiseed.NewSecret(in.Key))
			return http.StatusCreated, key, err
		},
		"DELETE /api/providers/{id}/keys/{key}": func(ctx context.Context, r *request) (int, any, error) {
			return http.StatusNoContent, nil, a.store.RemoveProviderKey(ctx, r.actor, r.id, r.key)
		},
		"POST /api/providers/{id}/enable": func(ctx context.Context, r *request) (int, any, error) {
			return http.StatusNoContent, nil, a.store.SetProviderEnabled(ctx, r.actor, r.id, true)
		},
		"POST /api/providers/{id}/disable": func(ctx context.Context, r *request) (int, any, error) {
			return http.StatusNoContent, nil, a.store.SetProviderEnabled(ctx, r.actor, r.id, false)
		},
		"DELETE /api/providers/{id}": func(ctx context.Context, r *request) (int, any, error) {
			return http.StatusNoContent, nil, a.store.DeleteProvider(ctx, r.actor, r.id)
		},
		"POST /api/providers/{id}/restore": func(ctx context.Context, r *request) (int, any, error) {
			p, err := a.store.RestoreProvider(ctx, r.actor, r.id)
			return http.StatusOK, p, err
		},
	} {
		mux.Handle(pattern, a.answering(do))
	}
	routes := jsonErrors(mux)
	want := sha256.Sum256([]byte("Bearer " + token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Compare hashes, so that the time does not show the token's length either.
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="hostserver"`)
			writeJSON(w, http.StatusUnauthorized, problemView{Error: "the token is missing or wrong; send the header Authorization: Bearer <token>"})
			return
		}
		routes.ServeHTTP(w, r)
	})
}

func (a *api) answering(do operation) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), operationTimeout)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		in, err := newRequest(r)
		var status int
		var body any
		if err == nil {
			status, body, err = do(ctx, in)
		}
		if err != nil {
			status, body = a.problem(ctx, r, err)
		}
		if p, ok := body.(aiseed.Provider); ok {
			w.Header().Set("ETag", fmt.Sprintf(`"%d"`, p.Revision))
		}
		if body == nil {
			w.WriteHeader(status)
			return
		}
		writeJSON(w, status, body)
	})
}

// A request is what all operations need of one.
type request struct {
	*http.Request
	actor    string
	id, key  uuid.UUID // of the path; zero if it has none
	revision int64     // of If-Match; 0 for any
}

// oneETag matches the number in an ETag of ours. A weak one, a list or another form is none.
var oneETag = regexp.MustCompile(`^"([1-9][0-9]*)"$`)

func newRequest(r *http.Request) (*request, error) {
	in := &request{Request: r, actor: cmp.Or(strings.TrimSpace(r.Header.Get("X-Actor")), "api")}
	if len(in.actor) > maxActorBytes || !utf8.ValidString(in.actor) || strings.ContainsFunc(in.actor, unicode.IsControl) || in.actor == aiseed.SystemActor {
		return nil, badRequest(fmt.Sprintf("X-Actor is longer than %d bytes, not UTF-8, holds a control character, or is %q", maxActorBytes, aiseed.SystemActor))
	}
	for name, into := range map[string]*uuid.UUID{"id": &in.id, "key": &in.key} {
		var err error
		if value := r.PathValue(name); value != "" {
			if *into, err = uuid.Parse(value); err != nil {
				return nil, badRequest("the " + name + " in the path is not a UUID")
			}
		}
	}
	if match := strings.Join(r.Header.Values("If-Match"), ","); match != "" && match != "*" {
		if r.Method != http.MethodPatch && r.Method != http.MethodPut {
			return nil, badRequest("If-Match is for PATCH and PUT only")
		}
		etag := oneETag.FindStringSubmatch(match)
		if etag == nil {
			return nil, badRequest("If-Match is not one ETag of this API, as it sent it")
		}
		in.revision, _ = strconv.ParseInt(etag[1], 10, 64)
	}
	return in, nil
}

// read decodes the body.
func (r *request) read(into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil || !errors.As(err, new(*http.MaxBytesError)) {
			err = errors.New("something follows the JSON object")
		}
	}
	if errors.As(err, new(*http.MaxBytesError)) {
		return err
	}
	return badRequest("the body cannot be used: " + bodyReason(err))
}

// bodyReason says what is wrong with a body without quoting a value of it.
func bodyReason(err error) string {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType):
		return fmt.Sprintf("%s is of the wrong type; want %s", cmp.Or(wrongType.Field, "it"), wrongType.Type.Kind())
	case errors.As(err, &syntax):
		return fmt.Sprintf("no JSON at byte %d", syntax.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
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
	switch {
	case errors.As(err, new(badRequest)):
		return http.StatusBadRequest, problemView{Error: err.Error()}
	case errors.As(err, new(*http.MaxBytesError)):
		return http.StatusRequestEntityTooLarge, problemView{Error: fmt.Sprintf("the body is larger than %d KiB", maxBodyBytes>>10)}
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
	case errors.Is(err, aiseed.ErrConflict):
		return http.StatusPreconditionFailed, problemView{Error: err.Error()}
	}
	a.logger.ErrorContext(ctx, "a request failed", "method", r.Method, "path", r.URL.Path, "reason", err.Error())
	if errors.Is(err, aiseed.ErrLockTimeout) && !errors.Is(err, aiseed.ErrCommitUnknown) {
		return http.StatusServiceUnavailable, problemView{Error: "another process is changing providers; nothing was changed, try again"}
	}
	return http.StatusInternalServerError, problemView{Error: "it failed, or its outcome is not known; the server's log says why"}
}

// list shows every provider, also those that are disabled, deleted or cannot be decrypted. With
// ?name= it shows the live provider with that name.
func (a *api) list(ctx context.Context, r *request) (int, any, error) {
	if query := r.URL.Query(); query.Has("name") {
		p, err := a.store.ProviderByName(ctx, query.Get("name"))
		return http.StatusOK, p, err
	}
	infos, err := a.store.ListProviders(ctx)
	return http.StatusOK, infos, err
}

func (a *api) get(ctx context.Context, r *request) (int, any, error) {
	p, err := a.store.Provider(ctx, r.id)
	return http.StatusOK, p, err
}

func (a *api) create(ctx context.Context, r *request) (int, any, error) {
	var in struct {
		Type        aiseed.ProviderType `json:"type"`
		Name        string              `json:"name"`
		DisplayName string              `json:"display_name"`
		Disabled    bool                `json:"disabled"`
		BaseURL     string              `json:"base_url"`
		Keys        []string            `json:"keys"`
		bedrockFields
	}
	if err := r.read(&in); err != nil {
		return 0, nil, err
	}
	n := aiseed.ProviderSpec{Type: in.Type, Name: in.Name, DisplayName: in.DisplayName, Disabled: in.Disabled, BaseURL: in.BaseURL, Keys: secrets(in.Keys)}
	if in.bedrockFields != (bedrockFields{}) {
		n.Bedrock = &aiseed.BedrockSettings{
			Region: deref(in.Region), Model: deref(in.Model), SmallFastModel: deref(in.SmallFastModel),
			AccessKey: deref(secretOf(in.AccessKey)), AccessKeySecret: deref(secretOf(in.AccessKeySecret)),
		}
	}
	p, err := a.store.CreateProvider(ctx, r.actor, n)
	return http.StatusCreated, p, err
}

// bedrockFields have the names that the library uses to report problems with them.
type bedrockFields struct {
	Region          *string `json:"bedrock_region"`
	Model           *string `json:"bedrock_model"`
	SmallFastModel  *string `json:"bedrock_small_fast_model"`
	AccessKey       *string `json:"bedrock_access_key"`
	AccessKeySecret *string `json:"bedrock_access_key_secret"`
}

func (a *api) update(ctx context.Context, r *request) (int, any, error) {
	var in struct {
		DisplayName   *string `json:"display_name"`
		BaseURL       *string `json:"base_url"`
		RemoveBedrock bool    `json:"remove_bedrock"`
		bedrockFields
	}
	if err := r.read(&in); err != nil {
		return 0, nil, err
	}
	p, err := a.store.UpdateProvider(ctx, r.actor, r.id, aiseed.ProviderUpdate{
		Revision: r.revision, DisplayName: in.DisplayName, BaseURL: in.BaseURL,
		Region: in.Region, Model: in.Model, SmallFastModel: in.SmallFastModel,
		AccessKey: secretOf(in.AccessKey), AccessKeySecret: secretOf(in.AccessKeySecret), RemoveBedrock: in.RemoveBedrock,
	})
	return http.StatusOK, p, err
}

// replaceKeys is an update, since that can name a revision.
func (a *api) replaceKeys(ctx context.Context, r *request) (int, any, error) {
	var in struct {
		Keys []string `json:"keys"`
	}
	if err := r.read(&in); err != nil {
		return 0, nil, err
	}
	if in.Keys == nil {
		return 0, nil, badRequest("keys is missing; send an empty list to remove all keys")
	}
	p, err := a.store.UpdateProvider(ctx, r.actor, r.id, aiseed.ProviderUpdate{Revision: r.revision, Keys: secrets(in.Keys)})
	return http.StatusOK, p, err
}

func secrets(values []string) []aiseed.Secret {
	secrets := make([]aiseed.Secret, len(values))
	for i, value := range values {
		secrets[i] = aiseed.NewSecret(value)
	}
	return secrets
}

func secretOf(value *string) *aiseed.Secret {
	if value == nil {
		return nil
	}
	return new(aiseed.NewSecret(*value))
}

func deref[T any](v *T) (value T) {
	if v != nil {
		value = *v
	}
	return value
}
