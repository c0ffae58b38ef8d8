package main

import (
	"cmp"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/template"
	"time"
)

//go:embed page.md.tmpl
var pageTemplate string

// A page is what the template is filled with.
type page struct {
	*suite
	targets []target
}

func (s *suite) write(dir string, targets []target) error {
	for _, p := range s.pictures() {
		if err := p.draw(dir); err != nil {
			return err
		}
	}
	if err := s.writeData(filepath.Join(dir, "performance.csv")); err != nil {
		return err
	}
	parsed, err := template.New("page").Parse(pageTemplate)
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, "performance.md"))
	if err != nil {
		return err
	}
	if err := parsed.Execute(file, &page{suite: s, targets: targets}); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

// table writes rows of Markdown; the first column is text, and the others numbers.
func table(header []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(header)
	rule := slices.Repeat([]string{"---:"}, len(header))
	rule[0] = "---"
	line(rule)
	for _, row := range rows {
		line(row)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// writeData writes all medians, a line each.
func (s *suite) writeData(path string) error {
	rows := [][]string{{"operation", "contender", "providers", "latency_ms", "rounds", "median_us", "allocations", "allocated_bytes", "peak_bytes"}}
	keys := slices.SortedFunc(maps.Keys(s.results), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.operation, b.operation), cmp.Compare(a.latency, b.latency), cmp.Compare(a.n, b.n), cmp.Compare(a.contender, b.contender))
	})
	for _, k := range keys {
		r := s.results[k]
		rows = append(rows, []string{
			k.operation, k.contender, fmt.Sprint(k.n), fmt.Sprint(k.latency.Milliseconds()), fmt.Sprint(r.rounds),
			fmt.Sprintf("%.2f", float64(r.time)/float64(time.Microsecond)), fmt.Sprintf("%.0f", r.allocs), fmt.Sprintf("%.0f", r.bytes), fmt.Sprint(r.peak),
		})
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(csv.NewWriter(file).WriteAll(rows), file.Close())
}

// Machine says what this ran on.
func (p *page) Machine() string {
	return table([]string{"what", "version"}, [][]string{
		{"processor", fmt.Sprintf("%s, %d cores", processor(), runtime.NumCPU())},
		{"system", fmt.Sprintf("%s, %s/%s", system(), runtime.GOOS, runtime.GOARCH)},
		{"Go", strings.TrimPrefix(runtime.Version(), "go")},
		{"PostgreSQL", p.postgres()},
		{"pgx", module("github.com/jackc/pgx/v5")},
		{"caarlos0/env", module("github.com/caarlos0/env/v11")},
	})
}

// Caption stands under each picture.
func (p *page) Caption() string {
	return fmt.Sprintf("*%s, %d cores, %s. Go %s, PostgreSQL %s, pgx %s. Drawn by `make bench`.*",
		processor(), runtime.NumCPU(), system(), strings.TrimPrefix(runtime.Version(), "go"), p.postgres(), module("github.com/jackc/pgx/v5"))
}

func (p *page) postgres() string {
	return fmt.Sprintf("%d.%d", p.server.Version()/10_000, p.server.Version()%10_000)
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	if _, rest, ok := strings.Cut(string(info), "model name"); ok {
		line, _, _ := strings.Cut(rest, "\n")
		return strings.Trim(line, "\t :")
	}
	return "unknown processor"
}

func system() string {
	info, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(name, "\"\n")
		}
	}
	return runtime.GOOS
}

func module(path string) string {
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return "unknown"
}

func (p *page) LeftOut() string { return strings.Join(p.leftOut, ", ") }
func (p *page) Crowd() int      { return crowdSize }

func quotient(a, b time.Duration) string {
	if a == 0 || b == 0 {
		return "–"
	}
	return ratioText(float64(a) / float64(b))
}

// Targets is the table of targets.
func (p *page) Targets() string {
	var rows [][]string
	for _, t := range p.targets {
		rows = append(rows, []string{t.what, t.wanted(), t.measured(), t.verdict()})
	}
	rows = append(rows, []string{"lock waits of 200 concurrent no-op starts", "none", fmt.Sprint(p.locks.waits), map[bool]string{true: "met", false: notMet}[p.locks.waits == 0]})
	return table([]string{"what", "target", "measured", ""}, rows)
}

// ServerRatio is how much faster a first start could be than row at a time.
func (p *page) ServerRatio() string {
	at := key{operation: firstStart, n: 100, latency: time.Millisecond}
	return p.ratio(at.of(reference), at.of(serverPart))
}

// LookGrowth and LookFirstGrowth are how the limits of the parser grow.
func (p *page) LookGrowth() string { return p.parseGrowth(lookOnly) }

func (p *page) LookFirstGrowth() string { return p.parseGrowth(lookFirst) }

func (p *page) parseGrowth(contender string) string {
	return p.ratio(key{parse, contender, 10_000, 0}, key{parse, contender, 1_000, 0})
}

func (p *page) ratio(a, b key) string { return quotient(p.results[a].time, p.results[b].time) }
