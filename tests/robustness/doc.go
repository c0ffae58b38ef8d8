// Package robustness has the tests that break something on purpose: messages, connections,
// processes, servers, stored values and inputs, in every place where they can break. They
// show the promises of docs/guarantees.md, and count what they tried.
//
// make test runs a part of each kind, and make torture all.
package robustness
