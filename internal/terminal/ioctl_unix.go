//go:build linux || darwin

package terminal

import (
	"syscall"
	"unsafe"
)

func ioctl(fd, request uintptr, into unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(into)); errno != 0 {
		return errno
	}
	return nil
}

func width(fd uintptr) int {
	var size struct{ rows, columns, x, y uint16 }
	if ioctl(fd, syscall.TIOCGWINSZ, unsafe.Pointer(&size)) != nil {
		return 0
	}
	return int(size.columns)
}

func isTerminal(fd uintptr) bool {
	var state syscall.Termios
	return ioctl(fd, getState, unsafe.Pointer(&state)) == nil
}

func hideInput(fd uintptr) (restore func(), err error) {
	var before syscall.Termios
	if err := ioctl(fd, getState, unsafe.Pointer(&before)); err != nil {
		return nil, err
	}
	hidden := before
	hidden.Lflag &^= syscall.ECHO
	hidden.Lflag |= syscall.ICANON | syscall.ISIG
	// A shell shows input again when it takes the terminal of a program that stopped, and leaves it
	// without echo after one that quit.
	for _, character := range stopping {
		hidden.Cc[character] = disabled
	}
	if err := ioctl(fd, setState, unsafe.Pointer(&hidden)); err != nil {
		return nil, err
	}
	return func() { _ = ioctl(fd, setState, unsafe.Pointer(&before)) }, nil
}
