package stdslog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	cdrslog "cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/xerrors"

	"example.com/aiseed"
	"example.com/aiseed/stdslog"
)

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func newText(w io.Writer, opts *slog.HandlerOptions) slog.Handler {
	return slog.NewTextHandler(w, opts)
}

func newJSON(w io.Writer, opts *slog.HandlerOptions) slog.Handler {
	return slog.NewJSONHandler(w, opts)
}

var handlers = map[string]func(io.Writer, *slog.HandlerOptions) slog.Handler{
	"TextHandler": newText,
	"JSONHandler": newJSON,
}

// setup returns a Logger on a handler that accepts every level and prints no time.
func setup(newHandler func(io.Writer, *slog.HandlerOptions) slog.Handler) (cdrslog.Logger, *bytes.Buffer) {
	var out bytes.Buffer
	return stdslog.New(slog.New(newHandler(&out, &slog.HandlerOptions{
		Level:       slog.LevelDebug,
		ReplaceAttr: withoutTime,
	}))), &out
}

type pointerError struct{ text string }

func (e *pointerError) Error() string { return e.text }

// maskedError masks its text for log/slog only.
type maskedError struct{ error }

func (maskedError) LogValue() slog.Value { return slog.StringValue("***") }

// logMasked masks for log/slog only.
type logMasked string

func (logMasked) LogValue() slog.Value { return slog.StringValue("***") }

func TestOutput(t *testing.T) {
	t.Parallel()
	F, ctx := cdrslog.F, context.Background()
	for name, tt := range map[string]struct {
		log  func(cdrslog.Logger)
		text string
		json string
	}{
		"Debug is DEBUG and not filtered by the cdr default": {
			func(l cdrslog.Logger) { l.Debug(ctx, "m") },
			`level=DEBUG msg=m`,
			`{"level":"DEBUG","msg":"m"}`,
		},
		"Info is INFO": {
			func(l cdrslog.Logger) { l.Info(ctx, "m") },
			`level=INFO msg=m`,
			`{"level":"INFO","msg":"m"}`,
		},
		"Warn is WARN": {
			func(l cdrslog.Logger) { l.Warn(ctx, "m") },
			`level=WARN msg=m`,
			`{"level":"WARN","msg":"m"}`,
		},
		"Error is ERROR, and its Sync writes nothing": {
			func(l cdrslog.Logger) { l.Error(ctx, "m") },
			`level=ERROR msg=m`,
			`{"level":"ERROR","msg":"m"}`,
		},
		"Critical is ERROR+4": {
			func(l cdrslog.Logger) { l.Critical(ctx, "m") },
			`level=ERROR+4 msg=m`,
			`{"level":"ERROR+4","msg":"m"}`,
		},
		"Fatal is ERROR+8": {
			func(l cdrslog.Logger) { l.Log(ctx, cdrslog.SinkEntry{Level: cdrslog.LevelFatal, Message: "m"}) },
			`level=ERROR+8 msg=m`,
			`{"level":"ERROR+8","msg":"m"}`,
		},
		"names are joined with a dot": {
			func(l cdrslog.Logger) { l.Named("coderd").Named("seed").Info(ctx, "m") },
			`level=INFO msg=m logger=coderd.seed`,
			`{"level":"INFO","msg":"m","logger":"coderd.seed"}`,
		},
		"fields of Logger, context and call arrive in this order": {
			func(l cdrslog.Logger) {
				l.With(F("z", 1)).Info(cdrslog.With(ctx, F("y", true)), "m", F("x", "s"), F("a", time.Second))
			},
			`level=INFO msg=m z=1 y=true x=s a=1s`,
			`{"level":"INFO","msg":"m","z":1,"y":true,"x":"s","a":1000000000}`,
		},
		"a nested Map is a group": {
			func(l cdrslog.Logger) {
				l.Info(ctx, "m", F("a", cdrslog.M(F("b", cdrslog.M(F("c", 1), F("d", 2))), F("e", 3))))
			},
			`level=INFO msg=m a.b.c=1 a.b.d=2 a.e=3`,
			`{"level":"INFO","msg":"m","a":{"b":{"c":1,"d":2},"e":3}}`,
		},
		"an error is its text": {
			func(l cdrslog.Logger) { l.Info(ctx, "m", cdrslog.Error(errors.New("no key"))) },
			`level=INFO msg=m error="no key"`,
			`{"level":"INFO","msg":"m","error":"no key"}`,
		},
		"an error with a stack trace is its text": {
			func(l cdrslog.Logger) {
				l.Info(ctx, "m", cdrslog.Error(xerrors.Errorf("open: %w", xerrors.New("no key"))))
			},
			`level=INFO msg=m error="open: no key"`,
			`{"level":"INFO","msg":"m","error":"open: no key"}`,
		},
		"an error in a Map is its text": {
			func(l cdrslog.Logger) { l.Info(ctx, "m", F("a", cdrslog.M(F("b", xerrors.New("no key"))))) },
			`level=INFO msg=m a.b="no key"`,
			`{"level":"INFO","msg":"m","a":{"b":"no key"}}`,
		},
		"an error that masks its text stays masked": {
			func(l cdrslog.Logger) { l.Info(ctx, "m", cdrslog.Error(maskedError{errors.New("raw")})) },
			`level=INFO msg=m error=***`,
			`{"level":"INFO","msg":"m","error":"***"}`,
		},
		"a LogValuer is resolved as a field and in a Map": {
			func(l cdrslog.Logger) {
				l.Info(ctx, "m", F("a", logMasked("raw")), F("b", cdrslog.M(F("c", logMasked("raw")))))
			},
			`level=INFO msg=m a=*** b.c=***`,
			`{"level":"INFO","msg":"m","a":"***","b":{"c":"***"}}`,
		},
		"no error is nil": {
			func(l cdrslog.Logger) { l.Info(ctx, "m", cdrslog.Error(nil)) },
			`level=INFO msg=m error=<nil>`,
			`{"level":"INFO","msg":"m","error":null}`,
		},
		"an error that is a nil pointer does not panic": {
			func(l cdrslog.Logger) { l.Info(ctx, "m", cdrslog.Error((*pointerError)(nil))) },
			`level=INFO msg=m error=<nil>`,
			`{"level":"INFO","msg":"m","error":"<nil>"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logger, out := setup(newText)
			tt.log(logger)
			require.Equal(t, tt.text+"\n", out.String())

			logger, out = setup(newJSON)
			tt.log(logger)
			require.Equal(t, tt.json+"\n", out.String())
		})
	}
}

func TestAttributesOfTheHostLoggerStay(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	host := slog.New(newText(&out, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	stdslog.New(host.With("app", "x").WithGroup("g")).Info(context.Background(), "m", cdrslog.F("a", 1))
	require.Equal(t, "level=INFO msg=m app=x g.a=1\n", out.String())
}

func TestHostHandlerDecidesTheLevel(t *testing.T) {
	t.Parallel()
	for name, newHandler := range handlers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var (
				ctx   = context.Background()
				out   bytes.Buffer
				level slog.LevelVar
			)
			logger := stdslog.New(slog.New(newHandler(&out, &slog.HandlerOptions{Level: &level})))

			level.Set(slog.LevelError + 1)
			logger.Error(ctx, "quiet")
			require.Empty(t, out.String())

			level.Set(slog.LevelError + 4)
			logger.Critical(ctx, "loud")
			require.Contains(t, out.String(), "loud")

			level.Set(slog.LevelDebug)
			logger.Debug(ctx, "whisper")
			require.Contains(t, out.String(), "whisper")
		})
	}
}

// contextHandler reads from the context whether it is enabled and what to add.
type contextHandler struct{ slog.Handler }

type (
	enabledKey struct{}
	requestKey struct{}
)

func (contextHandler) Enabled(ctx context.Context, _ slog.Level) bool {
	return ctx.Value(enabledKey{}) != nil
}

func (h contextHandler) Handle(ctx context.Context, r slog.Record) error {
	r.AddAttrs(slog.Any("request", ctx.Value(requestKey{})))
	return h.Handler.Handle(ctx, r)
}

func TestContextReachesTheHandler(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := stdslog.New(slog.New(contextHandler{newText(&out, &slog.HandlerOptions{ReplaceAttr: withoutTime})}))

	ctx := context.WithValue(context.Background(), requestKey{}, "r1")
	logger.Info(ctx, "not enabled by this context")
	logger.Info(context.WithValue(ctx, enabledKey{}, true), "m")
	require.Equal(t, "level=INFO msg=m request=r1\n", out.String())
}

func TestTimeOfTheEntryIsKept(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"TextHandler": "2001-02-03T04:05:06.123Z", // it prints no more
		"JSONHandler": "2001-02-03T04:05:06.123456789Z",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			stdslog.New(slog.New(handlers[name](&out, nil))).Log(context.Background(), cdrslog.SinkEntry{
				Time:  time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.UTC),
				Level: cdrslog.LevelInfo,
			})
			require.Contains(t, out.String(), want)
		})
	}
}

// masked is a secret whose text only its methods hide from fmt.
type masked string

func (masked) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, "***") }
func (masked) MarshalJSON() ([]byte, error) { return json.Marshal("***") }

func TestMaskedTypeStaysMasked(t *testing.T) {
	t.Parallel()
	const raw = "sk-raw-0123456789-raw"
	testSecret(t, masked(raw), raw, "***")
}

func TestSeedSecretStaysMasked(t *testing.T) {
	t.Parallel()
	const raw = "sk-raw-0123456789-raw"
	secret := aiseed.NewSecret(raw)
	testSecret(t, secret, raw, secret.String())
}

func testSecret[S any](t *testing.T, secret S, raw, mask string) {
	F, M := cdrslog.F, cdrslog.M
	for name, value := range map[string]any{
		"as a field":           secret,
		"behind a pointer":     &struct{ Key S }{secret},
		"in a slice":           []S{secret},
		"in a slice of any":    []any{secret},
		"in a map":             map[string]S{"k": secret},
		"in a map of any":      map[string]any{"k": secret},
		"in a struct":          struct{ Key S }{secret},
		"in a Map":             M(F("k", secret)),
		"in a Map in a Map":    M(F("k", M(F("k", secret)))),
		"in a struct in a Map": M(F("k", struct{ Key S }{secret})),
		"in a slice in a Map":  M(F("k", []S{secret})),
		"in a Map in a slice":  []cdrslog.Map{M(F("k", secret))},
	} {
		for handler, newHandler := range handlers {
			t.Run(handler+" "+name, func(t *testing.T) {
				t.Parallel()
				logger, out := setup(newHandler)
				logger.Info(context.Background(), "m", F("f", value))
				require.NotContains(t, out.String(), raw)
				require.Contains(t, out.String(), mask)
			})
		}
	}
}

func TestThereIsNoSource(t *testing.T) {
	t.Parallel()
	for name, newHandler := range handlers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			stdslog.New(slog.New(newHandler(&out, &slog.HandlerOptions{AddSource: true}))).Info(context.Background(), "m")
			require.Contains(t, out.String(), "m")
			require.NotContains(t, out.String(), "source", "a wrong place is worse than none")
		})
	}
}

func TestNilLoggerIsSilent(t *testing.T) {
	t.Parallel()
	require.Equal(t, cdrslog.Logger{}, stdslog.New(nil))
}

func TestFatalWritesAndExits(t *testing.T) {
	t.Parallel()
	const child = "STDSLOG_TEST_FATAL"
	if os.Getenv(child) != "" {
		logger := stdslog.New(slog.New(newText(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})))
		logger.Fatal(context.Background(), "m")
		os.Exit(3)
	}

	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^TestFatalWritesAndExits$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.Output()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Equal(t, "level=ERROR+8 msg=m\n", string(out))
}
