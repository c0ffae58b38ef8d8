package aiseed

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/testkit"
	"example.com/aiseed/internal/text"
)

func TestWantedProviders(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		environ  []string
		want     []string
		warnings []string // parts of them, in order
	}{
		"E1: the first of a doubled variable wins": {
			environ: vars("OPENAI_KEY=first", "OPENAI_KEY=second"),
			want:    []string{"openai openai https://api.openai.com/v1/ key=first"},
		},
		"E1, E11: also where the first is empty": {
			environ: vars("OPENAI_KEY=", "OPENAI_KEY=second"),
		},
		"E1: the first of a doubled indexed one": {
			environ: vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=first", "PROVIDER_0_KEY=second"),
			want:    []string{"openai openai (none) key=first"},
		},
		"E1: also where others stand between": {
			environ: vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=first", "PROVIDER_1_TYPE=anthropic", "PROVIDER_0_KEY=second"),
			want:    []string{"anthropic anthropic (none)", "openai openai (none) key=first"},
		},
		"E1, E11: an empty indexed one before": {
			environ: vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=", "PROVIDER_0_KEY=second"),
			want:    []string{"openai openai (none)"},
		},
		"E11: an index of which nothing is set": {
			environ: vars("PROVIDER_0_TYPE=openai", "PROVIDER_1_TYPE="),
			want:    []string{"openai openai (none)"},
		},
		"E11: what is empty is neither misspelt nor a bad index": {
			environ: vars("PROVIDER_x_KEY=", "PROVIDER_0_TPYE=", "OPENAI_KYE="),
		},
		"E1: what has no equals sign is no variable": {
			environ: append(vars("OPENAI_KEY"), "", "=", "CODER_AIBRIDGE_"),
		},
		"E2, N1: a legacy OpenAI key": {
			environ: vars("OPENAI_KEY=k"),
			want:    []string{"openai openai https://api.openai.com/v1/ key=k"},
		},
		"E2, N1: with a base URL": {
			environ: vars("OPENAI_KEY=k", "OPENAI_BASE_URL=HTTPS://Proxy/x"),
			want:    []string{"openai openai HTTPS://Proxy/x key=k"},
		},
		"N1: a base URL without a key is no provider": {
			environ:  vars("OPENAI_BASE_URL=https://proxy/x"),
			warnings: []string{"CODER_AIBRIDGE_OPENAI_BASE_URL: ignored"},
		},
		"E2, N2: a legacy Anthropic key": {
			environ: vars("ANTHROPIC_KEY=k"),
			want:    []string{"anthropic anthropic https://api.anthropic.com/ key=k"},
		},
		"N2, N3: models alone are no signal, and leave no settings": {
			environ:  vars("ANTHROPIC_KEY=k", "BEDROCK_MODEL=m", "BEDROCK_SMALL_FAST_MODEL=s"),
			want:     []string{"anthropic anthropic https://api.anthropic.com/ key=k"},
			warnings: []string{"CODER_AIBRIDGE_BEDROCK_MODEL, CODER_AIBRIDGE_BEDROCK_SMALL_FAST_MODEL: ignored, since there is no Bedrock"}, // E12
		},
		"N2: models alone are no provider": {
			environ:  vars("BEDROCK_MODEL=m", "BEDROCK_SMALL_FAST_MODEL=s"),
			warnings: []string{"CODER_AIBRIDGE_BEDROCK_MODEL, CODER_AIBRIDGE_BEDROCK_SMALL_FAST_MODEL: ignored"},
		},
		"N2: a region is a signal": {
			environ: vars("BEDROCK_REGION=us-east-1"),
			want:    []string{"anthropic anthropic (none) region=us-east-1 access=/" + models},
		},
		"N2: a Bedrock base URL is a signal": {
			environ: vars("BEDROCK_BASE_URL=https://vpc", "BEDROCK_MODEL=m", "BEDROCK_SMALL_FAST_MODEL=s"),
			want:    []string{"anthropic anthropic https://vpc region= access=/ model=m small=s"},
		},
		"N2: an access key is a signal": {
			environ: vars("BEDROCK_ACCESS_KEY=a", "BEDROCK_ACCESS_KEY_SECRET=s"),
			want:    []string{"anthropic anthropic (none) region= access=a/s" + models},
		},
		"N3: Bedrock wins over a legacy key and base URL": {
			environ:  vars("ANTHROPIC_KEY=k", "ANTHROPIC_BASE_URL=https://proxy/", "BEDROCK_REGION=eu"),
			want:     []string{"anthropic anthropic (none) region=eu access=/" + models},
			warnings: []string{"CODER_AIBRIDGE_ANTHROPIC_KEY: ignored", "CODER_AIBRIDGE_ANTHROPIC_BASE_URL: ignored"},
		},
		"E3: the name of an indexed provider is its type by default": {
			environ: vars("PROVIDER_0_TYPE=openai"),
			want:    []string{"openai openai (none)"},
		},
		"E3: every field": {
			environ: vars("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=https://a", "PROVIDER_0_KEYS=k1,k2",
				"PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=b", "PROVIDER_1_BEDROCK_BASE_URL=https://b", "PROVIDER_1_BEDROCK_REGION=r",
				"PROVIDER_1_BEDROCK_ACCESS_KEY=a", "PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET=s", "PROVIDER_1_BEDROCK_MODEL=m", "PROVIDER_1_BEDROCK_SMALL_FAST_MODEL=f"),
			want: []string{"a anthropic https://a key=k1 key=k2", "b anthropic https://b region=r access=a/s model=m small=f"},
		},
		"N3: an indexed provider with a signal takes the Bedrock base URL": {
			environ:  vars("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_BASE_URL=https://a", "PROVIDER_0_BEDROCK_REGION=r"),
			want:     []string{"anthropic anthropic (none) region=r access=/" + models},
			warnings: []string{"CODER_AIBRIDGE_PROVIDER_0_BASE_URL: ignored"},
		},
		"N3: a model without a signal: ignored": {
			environ:  vars("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_BEDROCK_MODEL=m"),
			want:     []string{"anthropic anthropic (none)"},
			warnings: []string{"CODER_AIBRIDGE_PROVIDER_0_BEDROCK_MODEL: ignored"},
		},
		"N4: the first of several pairs, and bearer keys in order": {
			environ: vars("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_BEDROCK_ACCESS_KEYS=a1, a2 ,a3", "PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS=s1,s2,s3",
				"PROVIDER_1_TYPE=openai", "PROVIDER_1_KEYS=z , a,m"),
			want:     []string{"anthropic anthropic (none) region= access=a1/s1" + models, "openai openai (none) key=z key=a key=m"},
			warnings: []string{"CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEYS: 3 Bedrock access keys; the first pair is used and the other 2 ignored"},
		},
		"E4, N11: indices are numbers, the result is in order of name": {
			environ: vars("PROVIDER_10_TYPE=openai", "PROVIDER_10_NAME=k", "PROVIDER_9_TYPE=openai", "PROVIDER_9_NAME=z",
				"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a0", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=a1", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=a2",
				"PROVIDER_3_TYPE=openai", "PROVIDER_3_NAME=a3", "PROVIDER_4_TYPE=openai", "PROVIDER_4_NAME=a4", "PROVIDER_5_TYPE=openai", "PROVIDER_5_NAME=a5",
				"PROVIDER_6_TYPE=openai", "PROVIDER_6_NAME=a6", "PROVIDER_7_TYPE=openai", "PROVIDER_7_NAME=a7", "PROVIDER_8_TYPE=openai", "PROVIDER_8_NAME=a8"),
			want: []string{
				"a0 openai (none)", "a1 openai (none)", "a2 openai (none)", "a3 openai (none)", "a4 openai (none)", "a5 openai (none)",
				"a6 openai (none)", "a7 openai (none)", "a8 openai (none)", "k openai (none)", "z openai (none)",
			},
		},
		"E5: a plural of one, and spaces around it": {
			environ: vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=  k  "),
			want:    []string{"openai openai (none) key=k"},
		},
		"E7: an unknown field is a warning and makes no provider": {
			environ:  vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_TPYE=x", "PROVIDER_7_KYE=x", "OPENAI_KYE=x", "ANTHROPIC_URL=x", "BEDROCK_RGEION=x", "PROVIDER_0_NAME_FILE=x"),
			want:     []string{"openai openai (none)"},
			warnings: []string{"ANTHROPIC_URL", "BEDROCK_RGEION", "OPENAI_KYE", "PROVIDER_0_NAME_FILE", "PROVIDER_0_TPYE", "PROVIDER_7_KYE"},
		},
		"E7: other variables under the prefix are the host's": {
			environ: vars("ENABLED=true", "RETENTION=60d", "PROVIDERS=x", "PROVIDER=x", "OPENAI=x"),
		},
		"E7, N7: a type that is not supported is skipped with a warning": {
			environ:  vars("PROVIDER_0_TYPE=watsonx", "PROVIDER_0_NAME=co", "PROVIDER_0_BASE_URL=https://co"),
			want:     []string{"co watsonx https://co unsupported"},
			warnings: []string{`co: type "watsonx" is not supported`},
		},
		"S11: a key in place of a type": {
			environ:  vars("PROVIDER_0_TYPE=sk-proj-8Jx2mQvT4LrN0cWkZyB7uHdE", "PROVIDER_0_NAME=x"),
			want:     []string{"x sk-proj-8Jx2mQvT4LrN0cWkZyB7uHdE (none) unsupported"},
			warnings: []string{`x: type "****uHdE" is not supported`},
		},
		"N7: nothing else about it stops a start": {
			environ: vars("PROVIDER_0_TYPE=Open-AI", "PROVIDER_0_KEY=a b", "PROVIDER_0_KEYS=,", "PROVIDER_0_KEY_FILE=/tmp/nonexistent",
				"PROVIDER_0_BASE_URL=nonsense", "PROVIDER_0_BEDROCK_REGION=r", "PROVIDER_1_TYPE=x", "PROVIDER_1_NAME=openai", "OPENAI_KEY=k"),
			want: []string{
				"Open-AI Open-AI nonsense unsupported", "openai openai https://api.openai.com/v1/ key=k", "openai x (none) unsupported",
			},
			warnings: []string{`Open-AI: type "Open-AI" is not supported`, `openai: type "x" is not supported`},
		},
		"N7: beside a supported one of its name": {
			environ:  vars("PROVIDER_0_TYPE=gemini", "PROVIDER_0_NAME=a", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=a"),
			want:     []string{"a gemini (none) unsupported", "a openai (none)"},
			warnings: []string{`a: type "gemini" is not supported, so the provider is skipped; want google?`},
		},
		"N9: two that agree in everything but the order of keys are one provider": {
			environ: vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_BASE_URL=https://h", "PROVIDER_0_KEYS=k,l",
				"PROVIDER_1_TYPE=openai", "PROVIDER_1_BASE_URL=https://h", "PROVIDER_1_KEYS=l,k"),
			want: []string{"openai openai https://h key=k key=l"},
		},
		"N3: a base URL that is the Bedrock one too is not ignored": {
			environ: vars("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_BASE_URL=https://a", "PROVIDER_0_BEDROCK_BASE_URL=https://a"),
			want:    []string{"anthropic anthropic https://a region= access=/" + models},
		},
		"E9: a key of 8 KiB is not too long": {
			environ: vars("OPENAI_KEY=" + strings.Repeat("k", 8<<10)),
			want:    []string{"openai openai https://api.openai.com/v1/ key=" + strings.Repeat("k", 8<<10)},
		},
		"N7: a bedrock provider is an anthropic one with Bedrock settings": {
			environ:  vars("PROVIDER_0_TYPE=bedrock", "PROVIDER_0_BEDROCK_REGION=r", "PROVIDER_0_BASE_URL=https://a"),
			want:     []string{"bedrock bedrock (none) region=r access=/" + models},
			warnings: []string{"CODER_AIBRIDGE_PROVIDER_0_BASE_URL: ignored"},
		},
		"N7: the rest with a base URL, and copilot without": {
			environ: vars("PROVIDER_0_TYPE=azure", "PROVIDER_0_BASE_URL=https://a", "PROVIDER_0_KEYS=k,l", "PROVIDER_1_TYPE=google", "PROVIDER_1_BASE_URL=https://g",
				"PROVIDER_2_TYPE=openrouter", "PROVIDER_2_BASE_URL=https://o", "PROVIDER_3_TYPE=vercel", "PROVIDER_3_BASE_URL=https://v",
				"PROVIDER_4_TYPE=openai-compat", "PROVIDER_4_BASE_URL=http://c", "PROVIDER_5_TYPE=copilot"),
			want: []string{
				"azure azure https://a key=k key=l", "copilot copilot (none)", "google google https://g", "openai-compat openai-compat http://c",
				"openrouter openrouter https://o", "vercel vercel https://v",
			},
		},
		"E12: a vendor's variables without what makes a provider of them": {
			environ: vars("OPENAI_BASE_URL=https://proxy/x", "ANTHROPIC_BASE_URL=https://proxy/x", "BEDROCK_MODEL=m"),
			warnings: []string{
				"CODER_AIBRIDGE_BEDROCK_MODEL, CODER_AIBRIDGE_ANTHROPIC_BASE_URL: ignored, since there is no CODER_AIBRIDGE_ANTHROPIC_KEY and no Bedrock region, base URL or access key",
				"CODER_AIBRIDGE_OPENAI_BASE_URL: ignored, since there is no CODER_AIBRIDGE_OPENAI_KEY to make a provider of it",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providers, warnings := wanted(t, tt.environ)
			require.Equal(t, tt.want, providers)
			require.Len(t, warnings, len(tt.warnings), "%q", warnings)
			for i, w := range tt.warnings {
				require.Contains(t, warnings[i], w)
			}
		})
	}
}

func TestConfigProblems(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 256)
	for name, tt := range map[string]struct {
		environ []string
		want    []string
	}{
		"E3: a type is required": {
			vars("PROVIDER_0_NAME=n"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0_TYPE (provider n): required; want one of " + supportedTypes()},
		},
		"N6: neither name nor type": {
			vars("PROVIDER_0_KEY=k"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0_TYPE, CODER_AIBRIDGE_PROVIDER_0_NAME: neither a type nor a name; want at least a type, one of " + supportedTypes()},
		},
		"E4: gaps": {
			vars("PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_4_TYPE=openai"),
			[]string{
				"CODER_AIBRIDGE_PROVIDER_1_NAME, CODER_AIBRIDGE_PROVIDER_1_TYPE (provider b): a gap: indices start at 0 and go up by one, and CODER_AIBRIDGE_PROVIDER_0_* is not set",
				"CODER_AIBRIDGE_PROVIDER_4_TYPE (provider openai): a gap: indices start at 0 and go up by one, and CODER_AIBRIDGE_PROVIDER_2_* is not set",
			},
		},
		"E4: a problem after a gap names the variable that is set": {
			vars("PROVIDER_5_TYPE=openai", "PROVIDER_5_BASE_URL=x", "PROVIDER_7_TYPE=openai", "PROVIDER_7_NAME=-"),
			[]string{
				"PROVIDER_5_TYPE (provider openai): a gap", "CODER_AIBRIDGE_PROVIDER_5_BASE_URL (provider openai): not an absolute http or https URL",
				"PROVIDER_7_TYPE (provider -): a gap", "CODER_AIBRIDGE_PROVIDER_7_NAME (provider -): not a valid name",
			},
		},
		"E4: bad indices, in order of name": {
			vars("PROVIDER__TYPE=openai", "PROVIDER_X_TYPE=openai", "PROVIDER_+1_TYPE=openai", "PROVIDER_-1_TYPE=openai", "PROVIDER_00_TYPE=openai", "PROVIDER_ 1_TYPE=openai", "PROVIDER_=x", "PROVIDER_1.0_TYPE=openai", "PROVIDER_١_TYPE=openai"),
			[]string{"PROVIDER_: ", "PROVIDER_ 1_TYPE: ", "PROVIDER_+1_TYPE: ", "PROVIDER_-1_TYPE: ", "PROVIDER_00_TYPE: ", "PROVIDER_1.0_TYPE: ", "PROVIDER_X_TYPE: ", "PROVIDER__TYPE: ", "PROVIDER_١_TYPE: "},
		},
		"E4: no field": {
			vars("PROVIDER_0=x", "PROVIDER_0_=x"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0: no field", "CODER_AIBRIDGE_PROVIDER_0_: no field"},
		},
		"E5: singular and plural": {
			vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=k", "PROVIDER_0_KEYS=k"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0_KEY, CODER_AIBRIDGE_PROVIDER_0_KEYS (provider openai): only one of them may be set"},
		},
		"E5: elements": {
			vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=a,,b, a"),
			[]string{"PROVIDER_0_KEYS (provider openai): element 2: empty", "PROVIDER_0_KEYS (provider openai): element 4: the same as element 1"},
		},
		"E5: too many": {
			vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEYS=a,b,c,d,e,f"),
			[]string{"PROVIDER_0_KEYS (provider openai): 6 elements; at most 5 are allowed"},
		},
		"E5: access keys without their secrets": {
			vars("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_BEDROCK_ACCESS_KEYS=a,b", "PROVIDER_0_BEDROCK_ACCESS_KEY_SECRET=s", "BEDROCK_ACCESS_KEY=a"),
			[]string{
				"CODER_AIBRIDGE_BEDROCK_ACCESS_KEY, CODER_AIBRIDGE_BEDROCK_ACCESS_KEY_SECRET (provider anthropic): 1 access key and 0 secrets",
				"CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEYS, CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEY_SECRET (provider anthropic): 2 access keys and 1 secret; each access key needs its secret",
				"CODER_AIBRIDGE_PROVIDER_0_TYPE, CODER_AIBRIDGE_BEDROCK_ACCESS_KEY (provider anthropic): the legacy variables make a provider of this name too",
			},
		},
		"E6: Bedrock fields of another type": {
			vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_BEDROCK_MODEL=m", "PROVIDER_0_BEDROCK_REGION=r"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0_BEDROCK_REGION, CODER_AIBRIDGE_PROVIDER_0_BEDROCK_MODEL (provider openai): for the types anthropic and bedrock only, and the type is openai"},
		},
		"E6: bearer keys with Bedrock settings": {
			vars("PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_KEYS=k", "PROVIDER_0_BEDROCK_REGION=r"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0_KEYS, CODER_AIBRIDGE_PROVIDER_0_BEDROCK_REGION (provider x): a provider authenticates with bearer keys or with Bedrock settings"},
		},
		"E6: and with a bearer key too, it is one problem": {
			vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_KEY=k", "PROVIDER_0_BEDROCK_REGION=r"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0_BEDROCK_REGION (provider openai): for the types anthropic and bedrock only, and the type is openai"},
		},
		"E8: an access key that cannot be read is one problem, and lacks no secret": {
			vars("BEDROCK_ACCESS_KEY_FILE=/tmp/nonexistent", "PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_BEDROCK_ACCESS_KEYS=a,b", "PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS_FILE=/tmp/nonexistent"),
			[]string{
				"CODER_AIBRIDGE_BEDROCK_ACCESS_KEY_FILE (provider anthropic): the file /tmp/nonexistent does not exist",
				"CODER_AIBRIDGE_PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS_FILE (provider x): the file /tmp/nonexistent does not exist",
			},
		},
		"E8: a variable and its file, of either number": {
			vars("OPENAI_KEY=k", "OPENAI_KEY_FILE=/f", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x", "PROVIDER_0_KEY=k", "PROVIDER_0_KEYS_FILE=/f"),
			[]string{"CODER_AIBRIDGE_OPENAI_KEY, CODER_AIBRIDGE_OPENAI_KEY_FILE (provider openai): only one", "CODER_AIBRIDGE_PROVIDER_0_KEY, CODER_AIBRIDGE_PROVIDER_0_KEYS_FILE (provider x): only one"},
		},
		"E9: secrets": {
			vars("OPENAI_KEY=a b", "ANTHROPIC_KEY=a\tb", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x", "PROVIDER_0_KEY="+strings.Repeat("k", 8<<10+1),
				"PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=y", "PROVIDER_1_KEY=a\xff", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=z", "PROVIDER_2_KEY=a\x00b",
				"PROVIDER_3_TYPE=openai", "PROVIDER_3_NAME=w", "PROVIDER_3_KEY=a\u00a0b", "PROVIDER_4_TYPE=openai", "PROVIDER_4_NAME=v", "PROVIDER_4_KEYS=a,b\u0085"),
			[]string{
				"OPENAI_KEY (provider openai): a space in it", "ANTHROPIC_KEY (provider anthropic): a control character in it",
				"PROVIDER_0_KEY (provider x): longer than 8 KiB", "PROVIDER_1_KEY (provider y): not valid UTF-8",
				"PROVIDER_2_KEY (provider z): a control character in it", "PROVIDER_3_KEY (provider w): a space in it",
				"PROVIDER_4_KEYS (provider v): element 2: a control character in it",
			},
		},
		"E9: base URLs": {
			vars("OPENAI_BASE_URL=api.openai.com/v1", "ANTHROPIC_BASE_URL=https:///x", "BEDROCK_BASE_URL=https://h/ x",
				"PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_BASE_URL=ftp://h", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=b", "PROVIDER_1_BASE_URL=https://u:p@h",
				"PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=c", "PROVIDER_2_BASE_URL=https://h/#", "PROVIDER_3_TYPE=openai", "PROVIDER_3_NAME=d", "PROVIDER_3_BASE_URL=https://h/%zz",
				"PROVIDER_4_TYPE=openai", "PROVIDER_4_NAME=e", "PROVIDER_4_BASE_URL=https://h/\xff", "PROVIDER_5_TYPE=openai", "PROVIDER_5_NAME=f", "PROVIDER_5_BASE_URL=https://:80/x",
				"PROVIDER_6_TYPE=openai", "PROVIDER_6_NAME=g", "PROVIDER_6_BASE_URL=https:h"),
			[]string{
				"OPENAI_BASE_URL (provider openai): not an absolute http or https URL", "ANTHROPIC_BASE_URL (provider anthropic): a URL without a host",
				"BEDROCK_BASE_URL (provider anthropic): a URL with a space or a control character in it", "PROVIDER_0_BASE_URL (provider a): not an absolute http or https URL",
				"PROVIDER_1_BASE_URL (provider b): a URL with user info", "PROVIDER_2_BASE_URL (provider c): a URL with a fragment",
				"PROVIDER_3_BASE_URL (provider d): not a URL", "PROVIDER_4_BASE_URL (provider e): not valid UTF-8", "PROVIDER_5_BASE_URL (provider f): a URL without a host",
				"PROVIDER_6_BASE_URL (provider g): a URL without a host",
			},
		},
		"E9: Bedrock access keys and their secrets": {
			vars("BEDROCK_ACCESS_KEY=a b", "BEDROCK_ACCESS_KEY_SECRET=a\tb",
				"PROVIDER_0_TYPE=anthropic", "PROVIDER_0_NAME=x", "PROVIDER_0_BEDROCK_ACCESS_KEYS=a,b c", "PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS=s,s"),
			[]string{
				"CODER_AIBRIDGE_BEDROCK_ACCESS_KEY (provider anthropic): a space in it", "CODER_AIBRIDGE_BEDROCK_ACCESS_KEY_SECRET (provider anthropic): a control character in it",
				"PROVIDER_0_BEDROCK_ACCESS_KEYS (provider x): element 2: a space in it", "PROVIDER_0_BEDROCK_ACCESS_KEY_SECRETS (provider x): element 2: the same as element 1",
			},
		},
		"E9: regions, models and types": {
			vars("ANTHROPIC_KEY=k", "BEDROCK_REGION=us east", "BEDROCK_MODEL=m\x7f", "BEDROCK_SMALL_FAST_MODEL=\xff", "PROVIDER_0_TYPE=\xff"),
			[]string{"BEDROCK_REGION (provider anthropic): a space in it", "BEDROCK_MODEL (provider anthropic): a control character in it", "BEDROCK_SMALL_FAST_MODEL (provider anthropic): not valid UTF-8", "PROVIDER_0_TYPE (provider \"\\xff\"): not valid UTF-8"},
		},
		"E9: also a model that nothing uses": {
			vars("ANTHROPIC_KEY=k", "BEDROCK_MODEL=a b"),
			[]string{"BEDROCK_MODEL (provider anthropic): a space in it"},
		},
		"S11: a key in a variable that is not for it": {
			vars("OPENAI_KEY_FILE=sk-proj-8Jx2mQvT4LrN0cWkZyB7uHdE", "ANTHROPIC_KEY_FILE=/c2VjcmV0LXNlY3JldC1zZWNyZXQ", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=sk-proj-8Jx2mQvT4LrN0cWkZyB7uHdE"),
			[]string{
				"OPENAI_KEY_FILE (provider openai): its value is not an absolute path in an existing directory: it does not exist",
				"ANTHROPIC_KEY_FILE (provider anthropic): its value is not an absolute path",
				"PROVIDER_0_NAME (provider ****uHdE): not a valid name",
			},
		},
		"N5: names, also of types that are skipped": {
			vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=Team_A", "PROVIDER_1_TYPE=openai", "PROVIDER_1_NAME=-a", "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=a-",
				"PROVIDER_3_TYPE=openai", "PROVIDER_3_NAME=a--b", "PROVIDER_4_TYPE=watsonx", "PROVIDER_4_NAME=a b", "PROVIDER_5_TYPE=openai", "PROVIDER_5_NAME="+long,
				"PROVIDER_6_TYPE=openai", "PROVIDER_6_NAME=a\n", "PROVIDER_7_TYPE=openai", "PROVIDER_7_NAME="+long[:255], "PROVIDER_8_TYPE=openai", "PROVIDER_8_NAME=0-a-1"),
			[]string{"PROVIDER_0_NAME (provider Team_A): not a valid name", "PROVIDER_1_NAME", "PROVIDER_2_NAME", "PROVIDER_3_NAME", "PROVIDER_4_NAME", "PROVIDER_5_NAME", `PROVIDER_6_NAME (provider "a\n")`},
		},
		"N8: an indexed provider with the name of a legacy one": {
			vars("ANTHROPIC_KEY=k", "BEDROCK_REGION=r", "BEDROCK_MODEL=m", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=anthropic"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0_NAME, CODER_AIBRIDGE_ANTHROPIC_KEY, CODER_AIBRIDGE_BEDROCK_REGION (provider anthropic): " +
				"the legacy variables make a provider of this name too; remove CODER_AIBRIDGE_ANTHROPIC_KEY and CODER_AIBRIDGE_BEDROCK_REGION, or give"},
		},
		"N9: one name and two shapes": {
			vars("PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=x", "PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=x", "PROVIDER_1_BEDROCK_REGION=r"),
			[]string{"CODER_AIBRIDGE_PROVIDER_0_NAME, CODER_AIBRIDGE_PROVIDER_1_NAME (provider x): two providers of one name, which differ in TYPE and BEDROCK_REGION; give each a NAME of its own, or remove one"},
		},
		"E5: a field that is wrong by itself is one problem; E9: so is a name in quotes": {
			vars("PROVIDER_0_TYPE=copilot", "PROVIDER_0_NAME=\"c\"", "PROVIDER_0_KEYS=a,,b", "PROVIDER_O_TYPE=openai", "PROVIDER_1_TYPE=openai", "PROVIDER_1_BEDROCK_REGION=\"r\""),
			[]string{"PROVIDER_0_NAME (provider \"c\"): in quotes", "PROVIDER_0_KEYS (provider \"c\"): element 2: empty", "PROVIDER_1_BEDROCK_REGION (provider openai): in quotes", "PROVIDER_O_TYPE: no valid index"},
		},
		"E4: a huge index is a gap like any other": {
			vars("PROVIDER_999999999_TYPE=openai", "PROVIDER_99999999999999999999999999_TYPE=openai"),
			[]string{"PROVIDER_999999999_TYPE (provider openai): a gap", "PROVIDER_99999999999999999999999999_TYPE (provider openai): a gap: indices start at 0 and go up by one, and CODER_AIBRIDGE_PROVIDER_1000000000_* is not set"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := ParseEnviron(context.Background(), tt.environ, slog.Logger{})
			require.Equal(t, Config{}, cfg)
			require.ErrorIs(t, err, ErrInvalidConfig)
			var config *ConfigError
			require.ErrorAs(t, err, &config)
			var got []string
			for _, p := range config.Problems {
				got = append(got, p.String())
				require.NotEmpty(t, p.Variables)
				for _, v := range p.Variables {
					require.True(t, strings.HasPrefix(v, DefaultPrefix), v)
				}
			}
			require.Len(t, got, len(tt.want), "%s", strings.Join(got, "\n"))
			for i := range tt.want {
				require.Contains(t, got[i], tt.want[i])
			}
		})
	}
}

// A seed decides twice about the same providers: before it has the lock, and under the
// lock.
func TestR1_DecisionsDoNotTouchOneAnother(t *testing.T) {
	t.Parallel()
	want := []desired{{Provider: Provider{Name: "a", Type: TypeOpenAI}, warnings: append(make([]Warning, 0, 4), Warning{Code: "of the environment"})}}
	deleted := diff(want, map[string]*storedProvider{"a": {Provider: want[0].Provider, deleted: true}}, nil, settlement{}, plain)
	want[0].Keys = []ProviderKey{{APIKey: NewSecret("other")}}
	diverged := diff(want, map[string]*storedProvider{"a": {Provider: Provider{Name: "a", Type: TypeOpenAI, Keys: []ProviderKey{{APIKey: NewSecret("k")}}}}}, nil, settlement{}, plain)
	require.Contains(t, deleted.Steps[0].Warnings[1].String(), "an operator deleted it")
	require.Contains(t, diverged.Steps[0].Warnings[1].String(), "differ in API key 1")
	require.Equal(t, []Warning{{Code: "of the environment"}}, want[0].warnings)
}

func describe(want []desired) (lines []string) {
	for _, d := range want {
		line := fmt.Sprintf("%s %s %s", d.Name, d.Type, text.OrNone(d.BaseURL))
		if d.unsupported {
			line += " unsupported"
		}
		for _, k := range d.Keys {
			line += " key=" + k.APIKey.Reveal()
		}
		if b := d.Bedrock; b != nil {
			line += fmt.Sprintf(" region=%s access=%s/%s model=%s small=%s", b.Region, b.AccessKey.Reveal(), b.AccessKeySecret.Reveal(), b.Model, b.SmallFastModel)
		}
		lines = append(lines, line)
	}
	return lines
}

// wanted parses an environment and describes the providers that it asks for, one on a
// line, and returns the warnings of both steps.
func wanted(t *testing.T, environ []string) (providers, warnings []string) {
	t.Helper()
	logs := &testkit.LogRecorder{}
	cfg, err := ParseEnviron(context.Background(), environ, logs.Logger())
	require.NoError(t, err)
	want, err := normalise(cfg)
	require.NoError(t, err)
	warnings = append(logs.Warnings(), warningsOf(want)...)
	for _, w := range cfg.ineffective() {
		warnings = append(warnings, w.String())
	}
	return describe(want), warnings
}

func warningsOf(want []desired) (lines []string) {
	for _, d := range want {
		for _, w := range d.warnings {
			lines = append(lines, d.Name+": "+w.String())
		}
	}
	return lines
}

const models = " model=global.anthropic.claude-sonnet-4-5-20250929-v1:0 small=global.anthropic.claude-haiku-4-5-20251001-v1:0"
