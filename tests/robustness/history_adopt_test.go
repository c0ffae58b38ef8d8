package robustness

import (
	"fmt"
	"slices"
	"strings"
)

// What the model of F4 knows of differences between a row and the environment: what adopting
// writes, which side moved, and what the entries of an operator settle (O2, O3).

// A difference is what a token stands for.
type difference struct {
	name, shapes, all string
	by                int // the key of a keyring that it was made with, 0 for none, or noSecret
}

// noSecret is the key of a token that is bound to no credential: each keyring makes the same.
const noSecret = -1

// A modelOrigin is a row as a start wrote it, with masks.
type modelOrigin struct {
	shape, model, access, secret string
	keys                         []string
}

// adopted is a row as adopting makes it, and the secrets of its keys in order.
func (m *model) adopted(row int, w modelWant) (now modelRow, keys []string) {
	now = m.rows[row]
	if m.drifts(row, w) {
		now.kind, now.url = w.kind, w.url
	}
	if w.bedrock == nil {
		now.bedrock = nil
		if keys = w.keys; len(keys) == 0 {
			keys = m.secretsOf(row)
		}
		return now, keys
	}
	b := *w.bedrock
	if was := now.bedrock; was != nil {
		b.small = was.small // no history sets it
		if !w.model {
			b.model = was.model
		}
		if b.access == "" {
			b.access, b.secret = was.access, was.secret
		}
	}
	now.bedrock = &b
	return now, nil
}

func (m *model) drifts(row int, w modelWant) bool {
	return shape(w.kind, w.url, w.bedrock) != shape(m.rows[row].kind, m.rows[row].url, m.rows[row].bedrock)
}

// differs reports whether there is anything to settle.
func (m *model) differs(row int, w modelWant) bool {
	now, keys := m.adopted(row, w)
	return m.drifts(row, w) || !sameBedrock(m.rows[row].bedrock, now.bedrock) || !slices.Equal(sorted(m.secretsOf(row)), sorted(keys))
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

func sameBedrock(a, b *modelBedrock) bool { return a == b || a != nil && b != nil && *a == *b }

// difference is what a token is bound to. Its shapes are what keeping a drift compares; the rest
// is everything that adopting overwrites, and what it writes.
func (m *model) difference(row int, w modelWant, by int) difference {
	secretive := false
	bound := func(secret string) string {
		secretive = secretive || secret != ""
		if by == 0 && secret != "" {
			return fmt.Sprint(masked(secret), " ", len(secret))
		}
		return secret
	}
	text := func(r modelRow) string {
		b := modelBedrock{}
		if r.bedrock != nil {
			b = *r.bedrock
		}
		return fmt.Sprintf("%q", []string{r.kind, r.url, b.region, b.model, b.small, bound(b.access), bound(b.secret)})
	}
	r := m.rows[row]
	now, secrets := m.adopted(row, w)
	var had, has []string
	ids := map[string]string{}
	for _, k := range m.keysOf(row) {
		ids[m.keys[k].secret] = fmt.Sprint("#", k)
		had = append(had, ids[m.keys[k].secret]+bound(m.keys[k].secret))
	}
	for _, secret := range secrets {
		has = append(has, ids[secret]+bound(secret))
	}
	d := difference{name: w.name, by: by}
	d.shapes = fmt.Sprint(row, ": ", shape(r.kind, r.url, r.bedrock), " -> ", shape(w.kind, w.url, w.bedrock))
	d.all = fmt.Sprint(d.shapes, " ", r.revision, text(r), had, text(now), has)
	if !secretive {
		d.by = noSecret
	}
	return d
}

// adopt makes a row what the environment says.
func (m *model) adopt(ring []int, row int, w modelWant) {
	now, secrets := m.adopted(row, w)
	was, had := m.rows[row], m.keysOf(row)
	if !sameBedrock(was.bedrock, now.bedrock) {
		if now.sealed = 0; now.bedrock != nil {
			now.sealed = m.seal(ring)
		}
	}
	now.origin = originOf(now, secrets)
	m.audit("system", "update", row, -1, was.values(m.secretsOf(row)), now.values(secrets))
	m.rows[row] = now
	m.count(row)
	key := func(k int) any {
		return map[string]any{"position": m.keys[k].position, "api_key": masked(m.keys[k].secret)}
	}
	next := 0
	for _, k := range had {
		next = m.keys[k].position + 1
		if !slices.Contains(secrets, m.keys[k].secret) {
			m.keys[k].gone = true
			m.audit("system", "delete", row, k, key(k), nil)
		}
	}
	last := -1
	for _, secret := range secrets {
		i := slices.IndexFunc(had, func(k int) bool { return m.keys[k].secret == secret })
		if i < 0 {
			m.keys = append(m.keys, modelKey{secret: secret, row: row, position: next, sealed: m.seal(ring), touched: true})
			m.audit("system", "create", row, len(m.keys)-1, nil, key(len(m.keys)-1))
			last, next = next, next+1
			continue
		}
		k := had[i]
		if m.keys[k].position < last {
			was := key(k)
			m.keys[k].position, m.keys[k].touched = next, true
			next++
			m.audit("system", "update", row, k, was, key(k))
		}
		last = m.keys[k].position
	}
}

func originOf(r modelRow, secrets []string) *modelOrigin {
	o := &modelOrigin{shape: shape(r.kind, r.url, r.bedrock)}
	if b := r.bedrock; b != nil {
		o.model, o.access, o.secret = b.model, masked(b.access), masked(b.secret)
	}
	for _, secret := range secrets {
		o.keys = append(o.keys, masked(secret))
	}
	slices.Sort(o.keys)
	return o
}

// onlyTheDatabaseMoved reports whether the row changed since a start wrote it, and the environment
// did not, in what the environment sets. What a mask hides leaves it open.
func (m *model) onlyTheDatabaseMoved(row int, w modelWant) bool {
	first := m.rows[row].origin
	if first == nil {
		return false
	}
	moved := func(now *modelOrigin) (moved, sure bool) {
		sure = true
		compare := func(was, is []string) {
			moved = moved || !slices.Equal(was, is)
			sure = sure && !slices.Contains(is, "****")
		}
		compare([]string{first.shape}, []string{now.shape})
		if w.model {
			compare([]string{first.model}, []string{now.model})
		}
		if w.bedrock != nil && w.bedrock.access != "" {
			compare([]string{first.access, first.secret}, []string{now.access, now.secret})
		}
		if w.bedrock != nil || len(w.keys) > 0 {
			compare(first.keys, now.keys)
		}
		return moved, moved || sure
	}
	environment, sure := moved(originOf(modelRow{kind: w.kind, url: w.url, bedrock: w.bedrock}, w.keys))
	database, alsoSure := moved(originOf(m.rows[row], m.secretsOf(row)))
	return sure && alsoSure && database && !environment
}

// A modelChoice is what an operator chose about a difference: adopt, keep, or nothing.
type modelChoice struct {
	action string
	used   []string // the tokens that say so
}

func isStanding(entry string) bool {
	return entry == "*" || strings.HasSuffix(entry, "@*") || strings.HasSuffix(entry, "@database")
}

func (m *model) choose(ring []int, row int, w modelWant, adopt, keep []string, words map[string]difference) modelChoice {
	made := ring
	if len(made) == 0 {
		made = []int{0}
	}
	matching := func(entries []string, firstHalf bool) (used []string) {
		for _, entry := range entries {
			for _, by := range made {
				known, told := words[entry]
				d := m.difference(row, w, by)
				if told && !slices.Contains(used, entry) && (known == d || firstHalf && known.shapes == d.shapes) {
					used = append(used, entry)
				}
			}
		}
		return used
	}
	if used := matching(adopt, false); used != nil {
		return modelChoice{"adopt", used}
	}
	if used := matching(keep, m.drifts(row, w)); used != nil {
		return modelChoice{"keep", used}
	}
	for _, entry := range keep {
		name, choice, _ := strings.Cut(entry, "@")
		if isStanding(entry) && (name == "*" || name == w.name) && (choice != "database" || m.onlyTheDatabaseMoved(row, w)) {
			return modelChoice{"keep", nil}
		}
	}
	return modelChoice{}
}
