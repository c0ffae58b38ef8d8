package main

import (
	"log/slog"
	"strings"

	cdrslog "cdr.dev/slog/v3"

	"example.com/aiseed/stdslog"
)

// logger returns the logger that a host with log/slog gives to the library. It shows
// lines without the time, and each warning only once.
func (s *story) logger() cdrslog.Logger {
	return stdslog.New(slog.New(slog.NewTextHandler(logLines{s}, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})))
}

type logLines struct{ *story }

// Write takes one line.
func (l logLines) Write(p []byte) (int, error) {
	text, style := string(p), plain
	if strings.HasPrefix(text, "level=WARN") {
		if l.warned[text] {
			return len(p), nil
		}
		l.warned[text], style = true, caution
	}
	indent := "  "
	for _, line := range wrap(text, width-6) {
		l.line(style, indent+line)
		indent = "      "
	}
	l.logged = true
	return len(p), nil
}

// endLog writes an empty line if something was logged.
func (s *story) endLog() {
	if s.logged {
		s.line(plain, "")
	}
	s.logged = false
}
