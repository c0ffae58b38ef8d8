package main

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestProgram runs main in its own process, because signals and exit codes need one.
func TestProgram(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String()+" while serving", func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			p := f.startProgram(f.environ)
			f.requireListed(p.serving())
			require.NoError(t, p.cmd.Process.Signal(signal))
			require.Equal(t, 0, p.wait().ExitStatus())
			require.Equal(t, everything, f.count())
			f.requireNothingLeft()
		})
		t.Run(signal.String()+" during start-up", func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.hold(`lock table ai_providers`)
			p := f.startProgram(f.environ)
			f.waitForWaiter()
			require.NoError(t, p.cmd.Process.Signal(signal))
			require.Equal(t, 130, p.wait().ExitStatus())
			require.Equal(t, "hostserver: interrupted\n", p.output.String())
			f.requireNothingLeft()
		})
	}

	t.Run("second signal", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		p := f.startProgram(f.environ)
		url := p.serving()
		f.hold(`lock table ai_providers`)
		request := make(chan error, 1)
		go func() { _, _, err := call("GET", url+"/api/providers", ""); request <- err }()
		f.waitForRequest()
		// The second signal has an effect once the first has arrived. It is not SIGINT,
		// because background jobs of a shell ignore that.
		require.Eventually(t, func() bool {
			return p.cmd.Process.Signal(syscall.SIGTERM) != nil
		}, patience, 10*time.Millisecond, "the program waits for a request")
		require.Equal(t, syscall.SIGTERM, p.wait().Signal())
		require.Error(t, <-request)
	})

	t.Run("error", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		p := f.startProgram(f.with(keysVariable + "="))
		require.Equal(t, 1, p.wait().ExitStatus())
		require.Contains(t, p.output.String(), "openssl rand -base64 32")
	})
}

type process struct {
	*fixture
	cmd    *exec.Cmd
	output *output
	ended  chan struct{}
}

func (f *fixture) startProgram(environ []string) *process {
	f.t.Helper()
	path, err := os.Executable()
	require.NoError(f.t, err)
	p := &process{fixture: f, cmd: exec.Command(path), output: newOutput(), ended: make(chan struct{})}
	p.cmd.Env = append(slices.Clone(environ), programVariable+"=1")
	slices.Reverse(p.cmd.Env) // if a variable appears twice, exec keeps the last
	p.cmd.Stderr = p.output
	require.NoError(f.t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // ProcessState has the result
	}()
	f.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if f.t.Failed() {
			f.t.Logf("the program ended with %v, and printed:\n%s", p.cmd.ProcessState, p.output)
		}
	})
	return p
}

func (p *process) serving() (url string) {
	p.t.Helper()
	select {
	case address := <-p.output.address:
		return "http://" + address
	case <-p.ended:
		require.FailNow(p.t, "the program ended instead of serving")
	case <-time.After(patience):
		require.FailNow(p.t, "the program neither serves nor ends")
	}
	return ""
}

func (p *process) wait() syscall.WaitStatus {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		require.FailNow(p.t, "the program does not end")
	}
	p.requireNoSecret(p.output.String())
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus)
}
