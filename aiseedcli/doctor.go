package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// The states of a finding.
const (
	stateOK   = "ok"
	stateWarn = "warn"
	stateFail = "FAIL"
	stateSkip = "skip"
)

// A finding is one line of the doctor's output, and what to paste below it.
type finding struct {
	State string   `json:"state"`
	Check string   `json:"check"`
	Found string   `json:"found"`
	Do    string   `json:"do,omitempty"`
	Run   []string `json:"run,omitempty"` // statements, commands or settings; Do says where they go

	unlooked bool // it is skipped because another check failed or was skipped
}

func ok(format string, args ...any) []finding {
	return []finding{{State: stateOK, Found: fmt.Sprintf(format, args...)}}
}

func skip(format string, args ...any) []finding {
	return []finding{{State: stateSkip, Found: fmt.Sprintf(format, args...)}}
}

func skipFor(check string) []finding {
	return []finding{{State: stateSkip, Found: "needs: " + check, unlooked: true}}
}

func warn(found, do string, run ...string) []finding {
	return []finding{{State: stateWarn, Found: found, Do: do, Run: pasteable(run)}}
}

func fail(found, do string, run ...string) []finding {
	return []finding{{State: stateFail, Found: found, Do: do, Run: pasteable(run)}}
}

// pasteable returns lines as they are to be typed, and leaves out what cannot be shown as it is: a name in the
// database can hold line breaks and control characters.
func pasteable(run []string) []string {
	for i := range run {
		run[i] = plain(run[i])
	}
	return slices.DeleteFunc(run, func(line string) bool { return text.Printable(line) != line })
}

// A check looks at one thing. It is skipped if a check that it needs failed or was
// skipped.
type check struct {
	name  string
	needs []string
	look  func(*doctor, context.Context) []finding
}

// checks ask in the order of a start, so that the first that fails is where a start stops. What
// only a start that writes needs comes last: the plan says whether the next one does.
var checks = []check{
	{"environment", nil, (*doctor).environment},
	{"keyring", nil, (*doctor).readKeyring},
	{"connection", nil, (*doctor).connection},
	{"server", []string{"connection"}, (*doctor).server},
	{"schema", []string{"connection"}, (*doctor).tables},
	{"keys", []string{"keyring", "schema"}, (*doctor).keys},
	{"plaintext", []string{"keys"}, (*doctor).plaintext},
	{"values", []string{"keys"}, (*doctor).values},
	{"audits", []string{"schema"}, (*doctor).audits},
	{"plan", []string{"environment", "keys"}, (*doctor).plan},
	{"writing", []string{"connection"}, (*doctor).writing},
	{"lock", []string{"connection"}, (*doctor).lock},
	{"watch", []string{"connection"}, (*doctor).watch},
}

// doctor holds what the checks have found so far.
type doctor struct {
	*app
	cfg      aiseed.Config
	keyring  *aiseed.Keyring
	pool     *pgxpool.Pool
	poolErr  error // why there is none
	session  session
	access   access // to the tables
	store    *aiseed.Store
	openErr  error              // why there is no store, if the schema is not why
	unsealed bool               // there is plaintext, although there is a keyring
	damaged  map[uuid.UUID]bool // providers that are known to be unusable
	steps    []aiseed.Step      // of the next start; nil if it stops before it has a plan
	writes   bool               // the next start does
}

func runDoctor(ctx context.Context, a *app) (result, error) {
	ctx, end := context.WithCancel(ctx)
	d := &doctor{app: a, damaged: map[uuid.UUID]bool{}}
	d.pool, d.poolErr = a.pool(ctx) // not in a check, whose context ends before the pool does
	defer func() {
		end()
		if d.pool != nil {
			d.pool.Close()
		}
	}()
	failed := map[string]bool{} // or skipped
	code, all := exitDone, []finding{}
	var others []string // one line for all: what matters are those that failed
	for _, c := range checks {
		findings := d.examine(ctx, c, failed)
		if ctx.Err() != nil {
			return result{document: map[string]any{"healthy": false, "findings": all}}, ctx.Err()
		}
		for i := range findings {
			findings[i].Check = c.name
			switch findings[i].State {
			case stateFail:
				code, failed[c.name] = exitError, true
			case stateSkip:
				failed[c.name] = true
			}
			switch {
			case findings[i].unlooked:
				others = append(others, c.name)
			case !a.flags.json:
				a.printFinding(findings[i])
			}
		}
		all = append(all, findings...)
	}
	if len(others) > 0 && !a.flags.json {
		a.printFinding(finding{State: stateSkip, Check: "the others", Found: strings.Join(others, ", ") + ": each needs one that failed"})
	}
	return result{code: code, document: map[string]any{"healthy": code == exitDone, "findings": all}}, nil
}

func (d *doctor) examine(ctx context.Context, c check, failed map[string]bool) []finding {
	for _, need := range c.needs {
		if failed[need] {
			return skipFor(need)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return c.look(d, ctx)
}

// forWriting is a finding about what a start that writes needs. needed says that the next one does.
func (d *doctor) forWriting(needed bool, found, do string, run ...string) []finding {
	switch {
	case needed:
		return fail(found+"; the next start fails for it", do, run...)
	case d.steps == nil:
		return warn(found+"; a start that writes fails for it", do, run...)
	}
	return warn(found+"; the next start does not fail for it", do, run...)
}

var stateColours = map[string]string{stateOK: "32", stateWarn: "33", stateFail: "31"}

func (a *app) printFinding(f finding) {
	text := f.Found
	if f.Do != "" {
		text += ". " + f.Do
	}
	line := wrap(fmt.Sprintf("%-4s  %-11s  %s\n", f.State, f.Check, strings.Join(strings.Fields(text), " ")), a.width())
	if code := stateColours[f.State]; code != "" && a.colour() { // after it is wrapped: colours have no width
		line = "\x1b[" + code + "m" + line[:4] + "\x1b[0m" + line[4:]
	}
	a.print(line)
	for _, line := range f.Run {
		a.print(strings.Repeat(" ", 19) + line + "\n")
	}
}

// environment finds variables that a start would refuse, and those that look misspelt.
func (d *doctor) environment(ctx context.Context) (findings []finding) {
	cfg, err := aiseed.ParseEnviron(ctx, d.Environ, slog.Logger{}, aiseed.WithPrefix(d.flags.prefixes...))
	d.cfg = cfg
	for _, problem := range problems(err) {
		findings = append(findings, fail(problem, "")...)
	}
	for _, w := range cfg.Warnings {
		findings = append(findings, warn(w.String(), "")...)
	}
	ofCommand := []string{d.DatabaseVariable, d.DatabaseVariable + "_FILE", d.flags.keysVariable, d.flags.keysVariable + "_FILE"}
	if !slices.ContainsFunc(d.Environ, func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return !slices.Contains(ofCommand, name) && slices.ContainsFunc(d.flags.prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	}) {
		findings = append(findings, warn(fmt.Sprintf("no variable %s* is set; is this the server's environment, and -prefix its prefix?", strings.Join(d.flags.prefixes, "* or ")), "")...)
	}
	if findings == nil {
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, nil, cfg, slog.Logger{}) // without a database, all are to be created
		if err != nil {
			return fail(bare(err), "")
		}
		makes := slices.DeleteFunc(plan.Steps, func(s aiseed.Step) bool { return s.Action != aiseed.ActionCreate })
		return ok("nothing is wrong with the variables %s*, which make %s", strings.Join(d.flags.prefixes, "* and "), text.Count(len(makes), "provider"))
	}
	return findings
}

// problems returns the lines of an error about the environment.
func problems(err error) []string {
	var config *aiseed.ConfigError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &config):
		return []string{bare(err)}
	}
	var lines []string
	for _, p := range config.Problems {
		lines = append(lines, p.String())
	}
	return lines
}

func (d *doctor) readKeyring(context.Context) []finding {
	keyring, err := d.requiredKeyring()
	d.keyring = keyring
	switch {
	case err != nil:
		return fail(bare(err), "")
	case keyring == nil:
		return ok("none, which -plaintext accepts")
	}
	return ok("%s; %s seals", text.Count(len(keyring.IDs()), "key"), keyring.IDs()[0])
}
