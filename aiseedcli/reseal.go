package aiseedcli

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// resealed is the result of rotate, seal or unseal, for -json.
type resealed struct {
	Complete  bool     `json:"complete"`
	Changed   int      `json:"changed"`
	Revoked   []string `json:"revoked"`
	Left      []value  `json:"left"`
	Plaintext int      `json:"plaintext"`
	Next      string   `json:"next,omitempty"`
}

// A resealing is rotate, seal or unseal: its function, its name in the output, whether everything has to be sealed afterwards, the next step.
type resealing struct {
	do    func(*aiseed.Store, context.Context) (aiseed.RotateResult, error)
	done  string
	seals bool // plaintext that is left is an error
	next  func(report aiseed.RotateResult, keys int) string
}

func runRotate(ctx context.Context, a *app) (result, error) {
	return a.reseal(ctx, resealing{(*aiseed.Store).Rotate, "sealed with the first key", true, func(r aiseed.RotateResult, keys int) string {
		switch {
		case keys == 1 && r.Changed+len(r.Revoked) == 0:
			return "Every value is sealed with the only key of the keyring. To rotate, make a new key with " + unbroken("openssl rand -base64 32") + ". Give every server OLD,NEW, so that all can decrypt what it seals; then give every server NEW,OLD, and run this again."
		case keys == 1:
			return "The keyring has only this key; there is nothing else to do."
		case r.Changed+len(r.Revoked) > 0:
			return "See that every server has the new key first in " + a.flags.keysVariable + ", and run this again, until it changes nothing."
		}
		return "Everything that is sealed is sealed with the first key. Is that the new one? Then, where every server has it first too, take the others out of " + a.flags.keysVariable + ", and keep them as long as you keep backups from before. If not, put the new key first, and run this again."
	}})
}

func runSeal(ctx context.Context, a *app) (result, error) {
	return a.reseal(ctx, resealing{(*aiseed.Store).SealPlaintext, "sealed", true, func(aiseed.RotateResult, int) string {
		return "Start every server with this keyring. Backups and WAL archives from before still hold the secrets as plaintext."
	}})
}

func runUnseal(ctx context.Context, a *app) (result, error) {
	if !a.flags.yes {
		return result{}, a.usage("unseal stores every secret as plaintext, and servers with a keyring refuse to read that; stop them first, and give -yes")
	}
	return a.reseal(ctx, resealing{(*aiseed.Store).Unseal, "stored as plaintext", false, func(aiseed.RotateResult, int) string {
		return "Start every server without a keyring, with plaintext accepted. Keep the keys as long as you keep backups from before."
	}})
}

func (a *app) reseal(ctx context.Context, how resealing) (result, error) {
	return a.withStore(ctx, func(store *aiseed.Store, keyring *aiseed.Keyring) (result, error) {
		report, err := how.do(store, ctx)
		if err == nil && how.seals && report.Plaintext > 0 {
			err = &aboutError{"servers with this keyring refuse to read what is stored as plaintext. If there was no keyring when it was written: " + a.sibling("seal") + "; if there was, find out who wrote to the tables", aiseed.ErrPlaintext}
		}
		if errors.Is(err, aiseed.ErrUndecryptable) {
			err = &aboutError{bare(err) + a.mending(ctx, store, report.Left), err}
		}
		did := resealed{Complete: err == nil, Changed: report.Changed, Revoked: list(report.Revoked), Left: []value{}, Plaintext: report.Plaintext}
		for _, l := range report.Left {
			did.Left = append(did.Left, value{l.Provider, l.Table, l.Column, l.RowID.String(), l.KeyID})
		}
		if did.Complete {
			did.Next = how.next(report, len(keyring.IDs()))
		}
		return result{document: did, text: func() {
			a.printResealed(did, how.done)
			if err != nil && !errors.Is(err, aiseed.ErrUndecryptable) && !errors.Is(err, aiseed.ErrPlaintext) {
				a.printf("It ended before all values were looked at; run it again for the rest.\n")
			}
		}}, err
	})
}

// mending says what mends or removes the values that are left. Without the list of all providers it says nothing: a name
// alone can be that of another one.
func (a *app) mending(ctx context.Context, store *aiseed.Store, left []*aiseed.DecryptError) (all string) {
	providers, err := store.ListProviders(ctx)
	if err != nil {
		return ""
	}
	isLeft := func(row uuid.UUID) bool {
		return slices.ContainsFunc(left, func(d *aiseed.DecryptError) bool { return d.RowID == row })
	}
	var ofLive, ofDeleted []string
	for _, p := range providers {
		if run := a.repairsOf(p, isLeft); p.Deleted {
			ofDeleted = append(ofDeleted, run...)
		} else {
			ofLive = append(ofLive, run...)
		}
	}
	if ofLive != nil {
		all += mends + strings.Join(ofLive, "\n  ")
	}
	if ofDeleted != nil {
		all += removes + strings.Join(ofDeleted, "\n  ")
	}
	return all
}

func (a *app) printResealed(r resealed, done string) {
	changed := text.Count(r.Changed, "value")
	if r.Changed > 0 {
		changed += ", now " + done
	}
	a.printf("changed  %s\nrevoked  %s\n", changed, text.Count(len(r.Revoked), "key"))
	for _, id := range r.Revoked {
		a.printf("         %s, which no row needs any more\n", id)
	}
	a.printf("left     %s\n", text.Count(len(r.Left), "value"))
	for _, l := range r.Left {
		key := "has no key id next to it"
		if l.KeyID != "" {
			key = "cannot be decrypted with key " + l.KeyID
		}
		a.printf("         %s.%s of row %s (provider %s), which %s\n", l.Table, l.Column, l.Row, text.Label(l.Provider), key)
	}
	if r.Plaintext > 0 {
		a.printf("unsealed %s, stored as plaintext\n", text.Count(r.Plaintext, "value"))
	}
	if r.Next != "" {
		a.printf("\n%s\n", r.Next)
	}
}
