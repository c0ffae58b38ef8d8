package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5"

	"example.com/aiseed"
)

// A profile shows where the time of one operation goes.
type profile struct {
	at      key
	wall    time.Duration // of one run, alone
	cpu     time.Duration // of this process in that run; the rest is the server and waiting
	library []string      // lines of pprof: functions of the library, with what they call that is not of it
	all     []string      // lines of pprof: all functions, each by itself
	server  []string      // lines about the statements that the server ran; none for the parser
}

// profiles looks into what did not meet its target.
func (s *suite) profiles(ctx context.Context, targets []target) (list []profile, err error) {
	seen := map[key]bool{}
	for _, t := range targets {
		if t.missing || t.met() || t.profile == nil {
			continue
		}
		at := *t.profile
		at.latency = 0 // waiting shows in no profile
		if seen[at] {
			continue
		}
		seen[at] = true
		p, err := s.profile(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("profile %s of %d providers: %w", at.operation, at.n, err)
		}
		list = append(list, p)
	}
	return list, nil
}

func (s *suite) profile(ctx context.Context, at key) (p profile, err error) {
	p.at = at
	c, closeAll, err := s.profiled(ctx, at)
	if err != nil {
		return p, err
	}
	defer closeAll()
	dir, err := os.MkdirTemp("", "aiseed-bench")
	if err != nil {
		return p, err
	}
	defer os.RemoveAll(dir)
	file, err := os.Create(filepath.Join(dir, "cpu"))
	if err != nil {
		return p, err
	}
	defer file.Close()
	if err := pprof.StartCPUProfile(file); err != nil {
		return p, err
	}
	runs, started := 0, time.Now()
	for time.Since(started) < 2*time.Second || runs < 5 {
		if c.prepare != nil {
			if err = c.prepare(ctx); err != nil {
				break
			}
		}
		cpu, begun := cpuTime(), time.Now()
		if err = c.run(ctx); err != nil {
			break
		}
		p.wall += time.Since(begun)
		p.cpu += cpuTime() - cpu
		runs++
	}
	pprof.StopCPUProfile()
	if err != nil {
		return p, err
	}
	p.wall, p.cpu = p.wall/time.Duration(runs), p.cpu/time.Duration(runs)
	if p.library, err = top(ctx, file.Name(), `-show=^example\.com/aiseed\.`); err != nil {
		return p, err
	}
	if p.all, err = top(ctx, file.Name()); err != nil || at.operation == parse {
		return p, err
	}
	p.server, err = s.statements(ctx, at)
	return p, err
}

// statements tells what the server did in one run, on a server of its own: to keep
// count slows it down.
func (s *suite) statements(ctx context.Context, at key) (lines []string, err error) {
	lab, err := newLaboratory(ctx, "shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track=all", "pg_stat_statements.track_planning=on")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	probe := &suite{laboratory: lab, scale: s.scale, sealer: s.sealer, results: map[key]result{}}
	name := databaseOf(at)
	if at.operation == firstStart {
		err = probe.database(ctx, name, "")
	} else {
		err = probe.seeded(ctx, name, at.n)
	}
	if err != nil {
		return nil, err
	}
	c, closeAll, err := probe.profiled(ctx, at)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	counter, err := lab.pool(ctx, name, 0)
	if err != nil {
		return nil, err
	}
	defer counter.Close()
	if _, err := counter.Exec(ctx, "create extension pg_stat_statements"); err != nil {
		return nil, err
	}
	if err := warmUp(ctx, []contender{c}, 3); err != nil {
		return nil, err
	}

	const runs = 20
	type work struct {
		text          string
		calls         int
		planned, runs float64 // milliseconds
	}
	var works []work
	for range runs {
		if err := prepare(ctx, c); err != nil {
			return nil, err
		}
		if _, err := counter.Exec(ctx, "select pg_stat_statements_reset()"); err != nil {
			return nil, err
		}
		if err := c.run(ctx); err != nil {
			return nil, err
		}
		rows, err := counter.Query(ctx, `select query, calls, total_plan_time, total_exec_time from pg_stat_statements
			where query !~ 'pg_stat_statements' and dbid = (select oid from pg_database where datname = current_database())`)
		if err != nil {
			return nil, err
		}
		var w work
		if _, err := pgx.ForEachRow(rows, []any{&w.text, &w.calls, &w.planned, &w.runs}, func() error {
			i := slices.IndexFunc(works, func(known work) bool { return known.text == w.text })
			if i < 0 {
				i, works = len(works), append(works, work{text: w.text})
			}
			works[i].calls += w.calls
			works[i].planned += w.planned
			works[i].runs += w.runs
			return nil
		}); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(works, func(a, b work) int { return cmp.Compare(b.planned+b.runs, a.planned+a.runs) })
	lines = append(lines, "plan ms  run ms  calls  statement")
	for _, w := range works[:min(8, len(works))] {
		text := strings.Join(strings.Fields(w.text), " ")
		lines = append(lines, fmt.Sprintf("%7.3f %7.3f %6d  %.70s", w.planned/runs, w.runs/runs, w.calls/runs, text))
	}
	return lines, nil
}

// databaseOf is where an operation is profiled.
func databaseOf(at key) string {
	if at.operation == firstStart {
		return fmt.Sprintf("empty_%d", at.n)
	}
	return fmt.Sprintf("seeded_%d", at.n)
}

// profiled is the contender of ours that was measured at at.
func (s *suite) profiled(ctx context.Context, at key) (c contender, closeAll func(), err error) {
	switch at.operation {
	case parse:
		variables := environ(at.n)
		return contender{run: func(ctx context.Context) error {
			_, err := aiseed.ParseEnviron(ctx, variables, slog.Logger{})
			return err
		}}, func() {}, nil
	case crowd:
		contenders, closeAll, err := s.crowd(ctx)
		if err != nil {
			return c, nil, err
		}
		return contenders[0], closeAll, nil
	}
	b, err := s.bench(ctx, databaseOf(at), at.n, 0)
	if err != nil {
		return c, nil, err
	}
	switch at.operation {
	case firstStart:
		c = b.firsts(true)[0]
	case noOpStart:
		c = b.noOps(ping)[0]
	case readAll:
		c = contender{run: b.readAll}
	case plan:
		c = contender{run: b.plan}
	default:
		return c, nil, fmt.Errorf("there is no way to profile it; add one to profiled")
	}
	return c, b.close, nil
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // cannot fail for the process itself
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// top are the first lines of what go tool pprof says.
func top(ctx context.Context, file string, options ...string) ([]string, error) {
	args := append([]string{"tool", "pprof", "-top", "-nodecount=8"}, append(options, file)...)
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("go tool pprof: %w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go tool pprof: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		// flat flat% sum% cum cum% name
		fields := strings.Fields(line)
		if len(fields) >= 6 && strings.HasSuffix(fields[1], "%") {
			lines = append(lines, fmt.Sprintf("%6s  %s", fields[1], strings.Join(fields[5:], " ")))
		}
	}
	return lines, nil
}
