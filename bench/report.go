package main

import (
	_ "embed"
	"fmt"
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
	targets  []target
	profiles []profile
}

func (s *suite) write(dir string, targets []target, profiles []profile) error {
	for _, p := range s.pictures() {
		if err := p.draw(dir); err != nil {
			return err
		}
	}
	parsed, err := template.New("page").Parse(pageTemplate)
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, "performance.md"))
	if err != nil {
		return err
	}
	if err := parsed.Execute(file, &page{suite: s, targets: targets, profiles: profiles}); err != nil {
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
func (p *page) LockLooks() int  { return p.locks.looks }
func (p *page) Crowd() int      { return crowdSize }

// time is what a table says of one measurement.
func (p *page) time(k key) string {
	r, ok := p.results[k]
	if !ok {
		return "–"
	}
	return short(r.time)
}

// short has three digits.
func short(d time.Duration) string {
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"s", time.Second}, {"ms", time.Millisecond}} {
		if d >= unit.size {
			return digits(float64(d)/float64(unit.size)) + " " + unit.name
		}
	}
	return digits(float64(d)/float64(time.Microsecond)) + " µs"
}

func digits(x float64) string {
	switch {
	case x >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case x >= 9.995:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// Times are the times of an operation over sizes and latencies.
func (p *page) Times(operation string) string {
	contenders := []string{ours, reference, limit, keysApart, prepared}
	if operation == firstStart {
		contenders = []string{ours, reference, serverPart}
	}
	var rows [][]string
	for _, latency := range p.latencies {
		for _, n := range p.sizes {
			row := []string{fmt.Sprintf("N = %s, %s", thousands(n), distance(latency))}
			for _, c := range contenders {
				row = append(row, p.time(key{operation, c, n, latency}))
			}
			at := key{operation: operation, n: n, latency: latency}
			if operation == firstStart {
				row = append(row, p.ratio(at.of(reference), at.of(ours)))
			} else {
				row = append(row, p.ratio(at.of(ours), p.faster(at.of(limit), at.of(keysApart))))
			}
			rows = append(rows, row)
		}
	}
	last := "aiseed / faster bare read"
	if operation == firstStart {
		last = "row at a time / aiseed"
	}
	return table(slices.Concat([]string{"providers and latency"}, contenders, []string{last}), rows)
}

func quotient(a, b time.Duration) string {
	if a == 0 || b == 0 {
		return "–"
	}
	return ratioText(float64(a) / float64(b))
}

// Rounds says where row at a time has fewer rounds than the others.
func (p *page) Rounds(operation string) string {
	var parts []string
	for _, n := range p.sizes {
		text := fmt.Sprintf("%d for N = %s", p.rounds(n), thousands(n))
		var fewer []string
		for _, latency := range p.latencies {
			if r, ok := p.results[key{operation, reference, n, latency}]; ok && r.rounds < p.rounds(n) {
				fewer = append(fewer, fmt.Sprintf("%d at %d ms", r.rounds, latency.Milliseconds()))
			}
		}
		if len(fewer) > 0 {
			text += " (row at a time " + strings.Join(fewer, ", ") + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// Fresh are the starts on fresh connections.
func (p *page) Fresh() string {
	var rows [][]string
	for _, latency := range p.latencies[:2] {
		for _, n := range p.sizes[:3] {
			rows = append(rows, []string{
				fmt.Sprintf("N = %s, %s", thousands(n), distance(latency)),
				p.time(key{freshFirst, ours, n, latency}), p.time(key{freshFirst, reference, n, latency}),
				p.time(key{freshNoOp, ours, n, latency}), p.time(key{freshNoOp, reference, n, latency}), p.time(key{freshNoOp, limit, n, latency}),
			})
		}
	}
	return table([]string{"providers and latency", "first start, aiseed", "row at a time", "no-op start, aiseed", "row at a time", "bare read"}, rows)
}

// Parse are the times of the parsers.
func (p *page) Parse() string {
	var rows [][]string
	for _, n := range append([]int{12}, p.sizes...) {
		row := []string{"N = " + thousands(n)}
		for _, c := range []string{ours, shuffled, caarlos, lookFirst, lookOnly} {
			row = append(row, p.time(key{parse, c, n, 0}))
		}
		rows = append(rows, row)
	}
	return table([]string{"providers", ours, shuffled, caarlos, lookFirst, lookOnly}, rows)
}

// Others are the crowd and the foreign rows.
func (p *page) Others() string {
	row := func(text string, k key) []string { return []string{text, p.time(k)} }
	return table([]string{"with 10 providers, without latency", "time"}, [][]string{
		row("200 no-op starts at once, until the last is done", key{crowd, ours, crowdN, 0}),
		row("200 bare reads at once", key{crowd, limit, crowdN, 0}),
		row("200 bare reads at once, as prepared statements", key{crowd, prepared, crowdN, 0}),
		{"lock waits of 200 no-op starts", fmt.Sprint(p.locks.waits)},
		row("a no-op start", key{foreignRows, noForeign, 10, 0}),
		row("a no-op start beside 100,000 foreign providers, before `analyze`", key{foreignRows, notAnalysed, 10, 0}),
		row("a no-op start beside 100,000 foreign providers, after `analyze`", key{foreignRows, wasAnalysed, 10, 0}),
	})
}

// Memory is what is allocated, and the most that is held.
func (p *page) Memory() string {
	var rows [][]string
	for _, operation := range []string{firstStart, noOpStart, parse} {
		contenders := []string{ours, reference, limit}
		switch operation {
		case firstStart:
			contenders = contenders[:2]
		case parse:
			contenders = []string{ours, caarlos, lookFirst}
		}
		for _, n := range p.sizes {
			for _, c := range contenders {
				r, ok := p.results[key{operation, c, n, 0}]
				if !ok {
					continue
				}
				peak := "–"
				if r.peak > 0 {
					peak = size(float64(r.peak))
				}
				rows = append(rows, []string{fmt.Sprintf("%s, N = %s, %s", operation, thousands(n), c), thousands(int(r.allocs)), size(r.bytes), peak})
			}
		}
	}
	return table([]string{"operation", "allocations", "allocated", "peak"}, rows)
}

func size(bytes float64) string {
	switch {
	case bytes >= 1e6:
		return digits(bytes/1e6) + " MB"
	case bytes >= 1e3:
		return digits(bytes/1e3) + " kB"
	}
	return fmt.Sprintf("%.0f B", bytes)
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

// A shownProfile is a profile as the page has it.
type shownProfile struct{ Title, Wall, CPU, Library, All, Server string }

// Profiles are those of what did not meet its target.
func (p *page) Profiles() (list []shownProfile) {
	for _, f := range p.profiles {
		list = append(list, shownProfile{
			Title: fmt.Sprintf("%s, N = %s", f.at.operation, thousands(f.at.n)),
			Wall:  short(f.wall), CPU: short(f.cpu),
			Library: strings.Join(f.library, "\n"), All: strings.Join(f.all, "\n"), Server: strings.Join(f.server, "\n"),
		})
	}
	return list
}
