// Package terminal asks a terminal for its width, and reads a secret from it without echo.
//
// The library depends on five modules only, so this does without golang.org/x/term.
package terminal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// errUnsupported means that echo cannot be turned off: not a terminal, or a system that this
// package does not know.
var errUnsupported = errors.New("not a terminal whose echo can be turned off")

// ErrTooLong means that the terminal may have cut the line that was typed.
var ErrTooLong = errors.New("longer than the line that a terminal takes")

// Width returns the number of columns of the terminal behind a stream, or 0 if there is none.
func Width(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	return width(f.Fd())
}

// Is reports whether a stream is a terminal.
func Is(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && isTerminal(f.Fd())
}

// ReadSecret asks a terminal for one line without showing what is typed. Meanwhile Ctrl-Z and Ctrl-\
// are characters like others. Ctrl-C stays an interrupt. If ctx ends first, ReadSecret shows input again and returns the context's error; what is typed next is lost.
func ReadSecret(ctx context.Context, stream any, prompt io.Writer, question string) (string, error) {
	f, ok := stream.(*os.File)
	if !ok {
		return "", errUnsupported
	}
	restore, err := hideInput(f.Fd())
	if err != nil {
		return "", errUnsupported
	}
	defer func() {
		restore()
		fmt.Fprintln(prompt) // the line break was not shown either
	}()
	fmt.Fprint(prompt, question)
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(f).ReadString('\n')
		answers <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case a := <-answers:
		if a.err != nil && a.line == "" {
			return "", a.err
		}
		line := strings.TrimRight(a.line, "\r\n")
		if len(line) >= maxLine {
			return "", ErrTooLong
		}
		return line, nil
	}
}
