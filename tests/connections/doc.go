// Package connections has the tests of what the library says if there is no connection. Each has a real server, or a real
// pooler in front of one, that refuses.
package connections
