package aiseedcli

import (
	"context"
	"errors"
	"os/user"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed"
	"example.com/aiseed/internal/text"
)

// forgotten is the result of forget, for -json.
type forgotten struct {
	KeyID     string                `json:"key_id"`
	Forgotten bool                  `json:"forgotten"`
	Sealed    []aiseed.ProviderInfo `json:"sealed"`    // what the key has sealed of each provider, and nothing else
	Providers []aiseed.ProviderInfo `json:"providers"` // as they are afterwards
}

func runForget(ctx context.Context, a *app) (result, error) {
	keyID := a.args[0]
	keyring, err := a.requiredKeyring()
	if err != nil {
		return result{}, err
	}
	return a.withPool(ctx, func(pool *pgxpool.Pool) (result, error) {
		sealed, err := aiseed.SealedWith(ctx, pool, a.storeOptions(keyring), keyID)
		if err != nil {
			return result{}, err
		}
		did := forgotten{KeyID: keyID, Sealed: list(sealed), Providers: []aiseed.ProviderInfo{}}
		r := result{document: &did, text: func() { a.printForgotten(did) }}
		if !a.flags.yes {
			return r, errors.New("nothing was removed; to remove it for good, give -yes")
		}
		actor, err := a.actor(user.Current)
		if err != nil {
			return result{}, err
		}
		after, err := aiseed.ForgetKey(ctx, pool, a.storeOptions(keyring), actor, keyID)
		if err != nil {
			return result{}, inFlags(err)
		}
		did.Forgotten, did.Providers = true, append(did.Providers, after...)
		return r, nil
	})
}

func (a *app) printForgotten(did forgotten) {
	switch {
	case len(did.Sealed) == 0 && did.Forgotten:
		a.printf("Nothing was sealed with key %s, so nothing was removed. Nothing more can be sealed with it.\n", did.KeyID)
		return
	case len(did.Sealed) == 0:
		a.printf("Nothing is sealed with key %s. To forget it has one effect: nothing more can be sealed with it.\n", did.KeyID)
		return
	case did.Forgotten:
		a.printf("What key %s had sealed is removed:\n\n", did.KeyID)
	default:
		a.printf("Key %s has sealed this, which nothing else can decrypt:\n\n", did.KeyID)
	}
	a.printProviders(did.Sealed, "key")
	if !did.Forgotten {
		a.printf("\nIf there is a copy of the key, append it to %s instead. If not, forget removes these keys and Bedrock settings. The providers stay, with all else that they have.\n", a.flags.keysVariable)
	}
	a.printf("\nAfterwards\n")
	for _, after := range []struct {
		is   func(aiseed.ProviderInfo) bool
		text string
	}{
		{func(p aiseed.ProviderInfo) bool { return !p.Deleted && len(p.Keys) > 0 }, "give it a new key with " + a.sibling("key add PROVIDER") + ". Until then a start warns if the environment has other keys than the database"},
		{func(p aiseed.ProviderInfo) bool { return !p.Deleted && p.SettingsUndecryptable }, "if the environment has the Bedrock settings, the next start stops over this drift, and says how to adopt them; " + a.sibling("plan") + " says so beforehand. If not, give them through the server's own API"},
		{func(p aiseed.ProviderInfo) bool { return p.Deleted }, "it stays deleted. If it is restored, it needs a key or settings too"},
	} {
		var names []string
		for _, p := range did.Sealed {
			if after.is(p) {
				names = append(names, text.Label(p.Name))
			}
		}
		if len(names) > 0 {
			a.printf("- %s: %s.\n", strings.Join(names, ", "), after.text)
		}
	}
}
