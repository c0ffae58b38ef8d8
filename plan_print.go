package aiseed

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"example.com/aiseed/internal/text"
)

// defaultWidth is the width of [Plan.String], which does not know where it is printed.
const defaultWidth = 140

// String renders the plan as a table, with drifts and warnings below it.
func (p *Plan) String() string { return p.Table(defaultWidth, false) }

// Table renders the plan for a terminal of width columns, with or without ANSI colours. It
// uses at least 60 columns. It shortens base URLs that do not fit; a name that does not fit
// makes the table wider. Secrets are masked.
func (p *Plan) Table(width int, colour bool) string {
	var b strings.Builder
	if len(p.Steps) == 0 {
		b.WriteString("The environment names no AI providers.\n")
	} else {
		p.writeTable(&b, max(width, 60), colour)
	}
	for _, s := range p.Steps {
		if s.Digest != "" || len(s.Warnings) > 0 {
			fmt.Fprintf(&b, "\n%s\n", text.Label(s.Name))
		}
		s.writeDifference(&b)
		for _, w := range s.Warnings {
			writeWrapped(&b, w.String(), max(width, 60))
		}
	}
	if len(p.Warnings) > 0 {
		b.WriteString("\n")
	}
	for _, w := range p.Warnings {
		writeWrapped(&b, w.String(), max(width, 60))
	}
	return b.String()
}

// writeDifference writes what no warning says of it.
func (s Step) writeDifference(b *strings.Builder) {
	for _, f := range s.Drift {
		fmt.Fprintf(b, "  %s\n", f.Field)
		f.write(b, "    ")
	}
	if s.Digest == "" {
		return
	}
	s.Moved.write(b, "  ")
	if s.Action == ActionDrifted {
		writeAdopting(b, "  ", s.Adopting)
		fmt.Fprintf(b, "  to settle it, %s\n", s.between().way)
	}
	for _, note := range s.between().notes {
		fmt.Fprintf(b, "  %s\n", note)
	}
}

var actionColours = map[Action]string{
	ActionCreate: "32", ActionAdopt: "32", // green: something is written
	ActionDiverged: "33", ActionDeleted: "33", ActionUnsupported: "33", ActionKeep: "33", // yellow: look at it
	ActionDrifted: "31", // red: the start stops
}

func (p *Plan) writeTable(b *strings.Builder, width int, colour bool) {
	rows := [][]string{{"ACTION", "NAME", "TYPE", "CREDENTIALS", "BASE URL"}}
	for _, s := range p.Steps {
		want := s.between().want
		rows = append(rows, []string{string(s.Action), text.Label(s.Name), text.Brief(string(s.Type)), want.credentials(), text.OrNone(s.BaseURL)})
	}
	last := len(rows[0]) - 1
	widths := make([]int, last)
	used := 0
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		used += widths[i] + 2
	}
	for n, row := range rows {
		for i, text := range row[:last] {
			padded := text + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+2)
			if code := actionColours[Action(text)]; i == 0 && n > 0 && colour && code != "" {
				padded = "\x1b[" + code + "m" + padded + "\x1b[0m"
			}
			b.WriteString(padded)
		}
		b.WriteString(text.ShortenMiddle(row[last], max(width-used, 16)) + "\n")
	}
}

// writeWrapped breaks a text between words, and indents each line.
func writeWrapped(b *strings.Builder, text string, width int) {
	line := " "
	for _, word := range strings.Fields(text) {
		if utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width && strings.TrimSpace(line) != "" {
			b.WriteString(line + "\n")
			line = " "
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}

// MarshalJSON encodes a step with its secrets masked.
func (s Step) MarshalJSON() ([]byte, error) {
	want := s.between().want
	return json.Marshal(struct {
		Action      Action       `json:"action"`
		Name        string       `json:"name"`
		Type        ProviderType `json:"type"`
		BaseURL     string       `json:"base_url"`
		Credentials string       `json:"credentials"`
		Moved       Side         `json:"moved,omitempty"`
		Digest      string       `json:"digest,omitempty"`
		Drift       []FieldDrift `json:"drift,omitempty"`
		Adopting    []string     `json:"adopting,omitempty"`
		Warnings    []Warning    `json:"warnings,omitempty"`
	}{s.Action, text.Label(s.Name), ProviderType(text.Brief(string(s.Type))), s.BaseURL, want.credentials(), s.Moved, s.Digest, s.Drift, s.Adopting, s.Warnings})
}

// MarshalJSON encodes a plan, always with a list of steps.
func (p *Plan) MarshalJSON() ([]byte, error) {
	steps := p.Steps
	if steps == nil {
		steps = []Step{}
	}
	return json.Marshal(struct {
		Steps     []Step         `json:"steps"`
		Warnings  []Warning      `json:"warnings,omitempty"`
		Variables []VariableFate `json:"variables,omitempty"`
	}{steps, p.Warnings, p.Variables})
}

// credentials describes briefly what a provider authenticates with, masked.
func (p Provider) credentials() string {
	switch keys := len(p.Keys); {
	case p.Bedrock != nil && p.Bedrock.AccessKey.IsZero():
		return "AWS environment"
	case p.Bedrock != nil:
		return "AWS " + p.Bedrock.AccessKey.String()
	case keys == 0:
		return "(none)"
	case keys == 1:
		return p.Keys[0].APIKey.String()
	default:
		return fmt.Sprintf("%s and %d more", p.Keys[0].APIKey, keys-1)
	}
}
