package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"
)

// targets are the rows of the table in the page: what, the target, what was measured, whether it is
// met. What was measured is a ratio within one run, or a count; "" if it was not measured.
func (s *suite) targets() (rows [][]string) {
	add := func(met bool, wanted, measured, what string, args ...any) {
		rows = append(rows, []string{fmt.Sprintf(what, args...), wanted, measured, map[bool]string{true: "met", false: "**not met**"}[met]})
	}
	// ratio adds how much longer a takes than b.
	ratio := func(limit float64, fast bool, a, b key, what string, args ...any) {
		r, wanted, unit := s.ratio(a, b), fmt.Sprintf("at most %g times", limit), "times"
		met := r.Center <= limit
		if fast {
			met, wanted, unit = r.Center >= limit, fmt.Sprintf("at least %g times faster", limit), "times the time"
		}
		measured := ""
		if r.Center > 0 {
			measured = fmt.Sprintf("%.3g %s ± %s", r.Center, unit, r.PctRangeString())
		}
		add(met, wanted, measured, what, args...)
	}
	for _, latency := range s.latencies {
		for _, n := range s.sizes {
			start, read := key{noOpStart, ours, n, latency}, key{noOpStart, joinedRead, n, latency}
			if s.median(read.of(apartRead)) < s.median(read) {
				read.by = apartRead
			}
			ratio(1.5, false, start, read, "no-op start, N = %s, %d ms, against the faster bare read", thousands(n), latency.Milliseconds())
		}
	}
	for _, n := range s.sizes[2:min(4, len(s.sizes))] {
		start := key{firstStart, ours, n, 0}
		ratio(1.8, false, start, start.of(serverPart), "first start, N = %s, 0 ms, against the server's own part", thousands(n))
	}
	start := key{firstStart, ours, 100, time.Millisecond}
	ratio(35, true, start.of(reference), start, "first start, N = 100, 1 ms, against row at a time")
	fresh := key{freshStart, ours, 1, 0}
	ratio(1, true, fresh.of(reference), fresh, "first start, N = 1, 0 ms, on a fresh connection, against row at a time")
	for _, by := range growing {
		small, large := key{growth, by, s.grown()[0], 0}, key{growth, by, s.grown()[1], 0}
		ratio(12, false, large, small, "growth from N = %s to %s, %s", thousands(small.n), thousands(large.n), by)
	}
	few, many := key{parse, ours, 12, 0}, key{parse, ours, s.grown()[1], 0}
	ratio(3, true, few.of(caarlos), few, "parsing 12 providers, against `caarlos0/env`")
	ratio(2, false, many, many.of(look), "parsing %s providers, against a look that keeps the first of each name", thousands(many.n))
	for _, latency := range s.latencies {
		worst := 0.0
		for _, r := range s.samples[key{startPath, ours, 10, latency}] {
			worst = max(worst, r.Extra[trips])
		}
		add(worst == 3, "3 round trips", fmt.Sprintf("%g round trips", worst), "open, seed and read, where nothing changes, %d ms", latency.Milliseconds())
	}
	for _, analysed := range []string{"", andAnalysed} {
		for _, other := range []struct {
			by, what string
			n        int
		}{{foreign, "that the environment does not name", s.foreign}, {deleted, "deleted ones of one name", s.deleted}} {
			beside := key{noOpBeside, other.by + analysed, 10, 0}
			ratio(1.5, false, beside, beside.of(noOthers), "no-op start next to %s providers %s%s, against none", thousands(other.n), other.what, strings.Replace(analysed, "-", ", ", 1))
		}
	}
	backlogs := s.backlogs
	small, large := s.peaks[backlogs[0]], s.peaks[backlogs[1]]
	add(large <= 1.5*small, "at most 1.5 times", fmt.Sprintf("%.1f MB, %.2f times", large/1e6, large/small),
		"backlog of %s audits, memory at its peak, against a tenth of them", thousands(backlogs[1]))
	add(true, "shown", fmt.Sprintf("%.0f a second", float64(backlogs[1])/s.median(key{backlog, ours, backlogs[1], 0}).Seconds()), "backlog of %s audits, delivered", thousands(backlogs[1]))
	return rows
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}

// write writes the page, its pictures, and what benchstat says of all samples.
func (s *suite) write(dir string) {
	for _, p := range s.pictures() {
		require.NoError(s, s.draw(p, dir))
	}
	benchstat := exec.Command("go", "tool", "benchstat", "-table", ".name", "-row", "/n,/ms", "-col", "/by", s.record.Name())
	compared, err := benchstat.Output()
	require.NoError(s, err)
	require.NoError(s, os.WriteFile(filepath.Join(dir, "performance.txt"), compared, 0o644))
	page, err := os.Create(filepath.Join(dir, "performance.md"))
	require.NoError(s, err)
	require.NoError(s, template.Must(template.ParseFiles("page.md.tmpl")).Execute(page, s))
	require.NoError(s, page.Close())
}

// The methods below are for the page.

func (s *suite) Targets() string {
	rows := append([][]string{{"what", "target", "measured", ""}, {"---", "---:", "---:", "---:"}}, s.targets()...)
	var table strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&table, "| %s |\n", strings.Join(row, " | "))
	}
	return strings.TrimSpace(table.String())
}

// LeftOut says where row at a time would have taken too long.
func (s *suite) LeftOut() string {
	var list []string
	for _, n := range s.sizes {
		for _, latency := range s.latencies {
			if s.referenceRounds(n, latency) == 0 {
				list = append(list, fmt.Sprintf("N = %s at %d ms", thousands(n), latency.Milliseconds()))
			}
		}
	}
	return strings.Join(list, ", ")
}

// ServerRatio is how much faster a first start could be than row at a time.
func (s *suite) ServerRatio() string {
	at := key{firstStart, reference, 100, time.Millisecond}
	return fmt.Sprintf("%.0f", s.ratio(at, at.of(serverPart)).Center)
}

func (s *suite) Machine() string {
	return fmt.Sprintf("%s, %d cores, %s. Go %s, PostgreSQL %d.%d, pgx %s, caarlos0/env %s", line1("/proc/cpuinfo", "model name"), runtime.NumCPU(),
		line1("/etc/os-release", "PRETTY_NAME"), strings.TrimPrefix(runtime.Version(), "go"), s.server.Version()/10_000, s.server.Version()%10_000,
		line1("go.mod", "\tgithub.com/jackc/pgx/v5 v"), line1("go.mod", "\tgithub.com/caarlos0/env/v11 v"))
}

// line1 returns the rest of the first line of a file that starts with a text.
func line1(file, start string) string {
	content, _ := os.ReadFile(file)
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, start); ok {
			return strings.Trim(rest, "\"\t\n :=")
		}
	}
	return "unknown"
}
