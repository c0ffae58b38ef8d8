//go:build !linux && !darwin

package ephemeral

import (
	"os/exec"
	"syscall"

	"golang.org/x/xerrors"
)

func detach(*exec.Cmd) error {
	return xerrors.New("a private server can be started on Linux and macOS only; set DATABASE_URL to a server that runs")
}

func kill(int, syscall.Signal) error { return xerrors.New("not supported here") }

func freeBytes(string) uint64 { return 0 }
