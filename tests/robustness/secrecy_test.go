package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

const kindRendering = "F5 renderings searched for secrets"

// exportedFunctions lists the functions and methods that the package exports.
func exportedFunctions(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("../../*.go")
	require.NoError(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() {
				continue
			}
			if f.Recv == nil {
				names = append(names, f.Name.Name)
				continue
			}
			receiver := f.Recv.List[0].Type
			if pointer, ok := receiver.(*ast.StarExpr); ok {
				receiver = pointer.X
			}
			if typ := receiver.(*ast.Ident); typ.IsExported() {
				names = append(names, typ.Name+"."+f.Name.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// S10, S11: no secret appears, whatever the library hands out, and however a host shows it.
// A new function has to be called here.
func TestF5_S11_NothingThatIsHandedOutShowsASecret(t *testing.T) {
	t.Parallel()
	inEachWorld(t, func(t *testing.T, w *secretWorld) {
		called := w.walk()
		require.Equal(t, exportedFunctions(t), called)
		w.requireDump()
		require.True(t, w.traced, "nothing was traced")
	})
}

// walk calls everything that is exported, shows what comes back, and returns what it
// called.
func (w *secretWorld) walk() (called []string) {
	t, ctx, f, all := w.t, context.Background(), w.f, w.canaries
	t.Helper()
	hasURL := false
	show := func(function string, values ...any) {
		t.Helper()
		if !slices.Contains(called, function) {
			called = append(called, function)
		}
		for i, v := range values {
			for _, r := range renderings(v, true) {
				search := w.printed
				if hasURL && (strings.Contains(r.how, "unexported") || strings.Contains(r.how, "XML") || strings.HasSuffix(r.how, "p")) {
					search = w.served
				}
				cases.check(t, kindRendering, fmt.Sprintf("%s: %s, value %d, a %T, as %s", w.name, function, i, v, r.how), search.find("it", r.text))
			}
		}
		cases.check(t, kindRendering, fmt.Sprintf("%s: what %s left behind", w.name, function), w.look(false))
	}
	// A value that has a base URL as a plain string shows it in XML and where fmt calls no method:
	// in unexported fields and for %p.
	showWithURL := func(function string, values ...any) {
		t.Helper()
		hasURL = true
		show(function, values...)
		hasURL = false
	}
	must := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	w.reset(func([]byte) testkit.Action { return testkit.Pass })

	cfg, err := aiseed.ParseEnviron(ctx, w.environ, w.logger)
	must(err)
	showWithURL("ParseEnviron", cfg, cfg.Warnings)
	showWithURL("Config.Format", &cfg)
	spec := aiseed.ProviderSpec{BaseURL: all.inQuery("h", "URL updated"), Keys: []aiseed.Secret{aiseed.NewSecret(all.value("created key"))}}
	update := w.update()
	for function, v := range map[string]interface {
		fmt.Formatter
		json.Marshaler
	}{
		"OpenAIConfig": cfg.LegacyOpenAI, "AnthropicConfig": cfg.LegacyAnthropic, "BedrockConfig": cfg.LegacyBedrock, "ProviderConfig": cfg.Providers[0],
		"ProviderSpec": spec, "ProviderUpdate": update,
	} {
		asJSON, err := v.MarshalJSON()
		must(err)
		showWithURL(function+".Format", v, []any{v})
		show(function+".MarshalJSON", asJSON, string(asJSON))
	}
	prefixed := slices.Clone(w.environ)
	for i, line := range prefixed {
		prefixed[i] = "X_" + line
	}
	_, err = aiseed.ParseEnviron(ctx, append(prefixed, "X_CODER_AIBRIDGE_OPENAI_KEYS="+all.value("added key"), "X_CODER_AIBRIDGE_OPENAI_KEY_FILE="+all.value("added key")), w.logger, aiseed.WithPrefix("X_CODER_AIBRIDGE_"))
	show("WithPrefix", err)
	var config *aiseed.ConfigError
	require.ErrorAs(t, err, &config)
	show("ConfigError.Error", config.Error(), *config, config)
	show("ConfigError.Unwrap", config.Unwrap())
	show("Problem.String", config.Problems[0].String(), config.Problems[0])

	secret := aiseed.NewSecret(all.value("legacy OpenAI key"))
	require.Error(t, w.printed.find("it", []byte(secret.Reveal())), "the search works")
	show("Secret.Reveal")
	show("NewSecret", secret)
	show("Secret.IsZero", secret.IsZero())
	show("Secret.Equal", secret.Equal(aiseed.NewSecret("x")))
	show("ProviderType.DefaultBaseURL", aiseed.TypeOpenAI.DefaultBaseURL())
	show("Secret.String", secret.String())
	asJSON, err := secret.MarshalJSON()
	must(err)
	show("Secret.MarshalJSON", asJSON, string(asJSON))
	asText, err := secret.MarshalText()
	must(err)
	show("Secret.MarshalText", asText, string(asText))
	show("Secret.LogValue", secret.LogValue(), slog.Any("k", secret))
	type fields struct { // fmt calls no method of a value in it
		s aiseed.Secret
		p *aiseed.Secret
		l []aiseed.Secret
		m map[string]aiseed.Secret
		k map[aiseed.Secret]bool
	}
	show("Secret.Format", fields{secret, &secret, []aiseed.Secret{secret}, map[string]aiseed.Secret{"k": secret}, map[aiseed.Secret]bool{secret: true}})

	encoded, raw := w.keyList()
	ring, err := aiseed.ParseKeyring(encoded)
	must(err)
	_, err = aiseed.ParseKeyring(encoded + "," + encoded[:43] + "," + all.value("created key"))
	var unfit *aiseed.KeyringError
	require.ErrorAs(t, err, &unfit)
	show("ParseKeyring", ring, *ring, err)
	show("KeyringError.Error", unfit.Error(), *unfit)
	show("KeyringError.Unwrap", unfit.Unwrap())
	ring, err = aiseed.NewKeyring(raw[0], raw[1:]...)
	must(err)
	_, err = aiseed.NewKeyring(raw[0], raw[0])
	_, short := aiseed.NewKeyring(raw[0][1:])
	show("NewKeyring", ring, err, short)
	show("Keyring.IDs", ring.IDs())
	show("Keyring.Format", struct{ k any }{ring}, aiseed.StoreOptions{Keyring: ring})
	show("LockKey", aiseed.LockKey(all.value("created key")))
	show("MaskURL", aiseed.MaskURL(all.inQuery("h", "URL updated")), aiseed.MaskURL("https://user:"+url.QueryEscape(all.value("password of the server"))+"@h/"))
	show("Variables", aiseed.Variables(""))
	files, err := fs.Glob(aiseed.Migrations(), "*")
	must(err)
	show("Migrations", files)
	_, err = fs.ReadDir(aiseed.MigrationsFor("flyway"), ".")
	show("MigrationsFor", aiseed.MigrationsFor(aiseed.Goose), err)

	must(aiseed.Migrate(ctx, w.pool, "elsewhere"))
	show("Migrate", aiseed.Migrate(ctx, nil, ""))
	_, err = aiseed.Open(ctx, w.pool, aiseed.StoreOptions{Keyring: ring, Schema: "nowhere"})
	show("Open", w.store, *w.store, w.options(), err)

	plan, err := aiseed.PlanAIProvidersFromEnv(ctx, w.store, cfg, w.logger)
	must(err)
	show("PlanAIProvidersFromEnv", plan, *plan, plan.Steps[0])
	must(aiseed.SeedAIProvidersFromEnv(ctx, w.store, cfg, f.Audits, w.logger))
	show("SeedAIProvidersFromEnv", f.Audits.Entries())
	plan, err = w.store.Seed(ctx, cfg, f.Audits, w.logger)
	must(err)
	show("Store.Seed", plan, *plan, plan.Steps)
	entry := f.Audits.Entries()[0]
	show("AuditorFunc.Audit", aiseed.AuditorFunc(func(_ context.Context, e aiseed.AuditEntry) error { return fmt.Errorf("%+v %s", e, e.New) }).Audit(ctx, entry), string(entry.New))
	_, err = w.store.DeliverAudits(ctx, nil)
	show("Store.DeliverAudits", err)
	providers, err := w.store.Providers(ctx)
	must(err)
	at := slices.IndexFunc(providers, func(p aiseed.Provider) bool { return p.Name == "listed" })
	require.Equal(t, all.value("fifth listed key"), providers[at].Keys[4].APIKey.Reveal())
	showWithURL("Store.Providers", providers, providers[at], &providers[at])
	infos, err := w.store.ListProviders(ctx)
	must(err)
	showWithURL("Store.ListProviders", infos)
	asJSON, err = infos[at].MarshalJSON()
	must(err)
	show("ProviderInfo.MarshalJSON", asJSON, string(asJSON))
	showWithURL("ProviderInfo.Format", infos[at], &infos[at])
	asJSON, err = providers[at].MarshalJSON()
	must(err)
	show("Provider.MarshalJSON", asJSON, string(asJSON))
	showWithURL("Provider.Format", providers[at], &providers[at])
	one, err := w.store.Provider(ctx, providers[at].ID)
	must(err)
	_, err = w.store.Provider(ctx, uuid.Nil)
	showWithURL("Store.Provider", one, err)
	one, err = w.store.ProviderByName(ctx, providers[at].Name)
	must(err)
	_, err = w.store.ProviderByName(ctx, all.value("created key")+"!") // no name: a name is shown, also one that is a secret
	showWithURL("Store.ProviderByName", one, err)

	diverged, err := aiseed.PlanAIProvidersFromEnv(ctx, w.store, w.parse(w.divergent()), w.logger)
	must(err)
	show("PlanAIProvidersFromEnv", diverged)
	drifted := w.parse(w.drifted())
	plan, err = aiseed.PlanAIProvidersFromEnv(ctx, w.store, drifted, w.logger)
	must(err)
	show("Plan.String", plan.String(), plan)
	show("Plan.Table", plan.Table(60, true), plan.Table(1000, false))
	asJSON, err = plan.MarshalJSON()
	must(err)
	show("Plan.MarshalJSON", asJSON, string(asJSON))
	at = slices.IndexFunc(plan.Steps, func(s aiseed.Step) bool { return s.Action == aiseed.ActionDrifted })
	asJSON, err = plan.Steps[at].MarshalJSON()
	must(err)
	show("Step.MarshalJSON", asJSON, string(asJSON))
	show("Step.Format", plan.Steps[at], &plan.Steps[at], plan.Steps[at].Drift)
	for _, step := range plan.Steps {
		for _, warning := range step.Warnings {
			inWords, err := warning.MarshalText()
			must(err)
			show("Warning.MarshalText", inWords, string(inWords))
			asJSON, err := warning.MarshalJSON()
			must(err)
			show("Warning.MarshalJSON", asJSON, string(asJSON))
			show("Warning.String", warning.String(), warning, &warning)
		}
	}
	err = aiseed.SeedAIProvidersFromEnv(ctx, w.store, drifted, f.Audits, w.logger)
	var drift *aiseed.DriftError
	require.ErrorAs(t, err, &drift)
	show("DriftError.Error", drift.Error(), drift, *drift)
	show("DriftError.Unwrap", drift.Unwrap())
	for _, choice := range drift.Choices {
		show("Choice.String", choice.String(), choice)
	}
	drifted.DriftAdopt = storetest.Tokens(t, w.store, drifted)
	must(aiseed.SeedAIProvidersFromEnv(ctx, w.store, drifted, f.Audits, w.logger))
	showWithURL("SeedAIProvidersFromEnv", drifted)

	created, err := w.store.CreateProvider(ctx, "somebody", aiseed.ProviderSpec{Type: "openai", Name: "created", Keys: []aiseed.Secret{aiseed.NewSecret(all.value("created key"))}})
	must(err)
	_, err = w.store.CreateProvider(ctx, all.value("created key"), aiseed.ProviderSpec{Type: "openai", Keys: []aiseed.Secret{aiseed.NewSecret(all.value("created key") + " ")}, BaseURL: all.value("URL updated")})
	require.Error(t, err)
	showWithURL("Store.CreateProvider", created, err)
	key, err := w.store.AddProviderKey(ctx, "somebody", created.ID, aiseed.NewSecret(all.value("added key")))
	must(err)
	_, err = w.store.AddProviderKey(ctx, "somebody", created.ID, aiseed.NewSecret(all.value("added key")))
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	show("Store.AddProviderKey", key, err)
	must(w.store.RemoveProviderKey(ctx, "somebody", created.ID, key.ID))
	show("Store.RemoveProviderKey", w.store.RemoveProviderKey(ctx, "somebody", created.ID, key.ID))
	at = slices.IndexFunc(providers, func(p aiseed.Provider) bool { return p.Name == "pairs" })
	updated, err := w.store.UpdateProvider(ctx, "somebody", providers[at].ID, w.update())
	must(err)
	showWithURL("Store.UpdateProvider", updated, w.update())
	replaced, err := w.store.ReplaceProviderKeys(ctx, "somebody", created.ID, []aiseed.Secret{aiseed.NewSecret(all.value("added key")), aiseed.NewSecret(all.value("created key"))})
	must(err)
	_, err = w.store.ReplaceProviderKeys(ctx, "somebody", created.ID, []aiseed.Secret{aiseed.NewSecret(all.value("added key")), aiseed.NewSecret(all.value("added key"))})
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	showWithURL("Store.ReplaceProviderKeys", replaced, err)
	must(w.store.SetProviderEnabled(ctx, "somebody", created.ID, false))
	show("Store.SetProviderEnabled", w.store.SetProviderEnabled(ctx, "somebody", uuid.Nil, false))
	must(w.store.DeleteProvider(ctx, "somebody", created.ID))
	show("Store.DeleteProvider", w.store.DeleteProvider(ctx, "somebody", created.ID))
	restored, err := w.store.RestoreProvider(ctx, "somebody", created.ID)
	must(err)
	showWithURL("Store.RestoreProvider", restored)
	_, err = w.store.DeliverAudits(ctx, aiseed.AuditorFunc(func(_ context.Context, e aiseed.AuditEntry) error {
		panic(fmt.Sprintf("%+v %s %s", e, e.Old, e.New))
	}))
	require.Error(t, err)
	show("Store.DeliverAudits", err)
	pruned, err := w.store.PruneAudits(ctx, 0)
	show("Store.PruneAudits", pruned, err)
	watching, stop := context.WithTimeout(ctx, testkit.Patience)
	err = w.store.Watch(watching, func(providers []aiseed.Provider, err error) {
		showWithURL("Store.Watch", providers, err)
		stop()
	})
	require.ErrorIs(t, err, context.Canceled)
	show("Store.WatchStatus", w.store.WatchStatus())

	w.exec(`alter table ai_provider_audits add constraint quoting check (false) not valid`)
	_, err = w.store.CreateProvider(ctx, "somebody", aiseed.ProviderSpec{Type: "openai", Name: "quoted", Keys: []aiseed.Secret{aiseed.NewSecret(all.value("created key"))}})
	var database *aiseed.DatabaseError
	require.ErrorAs(t, err, &database)
	require.Equal(t, "quoting", database.Constraint)
	show("DatabaseError.Error", database.Error(), *database, err, errors.Join(err, err))
	show("DatabaseError.Unwrap", database.Unwrap())
	w.exec(`alter table ai_provider_audits drop constraint quoting;
		insert into ai_encryption_keys values ('another', 'x'); create table kept as table ai_provider_keys; update ai_provider_keys set api_key_key_id = 'another'`)
	_, err = w.store.Providers(ctx)
	var decrypt *aiseed.DecryptError
	require.ErrorAs(t, err, &decrypt)
	show("DecryptError.Error", decrypt.Error(), *decrypt, err)
	show("DecryptError.Unwrap", decrypt.Unwrap())
	var unusable *aiseed.ProvidersError
	require.ErrorAs(t, err, &unusable)
	show("ProvidersError.Error", unusable.Error(), *unusable)
	show("ProvidersError.Unwrap", unusable.Unwrap())
	w.exec(`delete from ai_provider_keys; insert into ai_provider_keys table kept; drop table kept`)
	holder, err := f.Pool.Begin(ctx)
	must(err)
	_, err = holder.Exec(ctx, `select pg_advisory_xact_lock($1)`, aiseed.LockKey(""))
	must(err)
	w.hurry(true)
	err = w.store.DeleteProvider(ctx, "somebody", created.ID)
	w.hurry(false)
	must(holder.Rollback(ctx))
	var timeout *aiseed.LockTimeoutError
	require.ErrorAs(t, err, &timeout)
	show("LockTimeoutError.Error", timeout.Error(), *timeout, timeout.Holder, err)
	show("LockTimeoutError.Unwrap", timeout.Unwrap())

	// From here on, plaintext is written, and it may be visible as such.
	report, err := w.sealing.SealPlaintext(ctx)
	must(err)
	show("Store.SealPlaintext", report)
	w.rotateKeys()
	report, err = w.sealing.Rotate(ctx)
	must(err)
	show("Store.Rotate", report)
	lost, without := w.rings[1].IDs()[0], w.options()
	without.Keyring = storetest.Keyring(t, 9)
	sealed, err := aiseed.SealedWith(ctx, w.pool, without, lost)
	must(err)
	require.NotEmpty(t, sealed)
	showWithURL("SealedWith", sealed)
	if !w.sealed {
		report, err = w.sealing.Unseal(ctx)
		must(err)
		show("Store.Unseal", report)
	} else {
		show("Store.Unseal") // see the other world
	}
	forgotten, err := aiseed.ForgetKey(ctx, w.pool, without, "somebody", lost)
	must(err)
	require.Equal(t, w.sealed, len(forgotten) > 0)
	showWithURL("ForgetKey", forgotten)
	slices.Sort(called)
	return called
}

// A panic prints its value, and every goroutine with its arguments.
func TestF5_S11_APanicShowsNoSecret(t *testing.T) {
	t.Parallel()
	w := newSecretWorldOutside(t, true)
	values := w.panics(t, w.environ)
	for n := range values {
		cmd := exec.Command(os.Args[0], "-test.run=^TestF5_S11_PanickingChild$", "-test.timeout="+testkit.Patience.String())
		encoded, _ := w.keyList()
		cmd.Env = append(append(os.Environ(), w.environ...), panicVariable+"="+strconv.Itoa(n), panicVariable+"_KEYS="+encoded, "GOTRACEBACK=all", "GORACE=atexit_sleep_ms=0")
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "goroutine ", "it panicked")
		cases.check(t, kindRendering, fmt.Sprintf("a process that panics with value %d, a %T", n, values[n]), w.served.find("its output", out))
	}
}

const panicVariable = "AISEED_TEST_PANIC"

// panics are values that a host could panic with.
func (w *secretWorld) panics(t *testing.T, environ []string) []any {
	t.Helper()
	cfg, err := aiseed.ParseEnviron(context.Background(), environ, w.logger)
	require.NoError(t, err)
	_, invalid := aiseed.ParseEnviron(context.Background(), append(environ, aiseed.DefaultPrefix+"OPENAI_KEY_FILE="+cfg.LegacyOpenAI.Key.Reveal()), w.logger)
	require.Error(t, invalid)
	return []any{
		cfg, &cfg, cfg.LegacyOpenAI.Key, &cfg.LegacyOpenAI.Key, cfg.Providers[0].Keys,
		invalid, fmt.Errorf("seed %+v: %w", cfg, invalid), fmt.Sprintf("%+v %#v", cfg, cfg.Providers),
		map[string]any{"cfg": cfg},
		w.rings[1],
	}
}

// TestF5_S11_PanickingChild panics in a child process. In any other process it does nothing.
func TestF5_S11_PanickingChild(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv(panicVariable))
	if err != nil {
		return
	}
	ring, err := aiseed.ParseKeyring(os.Getenv(panicVariable + "_KEYS"))
	require.NoError(t, err)
	out := &sharedBuffer{}
	w := &secretWorld{logger: allSinks(out), rings: []*aiseed.Keyring{nil, ring}}
	panic(w.panics(t, os.Environ())[n])
}

// A text that somebody wrote into a variable or a row must not look like a line of ours, or
// move the cursor in a terminal.
func TestS11_HostileTextStaysInItsPlace(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const evil = "\nINJECTED\x1b[2J"
	hostile := evil + "\u202e" + strings.Repeat("x", 400)
	requireHarmless := func(where, text string) {
		t.Helper()
		require.NotEmpty(t, text, where)
		for _, s := range []string{"\nINJECTED", "\x1b", "\u202e"} {
			require.NotContains(t, text, s, where)
		}
	}
	environ := func(lines ...string) []string {
		for i, line := range lines {
			lines[i] = aiseed.DefaultPrefix + line
		}
		return lines
	}
	f := setup(t, storetest.Plaintext)
	_, err := aiseed.ParseEnviron(ctx, environ("OPENAI_"+hostile+"=x", "PROVIDER_"+hostile+"_TYPE=x", "PROVIDER_0_TYPE=openai", "PROVIDER_0_NAME="+hostile, "PROVIDER_0_KEY=a", "PROVIDER_0_KEYS=b",
		"PROVIDER_1_TYPE="+hostile, "PROVIDER_1_NAME="+hostile, "PROVIDER_2_TYPE=anthropic", "PROVIDER_2_BEDROCK_REGION="+hostile, "PROVIDER_2_BEDROCK_MODEL="+hostile,
		"PROVIDER_3_TYPE=openai", "PROVIDER_3_KEY_FILE=/"+hostile, "PROVIDER_4_TYPE=openai", "PROVIDER_4_BASE_URL=https://h/"+hostile, "PROVIDER_5_"+hostile+"=x"), f.Logs.Logger())
	require.ErrorIs(t, err, aiseed.ErrInvalidConfig)
	requireHarmless("the error of an environment", err.Error())
	requireHarmless("the log", f.Logs.String())

	// A type that is skipped can be any text without control characters, and the row of an
	// operator can be any text.
	cfg, err := aiseed.ParseEnviron(ctx, environ("PROVIDER_0_TYPE=x\u202e", "PROVIDER_1_TYPE=anthropic", "PROVIDER_1_NAME=a", "PROVIDER_1_BEDROCK_REGION=r", "PROVIDER_1_BEDROCK_MODEL=m",
		"PROVIDER_2_TYPE=openai", "PROVIDER_2_NAME=b", "PROVIDER_2_BASE_URL=https://h/?k=v"), f.Logs.Logger())
	require.NoError(t, err)
	show := func() {
		t.Helper()
		plan, err := aiseed.PlanAIProvidersFromEnv(ctx, f.Store, cfg, f.Logs.Logger())
		require.NoError(t, err)
		requireHarmless("the plan", plan.String())
		requireHarmless("the steps of a plan", fmt.Sprint(plan.Steps))
		requireHarmless("the log", f.Logs.String())
	}
	show()
	require.NoError(t, f.Seed(cfg))
	show()
	require.Contains(t, f.Logs.String(), "INFO created AI provider provider=b")
	settings := func(region string) {
		raw, err := json.Marshal(map[string]any{"_type": "bedrock", "_version": 1, "region": region, "model": hostile, "small_fast_model": hostile})
		require.NoError(t, err)
		f.Exec(`update ai_providers set settings = $1 where settings is not null`, string(raw))
	}
	settings("r")
	require.NoError(t, f.Seed(cfg))
	require.Contains(t, f.Logs.String(), "environment and database differ in Bedrock model (database \"\\nINJECTED")
	show()
	settings(hostile)
	f.Exec(`update ai_providers set base_url = $1 where name = 'b'`, "https://h/"+hostile)
	err = f.Seed(cfg)
	require.ErrorIs(t, err, aiseed.ErrDrift)
	requireHarmless("a drift", err.Error())
	show()
}
