//go:build !linux && !darwin

package terminal

const maxLine = 0

func width(uintptr) int { return 0 }

func isTerminal(uintptr) bool { return false }

func hideInput(uintptr) (func(), error) { return nil, errUnsupported }
