package main

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/xerrors"
)

const sampleFile = "testdata/gateway.env"

var providerVariable = regexp.MustCompile(`^CODER_AIBRIDGE_(OPENAI|ANTHROPIC|BEDROCK|PROVIDER)_[^=]+=.`)

// chooseEnviron returns the environment to use, and says where it is from: the
// file if one is named, else the process if it has provider variables, else the
// sample.
func chooseEnviron(process []string, file string) (environ []string, from string, err error) {
	switch {
	case file != "":
		environ, err = readEnviron(file)
		return environ, file, err
	case slices.ContainsFunc(process, providerVariable.MatchString):
		return process, "the provider variables of this process", nil
	}
	if environ, err = readEnviron(sampleFile); err != nil {
		return nil, "", xerrors.Errorf("start the demo in the root of the repository, or name a file with -env: %w", err)
	}
	return environ, sampleFile + " (this process names no provider)", nil
}

// readEnviron reads KEY=value lines unchanged, without a shell's quotes and
// expansions. Lines that start with # are comments.
func readEnviron(file string) ([]string, error) {
	raw, err := os.ReadFile(file)
	lines := strings.Split(string(raw), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return line == "" || line[0] == '#' }), err
}
