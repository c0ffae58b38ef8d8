package aiseedcli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"example.com/aiseed/internal/terminal"
)

// A result is what a verb ended with. The zero result has nothing to show.
type result struct {
	text     func() // prints it for a person; nil if there is nothing, or if it was printed already
	document any    // for -json, encoded as an object; nil is an empty one
	code     int    // 0 with an error means exitError
}

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

// show prints what a verb ended with, and returns the exit code.
func (a *app) show(r result, err error) int {
	if a.flags.json {
		a.print(documentOf(r.document, a.failureOf(err)))
	} else {
		if r.text != nil {
			r.text()
		}
		if err != nil {
			a.printError(err)
		}
	}
	if err != nil && r.code == exitDone {
		return exitError
	}
	return r.code
}

// documentOf encodes a document as JSON, with the error as its last field.
func documentOf(document any, problem *failure) string {
	var fields []string
	for _, part := range []any{document, struct {
		Error *failure `json:"error,omitempty"`
	}{problem}} {
		raw := encode(part)
		if inner := strings.TrimSuffix(strings.TrimPrefix(raw, "{"), "}"); inner != "" && raw != "null" {
			fields = append(fields, inner)
		}
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte("{"+strings.Join(fields, ",")+"}"), "", "  "); err != nil {
		return "{}\n" // only if a document was no object
	}
	return indented.String() + "\n"
}

func encode(v any) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return "null"
	}
	return strings.TrimSpace(out.String())
}

// printError prints an error for a person, and for a mistake on the command line what is right.
func (a *app) printError(err error) {
	width := a.widthOf(a.Options.Stderr)
	fmt.Fprint(a.Options.Stderr, wrap(a.Name+": "+a.message(err)+"\n", width))
	var usage *usageError
	if errors.As(err, &usage) && usage.verb.name != "" {
		fmt.Fprint(a.Options.Stderr, wrap(a.brief(usage.verb), width))
	}
}

// notice tells a person something before the result is there.
func (a *app) notice(text string) {
	if !a.flags.json {
		fmt.Fprint(a.Options.Stderr, wrap(text+"\n", a.widthOf(a.Options.Stderr)))
	}
}

// print prints a text as it is.
func (a *app) print(text string) { _, _ = io.WriteString(a.stdout, plain(text)) }

// printf prints a text, wrapped to the width of standard output.
func (a *app) printf(format string, args ...any) {
	a.print(wrap(fmt.Sprintf(format, args...), a.width()))
}

func (a *app) width() int { return a.widthOf(a.Options.Stdout) }

// widthOf returns the width for texts that go to a stream: that of COLUMNS, or of the terminal
// behind it, or else 100.
func (a *app) widthOf(stream io.Writer) int {
	if n, err := strconv.Atoi(a.lookup("COLUMNS")); err == nil && n > 0 {
		return n
	}
	if n := terminal.Width(stream); n > 0 {
		return n
	}
	return 100
}

// A joint is a blank of what is to be pasted, where no line is broken. No text has this character: Unicode
// leaves it to programs.
const joint = "\ufdd0"

// unbroken makes a command one word for wrap, and plain makes it what is to be typed.
func unbroken(command string) string { return strings.ReplaceAll(command, " ", joint) }
func plain(text string) string       { return strings.ReplaceAll(text, joint, " ") }

// A line's head is its indent, and with it the number or the one or two labels at its beginning.
// Two spaces end a label.
var head = regexp.MustCompile(`^ *(?:(?:\d+\.|-) +|(?:\S+(?: \S+){0,3}  +){1,2})?`)

// wrap breaks lines that are longer than width between words, and indents what follows like what
// is behind the line's head. It breaks no word: tokens and URLs stay whole, and so does what is unbroken.
func wrap(text string, width int) string {
	const narrowest = 20
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, ended := strings.CutSuffix(line, "\n")
		start := head.FindString(line)
		indent, used := utf8.RuneCountInString(start), utf8.RuneCountInString(start)
		if width-indent < narrowest {
			indent = 2 // what follows a break has no room behind the head
		}
		if utf8.RuneCountInString(line) <= width {
			b.WriteString(line)
		} else {
			b.WriteString(start)
			for i, word := range strings.Fields(line[len(start):]) {
				length := utf8.RuneCountInString(word)
				switch {
				case i == 0:
				case used+1+length > width:
					b.WriteString("\n" + strings.Repeat(" ", indent))
					used = indent
				default:
					b.WriteString(" ")
					used++
				}
				b.WriteString(word)
				used += length
			}
		}
		if ended {
			b.WriteString("\n")
		}
	}
	return plain(b.String())
}
