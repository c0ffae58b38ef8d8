package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchmath"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// english prints a thousand as 1,000.
var english = message.NewPrinter(language.English)

// targets is the table in the page: what, the target, what was measured, and whether it
// is met.
func (s *suite) targets() string {
	table := "| what | target | measured | |\n| --- | ---: | ---: | ---: |\n"
	verdicts := map[bool]string{true: "met", false: "**not met**"}
	add := func(verdict, target, measured, what string, args ...any) {
		table += english.Sprintf("| %s | %s | %s | %s |\n", english.Sprintf(what, args...), target, measured, verdict)
	}
	text := func(r benchmath.Summary, unit string) string {
		return english.Sprintf("%.2f times%s ± %s", r.Center, unit, r.PctRangeString())
	}
	// atMost bounds how much longer a takes than b, and asFast how much shorter.
	atMost := func(limit float64, a, b key, what string, args ...any) {
		r := s.ratio(a, b)
		add(verdicts[r.Center <= limit], english.Sprintf("at most %g times", limit), text(r, ""), what, args...)
	}
	asFast := func(limit float64, a, b key, what string) {
		r := s.ratio(b, a)
		add(verdicts[r.Center >= limit], english.Sprintf("at least %g times as fast", limit), text(r, " as fast"), what)
	}
	for _, latency := range s.latencies {
		for _, n := range s.sizes {
			k := key{noOpStart, joinedRead, n, latency}
			if s.median(k.of(apartRead)) < s.median(k) {
				k.by = apartRead
			}
			atMost(1.5, k.of(ours), k, "no-op start, N = %d, %v to the database, against the faster bare read", n, latency)
		}
	}
	one := key{noOpStart, ours, 1, 0}
	add("", "shown", text(s.ratio(one, one.of(preparedRead)), ""), "no-op start, N = 1, no latency, against the bare read as a prepared statement")
	for _, n := range s.sizes[2:min(4, len(s.sizes))] {
		k := key{firstStart, ours, n, 0}
		atMost(1.8, k, k.of(serverPart), "first start, N = %d, no latency, against the server's part", n)
	}
	k := key{firstStart, ours, 100, time.Millisecond}
	asFast(35, k, k.of(reference), "first start, N = 100, 1ms to the database, against row at a time")
	add("", "shown", text(s.ratio(k.of(reference), k.of(serverPart)), " as fast"), "the server's part of it, against row at a time")
	k = key{freshStart, ours, 1, 0}
	asFast(1, k, k.of(reference), "first start, N = 1, no latency, on a fresh connection, against row at a time")
	few, many := s.sizes[len(s.sizes)-2], s.sizes[len(s.sizes)-1]
	for _, by := range []string{firstStart, noOpStart, readAll, plan, parse} {
		atMost(12, key{growth, by, many, 0}, key{growth, by, few, 0}, "growth from N = %d to %d, %s", few, many, by)
	}
	k = key{parse, ours, 12, 0}
	asFast(3, k, k.of(caarlos), "parsing 12 providers, against `caarlos0/env`")
	k.n = many
	atMost(2, k, k.of(look), "parsing %d providers, against a look that keeps the first of each name", many)
	for _, latency := range s.latencies {
		n := s.samples[key{startPath, ours, 10, latency}][0].Extra[trips]
		add(verdicts[n == 3], "3 round trips", english.Sprintf("%g round trips", n), "open, seed and read, where nothing changes, %v to the database", latency)
	}
	k = key{noOpBeside, nothing, 10, 0}
	atMost(1.5, k.of(foreign), k, "no-op start next to %d other providers, against none", s.foreign)
	atMost(1.5, k.of(deleted), k, "no-op start next to %d deleted providers of one name, against none", s.deleted)
	audits := s.backlogs[1]
	peak, growth := s.peaks[audits], s.peaks[audits]/s.peaks[s.backlogs[0]]
	add(verdicts[growth <= 1.5], "at most 1.5 times", english.Sprintf("%.1f MB, %.2f times", peak/1e6, growth), "memory to deliver %d audits, against a tenth of them", audits)
	rate := float64(audits) / s.median(key{backlog, ours, audits, 0}).Seconds()
	add("", "shown", english.Sprintf("%.0f a second", rate), "rate at which %d audits are delivered", audits)
	return table
}

// write writes the pictures, what benchstat says of all samples, and the page.
func (s *suite) write(dir string) {
	for _, p := range pictures {
		s.draw(p, dir)
	}
	compared, err := exec.Command("go", "tool", "benchstat", "-table=.name", "-row=/n,/ms", "-col=/by", s.record.Name()).Output()
	require.NoError(s, err)
	require.NoError(s, os.WriteFile(filepath.Join(dir, "performance.txt"), compared, 0o644))
	page, err := os.Create(filepath.Join(dir, "performance.md"))
	require.NoError(s, err)
	require.NoError(s, template.Must(template.ParseFiles("page.md.tmpl")).Execute(page, map[string]string{
		"Targets": s.targets(),
		"Machine": english.Sprintf("%s, %d cores, %s. Go %s, PostgreSQL %d.%d, pgx %s, caarlos0/env %s", find("/proc/cpuinfo", "model name"), runtime.NumCPU(),
			find("/etc/os-release", "PRETTY_NAME"), strings.TrimPrefix(runtime.Version(), "go"), s.server.Version()/10_000, s.server.Version()%10_000,
			find("go.mod", "\tgithub.com/jackc/pgx/v5"), find("go.mod", "\tgithub.com/caarlos0/env/v11")),
	}))
	require.NoError(s, page.Close())
}

// find returns the rest of the first line of a file that starts with a text.
func find(file, start string) string {
	content, _ := os.ReadFile(file)
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, start); ok {
			return strings.Trim(rest, " \"\t\n:=v")
		}
	}
	return "unknown"
}
