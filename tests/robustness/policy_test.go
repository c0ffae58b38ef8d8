package robustness

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
)

// asRole opens another store as a role that may use the tables, but does not own them.
func (f *fixture) asRole(prefix string, opts ...storetest.Option) *aiseed.Store {
	f.T.Helper()
	role := f.Role(prefix)
	f.Exec(fmt.Sprintf(storetest.GrantTables, role))
	store, w := f.Open(append(opts, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.ConnConfig.User = role })...)
	w.Reset(nil)
	return store
}

// S12: a policy never hides rows, whatever rows it allows. Each operation of the library ends with
// an error that names the table and the ways out.
func TestS12_RowSecurityNeverHidesRows(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, table := range []string{"ai_providers", "ai_provider_keys", "ai_provider_audits"} {
		policies := map[string]string{"that lets everything through": `enable row level security; create policy everything on %s using (true) with check (true)`}
		if table == "ai_providers" {
			policies["that lets nothing through"] = `enable row level security`
		}
		for name, policy := range policies {
			t.Run(table+", a policy "+name, func(t *testing.T) {
				t.Parallel()
				f := setup(t)
				cfg := f.Seeded("OPENAI_KEY=key")
				p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x", Keys: []aiseed.Secret{aiseed.NewSecret("key")}})
				store := f.asRole("policy_")
				if strings.Contains(policy, "%s") {
					policy = fmt.Sprintf(policy, table)
				}
				f.Exec(`alter table ` + table + ` ` + policy)
				f.Exec(`create table accounts (); alter table accounts enable row level security`) // of the host
				more := f.Parse("OPENAI_KEY=key", "ANTHROPIC_KEY=key")
				for operation, do := range map[string]func() error{
					"a start that writes": func() error { return aiseed.SeedAIProvidersFromEnv(ctx, store, more, f.Audits, slog.Logger{}) },
					"a start":             func() error { return aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, f.Audits, slog.Logger{}) },
					"a plan":              func() error { _, err := aiseed.PlanAIProvidersFromEnv(ctx, store, cfg, slog.Logger{}); return err },
					"creating": func() error {
						_, err := store.CreateProvider(ctx, "a", aiseed.ProviderSpec{Type: "openai", Name: "y", Keys: []aiseed.Secret{aiseed.NewSecret("key")}})
						return err
					},
					"deleting":   func() error { return store.DeleteProvider(ctx, "a", p.ID) },
					"Providers":  func() error { _, err := store.Providers(ctx); return err },
					"reading":    func() error { _, err := store.Provider(ctx, p.ID); return err },
					"listing":    func() error { _, err := store.ListProviders(ctx); return err },
					"delivering": func() error { _, err := store.DeliverAudits(ctx, f.Audits); return err },
					"pruning":    func() error { _, err := store.PruneAudits(ctx, 0); return err },
				} {
					if table == "ai_provider_audits" && (operation == "Providers" || operation == "reading" || operation == "listing") ||
						table == "ai_provider_keys" && (operation == "delivering" || operation == "pruning") || table == "ai_providers" && operation == "delivering" {
						continue // it does not read that table
					}
					err := do()
					var db *aiseed.DatabaseError
					require.ErrorAs(t, err, &db, operation)
					require.Equal(t, "42501", db.SQLState, operation)
					require.Equal(t, table, db.Table, operation)
					require.ErrorContains(t, err, "a row security policy on "+table+" applies to this role", operation)
					require.ErrorContains(t, err, "BYPASSRLS", operation)
					require.NotContains(t, err.Error(), "accounts", operation)
				}
				require.Equal(t, []string{"openai", "x"}, f.Rows(`select name from ai_providers order by name`))
				f.RequireIdle()
			})
		}
	}
}

// A missing privilege is another error, whatever language the server's messages are in.
func TestS12_MissingPrivilegeIsToldFromAPolicy(t *testing.T) {
	t.Parallel()
	f := setup(t)
	store := f.asRole("unprivileged_")
	role := f.Rows(`select rolname from pg_roles where rolname like 'unprivileged_%' and has_table_privilege(oid, 'public.ai_providers', 'select')`)
	f.Exec(`revoke select on ai_provider_keys from ` + role[0])
	_, err := store.Providers(context.Background())
	var db *aiseed.DatabaseError
	require.ErrorAs(t, err, &db)
	require.Equal(t, "42501", db.SQLState)
	require.ErrorContains(t, err, "the role lacks a privilege")
	require.NotContains(t, err.Error(), "BYPASSRLS")
}

// S12: every transaction turns row security off before any statement that reads rows, also the
// implicit transaction of a round trip and the one behind a commit.
func TestS12_EveryTransactionBeginsWithIt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	tracer := &batchRecorder{}
	f := setup(t, func(_ *aiseed.StoreOptions, c *pgxpool.Config) { c.ConnConfig.Tracer = tracer })
	cfg := f.Seeded("OPENAI_KEY=key")
	require.NoError(t, f.Seed(cfg))
	p := f.Created(aiseed.ProviderSpec{Type: "openai", Name: "x"})
	require.NoError(t, f.Store.DeleteProvider(ctx, "a", p.ID))
	_, err := f.Store.Providers(ctx)
	require.NoError(t, err)
	_, err = f.Store.DeliverAudits(ctx, f.Audits)
	require.NoError(t, err)
	_, err = f.Store.Rotate(ctx)
	require.NoError(t, err)

	block, said, times := false, false, 0
	for _, trip := range tracer.batches {
		said = said && block // a round trip outside of a block is a transaction of its own
		for _, sql := range trip.sql {
			switch {
			case strings.HasPrefix(sql, "begin"):
				block, said = true, false
			case sql == "commit", sql == "rollback":
				block, said = false, false
			case strings.Contains(sql, "set_config('row_security', 'off', true)"):
				said = true
				times++
			case strings.Contains(sql, "ai_"):
				require.True(t, said, "%s", sql)
			}
		}
	}
	require.Greater(t, times, 10)
}
