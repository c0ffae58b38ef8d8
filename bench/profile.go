package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"cdr.dev/slog/v3"

	"example.com/aiseed"
)

// A profile shows where the time of one operation goes.
type profile struct {
	at      key
	wall    time.Duration // of one run, alone
	cpu     time.Duration // of this process in that run; the rest is the server and waiting
	library []string      // lines of pprof: functions of the library, with what they call that is not of it
	all     []string      // lines of pprof: all functions, each by itself
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
	p.all, err = top(ctx, file.Name())
	return p, err
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
	database := "seeded_%d"
	if at.operation == firstStart {
		database = "empty_%d"
	}
	b, err := s.bench(ctx, fmt.Sprintf(database, at.n), at.n, 0)
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
