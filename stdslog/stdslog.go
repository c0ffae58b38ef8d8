// Package stdslog connects the two loggers that share a name: a library logs to
// cdr.dev/slog/v3, and its host logs to log/slog.
package stdslog

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	cdrslog "cdr.dev/slog/v3"
)

// New returns a Logger that writes every entry to the handler of logger. Only the
// handler's Enabled decides what is logged. If logger is nil, New returns the zero
// Logger, which logs nothing. The Logger is safe for concurrent use.
//
//   - Critical and Fatal arrive as slog.LevelError+4 and +8. Fatal then exits.
//   - The names of a Named Logger arrive joined with a dot, as "logger".
//   - Fields arrive in order. A Map becomes a group, and an error becomes its text.
//     Any other value reaches the handler unchanged: a value that masks itself as a
//     slog.LogValuer, fmt.Formatter or json.Marshaler stays masked.
//   - The source is left out: cdr has it as text, and log/slog needs an address.
//
// Errors of the handler are dropped, as in log/slog. Sync does nothing.
func New(logger *slog.Logger) cdrslog.Logger {
	if logger == nil {
		return cdrslog.Logger{}
	}
	return cdrslog.Make(sink{logger.Handler()}).Leveled(cdrslog.LevelDebug)
}

type sink struct{ handler slog.Handler }

var _ cdrslog.Sink = sink{}

// LogEntry implements [cdrslog.Sink].
func (s sink) LogEntry(ctx context.Context, e cdrslog.SinkEntry) {
	// The levels have the same order; cdr counts in ones, log/slog in fours from Info.
	level := slog.Level(4 * (e.Level - cdrslog.LevelInfo))
	if !s.handler.Enabled(ctx, level) {
		return
	}
	record := slog.NewRecord(e.Time, level, e.Message, 0)
	if len(e.LoggerNames) > 0 {
		record.AddAttrs(slog.String("logger", strings.Join(e.LoggerNames, ".")))
	}
	record.AddAttrs(attrs(e.Fields)...)
	_ = s.handler.Handle(ctx, record)
}

// Sync implements [cdrslog.Sink]; a slog.Handler has nothing to flush.
func (sink) Sync() {}

func attrs(fields cdrslog.Map) []slog.Attr {
	as := make([]slog.Attr, len(fields))
	for i, f := range fields {
		as[i] = slog.Attr{Key: f.Name, Value: value(f.Value)}
	}
	return as
}

func value(v any) slog.Value {
	switch v := v.(type) {
	case slog.LogValuer: // first, for an error that masks its text
		return slog.AnyValue(v)
	case cdrslog.Map:
		return slog.GroupValue(attrs(v)...)
	case error:
		// TextHandler would print %+v, which for many errors is a stack trace.
		// Sprint, unlike Error, survives a nil pointer.
		return slog.StringValue(fmt.Sprint(v))
	default:
		return slog.AnyValue(v)
	}
}
