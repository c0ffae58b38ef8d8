package robustness

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/seal"
)

const (
	kindSwapped = "F5 swapped ciphertexts"
	kindMutated = "F5 mutated sealed values"
)

// A sealedValue is one value in the tables: its place and its text.
type sealedValue struct {
	table, column, id, stored, key string
}

func (v sealedValue) String() string { return v.table + "." + v.column + " of " + v.id }

// put writes a sealed value to the tables.
func (f *fixture) put(v sealedValue) {
	f.T.Helper()
	f.Exec(fmt.Sprintf(`update %[1]s set %[2]s = $2, %[2]s_key_id = $3 where id = $1`, v.table, v.column), v.id, v.stored, v.key)
}

// sealedValues returns all sealed values.
func (f *fixture) sealedValues() (values []sealedValue) {
	f.T.Helper()
	for _, line := range f.Rows(`
select 'ai_providers', 'settings', id::text, settings, settings_key_id from ai_providers where settings is not null
 union all select 'ai_provider_keys', 'api_key', id::text, api_key, api_key_key_id from ai_provider_keys order by 1, 3`) {
		w := strings.Fields(line)
		values = append(values, sealedValue{w[0], w[1], w[2], w[3], w[4]})
	}
	return values
}

// unopened reports err as a violation unless it is a DecryptError about one of the
// values, which it returns.
func unopened(err error, of ...sealedValue) (sealedValue, error) {
	var decrypt *aiseed.DecryptError
	if !errors.As(err, &decrypt) {
		return sealedValue{}, fmt.Errorf("want a DecryptError, got %v", err)
	}
	for _, v := range of {
		if decrypt.Table == v.table && decrypt.Column == v.column && decrypt.RowID.String() == v.id {
			return v, nil
		}
	}
	return sealedValue{}, fmt.Errorf("a DecryptError about another value: %w", err)
}

// twoKeys is a store whose rows are sealed with two keys: the first and the second of the
// fixture's keyring.
func twoKeys(t *testing.T) *fixture {
	t.Helper()
	f := setup(t)
	random := chance(t.Name())
	raw := [][]byte{randomKey(random), randomKey(random)}
	var err error
	f.Keyring, err = aiseed.NewKeyring(raw[1])
	require.NoError(t, err)
	f.Store, _ = f.Open()
	older := []string{
		"OPENAI_KEY=legacy", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME=a", "PROVIDER_0_KEYS=a1,a2,a3,a4,a5",
		"PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=b", "PROVIDER_1_BEDROCK_ACCESS_KEY=b1", "PROVIDER_1_BEDROCK_ACCESS_KEY_SECRET=b2",
	}
	f.Seeded(older...)
	f.Keyring, err = aiseed.NewKeyring(raw[0], raw[1])
	require.NoError(t, err)
	f.Store, f.Wire = f.Open()
	f.Seeded(append(older, "PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=c", "PROVIDER_2_KEYS=c1,c2,c3,c4,c5",
		"PROVIDER_3_TYPE=anthropic", "PROVIDER_3_NAME=d", "PROVIDER_3_BEDROCK_ACCESS_KEY=d1", "PROVIDER_3_BEDROCK_ACCESS_KEY_SECRET=d2")...)
	return f
}

func randomKey(random *rand.Rand) []byte {
	key := make([]byte, aiseed.KeySize)
	for i := range key {
		key[i] = byte(random.Uint32())
	}
	return key
}

// setApart checks S7: each provider is either served or in the error.
func setApart(providers []aiseed.Provider, err error, all int) error {
	var unusable *aiseed.ProvidersError
	if !errors.As(err, &unusable) {
		return fmt.Errorf("not a ProvidersError: %w", err)
	}
	for _, p := range unusable.Providers {
		if slices.ContainsFunc(providers, func(served aiseed.Provider) bool { return served.ID == p.ID }) {
			return fmt.Errorf("provider %s is served, and it is not", p.Name)
		}
	}
	if len(providers)+len(unusable.Providers) != all {
		return fmt.Errorf("%d providers are served and %d are not, of %d", len(providers), len(unusable.Providers), all)
	}
	return nil
}

// S2, S5: a value can be decrypted only in its own row and column, and for its own provider.
func TestF5_S2_SwappedCiphertextsDoNotOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := twoKeys(t)
	before, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	values := f.sealedValues()
	require.Len(t, values, 13)

	// requireBoth checks that one of them fails, repairs it, and checks that the other fails.
	requireBoth := func(what string, repair func(sealedValue), both ...sealedValue) {
		t.Helper()
		var err error
		for left := both; len(left) > 0 && err == nil; {
			var providers []aiseed.Provider
			var failed sealedValue
			providers, err = f.Store.Providers(ctx)
			apart := setApart(providers, err, len(before))
			if failed, err = unopened(err, left...); err == nil {
				err = apart
			}
			repair(failed)
			left = slices.DeleteFunc(slices.Clone(left), func(v sealedValue) bool { return v == failed })
		}
		cases.check(t, kindSwapped, fmt.Sprintf("%s of %v and %v", what, both[0], both[1]), err)
		for _, v := range both { // also if the check failed
			repair(v)
		}
	}
	for i, a := range values {
		for _, b := range values[:i] {
			x, y := a, b
			x.stored, y.stored = b.stored, a.stored
			if a.key != b.key {
				f.put(x)
				f.put(y)
				requireBoth("the values", f.put, a, b)
			}
			x.key, y.key = b.key, a.key
			f.put(x)
			f.put(y)
			requireBoth("values and key ids", f.put, a, b)
		}
	}
	home := map[string]string{} // the provider of each key
	for _, p := range before {
		for _, k := range p.Keys {
			home[k.ID.String()] = p.ID.String()
		}
	}
	move := func(v sealedValue, provider string, shift int) {
		f.Exec(`update ai_provider_keys set provider_id = $2, position = position + $3 where id = $1`, v.id, provider, shift)
	}
	for i, a := range values {
		for _, b := range values[:i] {
			if home[a.id] == home[b.id] || home[a.id] == "" || home[b.id] == "" {
				continue
			}
			away := map[sealedValue]bool{a: true, b: true}
			move(a, home[b.id], 100)
			move(b, home[a.id], 100)
			requireBoth("the providers", func(v sealedValue) {
				if away[v] {
					move(v, home[v.id], -100)
					away[v] = false
				}
			}, a, b)
		}
	}
	after, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	require.Len(t, after, len(before))
	for i := range after {
		require.Len(t, after[i].Keys, len(before[i].Keys), "and what was repaired opens")
	}
}

// A mutation changes a sealed value or what it is bound to.
type mutation struct {
	name   string
	change func(random *rand.Rand, c *sealedCell)
}

// A sealedCell is a sealed value with everything that it is bound to.
type sealedCell struct {
	table, column, row, stored, key string
	provider                        uuid.UUID
	noKey                           bool // no key id next to it

	other string // another sealed value
	older string // id of another key of the keyring
}

func (c sealedCell) open(ring seal.Ring) (string, error) {
	key := &c.key
	if c.noKey {
		key = nil
	}
	return ring.Open(c.cell(), c.stored, key)
}

func (c sealedCell) cell() seal.Cell {
	return seal.Cell{Table: c.table, Column: c.column, Row: c.row, Provider: c.provider}
}

const sealedPrefix = "aiseed:v1:"

// ofText changes the stored text, and ofBytes the bytes that it encodes.
func ofText(change func(random *rand.Rand, s string) string) func(*rand.Rand, *sealedCell) {
	return func(random *rand.Rand, c *sealedCell) { c.stored = change(random, c.stored) }
}

func ofBytes(change func(random *rand.Rand, b []byte) []byte) func(*rand.Rand, *sealedCell) {
	return ofText(func(random *rand.Rand, s string) string {
		b, err := base64.StdEncoding.DecodeString(s[len(sealedPrefix):])
		if err != nil {
			panic(err)
		}
		return sealedPrefix + base64.StdEncoding.EncodeToString(change(random, b))
	})
}

func insert(from ...string) func(*rand.Rand, *sealedCell) {
	return ofText(func(random *rand.Rand, s string) string {
		at := random.IntN(len(s) + 1)
		return s[:at] + from[random.IntN(len(from))] + s[at:]
	})
}

var mutations = []mutation{
	{"a bit of the text", ofText(func(random *rand.Rand, s string) string {
		b := []byte(s)
		b[random.IntN(len(b))] ^= 1 << random.IntN(8)
		return string(b)
	})},
	{"a bit of the bytes", ofBytes(func(random *rand.Rand, b []byte) []byte {
		b[random.IntN(len(b))] ^= 1 << random.IntN(8)
		return b
	})},
	{"several bytes", ofBytes(func(random *rand.Rand, b []byte) []byte {
		for range 2 + random.IntN(8) {
			b[random.IntN(len(b))] ^= byte(1 + random.IntN(255))
		}
		return b
	})},
	{"text cut off", ofText(func(random *rand.Rand, s string) string { return s[:random.IntN(len(s))] })},
	{"text cut off in front", ofText(func(random *rand.Rand, s string) string { return s[1+random.IntN(len(s)-1):] })},
	{"bytes cut off", ofBytes(func(random *rand.Rand, b []byte) []byte { return b[:random.IntN(len(b))] })},
	{"bytes cut out", ofBytes(func(random *rand.Rand, b []byte) []byte {
		at := random.IntN(len(b))
		return slices.Delete(b, at, min(len(b), at+1+random.IntN(4)))
	})},
	{"text more", ofText(func(random *rand.Rand, s string) string {
		return s + []string{"=", "A", "AAAA", "====", s, ":", "\x00"}[random.IntN(7)]
	})},
	{"bytes more", ofBytes(func(random *rand.Rand, b []byte) []byte { return append(b, make([]byte, 1+random.IntN(16))...) })},
	{"bytes more in front", ofBytes(func(random *rand.Rand, b []byte) []byte { return append(make([]byte, 1+random.IntN(16)), b...) })},
	{"characters transposed", ofText(func(random *rand.Rand, s string) string {
		b := []byte(s)
		i, j := random.IntN(len(b)), random.IntN(len(b))
		b[i], b[j] = b[j], b[i]
		return string(b)
	})},
	{"bytes transposed", ofBytes(func(random *rand.Rand, b []byte) []byte {
		i, j := random.IntN(len(b)), random.IntN(len(b))
		b[i], b[j] = b[j], b[i]
		return b
	})},
	{"a line break in it", insert("\n", "\r", "\r\n", "\n\n")},
	{"a space in it", insert(" ", "\t", "\v", "\u00a0", "\u200b", "\ufeff")},
	{"space around it", ofText(func(random *rand.Rand, s string) string {
		space := []string{" ", "\n", "\t", "\r\n"}[random.IntN(4)]
		return []string{space + s, s + space, space + s + space}[random.IntN(3)]
	})},
	{"the URL alphabet", ofText(func(_ *rand.Rand, s string) string { return strings.NewReplacer("+", "-", "/", "_").Replace(s) })},
	{"no padding", ofText(func(_ *rand.Rand, s string) string { return strings.TrimRight(s, "=") })},
	{"trailing bits", ofText(func(random *rand.Rand, s string) string {
		const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
		end := len(strings.TrimRight(s, "="))
		unused := 2 * (len(s) - end) // bits of the last digit
		last := strings.IndexByte(digits, s[end-1]) | random.IntN(1<<unused)
		return s[:end-1] + digits[last:last+1] + s[end:]
	})},
	{"another case", ofText(func(random *rand.Rand, s string) string {
		at := random.IntN(len(s))
		swapped := strings.ToUpper(s[at : at+1])
		if swapped == s[at:at+1] {
			swapped = strings.ToLower(swapped)
		}
		return []string{s[:at] + swapped + s[at+1:], strings.ToUpper(s), strings.ToLower(s)}[random.IntN(3)]
	})},
	{"another version", ofText(func(random *rand.Rand, s string) string {
		versions := []string{"aiseed:v0:", "aiseed:v2:", "aiseed:v01:", "aiseed:v1", "aiseed:1:", "aiseed:v11:", "v1:", "", "aiseed::", "aiseed:v1:aiseed:v1:"}
		return versions[random.IntN(len(versions))] + s[len(sealedPrefix):]
	})},
	{"hex for base64", ofText(func(_ *rand.Rand, s string) string { return sealedPrefix + fmt.Sprintf("%x", s[len(sealedPrefix):]) })},
	{"the other's value", func(_ *rand.Rand, c *sealedCell) { c.stored = c.other }},
	{"half of the other's value", func(random *rand.Rand, c *sealedCell) {
		at := len(sealedPrefix) + 16 + random.IntN(min(len(c.stored), len(c.other))-len(sealedPrefix)-16) // somewhere behind the nonce
		c.stored = c.stored[:at] + c.other[at:]
	}},
	{"plaintext", ofText(func(*rand.Rand, string) string { return "secret" })},
	{"plaintext without a key id", func(_ *rand.Rand, c *sealedCell) { c.stored, c.noKey = "secret", true }},
	{"no key id", func(_ *rand.Rand, c *sealedCell) { c.noKey = true }},
	{"another key id of the keyring", func(_ *rand.Rand, c *sealedCell) { c.key = c.older }},
	{"a key id that is none", func(random *rand.Rand, c *sealedCell) {
		id, at := c.key, random.IntN(len(c.key))
		c.key = []string{"", id[:at], id + " ", "\n" + id, strings.ToUpper(id) + "\x00", id[:at] + "g" + id[at+1:]}[random.IntN(6)]
	}},
	{"another table", func(_ *rand.Rand, c *sealedCell) { c.table = "ai_" + c.table }},
	{"another column", func(_ *rand.Rand, c *sealedCell) { c.column += "_key_id" }},
	{"another row", func(_ *rand.Rand, c *sealedCell) { c.row = uuid.NewString() }},
	{"another provider", func(_ *rand.Rand, c *sealedCell) { c.provider = uuid.New() }},
}

// mutate changes a cell until it differs, and says how.
func mutate(random *rand.Rand, c sealedCell) (changed sealedCell, how string) {
	for changed = c; changed == c; {
		m := mutations[random.IntN(len(mutations))]
		m.change(random, &changed)
		how = m.name
	}
	return changed, how
}

func TestF5_S2_MutatedSealedValuesDoNotOpen(t *testing.T) {
	t.Parallel()
	random := chance(t.Name())
	var ring seal.Ring
	for range 2 {
		key, err := seal.NewKey(randomKey(random))
		require.NoError(t, err)
		ring = append(ring, key)
	}
	for i := range 10_000 {
		secret := strings.Repeat("s", 1+random.IntN(60))
		c := sealedCell{
			table: "ai_provider_keys", column: "api_key", row: uuid.NewString(), provider: uuid.New(),
			key: ring[0].ID, older: ring[1].ID,
		}
		c.stored, _ = ring.Seal(c.cell(), secret)
		elsewhere := c.cell()
		elsewhere.Row = uuid.NewString()
		c.other, _ = ring.Seal(elsewhere, secret)
		opened, err := c.open(ring)
		require.NoError(t, err)
		require.Equal(t, secret, opened)

		changed, how := mutate(random, c)
		want := seal.ErrUnopened
		if changed.noKey && !seal.IsSealed(changed.stored) {
			want = seal.ErrPlaintext
		}
		if opened, err = changed.open(ring); errors.Is(err, want) && opened == "" {
			err = nil
		} else {
			err = fmt.Errorf("opened as %q, %w", opened, err)
		}
		cases.check(t, kindMutated, fmt.Sprintf("mutation %d, %s: %q became %q", i, how, c.stored, changed.stored), err)
	}
}

// The same through the tables, where the database allows it.
func TestF5_S5_MutatedRowsAreTypedErrors(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	random := chance(t.Name())
	f := twoKeys(t)
	all, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	values := f.sealedValues()
	for i := range full(200, 2000) {
		v := values[random.IntN(len(values))]
		c := sealedCell{stored: v.stored, other: values[random.IntN(len(values))].stored, key: v.key}
		c.older = f.Keyring.IDs()[0]
		if c.older == c.key {
			c.older = f.Keyring.IDs()[1]
		}
		changed, how := c, ""
		for possible := false; !possible; {
			changed, how = mutate(random, c)
			// Another test moves values. Here a key id has to refer to a key, and a text has to be valid.
			possible = changed.stored != c.stored || changed.key != c.key || changed.noKey
			possible = possible && (changed.noKey || slices.Contains(f.Keyring.IDs(), changed.key))
			possible = possible && utf8.ValidString(changed.stored) && !strings.Contains(changed.stored, "\x00")
		}
		f.Exec(fmt.Sprintf(`update %[1]s set %[2]s = $2, %[2]s_key_id = case when not $4 then $3 end where id = $1`, v.table, v.column), v.id, changed.stored, changed.key, changed.noKey)
		providers, err := f.Store.Providers(ctx)
		apart := setApart(providers, err, len(all))
		if _, err = unopened(err, v); err == nil {
			err = apart
		}
		cases.check(t, kindMutated, fmt.Sprintf("mutation %d of a row, %s: %q became %q", i, how, c.stored, changed.stored), err)
		f.put(v)
	}
}
