package robustness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
)

const (
	upgradeFolder = "testdata/upgrade/"
	upgradeKey    = 9
)

// F10: processes of the version before and of this one start, edit and read side by side on the
// tables of this one. Both see the same, none fails, and none undoes what another did.
func TestF10_RollingUpgrade(t *testing.T) {
	t.Parallel()
	programs := builtVersions(t)
	random := chance(t.Name())
	for round := range full(1, 20) {
		t.Run(fmt.Sprintf("round %d", round), func(t *testing.T) {
			f := setup(t)
			f.Keyring = storetest.Keyring(t, upgradeKey)
			f.Store, f.Wire = f.Open()
			versions := []*upgradeProcess{f.run(programs[0]), f.run(programs[1])}
			either := func() *upgradeProcess { return versions[random.IntN(2)] }
			crowded := storetest.Prefixed(sweptLines)

			// All at once on empty tables.
			all := append(versions, f.run(programs[0]), f.run(programs[1]))
			var starts sync.WaitGroup
			for _, v := range all {
				starts.Go(func() { assert.Empty(t, v.do("start", crowded...).Error) })
			}
			starts.Wait()
			want := versions[0].do("list").Providers
			require.Equal(t, []string{"openai", "rock", "two"}, namesOf(want))

			// One after the other, by chance.
			find := func(name string) *listed {
				for i := range want {
					if want[i].Name == name {
						return &want[i]
					}
				}
				want = append(want, listed{Name: name, Type: "openai", Enabled: true})
				return &want[len(want)-1]
			}
			kept := map[string][]string{}
			for _, p := range want {
				kept[p.Name] = p.Keys
			}
			for step := range full(40, 200) {
				name := []string{"openai", "two", "rock"}[random.IntN(3)]
				if len(want) > 3 {
					name = want[random.IntN(len(want))].Name
				}
				p := find(name)
				verb, args := "", []string{name}
				switch choice := random.IntN(7); {
				case choice == 0:
					verb, args = "start", crowded
				case choice == 1:
					name = fmt.Sprintf("zz-%04d", step)
					find(name)
					verb, args, kept[name] = "create", []string{name, "sk-key-1-of-" + name}, []string{"sk-key-1-of-" + name}
				case p.Deleted:
					verb, p.Deleted = "restore", false
				case choice == 2:
					verb, p.Deleted = "delete", true
				case choice == 3 && p.Enabled:
					verb, p.Enabled = "disable", false
				case choice == 3:
					verb, p.Enabled = "enable", true
				case choice == 4 && name[0] == 'z':
					p.BaseURL = fmt.Sprintf("https://%d.example", step)
					verb, args = "update", []string{name, p.BaseURL}
				case choice == 5 && name != "rock" && len(kept[name]) < 5:
					key := fmt.Sprintf("sk-key-added-%04d", step)
					verb, args, kept[name] = "add", []string{name, key}, append(kept[name], key)
				default:
					continue
				}
				writer, reader := either(), either()
				require.Empty(t, writer.do(verb, args...).Error, "%s does %s %s", writer.name, verb, args)
				for i := range want {
					if p := &want[i]; p.Enabled && !p.Deleted {
						p.Keys = kept[p.Name]
					} else {
						p.Keys = nil
					}
				}
				require.Equal(t, want, reader.do("list").Providers, "%s after %s did %s %s", reader.name, writer.name, verb, args)
			}
			cases.add("F10 rolling upgrade, steps", full(40, 200))

			// A type that a process does not know is read as it is stored, and stops no start.
			f.Exec(`alter table ai_providers drop constraint ai_providers_type_check`)
			f.Exec(`insert into ai_providers (id, type, name) values (gen_random_uuid(), 'of-a-later-version', 'zzz-later')`)
			for _, v := range versions {
				require.Empty(t, v.do("start", crowded...).Error, v.name)
				listed := v.do("list").Providers
				require.Equal(t, "of-a-later-version", listed[len(listed)-1].Type, v.name)
			}
			providers, err := f.Store.Providers(context.Background())
			require.NoError(t, err)
			require.Equal(t, aiseed.ProviderType("of-a-later-version"), providers[len(providers)-1].Type)
		})
	}
}

type listed struct {
	Name, Type, BaseURL string
	Enabled, Deleted    bool
	Keys                []string
}

func namesOf(providers []listed) (names []string) {
	for _, p := range providers {
		names = append(names, p.Name)
	}
	return names
}

// builtVersions builds the process with the version before and with this one.
func builtVersions(t *testing.T) [2]string {
	t.Helper()
	id, err := os.ReadFile(upgradeFolder + "commit")
	require.NoError(t, err)
	commit := strings.TrimSpace(string(id))
	source, err := filepath.Abs(upgradeFolder + "process.go.src")
	require.NoError(t, err)
	before := t.TempDir()
	git := func(script string) (string, error) {
		cmd := exec.Command("sh", "-c", `git() { command git -c safe.directory='*' "$@"; }; `+script, "sh", commit, before)
		cmd.Dir = "../.."
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if shallow, err := git(`git rev-parse --is-shallow-repository`); err != nil || shallow == "true" {
		if out, err := git(`git fetch --unshallow`); err != nil {
			t.Skipf("the version before is built from the history of the repository, which is not here: %s", out)
		}
	}
	out, err := git(`git archive "$1" >"$2/before.tar" && tar -xf "$2/before.tar" -C "$2"`)
	require.NoError(t, err, "%s", out)
	now, err := filepath.Abs("../..")
	require.NoError(t, err)
	var programs [2]string
	for i, module := range []string{before, now} {
		// The program is in no package of the module: the overlay puts it there for the compiler.
		overlay := filepath.Join(t.TempDir(), "overlay.json")
		replaced, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(module, "upgradeprocess", "main.go"): source}})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(overlay, replaced, 0o600))
		programs[i] = filepath.Join(t.TempDir(), []string{"before", "now"}[i])
		build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-overlay="+overlay, "-o", programs[i], "./upgradeprocess")
		build.Dir = module
		out, err := build.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return programs
}

// An upgradeProcess is a process of one version.
type upgradeProcess struct {
	t    testing.TB
	name string
	in   io.Writer
	out  *bufio.Scanner
	mu   sync.Mutex
}

type versionAnswer struct {
	Error     string
	Providers []listed
}

func (f *fixture) run(program string) *upgradeProcess {
	f.T.Helper()
	cmd := exec.Command(program, f.DSN(), hex.EncodeToString(bytes.Repeat([]byte{upgradeKey}, aiseed.KeySize)))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(f.T, err)
	out, err := cmd.StdoutPipe()
	require.NoError(f.T, err)
	require.NoError(f.T, cmd.Start())
	f.T.Cleanup(func() {
		_ = in.Close()
		assert.NoError(f.T, cmd.Wait())
	})
	v := &upgradeProcess{t: f.T, name: filepath.Base(program), in: in, out: bufio.NewScanner(out)}
	require.True(f.T, v.out.Scan(), "it did not start")
	return v
}

// do sends one line, and returns the answer.
func (v *upgradeProcess) do(verb string, args ...string) (answer versionAnswer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err := fmt.Fprintln(v.in, strings.Join(append([]string{verb}, args...), "\t"))
	if assert.NoError(v.t, err) && assert.True(v.t, v.out.Scan(), "it ended") {
		assert.NoError(v.t, json.Unmarshal(v.out.Bytes(), &answer))
	}
	return answer
}
