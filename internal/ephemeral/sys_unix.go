//go:build linux || darwin

package ephemeral

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/xerrors"
)

// detach gives cmd its own session, so that Ctrl-C in a terminal does not reach it
// before it has cleaned up. If we are root, it also gives cmd another user, because
// PostgreSQL and PgBouncer do not run as root.
func detach(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseInt(account.Uid, 10, 64)
		if err != nil {
			return xerrors.Errorf("user id of %s: %w", name, err)
		}
		gid, err := strconv.ParseInt(account.Gid, 10, 64)
		if err != nil {
			return xerrors.Errorf("group id of %s: %w", name, err)
		}
		// The conversion also accepts -2, which is the id of nobody on macOS.
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return nil
	}
	return xerrors.New("the server refuses to run as root and there is no user postgres or nobody to run it as; run this as another user or set DATABASE_URL")
}

func kill(pid int, signal syscall.Signal) error { return syscall.Kill(pid, signal) }

// freeBytes returns how much can be written below dir, or 0 if there is no dir.
func freeBytes(dir string) uint64 {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return 0
	}
	return uint64(stat.Bavail) * uint64(stat.Bsize)
}
