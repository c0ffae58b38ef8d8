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
// uses at least 60 columns. It shortens base URLs in the table that do not fit; a name that does
// not fit makes the table wider. Below the table it breaks lines between words only: a token, a
// variable or a URL stays whole. It ends with how to settle the differences that the plan has.
// Secrets are masked.
func (p *Plan) Table(width int, colour bool) string {
	b := &wrapper{width: max(width, 60)}
	if len(p.Steps) == 0 {
		b.WriteString("The environment names no AI providers.\n")
	} else {
		p.writeTable(b, colour)
	}
	for _, s := range p.Steps {
		if s.Digest != "" || len(s.Warnings) > 0 {
			b.WriteString("\n" + text.Label(s.Name) + "\n")
		}
		s.writeDifference(b)
		for _, w := range s.Warnings {
			if w.Code == WarningDiverged {
				b.wrap("  ", w.divergence("settle it as below"))
			} else {
				b.wrap("  ", w.String())
			}
		}
	}
	if len(p.Warnings) > 0 {
		b.WriteString("\n")
	}
	for _, w := range p.Warnings {
		b.wrap("  ", w.String())
	}
	p.writeChoices(b)
	return b.String()
}

// writeDifference writes what no warning says of it.
func (s *Step) writeDifference(b *wrapper) {
	for _, f := range s.Drift {
		b.wrap("  ", f.Field)
		for _, line := range f.lines() {
			b.wrap("    "+line[0], line[1])
		}
	}
	if s.Digest == "" {
		return
	}
	if moved := s.Moved.moved(); moved != "" {
		b.wrap("  ", moved)
	}
	if s.Action == ActionDrifted {
		for _, a := range s.Adopting {
			b.wrap("  ", alsoAdopting+a)
		}
	}
	for _, note := range s.between().notes {
		b.wrap("  ", note)
	}
}

// writeChoices writes how to settle what nobody has settled.
func (p *Plan) writeChoices(b *wrapper) {
	if p.Choices == nil {
		return
	}
	b.WriteString("\n")
	b.wrap("", "To settle what differs, set one of these. Leave out the tokens of the providers for which you choose otherwise.")
	for _, choice := range p.Choices {
		b.wrap("  ", choice.Meaning+":")
		b.wrap("    ", choice.String())
	}
}

var actionColours = map[Action]string{
	ActionCreate: "32", ActionAdopt: "32", // green: something is written
	ActionDiverged: "33", ActionDeleted: "33", ActionUnsupported: "33", ActionKeep: "33", // yellow: look at it
	ActionDrifted: "31", // red: the start stops
}

func (p *Plan) writeTable(b *wrapper, colour bool) {
	rows := [][]string{{"ACTION", "NAME", "TYPE", "CREDENTIALS", "BASE URL"}}
	for _, s := range p.Steps {
		baseURL := MaskURL(s.inUse().BaseURL)
		if s.Action == ActionDeleted || s.Action == ActionUnsupported { // nothing is in use
			baseURL = s.BaseURL
		}
		rows = append(rows, []string{string(s.Action), text.Label(s.Name), text.Brief(string(s.Type)), s.inUse().credentials(), text.OrNone(baseURL)})
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
		b.WriteString(text.ShortenMiddle(row[last], max(b.width-used, 16)) + "\n")
	}
}

// A wrapper builds a text of lines of at most width characters, if its words allow that.
type wrapper struct {
	strings.Builder
	width int
}

// wrap writes a text behind a lead, and breaks it between words. The lines after the first are
// indented by as much as the lead has, and by two more if it is blank.
func (b *wrapper) wrap(lead, text string) {
	indent := strings.Repeat(" ", utf8.RuneCountInString(lead))
	if strings.TrimSpace(lead) == "" && lead != "" {
		indent += "  "
	}
	line, empty := lead, true
	for _, word := range strings.Split(text, " ") {
		switch {
		case empty:
			line += word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > b.width:
			b.WriteString(line + "\n")
			line = indent + word
		default:
			line += " " + word
		}
		empty = false
	}
	b.WriteString(line + "\n")
}

// MarshalJSON encodes a step with its secrets masked.
func (s Step) MarshalJSON() ([]byte, error) {
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
	}{s.Action, text.Label(s.Name), ProviderType(text.Brief(string(s.Type))), s.BaseURL, s.inUse().credentials(), s.Moved, s.Digest, s.Drift, s.Adopting, s.Warnings})
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
		Choices   []Choice       `json:"choices,omitempty"`
		Variables []VariableFate `json:"variables,omitempty"`
	}{steps, p.Warnings, p.Choices, p.Variables})
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
