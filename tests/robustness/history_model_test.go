package robustness

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"example.com/aiseed"
)

// The model of F4: what the database holds according to the rules, in Go values. It shares
// no code with the library. Which values are equal is defined here again, for the few values
// that a history uses.

type model struct {
	rows   []modelRow
	keys   []modelKey
	audits []modelAudit
	known  map[int]bool   // the keys of keyrings that the database knows; false is revoked
	keyIDs map[string]int // their ids in the database
}

type modelRow struct {
	id, name, kind, url, display string
	enabled, deleted             bool
	bedrock                      *modelBedrock // replaced, never changed in place
	sealed                       int           // the key that sealed it; 0 means plaintext
	revision                     int
	touched                      bool         // by the last step
	origin                       *modelOrigin // nil if no start wrote the row
}

type modelBedrock struct{ region, model, small, access, secret string }

type modelKey struct {
	id, secret    string
	row, position int
	sealed        int
	gone, touched bool
}

type modelAudit struct {
	id, actor, action  string
	row, key           int // key is -1 for an entry about the row
	old, new           string
	delivered, touched bool
}

// A modelWant is a provider as an environment wants it.
type modelWant struct {
	name, kind, url string
	keys            []string
	bedrock         *modelBedrock
	model           bool // the environment sets it
	unsupported     bool
}

type modelEnv struct {
	lines   []string
	want    []modelWant // in order of name
	invalid bool
}

// meaning is equal for base URLs that mean the same.
func meaning(url string) string {
	switch url {
	case "HTTPS://X.Example:443/v1/":
		return "https://x.example/v1/"
	case "https://y.example":
		return "https://y.example/"
	}
	return url
}

// respelt is the same base URL in another spelling.
func respelt(url string) string {
	switch url {
	case "https://x.example/v1/":
		return "HTTPS://X.Example:443/v1/"
	case "https://y.example/":
		return "https://y.example"
	}
	return meaning(url)
}

func shape(kind, url string, b *modelBedrock) string {
	region := ""
	switch {
	case b != nil:
		kind, region = "bedrock", b.region
	case url == "":
		url = map[string]string{"openai": "https://api.openai.com/v1/", "anthropic": "https://api.anthropic.com/"}[kind]
	}
	return kind + " " + meaning(url) + " " + region
}

func masked(secret string) string {
	switch {
	case secret == "":
		return ""
	case len(secret) < 20:
		return "****"
	}
	return "****" + secret[len(secret)-4:]
}

func (m *model) clone() *model {
	return &model{slices.Clone(m.rows), slices.Clone(m.keys), slices.Clone(m.audits), maps.Clone(m.known), maps.Clone(m.keyIDs)}
}

// next is a clone in which nothing is touched yet.
func (m *model) next() *model {
	c := m.clone()
	for i := range c.rows {
		c.rows[i].touched = false
	}
	for i := range c.keys {
		c.keys[i].touched = false
	}
	for i := range c.audits {
		c.audits[i].touched = false
	}
	return c
}

// find returns the live row of a name or, for deleted, the last tombstone. It returns -1 if
// there is none.
func (m *model) find(name string, deleted bool) int {
	for i := len(m.rows) - 1; i >= 0; i-- {
		if m.rows[i].name == name && m.rows[i].deleted == deleted {
			return i
		}
	}
	return -1
}

// numbers are those of all rows.
func (m *model) numbers() (rows []int) {
	for i := range m.rows {
		rows = append(rows, i)
	}
	return rows
}

// keysOf are the keys of a row, in order.
func (m *model) keysOf(row int) (keys []int) {
	for i, k := range m.keys {
		if k.row == row && !k.gone {
			keys = append(keys, i)
		}
	}
	slices.SortFunc(keys, func(a, b int) int { return m.keys[a].position - m.keys[b].position })
	return keys
}

func (m *model) secretsOf(row int) (secrets []string) {
	for _, k := range m.keysOf(row) {
		secrets = append(secrets, m.keys[k].secret)
	}
	return secrets
}

// plaintext reports whether a secret of a row is not sealed.
func (m *model) plaintext(row int) bool {
	return m.rows[row].bedrock != nil && m.rows[row].sealed == 0 ||
		slices.ContainsFunc(m.keysOf(row), func(k int) bool { return m.keys[k].sealed == 0 })
}

// seal returns the key that seals what is written with a keyring.
func (m *model) seal(ring []int) int {
	if len(ring) == 0 {
		return 0
	}
	m.known[ring[0]] = true
	return ring[0]
}

// refuses reports whether a keyring must not be used: its first key was revoked, and another one
// is in use.
func (m *model) refuses(ring []int) bool {
	valid, registered := m.known[ring[0]]
	return registered && !valid && slices.Contains(slices.Collect(maps.Values(m.known)), true)
}

// sealedWith returns the keys that sealed at least one value.
func (m *model) sealedWith() map[int]bool {
	needed := map[int]bool{}
	for _, r := range m.rows {
		needed[r.sealed] = true
	}
	for _, k := range m.keys {
		if !k.gone {
			needed[k.sealed] = true
		}
	}
	delete(needed, 0)
	return needed
}

func (m *model) audit(actor, action string, row, key int, old, new any) {
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	m.audits = append(m.audits, modelAudit{actor: actor, action: action, row: row, key: key, old: text(old), new: text(new)})
}

// values is what an audit shows of a row with some keys.
func (r modelRow) values(secrets []string) any {
	keys := []string{}
	for _, secret := range secrets {
		keys = append(keys, masked(secret))
	}
	values := map[string]any{"type": r.kind, "name": r.name, "display_name": r.display, "enabled": r.enabled, "base_url": r.url, "bedrock": nil, "keys": keys}
	if b := r.bedrock; b != nil {
		values["bedrock"] = map[string]any{
			"region": b.region, "model": b.model, "small_fast_model": b.small,
			"access_key": masked(b.access), "access_key_secret": masked(b.secret),
		}
	}
	return values
}

func (m *model) create(actor string, ring []int, w modelWant, enabled bool) {
	row := modelRow{
		name: w.name, kind: w.kind, url: w.url, display: w.name, enabled: enabled, bedrock: w.bedrock,
		revision: 1, touched: true,
	}
	if w.bedrock != nil {
		row.sealed = m.seal(ring)
	}
	m.rows = append(m.rows, row)
	if actor == "system" {
		m.rows[len(m.rows)-1].origin = originOf(row, w.keys)
	}
	m.audit(actor, "create", len(m.rows)-1, -1, nil, row.values(w.keys))
	m.addKeys(actor, ring, len(m.rows)-1, w.keys...)
}

func (m *model) addKeys(actor string, ring []int, row int, secrets ...string) {
	for _, secret := range secrets {
		position := 0
		if keys := m.keysOf(row); len(keys) > 0 {
			position = m.keys[keys[len(keys)-1]].position + 1
		}
		m.keys = append(m.keys, modelKey{secret: secret, row: row, position: position, sealed: m.seal(ring), touched: true})
		m.audit(actor, "create", row, len(m.keys)-1, nil, map[string]any{"position": position, "api_key": masked(secret)})
	}
}

// change replaces a row, and adds an audit.
func (m *model) change(actor string, ring []int, row int, now modelRow) {
	was := m.rows[row]
	same := sameBedrock(was.bedrock, now.bedrock)
	if was.kind == now.kind && was.url == now.url && was.display == now.display && same {
		return
	}
	if !same {
		now.sealed = 0
		if now.bedrock != nil {
			now.sealed = m.seal(ring)
		}
	}
	now.revision++
	now.touched = true
	m.rows[row] = now
	m.audit(actor, "update", row, -1, was.values(m.secretsOf(row)), now.values(m.secretsOf(row)))
}

// A modelStart is what a start does.
type modelStart struct {
	err     error
	steps   string       // as it is logged
	creates []string     // names
	adopts  []int        // rows
	open    []difference // that nothing settled, with the tokens that are printed
	unused  []string     // words
}

// start is a start with tokens that settle drifts. words says what each token stands for.
func (m *model) start(ring []int, want []modelWant, adopt, keep []string, words map[string]difference) (s modelStart) {
	for _, w := range want {
		if row := m.find(w.name, false); !w.unsupported && row >= 0 && len(ring) > 0 && m.plaintext(row) {
			s.err = aiseed.ErrPlaintext
			return s
		}
	}
	count := map[string]int{}
	used := map[string]bool{}
	var do []func()
	for _, w := range want {
		row := m.find(w.name, false)
		switch {
		case w.unsupported:
			count["unsupported"]++
		case row < 0 && m.find(w.name, true) >= 0:
			count["deleted"]++
		case row < 0:
			count["create"]++
			s.creates = append(s.creates, w.name)
			do = append(do, func() { m.create("system", ring, w, true) })
		case m.differs(row, w):
			choice := m.choose(ring, row, w, adopt, keep, words)
			for _, word := range choice.used {
				used[choice.action+" "+word] = true
			}
			by := 0
			if len(ring) > 0 {
				by = ring[0]
			}
			switch drifts := m.drifts(row, w); {
			case choice.action == "adopt":
				s.adopts = append(s.adopts, row)
				do = append(do, func() { m.adopt(ring, row, w) })
			case choice.action == "keep":
			case drifts:
				choice.action = "drifted"
				s.err = aiseed.ErrDrift
				s.open = append(s.open, m.difference(row, w, by))
			default:
				choice.action = "diverged"
				s.open = append(s.open, m.difference(row, w, by))
			}
			count[choice.action]++
		default:
			count["unchanged"]++
		}
	}
	for _, word := range adopt {
		if !used["adopt "+word] {
			s.unused = append(s.unused, "ADOPT: "+word)
		}
	}
	for _, word := range keep {
		name, _, _ := strings.Cut(word, "@")
		wanted := name == "*" || slices.ContainsFunc(want, func(w modelWant) bool { return w.name == name })
		if !used["keep "+word] && !(isStanding(word) && wanted) {
			s.unused = append(s.unused, "KEEP: "+word)
		}
	}
	if s.err != nil {
		return s
	}
	for _, f := range do {
		f()
	}
	var steps []string
	for _, name := range []string{"create", "unchanged", "diverged", "drifted", "adopt", "keep", "deleted", "unsupported"} {
		steps = append(steps, fmt.Sprintf("%s=%d", name, count[name]))
	}
	s.steps = strings.Join(steps, " ")
	return s
}

// The operations. Each returns the class of its error, or nil.

func (m *model) operateCreate(ring []int, w modelWant, enabled bool) error {
	if w.bedrock != nil && w.kind != "anthropic" {
		return aiseed.ErrInvalidConfig
	}
	if m.find(w.name, false) >= 0 {
		return aiseed.ErrNameTaken
	}
	m.create("op", ring, w, enabled)
	return nil
}

// live is the check of an operation. opens says whether it decrypts secrets.
func (m *model) live(ring []int, row int, opens bool) error {
	switch {
	case row < 0 || m.rows[row].deleted:
		return aiseed.ErrNotFound
	case opens && len(ring) > 0 && m.plaintext(row):
		return aiseed.ErrPlaintext
	}
	return nil
}

func (m *model) operateUpdate(ring []int, row int, field, value string) error {
	if err := m.live(ring, row, true); err != nil {
		return err
	}
	now := m.rows[row]
	switch field {
	case "display name":
		now.display = value
	case "base URL":
		now.url = value
	default:
		b := modelBedrock{}
		if now.bedrock != nil {
			b = *now.bedrock
		}
		if field == "region" {
			b.region = value
		} else {
			b.model = value
		}
		b = b.withDefaults()
		if now.kind == "openai" || now.bedrock == nil && len(m.keysOf(row)) > 0 {
			return aiseed.ErrInvalidConfig
		}
		now.bedrock = &b
	}
	if b := now.bedrock; b != nil && b.region == "" && b.access == "" && now.url == "" {
		return aiseed.ErrInvalidConfig
	}
	m.change("op", ring, row, now)
	return nil
}

func (b modelBedrock) withDefaults() modelBedrock {
	if b.model == "" {
		b.model = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
	}
	if b.small == "" {
		b.small = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
	}
	return b
}

func (m *model) operateEnable(row int, enabled bool) error {
	if err := m.live(nil, row, false); err != nil || m.rows[row].enabled == enabled {
		return err
	}
	m.rows[row].enabled = enabled
	m.count(row)
	m.audit("op", "update", row, -1, map[string]any{"enabled": !enabled}, map[string]any{"enabled": enabled})
	return nil
}

func (m *model) setDeleted(row int, deleted bool) {
	m.rows[row].deleted = deleted
	m.count(row)
}

// count is a change of a row or its keys.
func (m *model) count(row int) {
	m.rows[row].revision++
	m.rows[row].touched = true
}

func (m *model) operateDelete(row int) error {
	if err := m.live(nil, row, false); err != nil {
		return err
	}
	m.setDeleted(row, true)
	m.audit("op", "delete", row, -1, map[string]any{"deleted": false}, map[string]any{"deleted": true})
	return nil
}

func (m *model) operateRestore(ring []int, row int) error {
	if row < 0 || !m.rows[row].deleted {
		return aiseed.ErrNotFound
	}
	if m.find(m.rows[row].name, false) >= 0 {
		return aiseed.ErrNameTaken
	}
	m.setDeleted(row, false)
	m.audit("op", "restore", row, -1, map[string]any{"deleted": true}, map[string]any{"deleted": false})
	return m.live(ring, row, true) // the change is committed, but reading the provider back can fail
}

func (m *model) operateAddKey(ring []int, row int, secret string) error {
	if err := m.live(ring, row, true); err != nil {
		return err
	}
	secrets := m.secretsOf(row)
	if len(secrets) == 5 || slices.Contains(secrets, secret) || m.rows[row].kind == "bedrock" || len(secrets) == 0 && m.rows[row].bedrock != nil {
		return aiseed.ErrInvalidConfig
	}
	m.count(row)
	m.addKeys("op", ring, row, secret)
	return nil
}

func (m *model) operateRemoveKey(row, at int) error {
	if err := m.live(nil, row, false); err != nil {
		return err
	}
	keys := m.keysOf(row)
	if at >= len(keys) {
		return aiseed.ErrNotFound
	}
	key := &m.keys[keys[at]]
	key.gone = true
	m.count(row)
	m.audit("op", "delete", row, keys[at], map[string]any{"position": key.position}, nil)
	return nil
}

// operateReplaceKeys replaces the keys of a row if it has the wanted revision, 0 being any. A key
// that it has keeps its row. It moves behind all others if one before it did.
func (m *model) operateReplaceKeys(ring []int, row, revision int, secrets []string) error {
	if err := m.live(nil, row, false); err != nil {
		return err
	}
	r := m.rows[row]
	had := m.keysOf(row)
	switch {
	case revision != 0 && revision != r.revision:
		return aiseed.ErrConflict
	case len(ring) > 0 && r.bedrock != nil && r.sealed == 0:
		return aiseed.ErrPlaintext
	}
	// A key that cannot be read is another one than every key that is wanted.
	unread := func(k int) bool { return len(ring) > 0 && m.keys[k].sealed == 0 }
	kept := map[string]int{}
	for _, k := range had {
		if !unread(k) {
			kept[m.keys[k].secret] = k
		}
	}
	if r.bedrock != nil && len(secrets) > 0 && len(had) == 0 {
		return aiseed.ErrInvalidConfig
	}
	if r.kind == "bedrock" && slices.ContainsFunc(secrets, func(s string) bool { _, known := kept[s]; return !known }) {
		return aiseed.ErrInvalidConfig
	}
	before := len(m.audits)
	next, last := 0, -1
	for _, k := range had {
		key := &m.keys[k]
		next = key.position + 1
		if !slices.Contains(secrets, key.secret) || unread(k) {
			key.gone = true
			old := map[string]any{"position": key.position}
			if !unread(k) {
				old["api_key"] = masked(key.secret)
			}
			m.audit("op", "delete", row, k, old, nil)
		}
	}
	for _, secret := range secrets {
		k, known := kept[secret]
		if known && m.keys[k].position >= last {
			last = m.keys[k].position
			continue
		}
		now := map[string]any{"position": next, "api_key": masked(secret)}
		if known {
			m.audit("op", "update", row, k, map[string]any{"position": m.keys[k].position, "api_key": masked(secret)}, now)
			m.keys[k].position, m.keys[k].touched = next, true
		} else {
			m.keys = append(m.keys, modelKey{secret: secret, row: row, position: next, sealed: m.seal(ring), touched: true})
			m.audit("op", "create", row, len(m.keys)-1, nil, now)
		}
		last, next = next, next+1
	}
	if len(m.audits) > before {
		m.count(row)
	}
	return nil
}

// A modelResealing writes the values of from again, sealed with the key to; 0 means plaintext.
type modelResealing struct {
	from func(sealed int) bool
	to   int
}

func (m *model) resealKeys(r modelResealing) (changed int) {
	for i := range m.keys {
		if k := &m.keys[i]; !k.gone && r.from(k.sealed) {
			k.sealed, k.touched = r.to, true
			changed++
		}
	}
	return m.resealed(r, changed)
}

func (m *model) resealSettings(r modelResealing) (changed int) {
	for i := range m.rows {
		if row := &m.rows[i]; row.bedrock != nil && r.from(row.sealed) {
			row.sealed, row.touched = r.to, true
			changed++
		}
	}
	return m.resealed(r, changed)
}

func (m *model) resealed(r modelResealing, changed int) int {
	if changed > 0 && r.to != 0 {
		m.known[r.to] = true
	}
	return changed
}

// revoke returns how many keys no row needs any more.
func (m *model) revoke(r modelResealing) (revoked int) {
	if r.to != 0 {
		m.known[r.to] = true
	}
	needed := m.sealedWith()
	for key, valid := range m.known {
		if valid && key != r.to && !needed[key] {
			m.known[key] = false
			revoked++
		}
	}
	return revoked
}

// runtime is what Providers returns.
func (m *model) runtime(ring []int) (providers []string, err error) {
	for i, r := range m.rows {
		if !r.enabled || r.deleted {
			continue
		}
		if len(ring) > 0 && m.plaintext(i) {
			err = aiseed.ErrPlaintext
			continue
		}
		providers = append(providers, fmt.Sprint(r.name, " ", r.id, " ", r.kind, " ", r.display, " ", r.url, " ", r.bedrock, " ", m.secretsOf(i)))
	}
	slices.Sort(providers)
	return providers, err
}

func (b *modelBedrock) String() string {
	if b == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", *b)
}

// A snapshot is what the database holds.
type snapshot struct {
	Rows []struct {
		ID, Name, Type, URL, Display string
		Enabled, Deleted, Settings   bool
		KeyID, Xmin                  string
		Revision                     int
	}
	Keys []struct {
		ID, Provider, KeyID, Xmin string
		Position                  int
	}
	Audits []struct {
		ID, Actor, Action, Resource, Xmin string
		ResourceID, ProviderID, Name      string
		Old, New                          any
		Delivered                         bool
	}
	Ring []struct {
		ID      string
		Revoked bool
	}
	written map[string]string // by id: the transaction that wrote it
}

const selectSnapshot = `
select jsonb_build_object(
  'Rows', (select jsonb_agg(jsonb_build_object('ID', id, 'Name', name, 'Type', type, 'URL', base_url, 'Display', coalesce(display_name, ''),
             'Enabled', enabled, 'Deleted', deleted, 'Settings', settings is not null, 'KeyID', coalesce(settings_key_id, ''),
             'Revision', revision, 'Xmin', xmin::text) order by id) from ai_providers),
  'Keys', (select jsonb_agg(jsonb_build_object('ID', id, 'Provider', provider_id, 'Position', position, 'KeyID', coalesce(api_key_key_id, ''),
             'Xmin', xmin::text) order by provider_id, position) from ai_provider_keys),
  'Audits', (select jsonb_agg(jsonb_build_object('ID', id, 'Actor', actor, 'Action', action, 'Resource', resource, 'ResourceID', resource_id,
             'ProviderID', provider_id, 'Name', provider_name, 'Old', old, 'New', new, 'Delivered', delivered_at is not null,
             'Xmin', xmin::text) order by seq) from ai_provider_audits),
  'Ring', (select jsonb_agg(jsonb_build_object('ID', id, 'Revoked', revoked_at is not null)) from ai_encryption_keys))`

func readSnapshot(raw []byte) (*snapshot, error) {
	s := &snapshot{written: map[string]string{}}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, err
	}
	for _, r := range s.Rows {
		s.written[r.ID] = r.Xmin
	}
	for _, k := range s.Keys {
		s.written[k.ID] = k.Xmin
	}
	for _, a := range s.Audits {
		s.written[a.ID] = a.Xmin
	}
	return s, nil
}

// match compares the model with the database, and learns the ids of new rows. before is the
// database before the last step.
func (m *model) match(now, before *snapshot) error {
	var problems []error
	compare := func(what string, want, got any) {
		if w, g := fmt.Sprint(want), fmt.Sprint(got); w != g {
			problems = append(problems, fmt.Errorf("%s: model %s, database %s", what, w, g))
		}
	}
	unwritten := func(what, id string, touched bool) {
		if was, existed := before.written[id]; existed && !touched && was != now.written[id] {
			problems = append(problems, fmt.Errorf("%s was written to", what))
		}
	}

	// The keys that seal: at most one of them is new.
	for _, k := range now.Ring {
		if _, seen := m.keyIDs[k.ID]; !seen {
			for key := range m.known {
				if !slices.Contains(slices.Collect(maps.Values(m.keyIDs)), key) {
					m.keyIDs[k.ID] = key
					break
				}
			}
		}
		compare("validity of sealing key "+k.ID, m.known[m.keyIDs[k.ID]], !k.Revoked)
	}
	compare("number of sealing keys", len(m.known), len(now.Ring))

	rowOf := map[string]int{}
	for i, r := range m.rows {
		if r.id != "" {
			rowOf[r.id] = i
		}
	}
	compare("number of providers", len(m.rows), len(now.Rows))
	for _, r := range now.Rows {
		i, seen := rowOf[r.ID]
		if !seen {
			i = slices.IndexFunc(m.rows, func(w modelRow) bool { return w.id == "" && w.name == r.Name })
			if i < 0 {
				problems = append(problems, fmt.Errorf("provider %s: only in the database", r.Name))
				continue
			}
			m.rows[i].id, rowOf[r.ID] = r.ID, i
		}
		w := m.rows[i]
		compare("provider "+w.name,
			fmt.Sprint(w.name, " ", w.kind, " ", w.url, " ", w.display, w.enabled, w.deleted, w.bedrock != nil, w.sealed, " revision ", w.revision),
			fmt.Sprint(r.Name, " ", r.Type, " ", r.URL, " ", r.Display, r.Enabled, r.Deleted, r.Settings, m.keyIDs[r.KeyID], " revision ", r.Revision))
		unwritten("provider "+r.Name, r.ID, w.touched)
	}

	keysOf := map[int][]int{} // by row: indices into now.Keys
	for i, k := range now.Keys {
		row, seen := rowOf[k.Provider]
		if !seen {
			row = -1
		}
		keysOf[row] = append(keysOf[row], i)
	}
	compare("keys of providers that are not in the model", 0, len(keysOf[-1]))
	for row, r := range m.rows {
		keys := m.keysOf(row)
		compare("number of keys of "+r.name, len(keys), len(keysOf[row]))
		for i := range min(len(keys), len(keysOf[row])) {
			w, k := &m.keys[keys[i]], now.Keys[keysOf[row][i]]
			if w.id == "" && before.written[k.ID] == "" {
				w.id = k.ID
			}
			compare(fmt.Sprintf("key %d of %s", i, r.name),
				fmt.Sprint(w.id, w.position, w.sealed), fmt.Sprint(k.ID, k.Position, m.keyIDs[k.KeyID]))
			unwritten(fmt.Sprintf("key %d of %s", i, r.name), k.ID, w.touched)
		}
	}

	compare("number of audits", len(m.audits), len(now.Audits))
	for i := range min(len(m.audits), len(now.Audits)) {
		w, a := &m.audits[i], now.Audits[i]
		if w.id == "" && before.written[a.ID] == "" {
			w.id = a.ID
		}
		resource, id := "ai_provider", m.rows[w.row].id
		if w.key >= 0 {
			resource, id = "ai_provider_key", m.keys[w.key].id
		}
		text := func(v any) string { b, _ := json.Marshal(v); return string(b) }
		compare(fmt.Sprintf("audit %d", i),
			fmt.Sprint(w.id, " ", w.actor, " ", w.action, " ", resource, " ", id, " ", m.rows[w.row].id, " ", m.rows[w.row].name, " ", w.old, " ", w.new, " delivered ", w.delivered),
			fmt.Sprint(a.ID, " ", a.Actor, " ", a.Action, " ", a.Resource, " ", a.ResourceID, " ", a.ProviderID, " ", a.Name, " ", text(a.Old), " ", text(a.New), " delivered ", a.Delivered))
		unwritten(fmt.Sprintf("audit %d", i), a.ID, w.touched)
	}
	return errors.Join(problems...)
}
