package environ

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"example.com/aiseed/internal/text"
)

// Names are the names that variables can have behind a prefix: plain ones, and indexed ones,
// which are a group, an index and a field, like PROVIDER_0_TYPE.
type Names struct {
	Plain  map[string]bool
	Group  string // of the indexed ones, with an underscore at the end
	Fields map[string]bool
	Groups []string // what other names begin with that can only be meant for a plain one
}

// Collected are the variables of an environment under some prefixes.
type Collected struct {
	Prefix     string          // of the indexed variables, else the first prefix that any has, else the first
	Plain      Values          // of every prefix
	Indexed    []Index         // in the order of their numbers; each has a variable that is set
	Strays     []Stray         // set, but not read
	Links      []string        // set by Kubernetes for a service
	BadIndices map[string]bool // the numbers that bad indices were probably meant to be

	places map[string]int // positions in Indexed, by stem
}

// Index returns the variables of the index with a stem.
func (c *Collected) Index(stem string) (index Index, isSet bool) {
	if i, known := c.places[stem]; known {
		return c.Indexed[i], true
	}
	return Index{}, false
}

// An Index holds the variables of one index under one prefix.
type Index struct {
	Prefix, Number string
	Stem           string // what is before their fields
	Values
}

// A Stray is a variable that somebody meant for us, as far as its name shows, and that is none.
type Stray struct {
	Full  string
	At    int    // the length of its prefix; 0 if it has none
	Kind  Kind   //
	Meant string // the whole name without what is wrong around it; there is none such if the Stray is Unknown
	Wrong string // what its name has, or ""
}

// Name returns what follows the prefix.
func (s Stray) Name() string { return s.Full[s.At:] }

// A Kind says what is wrong with the name of a Stray.
type Kind int

// The kinds of a Stray.
const (
	Unknown      Kind = iota // there is no such name
	OtherLetters             // the name has other letters
	Misnamed                 // something is around the name or in it
	BadIndex                 // the index is no number
	NoField                  // nothing follows the index
)

// Values are variables that belong together. They are few, so a linear search is
// faster than a map. If a variable appears twice, the first wins, even if it is empty.
type Values []Setting

// A Setting is a variable with its value, as it stands in the environment.
type Setting struct {
	entry   string
	at, end int // where its name begins, behind the prefix or the stem, and ends
}

// Full returns the full name.
func (s Setting) Full() string { return s.entry[:s.end] }

// Name returns what follows the prefix or the stem.
func (s Setting) Name() string { return s.entry[s.at:s.end] }

// Value returns the value. "" counts as not set.
func (s Setting) Value() string { return s.entry[s.end+1:] }

// add adds a variable of one index.
func (v *Values) add(s Setting) {
	name := s.Name()
	for _, known := range *v {
		if known.Name() == name {
			return
		}
	}
	*v = append(*v, s)
}

// Get returns the first value of a name that is set, or "".
func (v Values) Get(name string) string {
	for _, known := range v {
		if known.Name() == name && known.Value() != "" {
			return known.Value()
		}
	}
	return ""
}

// Set lists the variables that are set and whose name begins with start, sorted.
func (v Values) Set(start string) []string {
	var set []string
	for _, known := range v {
		if known.Value() != "" && strings.HasPrefix(known.Name(), start) {
			set = append(set, known.Full())
		}
	}
	slices.Sort(set)
	return set
}

type collector struct {
	Collected
	prefixes Prefixes
	names    Names
}

// Collect sorts the variables of an environment in the form of [os.Environ], which it does not
// change. It needs at least one prefix.
func Collect(environment []string, prefixes Prefixes, names Names) *Collected {
	indices := len(environment) / 4 // one mostly has four variables
	c := &collector{prefixes: prefixes, names: names}
	c.places = make(map[string]int, indices)
	c.Indexed = make([]Index, 0, indices)
	others := map[string]bool{}
	for _, entry := range environment {
		if c.addToLast(entry) {
			continue
		}
		at := prefixes.of(entry)
		if at > 0 && c.addIndexed(entry, at) {
			continue
		}
		full, value, ok := strings.Cut(entry, "=")
		if !ok || full == "" || at == 0 && !prefixes.restorable(full[0]) || others[full] {
			continue
		}
		others[full] = true
		switch {
		case value == "": // counts as not set
		case at > 0:
			c.addOther(entry, at, len(full))
		default:
			c.addMisnamed(full)
		}
	}
	c.sort()
	return &c.Collected
}

// addToLast adds a known variable of the index that came last, since the variables of one index
// are mostly adjacent.
func (c *collector) addToLast(entry string) bool {
	if len(c.Indexed) == 0 {
		return false
	}
	last := &c.Indexed[len(c.Indexed)-1]
	if !strings.HasPrefix(entry, last.Stem) {
		return false
	}
	end := strings.IndexByte(entry, '=')
	if end < len(last.Stem) || !c.names.Fields[entry[len(last.Stem):end]] {
		return false
	}
	last.add(Setting{entry, len(last.Stem), end})
	return true
}

// addIndexed adds a known indexed variable. It reports whether the entry is one. at is the
// length of its prefix.
func (c *collector) addIndexed(entry string, at int) bool {
	indexed, ok := strings.CutPrefix(entry[at:], c.names.Group)
	number, rest, _ := strings.Cut(indexed, "_")
	field, _, set := strings.Cut(rest, "=")
	if !ok || !set || !c.names.Fields[field] || !isIndex(number) {
		return false
	}
	stem := entry[:len(entry)-len(rest)]
	place, known := c.places[stem]
	if !known {
		place = len(c.Indexed)
		c.places[stem] = place
		c.Indexed = append(c.Indexed, Index{entry[:at], number, stem, make(Values, 0, 4)})
	}
	c.Indexed[place].add(Setting{entry, len(stem), len(stem) + len(field)})
	return true
}

// addOther adds a variable behind a prefix that is set and no known indexed one. What is in
// none of our groups belongs to the host.
func (c *collector) addOther(entry string, at, end int) {
	s := Setting{entry, at, end}
	full, name := s.Full(), s.Name()
	if c.names.Plain[name] {
		c.Plain = append(c.Plain, s)
		return
	}
	indexed, isIndexed := strings.CutPrefix(name, c.names.Group)
	number, field, _ := strings.Cut(indexed, "_")
	ours := isIndexed || slices.ContainsFunc(c.names.Groups, func(group string) bool { return strings.HasPrefix(name, group) })
	stray := Stray{Full: full, At: at}
	meant, wrong, known := c.names.restored(name)
	if meant != "" {
		stray.Meant, stray.Wrong = full[:at]+meant, wrong
	}
	switch {
	case (ours || meant != "") && isServiceLink(name, s.Value()):
		c.Links = append(c.Links, full)
		return
	case known && wrong == "":
		stray.Kind = OtherLetters
	case isIndexed && !isIndex(number):
		stray.Kind = BadIndex
		if c.BadIndices == nil {
			c.BadIndices = map[string]bool{}
		}
		c.BadIndices[meantNumber(number)] = true
	case isIndexed && field == "":
		stray.Kind = NoField
	case known:
		stray.Kind = Misnamed
	case !ours && meant == "":
		return
	}
	c.Strays = append(c.Strays, stray)
}

// addMisnamed adds a variable without a prefix whose name was meant to be one of ours.
func (c *collector) addMisnamed(full string) {
	whole, wrong := c.prefixes.restored(full)
	at := c.prefixes.of(whole)
	if at == 0 {
		return
	}
	name, alsoWrong, known := c.names.restored(whole[at:])
	if name == "" {
		return
	}
	stray := Stray{Full: full, Kind: Misnamed, Meant: whole[:at] + name, Wrong: cmp.Or(wrong, alsoWrong)}
	if !known {
		stray.Kind = Unknown
	}
	c.Strays = append(c.Strays, stray)
}

// sort sorts what is indexed and stray, and chooses the prefix.
func (c *collector) sort() {
	c.Indexed = slices.DeleteFunc(c.Indexed, func(index Index) bool {
		return !slices.ContainsFunc(index.Values, func(s Setting) bool { return s.Value() != "" })
	})
	order := func(a, b string) int { return cmp.Compare(slices.Index(c.prefixes, a), slices.Index(c.prefixes, b)) }
	inOrder := func(a, b Index) int {
		if a.Number == b.Number {
			return order(a.Prefix, b.Prefix)
		}
		// Without leading zeros, the longer number is larger, however large they are.
		return cmp.Or(cmp.Compare(len(a.Number), len(b.Number)), cmp.Compare(a.Number, b.Number))
	}
	if !slices.IsSortedFunc(c.Indexed, inOrder) { // mostly it is
		slices.SortFunc(c.Indexed, inOrder)
	}
	if len(c.Strays) > 0 { // only they ask for a place
		clear(c.places)
		for i, index := range c.Indexed {
			c.places[index.Stem] = i
		}
	}
	slices.SortFunc(c.Plain, func(a, b Setting) int {
		return cmp.Or(order(a.entry[:a.at], b.entry[:b.at]), cmp.Compare(a.Full(), b.Full()))
	})
	slices.SortFunc(c.Strays, func(a, b Stray) int { return cmp.Compare(a.Full, b.Full) })
	slices.Sort(c.Links)
	switch {
	case len(c.Indexed) > 0:
		c.Prefix = c.Indexed[0].Prefix
	case len(c.Plain) > 0:
		c.Prefix = c.Plain[0].entry[:c.Plain[0].at]
	default:
		c.Prefix = c.prefixes[0]
	}
}

// isIndex reports whether s is an index. It checks text, not a number: an index may
// be larger than any integer type.
func isIndex(s string) bool { return isNumber(s) && (len(s) == 1 || s[0] != '0') }

// Increment adds one to a decimal number of any length, in place if possible.
func Increment(digits []byte) []byte {
	for i := len(digits) - 1; i >= 0; i-- {
		if digits[i] != '9' {
			digits[i]++
			return digits
		}
		digits[i] = '0'
	}
	return append([]byte("1"), digits...)
}

// meantNumber returns the number that a bad index was meant to be, as far as it is one.
func meantNumber(index string) string {
	index = strings.NewReplacer("O", "0", "o", "0", "l", "1", "I", "1").Replace(index)
	return cmp.Or(strings.TrimLeft(strings.Trim(index, " +-"), "0"), "0")
}

// restored returns the name that a name behind a prefix was meant to be, and what the name has
// that makes it another one: nothing if its letters differ in case only. known says whether
// there is such a name. Without that, the name is at least in one of our groups or a slip away
// from one of ours, or "".
func (n Names) restored(name string) (meant, wrong string, known bool) {
	trimmed := strings.TrimFunc(name, isBlank)
	if trimmed != name {
		wrong = "white space around it"
	}
	upper := strings.ToUpper(trimmed)
	if n.Plain[upper] {
		return upper, wrong, true
	}
	if slices.ContainsFunc(n.Groups, func(group string) bool { return strings.HasPrefix(upper, group) }) {
		return upper, wrong, false
	}
	group := strings.TrimSuffix(n.Group, "_")
	head, rest, _ := strings.Cut(upper, "_")
	switch tail, glued := strings.CutPrefix(head, group); {
	case glued && tail != "" && tail != "S":
		rest, wrong = tail+"_"+rest, cmp.Or(wrong, "no underscore behind "+group)
	case head != group && text.Near(head, []string{group}) != "":
		wrong = cmp.Or(wrong, head+"_ in place of "+n.Group)
	case head != group:
		if text.Near(upper, slices.Collect(maps.Keys(n.Plain))) != "" {
			return upper, wrong, false
		}
		return "", "", false
	}
	number, field, _ := strings.Cut(rest, "_")
	if !isIndex(number) || field == "" {
		return "", "", false
	}
	return n.Group + number + "_" + field, wrong, n.Fields[field]
}
