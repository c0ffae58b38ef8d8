package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"cdr.dev/slog/v3"
	"github.com/caarlos0/env/v11"

	"example.com/aiseed"
)

// parsedByOthers is what caarlos0/env needs to be told. It sets the fields of a
// struct; that indices have no gap, that a key is given in one way only, and
// everything else that a configuration can have wrong is left to its caller.
type parsedByOthers struct {
	Providers []struct {
		Type    string   `env:"TYPE"`
		Name    string   `env:"NAME"`
		BaseURL string   `env:"BASE_URL"`
		Keys    []string `env:"KEYS"`
	} `envPrefix:"CODER_AIBRIDGE_PROVIDER"`
}

// parseWithEnv does what env.Parse does, which gets the variables of the process as a
// list, too.
func parseWithEnv(environ []string) (parsed parsedByOthers, err error) {
	err = env.ParseWithOptions(&parsed, env.Options{Environment: env.ToMap(environ)})
	return parsed, err
}

// look is the least that anybody must do who wants to know which variables are
// his: find the name, and see how it starts.
func look(environ []string) (found int) {
	for _, variable := range environ {
		name, _, ok := strings.Cut(variable, "=")
		if ok && strings.HasPrefix(name, aiseed.DefaultPrefix) {
			found++
		}
	}
	return found
}

// lookFirst also keeps the first value of each name, as os.Getenv has it. It is
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

func (s *suite) parsing(ctx context.Context) error {
	for _, n := range append([]int{12}, s.sizes...) {
		variables := environ(n)
		if err := sameParsed(ctx, variables); err != nil {
			return err
		}
		inAnyOrder := slices.Clone(variables)
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(inAnyOrder), func(i, j int) { inAnyOrder[i], inAnyOrder[j] = inAnyOrder[j], inAnyOrder[i] })
		counted := func(count func([]string) int) func(context.Context) error {
			return func(context.Context) error {
				if got := count(variables); got != len(variables) {
					return fmt.Errorf("saw %d of %d variables", got, len(variables))
				}
				return nil
			}
		}
		repeat := max(1, 2_000/n)
		contenders := []contender{
			{name: ours, repeat: repeat, run: func(ctx context.Context) error {
				_, err := aiseed.ParseEnviron(ctx, variables, slog.Logger{})
				return err
			}},
			{name: shuffled, repeat: repeat, run: func(ctx context.Context) error {
				_, err := aiseed.ParseEnviron(ctx, inAnyOrder, slog.Logger{})
				return err
			}},
			{name: caarlos, repeat: repeat, run: func(context.Context) error {
				_, err := parseWithEnv(variables)
				return err
			}},
			{name: lookOnly, repeat: repeat, run: counted(look)},
			{name: lookFirst, repeat: repeat, run: counted(lookFirstOfEach)},
		}
		at := key{operation: parse, n: n}
		if err := s.run(ctx, at, max(11, s.rounds(n)/2), contenders); err != nil {
			return err
		}
		if err := s.peaks(ctx, at, contenders); err != nil {
			return err
		}
	}
	return nil
}

// sameParsed fails unless both parsers see the same.
func sameParsed(ctx context.Context, variables []string) error {
	cfg, err := aiseed.ParseEnviron(ctx, variables, slog.Logger{})
	if err != nil {
		return err
	}
	parsed, err := parseWithEnv(variables)
	if err != nil {
		return fmt.Errorf("caarlos0/env: %w", err)
	}
	if len(parsed.Providers) != len(cfg.Providers) {
		return fmt.Errorf("caarlos0/env saw %d providers, and the library %d", len(parsed.Providers), len(cfg.Providers))
	}
	for i, p := range cfg.Providers {
		var keys []string
		for _, k := range p.Keys {
			keys = append(keys, k.Reveal())
		}
		other := parsed.Providers[i]
		if other.Type != p.Type || other.Name != p.Name || other.BaseURL != p.BaseURL || !reflect.DeepEqual(other.Keys, keys) {
			return fmt.Errorf("caarlos0/env and the library do not see the same of provider %d", i)
		}
	}
	return nil
}
