// Package secretfile reads a secret from a file, as it is mounted into a container.
//
// Its texts about a file do not quote the contents.
package secretfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"example.com/aiseed/internal/text"
)

const maxBytes = 64 << 10

// NotRegular is the problem of a folder, a device or a pipe.
const NotRegular = "is not a regular file"

// Read returns the contents of a file without one line break (\n or
// \r\n) at the end. problem says
// what is wrong with the file, as the rest of a sentence, or is "".
func Read(path string) (contents, problem string) {
	// Opening a pipe can block, so open the path only if it is a regular file.
	info, err := os.Stat(path)
	if err != nil {
		return "", problemOf(err)
	}
	if !info.Mode().IsRegular() {
		return "", NotRegular
	}
	f, err := os.Open(path)
	if err != nil {
		return "", problemOf(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	switch {
	case err != nil:
		return "", problemOf(err)
	case len(raw) > maxBytes:
		return "", "is larger than 64 KiB"
	}
	contents = string(raw)
	if line, ended := strings.CutSuffix(contents, "\n"); ended {
		contents = strings.TrimSuffix(line, "\r")
	}
	if contents == "" {
		return "", "is empty"
	}
	return contents, ""
}

// Shown names a file for an error. It hides a value that is not a path in an existing folder: it
// could be a key that was put in the place of a path by mistake.
func Shown(path string) string {
	folder := filepath.Dir(path)
	if _, err := os.Stat(folder); err != nil || !filepath.IsAbs(path) || folder == string(filepath.Separator) {
		return "its value is not an absolute path in an existing directory: it"
	}
	return "the file " + text.Shorten(path)
}

func problemOf(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "cannot be read: permission denied"
	}
	return "cannot be read"
}
