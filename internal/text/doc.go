// Package text checks whether a text is fit to use, and shows texts safely.
//
// Nothing that it shows contains a control character, a line break or more of a secret than
// its last 4 characters. It knows nothing of providers or of the environment.
package text
