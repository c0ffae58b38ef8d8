package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"cdr.dev/slog/v3"
	"golang.org/x/xerrors"

	"example.com/aiseed"
)

// Each scene finds the database as the one before it left it.
var scenes = []struct {
	title string
	play  func(*story, context.Context) error
}{
	{"1. The plan", (*story).plan},
	{"2. The first start", (*story).firstStart},
	{"3. The second start", (*story).secondStart},
	{"4. A key rotated in the database", (*story).rotatedKey},
	{"5. A base URL changed in the environment", (*story).changedBaseURL},
	{"6. A provider deleted by an operator", (*story).deletedProvider},
	{"7. What the runtime reads", (*story).runtime},
}

func (s *story) plan(ctx context.Context) error {
	s.say("Before anything is written, an operator can ask what a start would do. This reads the database, writes nothing and takes no lock. Secrets show as their mask: at most their last four characters.")
	plan, err := aiseed.PlanAIProvidersFromEnv(ctx, s.store, s.cfg, s.logger())
	if err != nil {
		return err
	}
	s.show(plain, strings.TrimRight(plan.Table(width-2, s.colour), "\n"))
	return nil
}

func (s *story) firstStart(ctx context.Context) error {
	s.say("The server starts. What the environment names and the database lacks is created, all of it in one transaction. The host's log says so:")
	var err error
	if s.first, err = s.start(ctx, s.cfg); err != nil {
		return err
	}
	providers, err := s.store.Providers(ctx)
	if err != nil {
		return err
	}
	s.cast = assign(providers)

	s.say("After the commit the host's auditor gets an entry for each provider and each key. Secrets were masked before they came near it:")
	rows := [][]string{{"ACTION", "RESOURCE", "PROVIDER", "NEW VALUES"}}
	for _, entry := range s.audits {
		values := strings.ReplaceAll(string(entry.New), `": `, `":`) // to wrap between pairs
		rows = append(rows, []string{string(entry.Action), entry.Resource, entry.ProviderName, values})
	}
	s.table(rows...)

	sealed, err := s.db.rows(ctx, selectSealed)
	if err != nil {
		return xerrors.Errorf("read the sealed columns: %w", err)
	}
	s.say("At rest the secrets are sealed with AES-256-GCM, each bound to its row, beside the public id of the key that sealed it. Whoever copies the tables without the keyring has no credential. What plain SQL finds in the sealed columns:")
	s.table(append([][]string{{"PROVIDER", "COLUMN", "KEY ID", "STORED VALUE"}}, sealed...)...)
	return nil
}

const selectSealed = `
select array[name, 'ai_providers.settings', left(settings_key_id, 8) || '…', left(settings, 30) || '…'] as row
  from {schema}.ai_providers where settings is not null
union all
select array[p.name, 'ai_provider_keys.api_key', left(k.api_key_key_id, 8) || '…', left(k.api_key, 30) || '…']
  from {schema}.ai_provider_keys k join {schema}.ai_providers p on p.id = k.provider_id
 order by row`

func (s *story) secondStart(ctx context.Context) error {
	s.say("The server restarts with the same environment. All is there already: one round trip reads what there is to know, and that is it. (From here on a warning that was shown before is left out.)")
	second, err := s.start(ctx, s.cfg)
	if err != nil {
		return err
	}
	rows := [][]string{
		{"START", "ROUND TRIPS", "ADVISORY LOCKS"},
		{"first", fmt.Sprint(s.first.roundTrips), fmt.Sprint(s.first.locks)},
		{"second", fmt.Sprint(second.roundTrips), fmt.Sprint(second.locks)},
	}
	for i := range rows {
		if s.first.locks == 0 { // it had nothing to write, or TLS hides the locks
			rows[i] = rows[i][:2]
		}
	}
	s.table(rows...)
	return nil
}

func (s *story) rotatedKey(ctx context.Context) error {
	p := s.cast.rotated
	if p == nil {
		s.say("Skipped: this scene rotates a bearer key, and no provider of this environment has one.")
		return nil
	}
	s.say("An operator gives %s another key in the database: an SQL update, after which the library seals the new value. The environment still has the old key. That is no reason to refuse to start, and none to overwrite the new key. It is a warning, with fingerprints instead of the keys:", p.Name)
	err := s.db.exec(ctx, `update {schema}.ai_provider_keys set api_key = $1, api_key_key_id = null, updated_at = now() where id = $2`,
		"rotated-in-the-demo-"+rand.Text(), p.Keys[0].ID.String())
	if err != nil {
		return xerrors.Errorf("rotate a key: %w", err)
	}
	if _, err := s.store.SealPlaintext(ctx); err != nil {
		return err
	}
	_, err = s.start(ctx, s.cfg)
	return err
}

func (s *story) changedBaseURL(ctx context.Context) error {
	p := s.cast.moved
	if p == nil {
		s.say("Skipped: there is no provider of which the base URL could change.")
		return nil
	}
	variables := baseURLVariables(s.cfg, p)
	environ := s.in.environ
	for _, variable := range variables {
		// Put it first: the first one wins.
		environ = append([]string{variable + "=https://elsewhere.example/v1/"}, environ...)
	}
	cfg, err := aiseed.ParseEnviron(ctx, environ, slog.Logger{})
	if err != nil {
		return err
	}
	s.say("Somebody sets %s to another address. Obeying would overwrite the database; carrying on would leave that somebody in the dark. So the server refuses to start, writes nothing, and says what to do:", strings.Join(variables, " and "))
	if _, err = s.start(ctx, cfg); !errors.Is(err, aiseed.ErrDrift) {
		return cmp.Or(err, errors.New("the start did not notice the changed base URL"))
	}
	s.show(failure, err.Error())
	return nil
}

func (s *story) deletedProvider(ctx context.Context) error {
	p := s.cast.deleted
	if p == nil {
		s.say("Skipped: there is no provider to delete.")
		return nil
	}
	s.say("The environment is as it was before. An operator deletes %s in the database and forgets its variables. A start does not bring it back:", p.Name)
	err := s.db.exec(ctx, `update {schema}.ai_providers set deleted = true, updated_at = now() where id = $1`, p.ID.String())
	if err != nil {
		return xerrors.Errorf("delete a provider: %w", err)
	}
	_, err = s.start(ctx, s.cfg)
	return err
}

func (s *story) runtime(ctx context.Context) error {
	providers, err := s.store.Providers(ctx)
	if err != nil {
		return err
	}
	s.say("The runtime asks the database, never the environment. One round trip returns the live providers with their secrets opened; here they are masked again:")
	rows := [][]string{{"NAME", "TYPE", "BASE URL", "AUTHENTICATES WITH"}}
	for _, p := range providers {
		baseURL, _, _ := strings.Cut(p.BaseURL, "?") // what follows can hold a credential
		rows = append(rows, []string{p.Name, string(p.Type), cmp.Or(baseURL, "(none)"), s.credentials(p)})
	}
	s.table(rows...)
	return nil
}

// credentials says what a provider authenticates with: a Secret prints as its mask.
func (s *story) credentials(p aiseed.Provider) string {
	var parts []string
	for _, key := range p.Keys {
		parts = append(parts, "key "+key.APIKey.String())
	}
	if s.cast.rotated != nil && s.cast.rotated.ID == p.ID {
		parts[0] += " (the rotated one)"
	}
	if p.Bedrock != nil {
		parts = append(parts, "Bedrock with "+cmp.Or(p.Bedrock.AccessKey.String(), "the AWS environment"))
	}
	return cmp.Or(strings.Join(parts, ", "), "(nothing)")
}
