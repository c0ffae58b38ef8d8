package connections

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/aiseed/internal/ephemeral"
)

// An issuer signs certificates.
type issuer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func authority(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &issuer{certificate, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// issue makes a certificate for an address, that ends after a time from now.
func (i *issuer) issue(t *testing.T, address string, ends time.Duration) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "guest"}, IPAddresses: []net.IP{net.ParseIP(address)},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(ends),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.certificate, &private.PublicKey, i.key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// present lets the server present a certificate, and returns when it does.
func present(t *testing.T, server *ephemeral.Server, trusted *issuer, certificate, key string) {
	t.Helper()
	write(t, server, "server.crt", certificate)
	write(t, server, "server.key", key)
	write(t, server, "root.crt", trusted.pem)
	exec(t, server, "alter system set ssl_ca_file = 'root.crt'")
	exec(t, server, "alter system set ssl = on")
	require.NoError(t, server.Restart(t.Context()))
}

// ownAddress is one on which only this process listens.
func ownAddress() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64+pid>>16&63, pid>>8&255, 1+pid%254)
}

func TestO11_TLSThatIsRequiredOrRefused(t *testing.T) {
	t.Parallel()
	address, port := ownAddress(), "23873" // another server can listen on all addresses at 5432
	server := start(t, strings.Join([]string{
		"hostssl secure all all scram-sha-256", "hostnossl open all all scram-sha-256", "host never all all reject",
		"hostssl certified all all scram-sha-256 clientcert=verify-ca", "hostssl bound all all password",
	}, "\n")+"\n", `create database secure; create database open; create database never; create database none; create database certified; create database bound`, "listen_addresses="+address, "port="+port)
	ours, foreign := authority(t), authority(t)
	dsn := "host=" + address + " port=" + port + " user=guest password=" + canary

	// Without TLS there.
	at := "cannot connect to " + address + ", port " + port + ", database "
	plain := situation{"TLS that is not there", dsn + " dbname=open sslmode=require", "", at + "open: the server refuses TLS, and sslmode asks for it; turn ssl on there, or set sslmode=disable on a network that you trust"}
	plain.now(t, "nothing")

	certificate, key := ours.issue(t, address, time.Hour)
	present(t, server, ours, certificate, key)
	foreignCertificate, foreignKey := foreign.issue(t, address, time.Hour)
	root, foreignRoot := readable(t, "root", ours.pem), readable(t, "root", foreign.pem)
	client := " sslcert=" + readable(t, "crt", foreignCertificate) + " sslkey=" + readable(t, "key", foreignKey)
	const entry = "SQLSTATE 28000: the server refused the login: pg_hba.conf "
	const untrusted = "the server's certificate is not from an authority that is trusted; set sslrootcert to the certificate of that authority, or sslmode=require without sslrootcert to encrypt without a check"
	for _, s := range []situation{
		{"TLS that is required", dsn + " dbname=secure sslmode=disable", "28000", at + "secure, user guest: " + entry + "has no entry for this host, user and database without TLS; set sslmode=require, or add an entry, and reload the server"},
		{"TLS that is refused", dsn + " dbname=open sslmode=require", "28000", at + "open, user guest: " + entry + "has no entry for this host, user and database with TLS; set sslmode=disable, or add an entry, and reload the server"},
		{"neither", dsn + " dbname=none sslmode=prefer", "28000", at + "none, user guest: " + entry + "has no entry for this host, user and database; add an entry, and reload the server"},
		{"rejected", dsn + " dbname=never sslmode=allow", "28000", at + "never, user guest: " + entry + "rejects this host, user and database; change that entry, and reload the server"},
		{"a certificate that is required", dsn + " dbname=certified sslmode=require", "28000", at + "certified, user guest: SQLSTATE 28000: the server wants a client certificate that it trusts; set sslcert and sslkey to a certificate for this user"},
		{"an authority that is not trusted", dsn + " dbname=secure sslmode=verify-ca sslrootcert=" + foreignRoot, "", at + "secure: " + untrusted},
		{"an authority that is not trusted, in full", dsn + " dbname=secure sslmode=verify-full sslrootcert=" + foreignRoot, "", at + "secure: " + untrusted},
		{"channel binding without TLS", dsn + " dbname=open sslmode=disable channel_binding=require", "", at + "open: channel_binding=require needs TLS; set sslmode=require too"},
		{"channel binding without scram", dsn + " dbname=bound sslmode=require channel_binding=require", "", at + "bound: channel_binding=require, and the server offers none; remove it, if the password is not scram-sha-256, or a pooler or a proxy decrypts TLS on the way"},
		{"another kind of login", dsn + " dbname=secure sslmode=require require_auth=md5", "", at + "secure: the server asks for a login of another kind; check require_auth, and the method in pg_hba.conf: scram-sha-256 is one that works"},
	} {
		s.now(t, "nothing")
	}
	// What the server says of it can be lost behind its end of the connection.
	require.Regexp(t, `certified: (the server broke off TLS|connection reset by peer|broken pipe|closed by the other side); check sslcert and sslkey: the server has to trust that certificate`,
		refused(t, dsn+" dbname=certified sslmode=require"+client).Error())

	certificate, key = ours.issue(t, "127.0.0.9", time.Hour)
	present(t, server, ours, certificate, key)
	situation{"another host", dsn + " dbname=secure sslmode=verify-full sslrootcert=" + root, "", at + "secure: the server's certificate is for another host; connect by a name that it has, or set sslmode=verify-ca"}.now(t, "nothing")
	certificate, key = ours.issue(t, address, -time.Hour)
	present(t, server, ours, certificate, key)
	situation{"a certificate that has expired", dsn + " dbname=secure sslmode=verify-full sslrootcert=" + root, "", at + "secure: the server's certificate has expired, or is not valid yet; renew it, or correct the clock"}.now(t, "nothing")
}

// With TLS 1.3 the client is done before the server has looked at its certificate, and a reset can
// overtake what the server says of it.
func TestO11_ACertificateThatIsRefusedWithoutAWord(t *testing.T) {
	t.Parallel()
	ours := authority(t)
	certificate, key := ours.issue(t, "127.0.0.1", time.Hour)
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	require.NoError(t, err)
	port := listening(t, func(conn net.Conn) {
		_, _ = io.CopyN(io.Discard, conn, 8) // the request for TLS
		_, _ = conn.Write([]byte("S"))
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}).Handshake()
		_ = conn.(*net.TCPConn).SetLinger(0)
	})
	dsn := fmt.Sprintf("host=127.0.0.1 port=%d user=guest password=%s", port, canary)
	client := " sslcert=" + readable(t, "crt", certificate) + " sslkey=" + readable(t, "key", key)
	const ofCertificate = "; check sslcert and sslkey: the server has to trust that certificate; its log says why"
	require.ErrorContains(t, refused(t, dsn+" sslmode=require"+client), ofCertificate)
	require.NotContains(t, refused(t, dsn+" sslmode=require").Error(), ofCertificate)
	require.NotContains(t, refused(t, dsn+" sslmode=prefer"+client).Error(), ofCertificate, "the second attempt showed none")
}
