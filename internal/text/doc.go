// Package text checks whether a text is fit to use, and shows texts safely.
//
// [Printable], [Shorten], [Brief] and [Label] return no control character and no line break.
// [ShortenMiddle] and [OrNone] escape nothing: give them a text that is safe to show. [Mask]
// shows at most the last 4 characters of a secret. The package does not know about providers
// or the environment.
package text
