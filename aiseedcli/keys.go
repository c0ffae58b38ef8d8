package aiseedcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"example.com/aiseed"
	"example.com/aiseed/internal/environ"
	"example.com/aiseed/internal/secretfile"
	"example.com/aiseed/internal/terminal"
	"example.com/aiseed/internal/text"
)

// A shownKey is a bearer key, for -json.
type shownKey struct {
	ID            string `json:"id"`
	Position      int    `json:"position"` // from 1, as list shows it
	Mask          string `json:"mask"`
	Undecryptable bool   `json:"undecryptable,omitempty"`
}

func shown(keys []aiseed.ProviderKeyInfo) (list []shownKey) {
	for i, k := range keys {
		list = append(list, shownKey{k.ID.String(), i + 1, k.Mask, k.Undecryptable})
	}
	return list
}

// String names a key in a line about it.
func (k shownKey) String() string {
	return fmt.Sprintf("key %d, %s (id %s)", k.Position, maskOf(k.Mask, k.Undecryptable), k.ID)
}

func runKeyAdd(ctx context.Context, a *app) (result, error) {
	return a.edit(ctx, func(ctx context.Context, e *edit) (edited, error) {
		p, err := e.live()
		if err != nil {
			return edited{}, err
		}
		key, err := e.readKey(ctx, p)
		if err != nil {
			return edited{}, err
		}
		before, err := e.store.Provider(ctx, p.ID)
		if err != nil {
			return edited{}, err
		}
		if i := slices.IndexFunc(before.Keys, func(k aiseed.ProviderKey) bool { return k.APIKey.Equal(key) }); i >= 0 {
			has := shownKey{before.Keys[i].ID.String(), i + 1, key.String(), false}
			return edited{Provider: p, Key: &has, said: text.Label(p.Name) + " has this key already: it is " + has.String()}, nil
		}
		added, err := e.store.AddProviderKey(ctx, e.actor, p.ID, key)
		if err != nil {
			return edited{}, err
		}
		p, err = e.now(ctx, p.ID)
		did := edited{Changed: true, Provider: p, said: "added the key to " + text.Label(p.Name) + "; someone has removed it since"}
		for _, k := range shown(p.Keys) {
			if k.ID == added.ID.String() {
				did.Key = &k
				did.said = fmt.Sprintf("added %s to %s", k, text.Label(p.Name))
			}
		}
		return did, err
	})
}

func runKeyRemove(ctx context.Context, a *app) (result, error) {
	position, id, err := a.whichKey()
	if err != nil {
		return result{}, err
	}
	return a.edit(ctx, func(ctx context.Context, e *edit) (edited, error) {
		p, err := e.live()
		if err != nil {
			return edited{}, err
		}
		keys := shown(p.Keys)
		i := slices.IndexFunc(keys, func(k shownKey) bool { return k.Position == position || k.ID == id.String() })
		if i < 0 {
			return edited{}, &aboutError{text.Label(p.Name) + " has " + text.Count(len(keys), "key") + ", and not that one; see which with: " + e.sibling("list"), aiseed.ErrNotFound}
		}
		gone := keys[i]
		// By its id, it is the key that was listed, whatever changes meanwhile.
		err = e.store.RemoveProviderKey(ctx, e.actor, p.ID, p.Keys[i].ID)
		if errors.Is(err, aiseed.ErrCommitUnknown) {
			// Its position would be that of another key afterwards.
			err = &aboutError{bare(err) + "\nTo find out, and remove it if it is there: " + e.sibling("key remove "+p.ID.String()+" "+gone.ID), err}
		}
		if err != nil {
			return edited{}, err
		}
		p, err = e.now(ctx, p.ID)
		return edited{Changed: true, Provider: p, Key: &gone, said: fmt.Sprintf("removed %s from %s, which has %s left; servers stop using it now", gone, text.Label(p.Name), text.Count(len(p.Keys), "key"))}, err
	})
}

// whichKey returns the position or the id that the second argument is.
func (a *app) whichKey() (position int, id uuid.UUID, err error) {
	if id, err := uuid.Parse(a.args[1]); err == nil {
		return 0, id, nil
	}
	if position, err := strconv.ParseUint(a.args[1], 10, 16); err == nil && position > 0 {
		return int(position), uuid.Nil, nil
	}
	return 0, uuid.Nil, a.usage("KEY is the position or the id of a key, as " + a.sibling("list") + " shows them: 1 is the first; the key itself is never an argument")
}

func runKeyReplace(ctx context.Context, a *app) (result, error) {
	return a.edit(ctx, func(ctx context.Context, e *edit) (edited, error) {
		p, err := e.live()
		if err != nil {
			return edited{}, err
		}
		key, err := e.readKey(ctx, p)
		if err != nil {
			return edited{}, err
		}
		// The revision is that of the keys which it says were replaced.
		updated, err := e.store.UpdateProvider(ctx, e.actor, p.ID, aiseed.ProviderUpdate{Revision: p.Revision, Keys: []aiseed.Secret{key}})
		if err != nil {
			return edited{}, err
		}
		before := shown(p.Keys)
		if updated.Revision == p.Revision {
			return edited{Provider: p, Key: &before[0], said: text.Label(p.Name) + " has this key already, and no other one: it is " + before[0].String()}, nil
		}
		p, err = e.now(ctx, p.ID)
		id := updated.Keys[0].ID.String()
		did := edited{Changed: true, Provider: p, Key: &shownKey{id, 1, key.String(), false}}
		did.Replaced = slices.DeleteFunc(before, func(k shownKey) bool { return k.ID == id })
		did.said = fmt.Sprintf("replaced the keys of %s by %s", text.Label(p.Name), did.Key)
		for _, k := range did.Replaced {
			did.said += "\n  gone: " + k.String()
		}
		return did, err
	})
}

// readKey reads a key from the file of -key-file, or else from standard input.
func (e *edit) readKey(ctx context.Context, p aiseed.ProviderInfo) (aiseed.Secret, error) {
	read, check := e.pipedKey, checkTypedKey
	switch {
	case e.flags.keyFile != "":
		read, check = e.keyOfFile, environ.CheckSecretFile
	case terminal.Is(e.Stdin):
		read = func(ctx context.Context) (string, error) {
			return e.askedKey(ctx, "key for "+text.Label(p.Name)+" (not shown): ")
		}
	}
	key, err := read(ctx)
	if err != nil {
		return aiseed.Secret{}, err
	}
	problem := check(key)
	switch {
	case key == "":
		problem = "empty"
	case strings.ContainsAny(key, "\r\n"):
		problem = "more than one line; want one key"
	case problem == "" && environ.IsPlaceholder(key):
		problem = "a placeholder, as examples have it; want the key itself"
	}
	if problem != "" {
		return aiseed.Secret{}, &aiseed.ConfigError{Problems: []aiseed.Problem{{Variables: []string{"keys"}, Provider: text.Label(p.Name), Reason: problem}}}
	}
	return aiseed.NewSecret(key), nil
}

func (e *edit) keyOfFile(context.Context) (string, error) {
	key, reason := secretfile.Read(e.flags.keyFile)
	switch {
	case e.flags.keyFile == "-" || reason == secretfile.NotRegular:
		// A shell's <(COMMAND) is a pipe.
		return "", errors.New("-key-file names no regular file; it takes the path of one with the key. To use what another command prints, pipe it: COMMAND | " + e.sibling(e.verb.name+" "+e.found[0].ID.String()))
	case reason != "":
		// Do not show the path: it can be the key, in the wrong place.
		return "", errors.New("-key-file: the file that it names " + reason + "; it takes the path of a file with the key, and without it the key comes from standard input")
	}
	return key, nil
}

// askedKey asks the terminal.
func (e *edit) askedKey(ctx context.Context, question string) (string, error) {
	key, err := terminal.ReadSecret(ctx, e.Stdin, e.Stderr, question)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, terminal.ErrTooLong):
		return "", errors.New("the key is longer than a line that a terminal takes; give -key-file")
	case err != nil:
		return "", errors.New("the terminal gave no key; type it, or give -key-file")
	}
	return key, nil
}

// pipedKey reads standard input, which no terminal is.
func (e *edit) pipedKey(ctx context.Context) (string, error) {
	const maxBytes = 64 << 10
	type input struct {
		raw []byte
		err error
	}
	inputs := make(chan input, 1)
	go func() { // a pipe that nobody closes does not hold up an interruption
		raw, err := io.ReadAll(io.LimitReader(e.Stdin, maxBytes+1))
		inputs <- input{raw, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case in := <-inputs:
		switch {
		case in.err != nil:
			return "", errors.New("the key cannot be read from standard input; give -key-file")
		case len(in.raw) > maxBytes:
			return "", errors.New("standard input is larger than 64 KiB; want one key")
		case len(in.raw) == 0:
			return "", errors.New("standard input is empty; pipe the key to it, or give -key-file")
		}
		key, ended := strings.CutSuffix(string(in.raw), "\n")
		if ended {
			key = strings.TrimSuffix(key, "\r")
		}
		return key, nil
	}
}

// checkTypedKey is for a key that went through a shell or was pasted, which does to it what is done
// to the values of variables.
func checkTypedKey(key string) (problem string) {
	problem, odd := strings.CutSuffix(environ.CheckSecret(key, ""), environ.FileTakesIt)
	if odd {
		problem += ". A key that really looks like this goes into a file, for -key-file"
	}
	return problem
}

var (
	element     = regexp.MustCompile(`^element \d+: `)
	asksForLess = regexp.MustCompile(`; remove (it|one)$`)
	tooMany     = regexp.MustCompile(`^\d+ elements; at most (\d+) are allowed$`)
)

// inFlags turns an error about fields of an operation into one about what the operator gave.
func inFlags(err error) error {
	var config *aiseed.ConfigError
	if !errors.As(err, &config) {
		return err
	}
	var lines []string
	given := &aiseed.ConfigError{}
	for _, p := range config.Problems {
		line := p.String()
		switch reason := asksForLess.ReplaceAllString(element.ReplaceAllString(p.Reason, ""), ""); {
		case slices.Contains(p.Variables, "actor"):
			p.Variables = []string{"-actor"}
			line = "-actor, or else the login, was refused: " + reason
		case slices.Contains(p.Variables, "keys"):
			p.Variables, p.Reason = []string{"key"}, tooMany.ReplaceAllString(reason, "one too many: a provider has at most $1; remove one first, or replace all by this one")
			line = "the key was refused: " + p.Reason
		}
		lines = append(lines, line)
		given.Problems = append(given.Problems, p)
	}
	return &aboutError{strings.Join(lines, "\n"), given}
}
