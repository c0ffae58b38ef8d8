package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
)

// Variables for the tests, which must not depend on the speed of the machine.
var (
	// Each is shorter than the next one, so that a client that waits gets the reason.
	lockTimeout      = 8 * time.Second
	operationTimeout = 12 * time.Second
	writeTimeout     = 15 * time.Second

	pingTimeout     = 2 * time.Second
	headerTimeout   = 5 * time.Second
	readTimeout     = 10 * time.Second
	shutdownTimeout = 10 * time.Second
)

// serve answers requests until ctx ends, and then finishes the running ones.
func serve(ctx context.Context, listener net.Listener, handler http.Handler, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
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
	// Only the shutdown outlives ctx, because the end of ctx starts it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	<-served
	return err
}

// newHandler makes the routes that are open to everybody.
func newHandler(pool *pgxpool.Pool, current *live) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /providers", func(w http.ResponseWriter, _ *http.Request) {
		views := []providerView{}
		for _, p := range current.get() {
			views = append(views, newView(p))
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
	v := providerView{Name: p.Name, Type: p.Type, BaseURL: aiseed.MaskURL(p.BaseURL), Keys: []aiseed.Secret{}}
	for _, key := range p.Keys {
		v.Keys = append(v.Keys, key.APIKey)
	}
	return v
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the client is gone
}
