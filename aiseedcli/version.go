package aiseedcli

import (
	"context"
	"runtime"
)

func runVersion(_ context.Context, a *app) (result, error) {
	did := struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Schema  int    `json:"schema"` // the version that it needs
		Go      string `json:"go"`
	}{a.Name, a.Version, neededVersion(), runtime.Version()}
	return result{document: did, text: func() {
		a.printf("%s %s (schema %d, %s)\n", did.Name, did.Version, did.Schema, did.Go)
	}}, nil
}
