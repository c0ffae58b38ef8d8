package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
)

const (
	pingTimeout     = 2 * time.Second
	queryTimeout    = 5 * time.Second
	shutdownTimeout = 10 * time.Second
)

// serve answers requests until ctx ends, and then finishes those under way.
func serve(ctx context.Context, listener net.Listener, handler http.Handler, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	defer server.Close()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	logger.InfoContext(ctx, "listening", "address", listener.Addr().String())

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	logger.InfoContext(ctx, "shutting down")
	// The only thing that outlives ctx, because its end is what begins it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	<-served
	return err
}

// newHandler makes the routes.
func newHandler(pool *pgxpool.Pool, store *aiseed.Store, logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /providers", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		providers, err := store.Providers(ctx)
		if err != nil {
			logger.ErrorContext(ctx, "the providers cannot be read", "reason", err.Error())
			writeJSON(w, http.StatusInternalServerError, map[string]string{"error": "the providers cannot be read; the server's log says why"})
			return
		}
		views := make([]providerView, len(providers))
		for i, p := range providers {
			views[i] = newView(p)
		}
		writeJSON(w, http.StatusOK, views)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
		defer cancel()
		if pool.Ping(ctx) != nil {
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok"))
	})
	return mux
}

// A providerView is what /providers shows. A Secret in it shows its mask.
type providerView struct {
	Name    string              `json:"name"`
	Type    aiseed.ProviderType `json:"type"`
	BaseURL string              `json:"base_url,omitempty"`
	Keys    []aiseed.Secret     `json:"keys"`
}

func newView(p aiseed.Provider) providerView {
	v := providerView{Name: p.Name, Type: p.Type, BaseURL: publicURL(p.BaseURL), Keys: []aiseed.Secret{}}
	for _, key := range p.Keys {
		v.Keys = append(v.Keys, key.APIKey)
	}
	return v
}

// publicURL leaves out of a base URL what can be a credential.
func publicURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the client is gone
}
