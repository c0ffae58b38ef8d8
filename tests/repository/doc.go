// Package repository has the tests that look at the repository as a whole: its rules and the
// tests that prove them, its packages and what they may import, and what its documents name.
package repository
