package ephemeral

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/xerrors"
)

// startTimeout is how long a server may take until it answers. It usually takes
// half a second; a loaded machine can be many times slower.
const startTimeout = time.Minute

//go:embed keeper.sh
var keeperScript string

// job is what a keeper runs.
type job struct {
	name    string   // for error messages: "PostgreSQL"
	dir     string   // made and removed by the keeper
	config  string   // becomes the file "config" in dir
	script  string   // run by sh in dir; must exec the server
	args    []string // of script
	signals string   // that ask the server to stop, mildest first
	bin     string   // of PostgreSQL: its directory of binaries
	secret  string   // replaced by a mask wherever the log is quoted
}

// keeper is a shell in its own session. It runs a job and ends it when close is
// called or when this process dies. See keeper.sh.
//
// The shell makes the directory. If this process made it and was killed before the
// shell runs, the directory would be left behind.
type keeper struct {
	job
	cmd   *exec.Cmd
	stdin *os.File // the job lives as long as this is open
	life  *os.File // reaches end of file when the server ends
	close func() error
}

// newDir returns a name for a directory that does not exist yet.
func newDir(prefix string) (string, error) {
	parent, err := ParentDir()
	return filepath.Join(parent, "aiseed-"+prefix+"-"+strings.ToLower(rand.Text()[:12])), err
}

// ParentDir returns a directory for directories with sockets. The user who runs the
// servers can write to it, and it is preferably in memory. All calls return the same one.
var ParentDir = sync.OnceValues(func() (string, error) {
	return parentDir(slices.Compact([]string{"/dev/shm", os.TempDir(), "/tmp", "/var/tmp"})...)
})

// parentDir returns the first candidate with room for the databases of many tests,
// or else the one with the most room. It tries to make a directory in each, as the user
// who runs the server if we are root: only a trial shows whether that works.
func parentDir(candidates ...string) (string, error) {
	const (
		longest = 60 // the path of a socket is limited to 104 bytes on some systems
		enough  = 1 << 30
	)
	var usable []string
	for _, dir := range candidates {
		if !filepath.IsAbs(dir) || len(dir) > longest {
			continue
		}
		trial := filepath.Join(dir, "aiseed-trial-"+strings.ToLower(rand.Text()[:12]))
		cmd := exec.Command("/bin/sh", "-c", `mkdir "$1" && rmdir "$1"`, "sh", trial)
		cmd.Dir = "/"
		if err := detach(cmd); err != nil {
			return "", err
		}
		if cmd.Run() == nil {
			usable = append(usable, dir)
		}
	}
	if len(usable) == 0 {
		return "", xerrors.Errorf("no directory for a server's files can be made in any of %s; make one of them writable, set TMPDIR to a directory that is (at most %d bytes long), or set DATABASE_URL to a server that runs",
			strings.Join(candidates, ", "), longest)
	}
	return slices.MaxFunc(usable, func(a, b string) int {
		return cmp.Compare(min(freeBytes(a), enough), min(freeBytes(b), enough))
	}), nil
}

// keep starts the job. The caller must call close on the keeper.
func keep(j job) (*keeper, error) {
	stdin, stdinWrite, err := os.Pipe()
	if err != nil {
		return nil, xerrors.Errorf("start %s: %w", j.name, err)
	}
	life, lifeWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(xerrors.Errorf("start %s: %w", j.name, err), stdin.Close(), stdinWrite.Close())
	}

	// Use files, not buffers: exec starts no goroutine for a file.
	cmd := exec.Command("/bin/sh", append([]string{"-c", keeperScript, "aiseed-keeper", j.dir, j.signals, j.script}, j.args...)...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, lifeWrite, lifeWrite
	err = detach(cmd)
	if err == nil {
		err = cmd.Start()
	}
	_ = stdin.Close()
	_ = lifeWrite.Close()
	if err != nil {
		return nil, errors.Join(xerrors.Errorf("start %s: %w", j.name, err), stdinWrite.Close(), life.Close())
	}

	k := &keeper{job: j, cmd: cmd, stdin: stdinWrite, life: life}
	k.close = sync.OnceValue(k.stop)
	if j.bin != "" {
		pin(cmd.Process.Pid, j.bin) // the shell starts nothing before it has read the configuration
	}
	// This fails only if the shell has exited, and then await reports its output.
	_, _ = k.stdin.WriteString(j.config + ".\n")
	return k, nil
}

// environment returns the few variables that a server gets. It leaves out the secrets in
// the environment of a test, and PG* variables, which would change what the server does.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// stop ends the job and returns when its processes and its directory are gone.
func (k *keeper) stop() error {
	_ = k.stdin.Close()
	// Ignore the exit status: RemoveAll below reports whether the directory is gone.
	_ = k.cmd.Wait()
	_ = k.life.Close()
	if err := os.RemoveAll(k.dir); err != nil {
		return xerrors.Errorf("stop %s: %w", k.name, err)
	}
	return nil
}

// await calls probe until it succeeds. It gives up when the server exits, when
// ctx is done, or after startTimeout.
func (k *keeper) await(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	var said []byte
	buf := make([]byte, 1024)
	for {
		probeErr := probe(ctx)
		if probeErr == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return xerrors.Errorf("%s does not answer (%v)%s: %w", k.name, probeErr, k.tail(), err)
		}
		// The pause between two probes.
		if err := k.life.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			return xerrors.Errorf("watch %s: %w", k.name, err)
		}
		n, err := k.life.Read(buf)
		said = append(said, buf[:n]...)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return xerrors.Errorf("%s exited while it started%s%s", k.name, indent(string(said)), k.tail())
		}
	}
}

func (k *keeper) logFile() string { return filepath.Join(k.dir, "log") }

// tail returns the end of the log, for the end of an error message.
func (k *keeper) tail() string {
	const most, mask = 4096, "********"

	log, err := os.ReadFile(k.logFile())
	if err != nil {
		return ""
	}
	if len(log) > most {
		log = log[len(log)-most:]
	}
	text := string(log)
	if k.secret != "" {
		text = strings.NewReplacer(k.secret, mask, iniQuote(k.secret), mask).Replace(text)
	}
	return indent(text)
}

// indent returns the text on separate, indented lines, or "" if it has no lines.
func indent(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return "\n\t" + strings.ReplaceAll(text, "\n", "\n\t")
}
