package robustness

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"example.com/aiseed"
)

// S11: a server that cannot be used. The connection string has a password in it.
func TestF5_S11_NoConnectErrorShowsThePassword(t *testing.T) {
	t.Parallel()
	w := newSecretWorld(t, true)
	password := w.canaries.value("password of the server")
	quoting := errors.New("no connection as postgres with password " + password)
	hba := w.f.Rows(`show hba_file`)
	require.Len(t, hba, 1)
	w.exec(`create role locked login password 'another'`)
	w.exec(`copy (select 'local all locked scram-sha-256' union all select 'local all postgres trust') to '` + hba[0] + `'`)
	require.Equal(t, []string{"true"}, w.f.Rows(`select pg_reload_conf()`))
	require.NoError(t, w.look(true))
	for name, change := range map[string]func(*pgxpool.Config){
		"no such socket":        func(c *pgxpool.Config) { c.ConnConfig.Host = t.TempDir() },
		"no such port":          func(c *pgxpool.Config) { c.ConnConfig.Host, c.ConnConfig.Port = "127.0.0.1", 1 },
		"no such database":      func(c *pgxpool.Config) { c.ConnConfig.Database = "none" },
		"no such role":          func(c *pgxpool.Config) { c.ConnConfig.User = "none" },
		"another password":      func(c *pgxpool.Config) { c.ConnConfig.User = "locked" },
		"a setting that is bad": func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["work_mem"] = "x" },
		"a host name that does not resolve": func(c *pgxpool.Config) {
			c.ConnConfig.Host = "host.example"
			c.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) {
				return nil, &net.DNSError{Err: quoting.Error(), Name: password}
			}
		},
		"a connection string in the place of the host": func(c *pgxpool.Config) {
			c.ConnConfig.Host = "postgres:" + url.QueryEscape(password) + "@127.0.0.1"
			// The error of net, without a name server: some take seconds, or resolve every name.
			c.ConnConfig.LookupFunc = func(_ context.Context, host string) ([]string, error) {
				return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
		},
		"a dialler that quotes": func(c *pgxpool.Config) {
			c.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, quoting }
		},
		"a hook that quotes": func(c *pgxpool.Config) {
			c.AfterConnect = func(context.Context, *pgx.Conn) error { return quoting }
		},
		"another hook that quotes": func(c *pgxpool.Config) {
			c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return quoting }
		},
		"a check that quotes": func(c *pgxpool.Config) {
			c.ConnConfig.ValidateConnect = func(context.Context, *pgconn.PgConn) error { return quoting }
		},
		"a server that quotes": func(c *pgxpool.Config) {
			answer := "SFATAL\x00C28000\x00M" + quoting.Error() + "\x00D" + quoting.Error() + "\x00H" + quoting.Error() + "\x00\x00"
			c.ConnConfig.DialFunc = answering(string(binary.BigEndian.AppendUint32([]byte("E"), uint32(len(answer)+4))) + answer)
		},
		"a server that talks nonsense": func(c *pgxpool.Config) { c.ConnConfig.DialFunc = answering(quoting.Error() + quoting.Error()) },
	} {
		config := w.f.Pool.Config().Copy()
		config.ConnConfig.Fallbacks = nil
		change(config)
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		require.NoError(t, err)
		options := w.options()
		_, err = aiseed.Open(context.Background(), pool, options)
		pool.Close()
		_, closed := aiseed.Open(context.Background(), pool, options)
		require.ErrorIs(t, closed, aiseed.ErrDatabase)
		var found error
		if !errors.Is(err, aiseed.ErrDatabase) {
			found = fmt.Errorf("want an error of the database, got %v", err)
		}
		for _, r := range append(renderings(err, true), renderings(closed, true)...) {
			found = errors.Join(found, w.printed.find("the error as "+r.how, r.text))
		}
		cases.check(t, kindFault, name, errors.Join(found, w.look(false)))
	}
}

// answering is a server that sends one text.
func answering(what string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			_, _ = server.Read(make([]byte, 1000))
			_, _ = io.WriteString(server, what)
		}()
		return client, nil
	}
}

// E10, S11: a secret is in every variable, also in those that are not for secrets, and in
// every way that makes the variable invalid.
func TestF5_E10_NoConfigErrorShowsASecret(t *testing.T) {
	t.Parallel()
	w := newSecretWorldOutside(t, true)
	dir := t.TempDir()
	random := chance(t.Name())
	wrongs := map[string]func(secret string) string{
		"as it is":                func(s string) string { return s },
		"with a space":            func(s string) string { return s + " " + s },
		"with a line break":       func(s string) string { return "\n" + s },
		"with a NUL":              func(s string) string { return s + "\x00" },
		"that is not UTF-8":       func(s string) string { return s + "\xff" },
		"after an empty element":  func(s string) string { return "," + s },
		"twice":                   func(s string) string { return s + "," + s },
		"six times":               func(s string) string { return s + ",b,c,d,e," + s },
		"that is too long":        func(s string) string { return strings.Repeat(s, 9000/len(s)+1) },
		"as the user of a URL":    func(s string) string { return "https://" + s + "@h/" },
		"as a password in a URL":  func(s string) string { return "https://user:" + s + "@h/" },
		"as a fragment":           func(s string) string { return "https://h/#" + s },
		"as a port":               func(s string) string { return "https://h:" + s },
		"in a query":              func(s string) string { return "https://h/?token=" + url.QueryEscape(s) },
		"as a scheme":             func(s string) string { return s + "://h/" },
		"as a file that is none":  func(s string) string { return "/none/" + s },
		"as a settlement":         func(s string) string { return "name@" + s },
		"in a file, with a space": func(s string) string { return w.file(dir, s+" "+s) },
		"in a file, too large":    func(s string) string { return w.file(dir, strings.Repeat(s, 70000/len(s)+1)) },
		"in a file, with NULs":    func(s string) string { return w.file(dir, s+"\x00\n\n") },
	}
	var names []string
	for _, v := range aiseed.Variables("") {
		name := strings.ReplaceAll(v.Name, "<N>", "0")
		names = append(names, name)
		if v.Plural != "" {
			names = append(names, name+"S", name+"S_FILE")
		}
		if v.Secret {
			names = append(names, name+"_FILE")
		}
	}
	for _, name := range names {
		for wrong, change := range wrongs {
			for range full(1, 10) {
				c := w.canaries[random.IntN(len(canaryNames))]
				// A type or a name is shown if it is short or valid.
				if (strings.HasSuffix(name, "_TYPE") || strings.HasSuffix(name, "_NAME")) && len(c.value) < 20 {
					continue
				}
				for _, typ := range []string{"openai", "anthropic", "cohere", ""} {
					environ := []string{name + "=" + change(c.value), aiseed.DefaultPrefix + "PROVIDER_0_TYPE=" + typ, aiseed.DefaultPrefix + "PROVIDER_0_NAME=name"}
					// A second provider of the same name, which differs.
					if another := strings.Replace(name, "_0_NAME", "_1_NAME", 1); another != name {
						environ = append(environ, another+"="+change(c.value), aiseed.DefaultPrefix+"PROVIDER_1_TYPE=openai", aiseed.DefaultPrefix+"PROVIDER_1_KEY=key")
					}
					_, err := aiseed.ParseEnviron(context.Background(), environ, w.logger)
					text := fmt.Sprint(err)
					for _, verb := range []string{"%+v", "%#v", "%x", "%d"} {
						text += fmt.Sprintf(verb, err)
					}
					cases.check(t, kindFault, fmt.Sprintf("%s holds the %s %s, and the type is %q", name, c.name, wrong, typ), errors.Join(w.printed.find("the error", []byte(text)), w.look(false)))
					if !strings.Contains(name, "PROVIDER_") {
						break
					}
				}
			}
		}
	}
}

// file writes a file and returns its path.
func (w *secretWorld) file(dir, contents string) string {
	path := filepath.Join(dir, uuid.NewString())
	require.NoError(w.t, os.WriteFile(path, []byte(contents), 0o600))
	return path
}
