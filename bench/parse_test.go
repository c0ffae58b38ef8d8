package bench

import (
	"context"
	"fmt"
	"strings"

	"cdr.dev/slog/v3"
	"github.com/caarlos0/env/v11"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

const parse, caarlos, look = "Parse", "caarlos0-env", "look"

// parsed is what caarlos0/env fills in, and the library. caarlos0/env leaves to its caller that
// indices have no gap, that a key is given in one way only, and everything else that a
// configuration can have wrong.
type parsed struct {
	Providers []parsedProvider `envPrefix:"CODER_AIBRIDGE_PROVIDER"`
}

type parsedProvider struct {
	Type    string   `env:"TYPE"`
	Name    string   `env:"NAME"`
	BaseURL string   `env:"BASE_URL"`
	Keys    []string `env:"KEYS"`
}

// parseWithEnv does what env.Parse does, which also gets the variables of the process as a list.
func parseWithEnv(environ []string) (p parsed, err error) {
	err = env.ParseWithOptions(&p, env.Options{Environment: env.ToMap(environ)})
	return p, err
}

// lookFirstOfEach keeps the first value of each name, as os.Getenv has it. It is
// the least that a parser must do: it has to have the values by name.
func lookFirstOfEach(environ []string) int {
	first := map[string]string{}
	for _, variable := range environ {
		name, value, ok := strings.Cut(variable, "=")
		if !ok || !strings.HasPrefix(name, aiseed.DefaultPrefix) {
			continue
		}
		if _, twice := first[name]; !twice {
			first[name] = value
		}
	}
	return len(first)
}

func (s *suite) parsing() {
	for _, n := range append([]int{12}, s.sizes...) {
		var own parsed
		for _, p := range s.config(n).Providers {
			var keys []string
			for _, k := range p.Keys {
				keys = append(keys, k.Reveal())
			}
			own.Providers = append(own.Providers, parsedProvider{p.Type, p.Name, p.BaseURL, keys})
		}
		other, err := parseWithEnv(environ(n))
		require.NoError(s, err)
		require.Equal(s, own, other, "both parsers are to see the same")
		s.race(max(11, s.rounds(n)/2), s.parsers(n)...)
	}
}

func (s *suite) parsers(n int) []contender {
	at, repeat, variables := key{parse, ours, n, 0}, max(1, 2_000/n), environ(n)
	return []contender{
		{key: at, repeat: repeat, run: func(ctx context.Context) error {
			_, err := aiseed.ParseEnviron(ctx, variables, slog.Logger{})
			return err
		}},
		{key: at.of(caarlos), repeat: repeat, run: func(context.Context) error {
			_, err := parseWithEnv(variables)
			return err
		}},
		{key: at.of(look), repeat: repeat, run: func(context.Context) error {
			if got := lookFirstOfEach(variables); got != len(variables) {
				return fmt.Errorf("saw %d of %d variables", got, len(variables))
			}
			return nil
		}},
	}
}
