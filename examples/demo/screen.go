package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

const (
	width = 100

	heading = "\x1b[1;36m"
	caution = "\x1b[33m"
	failure = "\x1b[31m"
	plain   = ""
)

// A screen writes the story to out.
type screen struct {
	out    io.Writer
	colour bool
}

// wantsColour follows https://no-color.org.
func wantsColour(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func (s *screen) line(style, text string) {
	if s.colour && style != plain && text != "" {
		text = style + text + "\x1b[0m"
	}
	fmt.Fprintln(s.out, text)
}

func (s *screen) heading(title string) {
	rule := strings.Repeat("─", width-4-utf8.RuneCountInString(title))
	s.line(plain, "")
	s.line(heading, "── "+title+" "+rule)
	s.line(plain, "")
}

// say writes a paragraph.
func (s *screen) say(format string, args ...any) {
	s.line(plain, strings.Join(wrap(fmt.Sprintf(format, args...), width), "\n")+"\n")
}

// show writes text as it is.
func (s *screen) show(style, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		s.line(style, strings.TrimRight("  "+line, " "))
	}
	s.line(plain, "")
}

// table writes rows under a header. It cuts the middle out of long cells, and wraps
// those of the last column.
func (s *screen) table(rows ...[]string) {
	const longest, lastWidth = 32, 54
	if len(rows) == 1 {
		s.show(plain, "(none)")
		return
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells, last := row[:len(row)-1], row[len(row)-1]
		for i, part := range wrap(last, lastWidth) {
			for _, cell := range cells {
				if i > 0 {
					cell = ""
				}
				fmt.Fprint(table, elide(cell, longest), "\t")
			}
			fmt.Fprintln(table, elide(part, lastWidth))
		}
	}
	_ = table.Flush() // into a strings.Builder
	s.show(plain, strings.TrimRight(b.String(), "\n"))
}

func elide(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n-n/3-1]) + "…" + string(runes[len(runes)-n/3:])
}

// wrap splits text into lines of at most n runes, unless one word is longer.
func wrap(text string, n int) (lines []string) {
	var line string
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line+" "+word) > n {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}
