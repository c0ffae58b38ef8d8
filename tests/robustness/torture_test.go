package robustness

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/leak"
)

var (
	torture  = flag.Bool("torture", false, "run the full numbers of the tests of group F, and print what was run")
	seedFlag = flag.Uint64("seed", 0, "of what the tests of group F choose by chance; 0 is a new one")
	fuzzTime = flag.Duration("fuzz-time", 30*time.Second, "for each fuzz target, with -torture")
)

// F7, L7: nothing that a call started outlives it.
func TestMain(m *testing.M) {
	if isChild() {
		child()
		return
	}
	flag.Parse()
	if *seedFlag == 0 {
		*seedFlag = rand.Uint64N(1<<32) + 1
	}
	if f := flag.Lookup("rapid.seed"); f.Value.String() == f.DefValue {
		_ = f.Value.Set(fmt.Sprint(*seedFlag))
	}
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set(fmt.Sprint(full(35, 100)))
	}
	leak.VerifyTestMain(m, func(code int) {
		if code != 0 {
			fmt.Println("-seed", *seedFlag)
		}
		if *torture {
			cases.print(os.Stdout)
		}
	})
}

// F6: each fuzz target runs for some time, in its own process. Inputs that it finds go to
// testdata, and every run of the tests tries them again.
func TestF6_FuzzTargets(t *testing.T) {
	t.Parallel()
	if !*torture {
		t.Skip("only with -torture; go test runs the corpus of each target by itself")
	}
	list, err := exec.Command("go", "test", "-list", "^Fuzz", "example.com/aiseed/...").Output()
	require.NoError(t, err)
	// The targets of a package come before the line with its name.
	var targets, ofPackage []string
	pkgs := map[string]string{}
	for line := range strings.Lines(string(list)) {
		switch fields := strings.Fields(line); {
		case strings.HasPrefix(line, "Fuzz"):
			ofPackage = append(ofPackage, fields[0])
		case len(fields) > 1:
			for _, target := range ofPackage {
				pkgs[target] = fields[1]
			}
			targets, ofPackage = append(targets, ofPackage...), nil
		}
	}
	require.NotEmpty(t, targets)
	executions := regexp.MustCompile(`execs: (\d+)`)
	for _, target := range targets {
		out, err := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+target+"$", "-fuzztime", fuzzTime.String(), "-fuzzminimizetime", "20x", pkgs[target],
			"-args", "-test.fuzzcachedir="+t.TempDir()).CombinedOutput() // what was found before would be tried first, and take the time
		var problem error
		if err != nil {
			problem = fmt.Errorf("%w\n%s", err, out)
		}
		all := executions.FindAllStringSubmatch(string(out), -1)
		require.NotEmpty(t, all, "%s", out)
		n, err := strconv.Atoi(all[len(all)-1][1])
		require.NoError(t, err)
		cases.add("F6 "+target, n-1)
		cases.check(t, "F6 "+target, "go test -run '^"+target+"$' "+pkgs[target], problem)
	}
}

// chance is a source of random numbers that repeats with -seed. Each user has a source
// with its own name, so that the order of the users does not matter.
func chance(user string) *rand.Rand {
	var stream uint64
	for _, c := range []byte(user) {
		stream = stream*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(*seedFlag, stream))
}

// full returns all with -torture, and otherwise some, which fits next to the other tests.
func full(some, all int) int {
	if *torture {
		return all
	}
	return some
}

// cases counts what all tests of group F ran.
var cases tally

type tally struct {
	mu    sync.Mutex
	kinds map[string]*kind
}

type kind struct{ cases, violations int }

// check counts one case of a kind of fault, and reports err as a violation of what the
// library promises. reproduce is one line that identifies the case.
func (c *tally) check(tb testing.TB, name, reproduce string, err error) {
	tb.Helper()
	c.add(name, 1)
	if err != nil {
		c.mu.Lock()
		c.kinds[name].violations++
		c.mu.Unlock()
		tb.Errorf("%s: %s (-seed %d): %v", name, reproduce, *seedFlag, err)
	}
}

// add counts n cases that were checked in another way, and violated nothing.
func (c *tally) add(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kinds == nil {
		c.kinds = map[string]*kind{}
	}
	if c.kinds[name] == nil {
		c.kinds[name] = &kind{}
	}
	c.kinds[name].cases += n
}

func (c *tally) print(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name := range c.kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "kind of fault\tcases\tviolations\tseed")
	var sum kind
	for _, name := range names {
		k := c.kinds[name]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\n", name, k.cases, k.violations, *seedFlag)
		sum.cases += k.cases
		sum.violations += k.violations
	}
	fmt.Fprintf(table, "%s\t%d\t%d\t%d\n", strings.ToUpper("all"), sum.cases, sum.violations, *seedFlag)
	_ = table.Flush()
}
