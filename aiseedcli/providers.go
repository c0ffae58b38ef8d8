package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cdr.dev/slog/v3"
	"github.com/google/uuid"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// listed is the result of list, for -json.
type listed struct {
	Providers []aiseed.ProviderInfo `json:"providers"`
}

func runList(ctx context.Context, a *app) (result, error) {
	return a.withStore(ctx, func(store *aiseed.Store, _ *aiseed.Keyring) (result, error) {
		all, err := store.ListProviders(ctx)
		if err != nil {
			return result{}, err
		}
		all = list(all)
		slices.SortStableFunc(all, func(p, q aiseed.ProviderInfo) int {
			switch {
			case p.Deleted == q.Deleted:
				return 0
			case p.Deleted:
				return 1
			}
			return -1
		})
		return result{document: listed{all}, text: func() { a.printList(all) }}, nil
	})
}

func (a *app) printList(all []aiseed.ProviderInfo) {
	if len(all) == 0 {
		a.printf("There are no providers.\n")
		return
	}
	a.printProviders(all, "key #")
	if slices.ContainsFunc(all, isDamaged) {
		a.printf("\nSome secrets cannot be decrypted, and servers do without the enabled providers that need them. What is wrong, and what mends it: %s\n", a.sibling("doctor"))
	}
}

func isDamaged(p aiseed.ProviderInfo) bool {
	return p.SettingsUndecryptable || slices.ContainsFunc(p.Keys, func(k aiseed.ProviderKeyInfo) bool { return k.Undecryptable })
}

// printProviders prints a table with one row for each provider, and below it the ids and the
// credentials, which fit into 80 columns. key is the label of a key, with # for its position.
func (a *app) printProviders(providers []aiseed.ProviderInfo, key string) {
	rows := [][]string{{"NAME", "STATE", "TYPE", "BASE URL"}}
	for _, p := range providers {
		rows = append(rows, []string{text.Label(p.Name), state(p), text.Brief(string(p.Type)), text.OrNone(text.Printable(aiseed.MaskURL(p.BaseURL)))})
	}
	const narrowest, narrowestURL, gaps = 16, 24, 6
	var widths [3]int
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	widths[0] = min(widths[0], max(a.width()-widths[1]-widths[2]-narrowestURL-gaps, narrowest))
	rest := a.width() - widths[0] - widths[1] - widths[2] - gaps
	for i, row := range rows {
		a.print(fmt.Sprintf("%-*s  %-*s  %-*s  %s\n", widths[0], text.ShortenMiddle(row[0], widths[0]), widths[1], row[1], widths[2], row[2],
			text.ShortenMiddle(row[3], max(rest, narrowest))))
		if i > 0 {
			a.printDetails(providers[i-1], key)
		}
	}
}

func (a *app) printDetails(p aiseed.ProviderInfo, key string) {
	detail := func(label, value string) { a.printf("  %-10s  %s\n", label, text.Printable(value)) }
	detail("id", p.ID.String())
	if p.Deleted {
		detail("changed", p.UpdatedAt.UTC().Format(time.RFC3339))
	}
	switch {
	case p.SettingsUndecryptable:
		detail("Bedrock", "cannot be decrypted")
	case p.Region+p.Model+p.SmallFastModel != "":
		detail("Bedrock", "region "+text.OrNone(p.Region))
		detail("model", text.OrNone(p.Model))
		detail("fast model", text.OrNone(p.SmallFastModel))
	}
	for i, k := range p.Keys {
		detail(strings.ReplaceAll(key, "#", strconv.Itoa(i+1)), k.ID.String()+"  "+maskOf(k.Mask, k.Undecryptable))
	}
}

func maskOf(mask string, undecryptable bool) string {
	if undecryptable {
		return "cannot be decrypted"
	}
	return mask
}

func state(p aiseed.ProviderInfo) string {
	switch {
	case p.Deleted:
		return "deleted"
	case p.Enabled:
		return "enabled"
	}
	return "disabled"
}

// edited is the result of a verb that edits a provider, for -json.
type edited struct {
	Changed  bool                `json:"changed"`
	Provider aiseed.ProviderInfo `json:"provider"`           // as it is now
	Key      *shownKey           `json:"key,omitempty"`      // that was added or removed
	Replaced []shownKey          `json:"replaced,omitempty"` // the keys that are gone
	Warning  string              `json:"warning,omitempty"`

	said string // the line for a person
}

// An edit is one run of a verb that edits a provider.
type edit struct {
	*app
	store *aiseed.Store
	actor string
	found []aiseed.ProviderInfo // what the first argument names: the live provider first, then deleted ones, the latest first
}

// edit finds the providers that the first argument names, and changes one of them.
func (a *app) edit(ctx context.Context, change func(context.Context, *edit) (edited, error)) (result, error) {
	actor, err := a.actor(user.Current)
	if err != nil {
		return result{}, err
	}
	return a.withStore(ctx, func(store *aiseed.Store, _ *aiseed.Keyring) (result, error) {
		all, err := store.ListProviders(ctx)
		if err != nil {
			return result{}, err
		}
		e := &edit{a, store, actor, named(all, a.args[0])}
		if len(e.found) == 0 {
			return result{}, a.noProvider(all)
		}
		did, err := change(ctx, e)
		if err != nil {
			return result{}, inFlags(err)
		}
		if did.Changed && !did.Provider.Deleted && isDamaged(did.Provider) {
			did.Warning = "not all of its secrets can be decrypted, so servers do without it. What is wrong: " + a.sibling("doctor") +
				". To give it a key in place of all that it has: " + a.sibling("key replace "+did.Provider.ID.String())
		}
		if did.Changed && did.Key != nil && did.Warning == "" && a.environmentDiffers(ctx, store, did.Provider.Name) {
			did.Warning = "the environment has other credentials for it, and the next start will say so. See which variables to remove: " + a.sibling("retire")
		}
		return result{document: did, text: func() {
			a.printf("%s\n", did.said)
			if did.Warning != "" {
				a.printf("warning: %s\n", did.Warning)
			}
		}}, nil
	})
}

// environmentDiffers reports whether a start would find other credentials in the environment. If that cannot be found
// out, there is nothing to say.
func (a *app) environmentDiffers(ctx context.Context, store *aiseed.Store, name string) bool {
	cfg, err := aiseed.ParseEnviron(ctx, a.Environ, slog.Logger{}, aiseed.WithPrefix(a.flags.prefixes...))
	if err != nil {
		return false
	}
	plan, err := aiseed.PlanAIProvidersFromEnv(ctx, store, cfg, slog.Logger{})
	return err == nil && slices.ContainsFunc(plan.Steps, func(s aiseed.Step) bool { return s.Name == name && s.Action == aiseed.ActionDiverged })
}

// named returns the providers with a name or an id.
func named(all []aiseed.ProviderInfo, which string) (found []aiseed.ProviderInfo) {
	id, err := uuid.Parse(which)
	if i := slices.IndexFunc(all, func(p aiseed.ProviderInfo) bool { return err == nil && p.ID == id }); i >= 0 {
		return all[i : i+1] // an id can be the name of another provider, too
	}
	for _, p := range all {
		if p.Name == which {
			found = append(found, p)
		}
	}
	return found
}

// noProvider says that the first argument names no provider. It does not show a text that can be a
// key in the wrong place.
func (a *app) noProvider(all []aiseed.ProviderInfo) error {
	which, help := a.args[0], "see what there is with: "+a.sibling("list")
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if meant := text.Near(which, slices.Compact(names)); meant != "" {
		help = "want " + text.Label(meant) + "?"
	}
	about := "there is no provider" + quoted(which)
	if quoted(which) == "" {
		about = "there is no provider with that name or id"
	}
	return &aboutError{about + "; " + help, aiseed.ErrNotFound}
}

// live returns the live provider that was found.
func (e *edit) live() (aiseed.ProviderInfo, error) {
	p := e.found[0]
	if p.Deleted {
		return p, &aboutError{label(p) + " is deleted; restore it first: " + e.sibling("restore "+p.ID.String()), aiseed.ErrNotFound}
	}
	return p, nil
}

// label names a provider in a line about it.
func label(p aiseed.ProviderInfo) string { return text.Label(p.Name) + " (id " + p.ID.String() + ")" }

// errDone is the class of errors behind a change that is committed. To run the verb again can do more
// than its rest: a position is that of another key now.
var errDone = errors.New("the change is done")

// now reads a provider after a change, which an interruption does not undo.
func (e *edit) now(ctx context.Context, id uuid.UUID) (aiseed.ProviderInfo, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
	defer cancel()
	all, err := e.store.ListProviders(ctx)
	if err != nil {
		return aiseed.ProviderInfo{}, &aboutError{"the change is done, but reading the provider again failed: " + bare(err), errors.Join(errDone, err)}
	}
	for _, p := range all {
		if p.ID == id {
			return p, nil
		}
	}
	return aiseed.ProviderInfo{}, &aboutError{"the change is done, but the provider's row is gone: someone deleted it in SQL", errors.Join(errDone, aiseed.ErrNotFound)}
}

// actor returns who changes something, for the audit.
func (a *app) actor(current func() (*user.User, error)) (string, error) {
	for _, name := range []string{a.flags.actor, a.lookup("LOGNAME"), a.lookup("USER")} {
		if name != "" {
			return name, nil
		}
	}
	if login, err := current(); err == nil && login.Username != "" {
		return login.Username, nil
	}
	return "", errors.New("the audit records who changes something, and there is no login: neither LOGNAME nor USER is set, and the system has no name for this user; give -actor")
}

func runEnable(ctx context.Context, a *app) (result, error) { return a.setEnabled(ctx, true) }

func runDisable(ctx context.Context, a *app) (result, error) { return a.setEnabled(ctx, false) }

func (a *app) setEnabled(ctx context.Context, enabled bool) (result, error) {
	return a.edit(ctx, func(ctx context.Context, e *edit) (edited, error) {
		p, err := e.live()
		switch {
		case err != nil:
			return edited{}, err
		case p.Enabled == enabled:
			return edited{Provider: p, said: label(p) + " was " + state(p) + " already"}, nil
		}
		if err := e.store.SetProviderEnabled(ctx, e.actor, p.ID, enabled); err != nil {
			return edited{}, err
		}
		p, err = e.now(ctx, p.ID)
		said := "disabled " + label(p) + "; servers stop using it now"
		if enabled {
			said = "enabled " + label(p) + used(p)
		}
		return edited{Changed: true, Provider: p, said: said}, err
	})
}

// lacksCredentials reports whether requests of a provider most likely fail: it has neither keys nor Bedrock settings,
// and its type needs one of them.
func lacksCredentials(p aiseed.ProviderInfo) bool {
	without := []aiseed.ProviderType{aiseed.TypeCopilot, aiseed.TypeOpenAICompat}
	return len(p.Keys) == 0 && p.Region+p.Model == "" && !p.SettingsUndecryptable && !slices.Contains(without, p.Type)
}

// used ends a line about a provider that servers use from now on, if they can.
func used(p aiseed.ProviderInfo) string {
	switch {
	case isDamaged(p):
		return ""
	case lacksCredentials(p):
		return "; servers use it now, without credentials"
	}
	return "; servers use it now"
}

func runDelete(ctx context.Context, a *app) (result, error) {
	return a.edit(ctx, func(ctx context.Context, e *edit) (edited, error) {
		p := e.found[0]
		if p.Deleted {
			return edited{Provider: p, said: label(p) + " was deleted already"}, nil
		}
		if err := e.store.DeleteProvider(ctx, e.actor, p.ID); err != nil {
			return edited{}, err
		}
		p, err := e.now(ctx, p.ID)
		return edited{Changed: true, Provider: p, said: "deleted " + label(p) + "; servers stop using it now, and no start brings it back. To undo this: " + e.sibling("restore "+p.ID.String())}, err
	})
}

func runRestore(ctx context.Context, a *app) (result, error) {
	return a.edit(ctx, func(ctx context.Context, e *edit) (edited, error) {
		deleted := slices.DeleteFunc(slices.Clone(e.found), func(p aiseed.ProviderInfo) bool { return !p.Deleted })
		if len(deleted) == 0 {
			return edited{Provider: e.found[0], said: label(e.found[0]) + " is not deleted"}, nil
		}
		p := deleted[0]
		_, err := e.store.RestoreProvider(ctx, e.actor, p.ID)
		switch {
		case errors.Is(err, aiseed.ErrUndecryptable), errors.Is(err, aiseed.ErrPlaintext):
			// It is restored all the same, and edit warns.
		case errors.Is(err, aiseed.ErrNameTaken):
			return edited{}, &aboutError{"the name " + text.Label(p.Name) + " is taken by a live provider; delete that one first, and then: " + e.sibling("restore "+p.ID.String()), err}
		case err != nil:
			return edited{}, err
		}
		p, err = e.now(ctx, p.ID)
		said := "restored " + label(p)
		if p.Enabled {
			said += used(p)
		} else {
			said += ", which is disabled. To enable it: " + e.sibling("enable "+p.ID.String())
		}
		if others := deleted[1:]; len(others) > 0 {
			said += fmt.Sprintf("\nIt is the latest of %d deleted providers with this name. To have another one in its place, delete it again, and restore that one by its id:", len(deleted))
			for _, other := range others {
				said += fmt.Sprintf("\n  %s, changed %s", other.ID, other.UpdatedAt.UTC().Format(time.RFC3339))
			}
		}
		return edited{Changed: true, Provider: p, said: said}, err
	})
}
