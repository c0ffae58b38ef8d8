package robustness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"cdr.dev/slog/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
	"example.com/aiseed/internal/storetest"
	"example.com/aiseed/internal/testkit"
)

// L8, F9: over TLS, with a password that a connection string, a shell and SQL all read in another
// way. A start, an edit, a lost connection and a cancelled call work as without.
func TestL8_TLSAndAPasswordOfSpecialCharacters(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const address, port = "127.83.71.70", "23870" // another server can listen on all addresses at 5432
	const user, password = "us/er@host", `p@ss/w:rd?#&%25'"\ äß€ `
	f, _ := owned(t, "listen_addresses="+address, "port="+port, "password_encryption=scram-sha-256")
	certificate, key := selfSigned(t)
	// The server writes the files itself, since it runs as a user of its own.
	for file, content := range map[string][]byte{
		"server.crt": certificate, "server.key": key,
		"pg_hba.conf": []byte("local all postgres trust\nhostssl all all 127.0.0.0/8 scram-sha-256\n"),
	} {
		f.Exec(fmt.Sprintf("copy (select '%s') to program 'umask 077; base64 -d > %s'", base64.StdEncoding.EncodeToString(content), file))
	}
	f.Exec(`do $do$ begin execute format('create role %I login superuser password %L', '` + user + `', $$` + password + `$$); end $do$`)
	f.Exec(`alter system set ssl = on`)
	f.Exec(`select pg_reload_conf()`)
	dsn := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: address + ":" + port, Path: "/postgres", RawQuery: "sslmode=require"}
	require.Eventually(t, func() bool {
		pool, err := pgxpool.New(ctx, dsn.String())
		require.NoError(t, err)
		defer pool.Close()
		return pool.Ping(ctx) == nil
	}, testkit.Patience, 10*time.Millisecond, "it reloads when it comes to it")

	config, err := pgxpool.ParseConfig(dsn.String())
	require.NoError(t, err)
	wire := &testkit.Wire{}
	config.ConnConfig.DialFunc = wire.Dial
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	defer pool.Close()
	store, err := aiseed.Open(ctx, pool, aiseed.StoreOptions{Keyring: f.Keyring, LockTimeout: testkit.Patience, AuditTimeout: testkit.Patience})
	require.NoError(t, err)
	cfg := f.Parse(manyProviders(300)...)
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, f.Audits, slog.Logger{}))
	require.NoError(t, aiseed.SeedAIProvidersFromEnv(ctx, store, cfg, f.Audits, slog.Logger{}))
	p, err := store.CreateProvider(ctx, "somebody", aiseed.ProviderSpec{Type: "openai", Name: "x"})
	require.NoError(t, err)

	// What is sent cannot be read here, so the connection is lost at the second message of an
	// edit: the commit.
	sent := 0
	wire.Reset(func([]byte) testkit.Action {
		if sent++; sent == 2 {
			return testkit.CutAfter
		}
		return testkit.Pass
	})
	_, err = store.AddProviderKey(ctx, "somebody", p.ID, aiseed.NewSecret("sk-of-x"))
	require.NoError(t, err)
	wire.Reset(nil)
	require.Equal(t, []string{"1"}, f.Rows(`select count(*) from ai_provider_keys where provider_id = $1`, p.ID))

	cancelled, cancel := context.WithCancel(ctx)
	wire.Reset(wire.OnceWritten(testkit.Pass, "", cancel))
	require.ErrorIs(t, store.DeleteProvider(cancelled, "somebody", p.ID), context.Canceled)
	require.Empty(t, f.Rows(storetest.LeftOver))
	require.Len(t, f.Rows(`select id from ai_providers where not deleted and name = 'x'`), 1)
}

func selfSigned(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}
