package testkit

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// A Terminal is a pseudo-terminal with a person in front of it.
type Terminal struct {
	File *os.File // what a program has as its standard streams

	t      *testing.T
	person *os.File
	mu     sync.Mutex
	shown  strings.Builder
}

// NewTerminal opens a terminal that is closed after the test.
func NewTerminal(t *testing.T) *Terminal {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	term := &Terminal{t: t, person: person}
	var unlocked, number int32
	term.ioctl(person, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked))
	term.ioctl(person, syscall.TIOCGPTN, unsafe.Pointer(&number))
	term.File, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	ended := make(chan struct{})
	go term.watch(ended)
	t.Cleanup(func() {
		person.Close() // first: it ends a read of the program
		term.File.Close()
		<-ended
	})
	return term
}

func (term *Terminal) ioctl(f *os.File, request uintptr, into unsafe.Pointer) {
	term.t.Helper()
	raw, err := f.SyscallConn() // Fd would make it block, and then closing it would end no read
	require.NoError(term.t, err)
	require.NoError(term.t, raw.Control(func(fd uintptr) {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(into)); errno != 0 {
			err = errno
		}
	}))
	require.NoError(term.t, err)
}

func (term *Terminal) watch(ended chan<- struct{}) {
	defer close(ended)
	buffer := make([]byte, 4096)
	for {
		n, err := term.person.Read(buffer)
		if err != nil {
			return
		}
		term.mu.Lock()
		term.shown.Write(buffer[:n])
		term.mu.Unlock()
	}
}

// Shown returns what the terminal has shown so far.
func (term *Terminal) Shown() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.shown.String()
}

// AwaitShown waits until the terminal has shown a text.
func (term *Terminal) AwaitShown(text string) {
	term.t.Helper()
	require.Eventually(term.t, func() bool { return strings.Contains(term.Shown(), text) }, Patience, time.Millisecond, text)
}

// Type types a text, without a line break at its end.
func (term *Terminal) Type(text string) {
	term.t.Helper()
	_, err := term.person.WriteString(text)
	require.NoError(term.t, err)
}

// Resize makes the terminal so many columns wide.
func (term *Terminal) Resize(columns uint16) {
	size := struct{ rows, columns, x, y uint16 }{24, columns, 0, 0}
	term.ioctl(term.person, syscall.TIOCSWINSZ, unsafe.Pointer(&size))
}

// Modes returns how the terminal treats what is typed.
func (term *Terminal) Modes() syscall.Termios {
	var modes syscall.Termios
	term.ioctl(term.person, syscall.TCGETS, unsafe.Pointer(&modes))
	return modes
}

// Echoes reports whether the terminal shows what is typed.
func (term *Terminal) Echoes() bool { return term.Modes().Lflag&syscall.ECHO != 0 }
