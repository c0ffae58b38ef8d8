package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
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
		writeJSON(w, http.StatusOK, current.Load())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
		defer cancel()
		if pool.Ping(ctx) != nil {
			writeJSON(w, http.StatusServiceUnavailable, problemView{Error: "the database does not answer"})
			return
		}
		_, _ = w.Write([]byte("ok"))
	})
	return mux
}

// jsonErrors lets mux answer, in JSON also if no route matches.
func jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		answer := &headerOnly{ResponseWriter: w}
		mux.ServeHTTP(answer, r) // sets the status, and which methods are allowed
		writeJSON(w, answer.status, problemView{Error: strings.ToLower(http.StatusText(answer.status))})
	})
}

// headerOnly keeps the status of an answer, and drops its body.
type headerOnly struct {
	http.ResponseWriter
	status int
}

func (h *headerOnly) WriteHeader(status int)      { h.status = status }
func (h *headerOnly) Write(b []byte) (int, error) { return len(b), nil }

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the client is gone
}
