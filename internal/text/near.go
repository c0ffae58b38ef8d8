package text

import (
	"slices"
	"strings"
)

// Near returns the candidate that s was probably meant to be, or "": one that differs only in
// the case of its letters, else the only one that is a slip away, a letter that is missing,
// too much, another one, or exchanged with its neighbour.
func Near(s string, candidates []string) string {
	if i := slices.IndexFunc(candidates, func(c string) bool { return strings.EqualFold(c, s) }); i >= 0 {
		return candidates[i]
	}
	near := slices.DeleteFunc(slices.Clone(candidates), func(c string) bool { return !isSlip(strings.ToUpper(s), strings.ToUpper(c)) })
	if len(near) == 1 {
		return near[0]
	}
	return ""
}

// isSlip reports whether a and b, which differ, are at an optimal string alignment distance
// of 1 (Damerau 1964).
func isSlip(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	same := 0
	for same < len(a) && a[same] == b[same] {
		same++
	}
	a, b = a[same:], b[same:]
	switch len(b) - len(a) {
	case 0:
		return len(a) > 0 && (a[1:] == b[1:] || len(a) > 1 && a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:])
	case 1:
		return a == b[1:]
	}
	return false
}
