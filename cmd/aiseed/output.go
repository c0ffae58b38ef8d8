package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"example.com/aiseed"
)

// checkedWriter remembers the errors of its writes.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.err = errors.Join(c.err, err)
	return n, err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (a *app) colour() bool { return !a.noColor && a.lookup("NO_COLOR") == "" }

func (a *app) width() int {
	if n, err := strconv.Atoi(a.lookup("COLUMNS")); err == nil && n > 0 {
		return n
	}
	return 100
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.stdout, format, args...) }

func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// bare returns an error's text without the name that this command puts before each error.
func bare(err error) string { return strings.TrimPrefix(err.Error(), "aiseed: ") }

// aboutError is an error with this command's own text and a cause.
type aboutError struct {
	text  string
	cause error
}

func (e *aboutError) Error() string { return e.text }
func (e *aboutError) Unwrap() error { return e.cause }

// hint returns what an operator can do about an error with this command. The library's own
// text is for the author of a server.
func (a *app) hint(err error) string {
	switch {
	case errors.Is(err, aiseed.ErrSchemaOutdated):
		return "\nWith this command: " + a.sibling("schema -apply")
	case errors.Is(err, aiseed.ErrPlaintext):
		return "\nWith this command: " + a.sibling("seal")
	case errors.Is(err, aiseed.ErrCommitUnknown):
		return "\nRun the same command again: it finds out, and does what is left"
	}
	return ""
}

// sibling returns another command with the same flags, as far as it accepts them.
func (a *app) sibling(words string) string {
	if a.database != "" {
		words += " -database ..." // not its value, which can contain a password
	}
	if a.schema != "public" {
		words += " -schema " + shellQuoted(a.schema)
	}
	if a.keysVariable != defaultKeysVariable && !strings.HasPrefix(words, "schema") {
		words += " -keys-variable " + a.keysVariable
	}
	if !slices.Equal(a.prefixes, defaultPrefixes) && (strings.HasPrefix(words, "plan") || strings.HasPrefix(words, "apply")) {
		words += " -prefix " + strings.Join(a.prefixes, " -prefix ")
	}
	return "aiseed " + words
}

// shellQuoted quotes a text as one word for a POSIX shell.
func shellQuoted(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
