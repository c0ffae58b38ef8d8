package pg

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/aiseed/internal/text"
)

// A connectError is a failure to get a connection from a pool.
type connectError struct {
	error
	hooks string // the pool's hooks that can have failed
}

func (e *connectError) Unwrap() error { return e.error }

// hooksOf names the hooks of a pool that can fail.
func hooksOf(c *pgxpool.Config) string {
	var names []string
	for name, set := range map[string]bool{
		"BeforeConnect": c.BeforeConnect != nil, "AfterConnect": c.AfterConnect != nil,
		"PrepareConn": c.PrepareConn != nil,
		//lint:ignore SA1019 A host can still use it.
		"BeforeAcquire": c.BeforeAcquire != nil,
	} {
		if set {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " or ")
}

// closedPool is the text of puddle.ErrClosedPool. The library does not depend on that module
// directly, for one error.
const closedPool = "closed pool"

// explain fills in why there is no connection.
func (e *connectError) explain(out *Error) {
	// A hook's error can wrap one of these, of another pool or connection.
	failed, hosts := e.error.(*pgconn.ConnectError)
	switch {
	case hosts && errors.Is(e.error, context.Canceled):
		out.Reason = "the pool was closed while it connected"
	case hosts:
		explainHosts(failed, out)
	case e.error.Error() == closedPool:
		out.Reason = "the pool is closed; close it only after the last call of the store"
	case strings.HasPrefix(e.error.Error(), "pgxpool: too many failed attempts"):
		out.Reason = "the pool gave no connection, because a hook refuses each one: look at its " + e.hooks
	case e.hooks == "":
		out.Reason = "the pool gave no connection"
	default:
		out.failedHook(e.hooks+" of the pool", e.error)
	}
}

// failedHook reports an error of the host's own code, whose text can hold anything.
func (e *Error) failedHook(hook string, err error) {
	e.Hook = &hookError{func() error { return err }}
	class := ""
	var server *pgconn.PgError
	switch typ := fmt.Sprintf("%T", innermost(err)); {
	case errors.As(err, &server):
		e.SQLState = server.Code
		class = " with SQLSTATE " + server.Code
	case !strings.HasPrefix(typ, "*errors.") && !strings.HasPrefix(typ, "*fmt."):
		class = " with an error of the type " + typ
	}
	e.Reason = "the hook " + hook + " failed" + class + "; its text is left out, since it can hold a secret; errors.Is and errors.As find it"
}

func innermost(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}

// A hookError stands for an error of the host's own code. A function holds the error, so that nothing prints it.
type hookError struct{ own func() error }

func (e *hookError) Error() string { return "the text of the hook's error is left out" }

func (e *hookError) Is(target error) bool { return errors.Is(e.own(), target) }

// As finds no error of pgx, and none that such an error wraps, because these quote what a server says.
func (e *hookError) As(target any) bool {
	return hostAs(e.own(), reflect.ValueOf(target).Elem(), target)
}

func hostAs(err error, into reflect.Value, target any) bool {
	typ := reflect.TypeOf(err)
	if typ == nil {
		return false
	}
	named := typ
	if typ.Kind() == reflect.Pointer {
		named = typ.Elem()
	}
	if strings.HasPrefix(named.PkgPath(), "github.com/jackc/") {
		return false
	}
	if typ.AssignableTo(into.Type()) {
		into.Set(reflect.ValueOf(err))
		return true
	}
	if custom, ok := err.(interface{ As(any) bool }); ok && custom.As(target) {
		return true
	}
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		return hostAs(wrapper.Unwrap(), into, target)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(wrapper.Unwrap(), func(err error) bool { return hostAs(err, into, target) })
	}
	return false
}

// A place is a server that the configuration names.
type place struct {
	host string
	port uint16
	tls  string // "with TLS" or "without TLS", or "" if both are tried
	cert bool   // we show a certificate
	said []finding
}

// A finding is the outcome of an attempt to connect, in our own words.
type finding struct {
	found string // "connection refused"
	todo  string // "check that the server runs there"
}

// explainHosts says for each host of the configuration why there is no connection to it.
func explainHosts(failed *pgconn.ConnectError, out *Error) {
	c := failed.Config
	out.Unreachable = true
	if inner := errors.Unwrap(failed); phaseOf(inner) == "AfterConnect error" {
		out.Unreachable = false
		out.failedHook("AfterConnect of the connection's configuration", errors.Unwrap(inner))
		return
	}
	places := placesOf(c)
	for _, err := range attempts(errors.Unwrap(failed)) {
		p, a := locate(places, err)
		f := a.explain(c, out)
		if f.found != "" && !slices.Contains(p.said, f) {
			p.said = append(p.said, f)
		}
	}
	out.Reason = sentence(c, places)
}

// sentence tells what all servers said. What to do is said once if it is the same for several.
func sentence(c *pgconn.Config, places []*place) string {
	var told strings.Builder
	told.WriteString("cannot connect to ")
	todo := ""
	next := func(todoOfNext, joint string) {
		if todo != "" && todo != todoOfNext {
			told.WriteString("; " + todo)
		}
		told.WriteString(joint)
		todo = todoOfNext
	}
	first := true
	for _, p := range places {
		for i, f := range p.said {
			switch {
			case i > 0:
				next(f.todo, ", and then: ")
			case first:
				next(f.todo, p.shown(c, true)+": ")
			default:
				next(f.todo, "; nor to "+p.shown(c, false)+": ")
			}
			first = false
			told.WriteString(f.found)
		}
	}
	next("", "")
	return told.String()
}

// shown says where a server is. If a connection string is badly encoded, parts of the password can be read as the
// host or the database.
func (p *place) shown(c *pgconn.Config, first bool) string {
	switch {
	case misread(c):
		return "the server"
	case p.host == "":
		return "a host"
	}
	where := fmt.Sprintf("%s, port %d", text.Printable(p.host), p.port)
	if first && c.Database != "" && !strings.ContainsAny(c.Database, ":/") {
		where += ", database " + text.Printable(c.Database)
	}
	if answered := strings.HasPrefix(p.said[0].found, "SQLSTATE "); first && answered {
		where += ", user " + text.Printable(c.User)
	}
	return where
}

// misread reports whether a connection string was most likely not read as it was meant. The @ in front of the host
// was then read as a part of something else.
func misread(c *pgconn.Config) bool {
	return strings.Contains(c.Host+c.Database, "@") ||
		slices.ContainsFunc(c.Fallbacks, func(f *pgconn.FallbackConfig) bool { return strings.Contains(f.Host, "@") }) ||
		slices.ContainsFunc(slices.Collect(maps.Keys(c.RuntimeParams)), func(name string) bool {
			return strings.Contains(name, "@") || name != "application_name" && strings.Contains(c.RuntimeParams[name], "@")
		})
}

// placesOf returns the servers of a configuration, and at its end one for errors that name none.
func placesOf(c *pgconn.Config) []*place {
	var places []*place
	for _, f := range append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...) {
		way := "with TLS"
		if f.TLSConfig == nil {
			way = "without TLS"
		}
		i := slices.IndexFunc(places, func(p *place) bool { return p.host == f.Host && p.port == f.Port })
		switch {
		case i < 0:
			places = append(places, &place{host: f.Host, port: f.Port, tls: way, cert: f.TLSConfig != nil && len(f.TLSConfig.Certificates) > 0})
		case places[i].tls != way:
			places[i].tls = ""
		}
	}
	return append(places, &place{})
}

// attempts returns the errors of the single attempts.
func attempts(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if phaseOf(err) == "hostname resolving error" {
		return attempts(errors.Unwrap(err))
	}
	return []error{err}
}

// An attempt is one connection that failed. pgx wraps its error twice, with the address and with what it was doing.
type attempt struct {
	phase string
	err   error
	tls   string
	cert  bool
}

// locate returns whose attempt it was.
func locate(places []*place, err error) (*place, attempt) {
	var dns *net.DNSError
	for _, p := range places {
		if strings.HasSuffix(phaseOf(err), fmt.Sprintf("%d (%s)", p.port, p.host)) {
			return p, attempt{phase: phaseOf(errors.Unwrap(err)), err: errors.Unwrap(err), tls: p.tls, cert: p.cert}
		}
		if errors.As(err, &dns) && dns.Name == p.host {
			return p, attempt{phase: "lookup", err: err}
		}
	}
	return places[len(places)-1], attempt{phase: "lookup", err: err}
}

// phaseOf returns the words that an error puts before those of the error that it wraps.
func phaseOf(err error) string {
	if err == nil {
		return ""
	}
	inner := errors.Unwrap(err)
	if inner == nil {
		return strings.TrimSuffix(err.Error(), ": %!w(<nil>)")
	}
	return strings.TrimSuffix(err.Error(), ": "+inner.Error())
}

// explain says why an attempt failed, or nothing if another attempt says it better.
func (a attempt) explain(c *pgconn.Config, out *Error) finding {
	var (
		server  *pgconn.PgError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		remote  *net.OpError
		header  tls.RecordHeaderError

		certificate *tls.CertificateVerificationError
	)
	switch {
	case errors.As(a.err, &server):
		if out.SQLState == "" {
			out.SQLState = server.Code
		}
		return refusal{server, c, a.tls}.explain()
	case errors.Is(a.err, pgconn.ErrReadOnlyConnection), errors.Is(a.err, pgconn.ErrReadWriteConnection),
		errors.Is(a.err, pgconn.ErrPrimaryConnection), errors.Is(a.err, pgconn.ErrStandbyConnection):
		return finding{wrongKind(a.err), "give the hosts of all servers, or another target_session_attrs"}
	case a.phase == "tls error" && strings.HasSuffix(a.err.Error(), "server refused TLS connection"):
		if a.tls == "" {
			return finding{}
		}
		return finding{"the server refuses TLS, and sslmode asks for it", "turn ssl on there, or set sslmode=disable on a network that you trust"}
	case errors.As(a.err, &unknown):
		return finding{
			"the server's certificate is not from an authority that is trusted",
			"set sslrootcert to the certificate of that authority, or sslmode=require without sslrootcert to encrypt without a check",
		}
	case errors.As(a.err, &name):
		return finding{"the server's certificate is for another host", "connect by a name that it has, or set sslmode=verify-ca"}
	case errors.As(a.err, &invalid) && invalid.Reason == x509.Expired:
		return finding{"the server's certificate has expired, or is not valid yet", "renew it, or correct the clock"}
	case errors.As(a.err, &invalid), errors.As(a.err, &certificate):
		return finding{"the server's certificate cannot be accepted", "renew it: it has to be for a server, from an authority"}
	case errors.As(a.err, &header):
		return finding{"the other side does not speak TLS", "check host and port, and sslnegotiation"}
	case errors.As(a.err, &remote) && remote.Op == "remote error":
		return finding{"the server broke off TLS", "check sslcert and sslkey: the server has to trust that certificate, and both need a TLS version in common"}
	case isNetwork(a.err):
		f := network(a.err)
		// What a server says of a certificate can be lost, because it hangs up behind it.
		if a.cert && a.tls == "with TLS" && a.phase != "dial error" && a.phase != "tls error" && f.found != "timed out" {
			f.todo = "check sslcert and sslkey: the server has to trust that certificate; its log says why"
		}
		return f
	case a.phase == "channel binding check failed", a.phase == "failed SASL auth" && c.ChannelBinding == "require":
		if a.tls == "without TLS" {
			return finding{"channel_binding=require needs TLS", "set sslmode=require too"}
		}
		return finding{
			"channel_binding=require, and the server offers none",
			"remove it, if the password is not scram-sha-256, or a pooler or a proxy decrypts TLS on the way",
		}
	case a.phase == "require_auth check failed", a.phase == "failed SASL auth", a.phase == "failed GSS auth":
		return finding{"the server asks for a login of another kind", "check require_auth, and the method in pg_hba.conf: scram-sha-256 is one that works"}
	case a.phase == "sslcertmode check failed":
		return finding{"sslcertmode=require, and the server asks for no client certificate", "remove it"}
	}
	hook, known := hookOf[a.phase]
	if !known {
		return finding{"the answer is not that of a PostgreSQL server", "check host and port"}
	}
	own := a.err
	if a.phase != "lookup" {
		own = errors.Unwrap(own)
	}
	out.failedHook(hook+" of the connection's configuration", own)
	return finding{found: out.Reason}
}

// hookOf names what a host can have replaced, by what pgx was doing.
var hookOf = map[string]string{
	"lookup": "LookupFunc", "dial error": "DialFunc", "AfterNetConnect failed": "AfterNetConnect", "ValidateConnect failed": "ValidateConnect",
}

func wrongKind(err error) string {
	const text = "the server is not of the kind that target_session_attrs asks for: it is "
	switch {
	case errors.Is(err, pgconn.ErrReadOnlyConnection):
		return text + "read-only, as a standby is"
	case errors.Is(err, pgconn.ErrReadWriteConnection):
		return text + "not read-only"
	case errors.Is(err, pgconn.ErrStandbyConnection):
		return text + "a standby"
	}
	return text + "the primary"
}

func isNetwork(err error) bool {
	var (
		errno  syscall.Errno
		netErr net.Error
	)
	return errors.As(err, &errno) || errors.As(err, &netErr) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe)
}

func network(err error) finding {
	f := finding{networkReason(err), "check that the server runs there"}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		f.todo = "check the host in the connection string, and the name server"
	case errors.Is(err, syscall.ENOENT):
		f.todo += ", and that its unix_socket_directories has this directory"
	case errors.Is(err, syscall.EACCES):
		f.todo = "let the user of this process use the socket: the mode of its directory, unix_socket_permissions, unix_socket_group"
	case f.found == "timed out":
		f.todo = "check host, port and firewall, or raise connect_timeout"
	case f.found == "closed by the other side":
		f.todo = "check that a PostgreSQL server listens there, and its log"
	}
	return f
}
