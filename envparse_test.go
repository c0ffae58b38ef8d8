package aiseed

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/testkit"
)

// vars is an environment, each line behind the default prefix.
func vars(lines ...string) []string {
	for i, line := range lines {
		lines[i] = DefaultPrefix + line
	}
	return lines
}

// E10: all mistakes of the file, in a text for people. It is a golden file.
func TestE10_AllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	environ := testkit.Environ(t, "testdata/mistakes.env")
	logs := &testkit.LogRecorder{}
	_, err := ParseEnviron(context.Background(), environ, logs.Logger())
	require.Error(t, err)
	testkit.Golden(t, "mistakes.error.txt", err.Error()+"\n")
	require.Equal(t, []string{"WARN AI providers: CODER_AIBRIDGE_PROVIDER_2_TPYE: unknown environment variable is ignored; want CODER_AIBRIDGE_PROVIDER_2_TYPE?"}, logs.Warnings())
	testkit.RequireNoSecret(t, environ, err.Error()+logs.String())

	for range 20 { // in a stable order, whatever the order of the environment
		rand.Shuffle(len(environ), func(i, j int) { environ[i], environ[j] = environ[j], environ[i] })
		_, again := ParseEnviron(context.Background(), environ, slog.Logger{})
		require.EqualError(t, again, err.Error())
	}
}

func TestE1_EnvironmentIsNeitherChangedNorTheProcesss(t *testing.T) {
	t.Setenv("CODER_AIBRIDGE_OPENAI_KEY", "from-the-process")
	environ := testkit.Environ(t, "testdata/gateway.env")
	before := slices.Clone(environ)
	cfg, err := ParseEnviron(context.Background(), environ, slog.Logger{})
	require.NoError(t, err)
	require.Equal(t, before, environ)
	require.True(t, cfg.LegacyOpenAI.Key.IsZero())
}

func TestE1_PrefixIsTheCallersAndInEveryMessage(t *testing.T) {
	t.Parallel()
	environ := []string{"MYAPP_OPENAI_KEY=k", "MYAPP_PROVIDER_0_TYPE=openai", "MYAPP_PROVIDER_0_NAME=x", "MYAPP_PROVIDER_0_BASE_URL=x", "MYAPP_PROVIDER_X_TYPE=y", "CODER_AIBRIDGE_ANTHROPIC_KEY=k"}
	_, err := ParseEnviron(context.Background(), environ, slog.Logger{}, WithPrefix("MYAPP_"))
	require.ErrorContains(t, err, "MYAPP_PROVIDER_0_BASE_URL")
	require.ErrorContains(t, err, "MYAPP_PROVIDER_X_TYPE")
	require.NotContains(t, err.Error(), DefaultPrefix)

	cfg, err := ParseEnviron(context.Background(), environ[:3], slog.Logger{}, WithPrefix("MYAPP_"))
	require.NoError(t, err)
	require.Equal(t, "k", cfg.LegacyOpenAI.Key.Reveal())
	want, err := normalise(cfg)
	require.NoError(t, err)
	require.Equal(t, "MYAPP_OPENAI_BASE_URL", want[0].variableOf(fieldBaseURL), "drift names it too")
	require.Equal(t, "MYAPP_PROVIDER_0_TYPE", want[1].variableOf(fieldType))
}

func TestE2_E3_ParsedConfigIsTheOneBuiltByHand(t *testing.T) {
	t.Parallel()
	cfg, err := ParseEnviron(context.Background(), vars("OPENAI_KEY=k", "OPENAI_BASE_URL=https://h",
		"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_KEYS=a,b"), slog.Logger{})
	require.NoError(t, err)
	cfg.variables = variables{}
	require.Equal(t, Config{
		LegacyOpenAI: OpenAIConfig{BaseURL: "https://h", Key: NewSecret("k")},
		Providers:    []ProviderConfig{{Type: "anthropic", Name: "x", Keys: []Secret{NewSecret("a"), NewSecret("b")}}},
	}, cfg)
}

func TestR3_TypeOfALegacyProviderComesFromWhatMakesIt(t *testing.T) {
	t.Parallel()
	for line, variable := range map[string]string{
		"OPENAI_KEY=k":               "OPENAI_KEY",
		"ANTHROPIC_KEY=k":            "ANTHROPIC_KEY",
		"BEDROCK_BASE_URL=https://h": "BEDROCK_BASE_URL",
		"BEDROCK_REGION=r":           "BEDROCK_REGION",
	} {
		cfg, err := ParseEnviron(context.Background(), vars(line), slog.Logger{})
		require.NoError(t, err)
		want, err := normalise(cfg)
		require.NoError(t, err)
		require.Equal(t, DefaultPrefix+variable, want[0].variableOf(fieldType))
	}
}

func TestE4_HugeAndManyIndices(t *testing.T) { // not parallel: it counts allocations
	var environ []string
	for i := range 10_000 {
		environ = append(environ, vars(fmt.Sprintf("PROVIDER_%d_TYPE=openai", i), fmt.Sprintf("PROVIDER_%d_NAME=p%d", i, i), fmt.Sprintf("PROVIDER_%d_KEY=k%d", i, i))...)
	}
	rand.Shuffle(len(environ), func(i, j int) { environ[i], environ[j] = environ[j], environ[i] })
	cfg, err := ParseEnviron(context.Background(), environ, slog.Logger{})
	require.NoError(t, err)
	require.Len(t, cfg.Providers, 10_000)
	for i, p := range cfg.Providers {
		require.Equal(t, "k"+strconv.Itoa(i), p.Keys[0].Reveal())
	}

	few := func(environ []string) float64 {
		return testing.AllocsPerRun(10, func() { _, _ = ParseEnviron(context.Background(), environ, slog.Logger{}) })
	}
	require.InDelta(t, few(vars("PROVIDER_1_TYPE=openai")), few(vars("PROVIDER_999999999_TYPE=openai")), 10, "a huge index costs what a small one does")
}

func TestE8_SecretsFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, contents string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(contents), 0o600))
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	large := strings.Repeat("k,", 32<<10)

	t.Run("one trailing newline is removed, a list is a list", func(t *testing.T) {
		t.Parallel()
		providers, warnings := wanted(t, vars("OPENAI_KEY_FILE="+file("a", "secret\n"), "BEDROCK_ACCESS_KEY_FILE="+file("b", "access"), "BEDROCK_ACCESS_KEY_SECRET_FILE="+file("c", "sec"),
			"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x", "PROVIDER_0_KEYS_FILE="+file("d", "k1, k2\n"),
			"PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=y", "PROVIDER_1_BEDROCK_ACCESS_KEYS_FILE="+file("e", "a1,a2"), "PROVIDER_1_BEDROCK_ACCESS_KEY_SECRETS_FILE="+file("f", "s1,s2")))
		require.Equal(t, []string{
			"anthropic anthropic (none) region= access=access/sec" + models,
			"openai openai https://api.openai.com/v1/ key=secret",
			"x openai (none) key=k1 key=k2",
			"y anthropic (none) region= access=a1/s1" + models,
		}, providers)
		require.Len(t, warnings, 1)
		require.Contains(t, warnings[0], "CODER_AIBRIDGE_PROVIDER_1_BEDROCK_ACCESS_KEYS_FILE: 2")
	})
	for name, tt := range map[string]struct{ path, reason string }{
		"missing":                    {filepath.Join(dir, "missing"), "does not exist"},
		"empty":                      {file("empty", ""), "is empty"},
		"only a newline":             {file("newline", "\n"), "is empty"},
		"too large":                  {file("large", large+"x"), "is larger than 64 KiB"},
		"a folder":                   {dir, "is not a regular file"},
		"a pipe, which is not read":  {fifo, "is not a regular file"},
		"below a file":               {file("plain", "x") + "/x", "cannot be read"},
		"two trailing newlines (E9)": {file("two", "very-secret-contents\n\n"), "CODER_AIBRIDGE_OPENAI_KEY_FILE (provider openai): a line break at its end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseEnviron(context.Background(), vars("OPENAI_KEY_FILE="+tt.path), slog.Logger{})
			require.ErrorIs(t, err, ErrInvalidConfig)
			require.ErrorContains(t, err, "CODER_AIBRIDGE_OPENAI_KEY_FILE")
			require.ErrorContains(t, err, tt.reason)
			if !strings.Contains(tt.reason, "line break") {
				require.ErrorContains(t, err, tt.path)
			}
			require.NotContains(t, err.Error(), "very-secret")
			require.Equal(t, 1, strings.Count(err.Error(), "\n"), "one problem only: %s", err)
		})
	}
	t.Run("exactly 64 KiB is read", func(t *testing.T) {
		t.Parallel()
		_, err := ParseEnviron(context.Background(), vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY_FILE="+file("limit", large)), slog.Logger{})
		require.ErrorContains(t, err, "longer than 8 KiB")
	})
}

// F6, N11: whatever the environment, the parser fails only with its typed error.
func FuzzParseEnviron(f *testing.F) {
	for _, name := range []string{"legacy.env", "gateway.env", "renamed.env", "mistakes.env"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(f, err)
		f.Add(string(raw))
	}
	f.Add("\ufeffCODER_AI_GATEWAY_OPENAI_KEY=\"x\"\nexport CODER_AIBRIDGE_OPENAI_KEY=x\nCODER_AIBRIDGE_PROVIDERS_0_TYPE=x\nCODER_AIBRIDGE_PROVIDER_PORT=tcp://x\nCODER_AI_GATEWAY_DRIFT_KEEP=a@0123456789abcdef")
	f.Add("CODER_AIBRIDGE_PROVIDER_0_TYPE=openai\nCODER_AIBRIDGE_PROVIDER_0_KEYS=a,a,\xff\nCODER_AIBRIDGE_BEDROCK_ACCESS_KEY=x")
	f.Fuzz(func(t *testing.T, text string) {
		var environ []string
		for _, line := range strings.Split(text, "\n") {
			if !strings.Contains(line, "_FILE=") { // do not read files of the machine
				environ = append(environ, line)
			}
		}
		cfg, err := ParseEnviron(context.Background(), environ, slog.Logger{})
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidConfig)
			return
		}
		want, err := normalise(cfg)
		require.NoError(t, err)
		require.True(t, slices.IsSortedFunc(want, func(a, b desired) int { return strings.Compare(a.Name, b.Name) }))
		known := map[string]bool{} // O9: each variable that is known has one fate
		for _, v := range cfg.fates(want, diff(want, nil, nil, cfg.settlement(), plain)) {
			require.False(t, known[v.Name] && v.Reason != "", "%q", v.Name)
			require.NotEmpty(t, v.Fate)
			known[v.Name] = true
		}
		for _, v := range cfg.variables.set() {
			require.True(t, known[v.name], "%q", v.name)
		}
	})
}

func TestO7_VariablesAreThoseThatAreRead(t *testing.T) {
	t.Parallel()
	byName := map[string]Variable{}
	for _, v := range Variables("X_") {
		require.NotContains(t, byName, v.Name)
		require.NotEmpty(t, v.Meaning, v.Name)
		byName[v.Name] = v
	}
	require.Len(t, byName, 22)
	for name, want := range map[string]Variable{
		"X_OPENAI_KEY":                             {Secret: true},
		"X_OPENAI_BASE_URL":                        {Default: "https://api.openai.com/v1/"},
		"X_BEDROCK_ACCESS_KEY":                     {Secret: true, Default: "the AWS environment"},
		"X_PROVIDER_<N>_KEY":                       {Secret: true, Plural: "X_PROVIDER_<N>_KEYS"},
		"X_PROVIDER_<N>_BEDROCK_ACCESS_KEY_SECRET": {Secret: true, Default: "the AWS environment", Plural: "X_PROVIDER_<N>_BEDROCK_ACCESS_KEY_SECRETS"},
		"X_PROVIDER_<N>_BASE_URL":                  {Default: "that of the type"},
		"X_DRIFT_ADOPT":                            {},
		"X_DRIFT_KEEP":                             {},
	} {
		want.Name, want.Meaning = name, byName[name].Meaning
		require.Equal(t, want, byName[name])
	}
	require.Equal(t, Variables(DefaultPrefix), Variables(""))
}

func TestE1_TheFirstCountsAmongMany(t *testing.T) {
	t.Parallel()
	var lines []string
	for round := range 3 {
		for i := range 30 {
			lines = append(lines, fmt.Sprintf("PROVIDER_%d_TYPE=openai", i), fmt.Sprintf("PROVIDER_%d_NAME=p-%02d", i, i), fmt.Sprintf("PROVIDER_%d_KEY=%d", i, round))
		}
	}
	providers, _ := wanted(t, vars(lines...))
	require.Len(t, providers, 30)
	for i, p := range providers {
		require.Equal(t, fmt.Sprintf("p-%02d openai (none) key=0", i), p)
	}
}

func TestE9_WhatMakesNoProviderIsCheckedByItself(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"OPENAI_BASE_URL=ftp://h/", "ANTHROPIC_BASE_URL=ftp://h/", "BEDROCK_MODEL=a b", "BEDROCK_SMALL_FAST_MODEL=a b"} {
		_, err := ParseEnviron(context.Background(), vars(line), slog.Logger{})
		require.ErrorIs(t, err, ErrInvalidConfig, line)
	}
}

func TestR3_TheDefaultOfEachLegacyProviderIsSaid(t *testing.T) {
	t.Parallel()
	cfg, err := ParseEnviron(context.Background(), vars("OPENAI_KEY=k", "ANTHROPIC_KEY=k"), slog.Logger{})
	require.NoError(t, err)
	want, err := normalise(cfg)
	require.NoError(t, err)
	require.Len(t, want, 2)
	for _, d := range want {
		stored := d.Provider
		stored.BaseURL = "https://other/"
		require.Equal(t, "the default; the variable is not set", shapeDrift(stored, d)[0].note, d.Name)
	}
}

func TestN10_ConfigBuiltByHandPassesTheSameChecks(t *testing.T) {
	t.Parallel()
	secrets := func(values ...string) (out []Secret) {
		for _, v := range values {
			out = append(out, NewSecret(v))
		}
		return out
	}
	_, err := normalise(Config{
		LegacyOpenAI:  OpenAIConfig{BaseURL: "nonsense", Key: NewSecret("a b")},
		LegacyBedrock: BedrockConfig{AccessKey: NewSecret("a"), Region: "a b"},
		Providers: []ProviderConfig{
			{Type: "openai"},
			{},
			{Type: "openai", Name: "Bad", BedrockRegion: "r"},
			{Type: "openai", Name: "six", Keys: secrets("1", "2", "3", "4", "5", "5")},
			{Type: "openai", Name: "zero", Keys: []Secret{{}}},
			{Type: "anthropic", Name: "pairs", BedrockAccessKeySecrets: secrets("1", "2")},
			{Type: "cohere", Name: "Bad"},
			{Type: "anthropic", Name: "six"},
		},
	})
	require.ErrorIs(t, err, ErrInvalidConfig)
	testkit.Golden(t, "by-hand.error.txt", err.Error()+"\n")

	want, err := normalise(Config{Providers: []ProviderConfig{{Type: "anthropic", Keys: secrets("k1", "k2"), BedrockRegion: "r"}}})
	require.NoError(t, err)
	require.Equal(t, []string{"anthropic anthropic (none) region=r access=/" + models}, describe(want))
	require.Equal(t, []string{"anthropic: CODER_AIBRIDGE_PROVIDER_0_KEYS: ignored, since the provider authenticates through Bedrock"}, warningsOf(want))
}

// E9, N7: what a row has already does not stop an operation.
func TestE9_N7_OperationsCheckWhatTheyAreGiven(t *testing.T) {
	t.Parallel()
	key := func(value string) ProviderKey { return ProviderKey{APIKey: NewSecret(value)} }
	old := Provider{Name: "Odd_Name", Type: TypeGoogle, BaseURL: "", Keys: []ProviderKey{key("a b"), key("ä")}, DisplayName: "a\nb"}
	p := old
	p.Enabled = true
	require.NoError(t, checked(p, old), "nothing of it is new")
	p.Keys = append(slices.Clone(old.Keys), key("new"))
	require.NoError(t, checked(p, old))
	p.Keys = append(slices.Clone(old.Keys), key("new one"))
	require.ErrorContains(t, checked(p, old), "keys (provider Odd_Name): element 3: a space in it")
	p.Keys, p.BaseURL = old.Keys, "https://h:0/"
	require.ErrorContains(t, checked(p, old), "base_url (provider Odd_Name): a URL with a port")
	require.ErrorContains(t, checked(old, Provider{}), "base_url (provider Odd_Name): required for type google")
}

func TestE9_N7_AMisfitMayNotGrow(t *testing.T) {
	t.Parallel()
	old := Provider{Name: "c", Type: TypeCopilot, Keys: []ProviderKey{{APIKey: NewSecret("a")}}}
	p := old
	p.BaseURL = "https://h/"
	require.NoError(t, checked(p, old))
	p.Keys = append(slices.Clone(p.Keys), ProviderKey{APIKey: NewSecret("b")})
	require.ErrorContains(t, checked(p, old), "not for type copilot")
	for _, p := range []Provider{
		{Name: "x", Type: TypeOpenAI, Bedrock: &BedrockSettings{Model: "m"}},
		{Name: "x", Type: TypeOpenAI, Bedrock: &BedrockSettings{}, Keys: old.Keys},
		{Name: "x", Type: TypeBedrock, Bedrock: &BedrockSettings{AccessKeySecret: NewSecret("s")}},
	} {
		require.ErrorContains(t, checked(p, Provider{}), "1 problem with", "E5")
	}
}

func TestR3_C1_NoDriftOfABaseURLThatIsNotSet(t *testing.T) {
	t.Parallel()
	want := desired{Provider: Provider{Type: TypeAnthropic, Bedrock: &BedrockSettings{Region: "eu"}}, variable: strings.ToLower}
	var fields []string
	for _, f := range shapeDrift(Provider{Type: TypeAnthropic}, want) {
		fields = append(fields, f.Field)
	}
	require.Equal(t, []string{"type", "Bedrock region"}, fields)
}

func TestE5_E12_WhatFollowsAndWhatLacks(t *testing.T) {
	t.Parallel()
	_, err := ParseEnviron(context.Background(), vars("PROVIDER_00_TYPE=openai", "PROVIDER_1_TYPE=anthropic"), slog.Logger{})
	require.ErrorContains(t, err, "1 problem in")
	require.ErrorContains(t, err, "PROVIDER_00_TYPE: no valid index")
	for line, code := range map[string]WarningCode{"TYPE=openai": WarningMissingKey, "TYPE=copilot": WarningUnknownVariable} {
		cfg, err := ParseEnviron(context.Background(), vars("PROVIDER_0_"+line, "PROVIDER_0_API_KEY=x"), slog.Logger{})
		require.NoError(t, err)
		require.Len(t, cfg.Warnings, 1)
		require.Equal(t, code, cfg.Warnings[0].Code)
		require.Equal(t, map[WarningCode]string{WarningMissingKey: DefaultPrefix + "PROVIDER_0_KEY"}[code], cfg.Warnings[0].Meant)
	}
	cfg, err := ParseEnviron(context.Background(), vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=k", "PROVIDER_0_API_KEY=x", "PROVIDER_0_DUMP_DIR=/x", "PROVIDER_0_Name=x"), slog.Logger{})
	require.NoError(t, err)
	var codes []WarningCode
	for _, w := range cfg.Warnings {
		codes = append(codes, w.Code)
	}
	require.Equal(t, []WarningCode{WarningUnknownVariable, WarningRemovedVariable, WarningLetterCase}, codes)
	for name, meant := range map[string]string{
		"OPENAI_MODEL": "", "ANTHROPIC_REGION": "", "BEDROCK_KEY": "BEDROCK_ACCESS_KEY", "BEDROCK_SECRET": "BEDROCK_ACCESS_KEY_SECRET", "OPENAI_API_KEY_FILE": "OPENAI_KEY_FILE",
		"PROVIDER_0_KEY_FILES": "PROVIDER_0_KEY_FILE", "PROVIDER_0_API_KEYS": "PROVIDER_0_KEYS", "PROVIDERS_0_API_KEY": "PROVIDER_0_KEY",
	} {
		cfg, err := ParseEnviron(context.Background(), vars("PROVIDER_0_TYPE=openai", name+"=x"), slog.Logger{})
		require.NoError(t, err)
		require.Len(t, cfg.Warnings, 1)
		require.Equal(t, meant, strings.TrimPrefix(cfg.Warnings[0].Meant, DefaultPrefix), name)
	}
}

// O9: a fate follows the value, whichever of several variables holds it.
func TestO9_FatesOfVariablesThatSayTheSame(t *testing.T) {
	t.Parallel()
	row := func(p Provider) map[string]*storedProvider { return map[string]*storedProvider{p.Name: {Provider: p}} }
	openai := Provider{Name: "openai", Type: TypeOpenAI, Keys: []ProviderKey{{APIKey: NewSecret("other")}}}
	bedrock := Provider{Name: "bedrock", Type: TypeBedrock, Bedrock: &BedrockSettings{AccessKey: NewSecret("x"), AccessKeySecret: NewSecret("y"), Model: defaultBedrockModel, SmallFastModel: defaultBedrockSmallFastModel}}
	for name, tt := range map[string]struct {
		environ []string
		stored  map[string]*storedProvider
		want    map[string]Fate
	}{
		"two prefixes": {
			[]string{"CODER_AIBRIDGE_OPENAI_KEY=a", "CODER_AI_GATEWAY_OPENAI_KEY=a"},
			row(openai),
			map[string]Fate{"CODER_AIBRIDGE_OPENAI_KEY": FateOverruled, "CODER_AI_GATEWAY_OPENAI_KEY": FateOverruled},
		},
		"twins": {
			vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=a", "PROVIDER_1_TYPE=openai", "PROVIDER_1_KEY=a"), row(openai),
			map[string]Fate{"CODER_AIBRIDGE_PROVIDER_0_KEY": FateOverruled, "CODER_AIBRIDGE_PROVIDER_1_KEY": FateOverruled, "CODER_AIBRIDGE_PROVIDER_1_TYPE": FateAgrees},
		},
		"two that have no effect": {
			[]string{"CODER_AIBRIDGE_ANTHROPIC_KEY=a", "CODER_AI_GATEWAY_ANTHROPIC_KEY=a", "CODER_AIBRIDGE_BEDROCK_REGION=r", "CODER_AIBRIDGE_OPENAI_BASE_URL=https://x/", "CODER_AI_GATEWAY_OPENAI_BASE_URL=https://x/"},
			nil,
			map[string]Fate{"CODER_AIBRIDGE_ANTHROPIC_KEY": FateNoEffect, "CODER_AI_GATEWAY_ANTHROPIC_KEY": FateNoEffect, "CODER_AIBRIDGE_OPENAI_BASE_URL": FateNoEffect, "CODER_AI_GATEWAY_OPENAI_BASE_URL": FateNoEffect},
		},
		"stale tokens": {
			[]string{"CODER_AIBRIDGE_DRIFT_KEEP=a@0123456789abcdef", "CODER_AI_GATEWAY_DRIFT_KEEP=a@0123456789abcdef"},
			nil,
			map[string]Fate{"CODER_AIBRIDGE_DRIFT_KEEP": FateNoEffect, "CODER_AI_GATEWAY_DRIFT_KEEP": FateNoEffect},
		},
		"several pairs": {
			vars("PROVIDER_0_TYPE=bedrock", "PROVIDER_0_BEDROCK_ACCESS_KEYS=a,b", "PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS=c,d"), nil,
			map[string]Fate{"CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEYS": FateCreates, "CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS": FateCreates},
		},
		"several pairs, diverged": {
			vars("PROVIDER_0_TYPE=bedrock", "PROVIDER_0_BEDROCK_ACCESS_KEYS=a,b", "PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS=c,d"), row(bedrock),
			map[string]Fate{"CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEYS": FateOverruled, "CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS": FateOverruled},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := ParseEnviron(context.Background(), tt.environ, slog.Logger{})
			require.NoError(t, err)
			want, err := normalise(cfg)
			require.NoError(t, err)
			plan := diff(want, tt.stored, nil, cfg.settlement(), plain)
			plan.Warnings = append(plan.Warnings, cfg.ineffective()...)
			got := map[string]Fate{}
			for _, v := range cfg.fates(want, plan) {
				require.NotEmpty(t, v.Reason, v.Name)
				got[v.Name] = v.Fate
			}
			for variable, fate := range tt.want {
				require.Equal(t, fate, got[variable], variable)
			}
		})
	}
}
