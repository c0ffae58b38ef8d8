// Package text checks whether a text is fit to use, and shows texts safely.
//
// Its output contains no control character, no line break and at most the last 4 characters
// of a secret. The package does not know about providers or the environment.
package text
