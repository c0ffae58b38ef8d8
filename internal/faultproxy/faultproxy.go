// Package faultproxy is a proxy between a PostgreSQL client and its server. It reads
// every message of the protocol in both directions, and causes one fault at a given
// message.
//
// Messages are counted per direction, from 1, over all connections that were opened
// since [Proxy.Arm], including their start-up messages. A CancelRequest is passed on
// and not counted, because the time when a client sends it is random.
package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"

	"example.com/aiseed/internal/ephemeral"
)

// A Direction is the direction of a message.
type Direction string

// The directions.
const (
	ToServer Direction = "to server"
	ToClient Direction = "to client"
)

// Directions lists both directions.
var Directions = []Direction{ToServer, ToClient}

// A Kind is what is done to a message.
type Kind string

// The kinds of fault. A cut closes both sides of the connection.
const (
	None      Kind = "nothing"    // it passes; only the function of [Proxy.Arm] is called
	CutBefore Kind = "cut before" // it does not arrive
	CutInside Kind = "cut inside" // half of it arrives
	CutAfter  Kind = "cut after"  // it arrives, but nothing after it does
	Hold      Kind = "hold"       // it and all that follows arrive after [Proxy.Release]
	DropReply Kind = "drop reply" // it reaches the server; later replies do not arrive; then a cut
)

// Kinds lists all kinds of fault except None.
var Kinds = []Kind{CutBefore, CutInside, CutAfter, Hold, DropReply}

// A Fault says what a [Proxy] does, and at which message. The zero Fault does nothing.
type Fault struct {
	Direction Direction
	Message   int // from 1
	Kind      Kind
	ForGood   bool // new connections are refused afterwards
}

// String describes the fault in short.
func (f Fault) String() string {
	often := "once"
	if f.ForGood {
		often = "for good"
	}
	return fmt.Sprintf("message %d %s, %s, %s", f.Message, f.Direction, f.Kind, often)
}

// A Proxy listens on a Unix socket. Its methods can be called concurrently. There
// is no useful zero Proxy.
type Proxy struct {
	dir      string
	listener net.Listener
	dial     func() (net.Conn, error)
	pumps    sync.WaitGroup

	mu       sync.Mutex
	conns    map[*conn]bool
	round    int // number of calls of Arm
	opened   int // connections since Arm
	fault    Fault
	then     func()
	fired    bool
	called   chan struct{} // closed when then has returned
	released chan struct{}
	counts   map[Direction]int
	record   []string
}

// Start starts a proxy to the server at network and address, as for net.Dial.
func Start(network, address string) (*Proxy, error) {
	parent, err := ephemeral.ParentDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, "faultproxy-")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	p := &Proxy{
		dir:      dir,
		listener: listener,
		dial: func() (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(context.Background(), network, address)
		},
		conns: map[*conn]bool{},
	}
	p.Arm(Fault{}, nil)
	p.pumps.Go(p.accept)
	return p, nil
}

// Host returns the host to connect to, which is a directory. The port is 5432.
func (p *Proxy) Host() string { return p.dir }

// Arm clears the count and the record. From now on the proxy forwards the messages of
// existing connections without counting them. At the message of the fault it calls then,
// if then is not nil, and after that causes the fault.
func (p *Proxy) Arm(f Fault, then func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.round++
	p.fault, p.then, p.fired, p.called = f, then, false, make(chan struct{})
	p.opened, p.counts, p.record = 0, map[Direction]int{}, nil
	p.released = make(chan struct{})
}

// Release forwards held messages, and accepts new connections again.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault.ForGood = false
	select {
	case <-p.released:
	default:
		close(p.released)
	}
}

// Fired reports whether the message of the fault came. If it came, Fired first waits until
// the function of [Proxy.Arm] has returned.
func (p *Proxy) Fired() bool {
	p.mu.Lock()
	fired, called := p.fired, p.called
	p.mu.Unlock()
	if fired {
		<-called
	}
	return fired
}

// Record returns what happened since Arm, one line for each message.
func (p *Proxy) Record() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.record, "\n")
}

// Close cuts every connection and returns when nothing of the proxy is left.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.Release()
	p.mu.Lock()
	for c := range p.conns {
		c.cut()
	}
	p.mu.Unlock()
	p.pumps.Wait()
	return errors.Join(err, os.RemoveAll(p.dir))
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.pumps.Go(func() { p.serve(client) })
	}
}

// A conn is a client's connection and ours to the server.
type conn struct {
	client, server net.Conn
	number, round  int

	mu       sync.Mutex
	dropping bool // nothing more reaches the client
}

func (c *conn) cut() {
	_ = c.client.Close()
	_ = c.server.Close()
}

// serve returns when the connection has ended.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := p.dial()
	if err != nil {
		return
	}
	defer server.Close()
	c := &conn{client: client, server: server}
	p.mu.Lock()
	refuse := p.fired && p.fault.ForGood
	p.opened++
	c.number, c.round = p.opened, p.round
	p.conns[c] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}()
	if refuse {
		p.note(c, "refused")
		return
	}

	backend := pgproto3.NewBackend(client, io.Discard)
	first, err := startup(client, backend)
	if err != nil {
		return
	}
	if _, ok := first.(*pgproto3.CancelRequest); ok {
		p.note(c, "a CancelRequest")
		raw, _ := first.Encode(nil)
		_, _ = server.Write(raw)
		_, _ = io.Copy(io.Discard, server) // the server answers by closing
		return
	}
	var answers sync.WaitGroup
	answers.Go(func() { p.pumpToClient(c, backend) })
	p.pumpToServer(c, backend, first)
	answers.Wait()
}

// startup refuses encryption, and returns the first message that is not about it.
func startup(client net.Conn, backend *pgproto3.Backend) (pgproto3.FrontendMessage, error) {
	for {
		first, err := backend.ReceiveStartupMessage()
		if err != nil {
			return nil, err
		}
		switch first.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := client.Write([]byte{'N'}); err != nil {
				return nil, err
			}
		default:
			return first, nil
		}
	}
}

func (p *Proxy) pumpToServer(c *conn, backend *pgproto3.Backend, message pgproto3.FrontendMessage) {
	var err error
	for err == nil {
		if !p.pass(c, ToServer, message) {
			return
		}
		message, err = backend.Receive()
	}
	// The client closed. Tell the server, after it got all messages before that.
	if half, ok := c.server.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

func (p *Proxy) pumpToClient(c *conn, backend *pgproto3.Backend) {
	defer c.client.Close()
	frontend := pgproto3.NewFrontend(c.server, io.Discard)
	for {
		message, err := frontend.Receive()
		if err != nil {
			return
		}
		if _, ok := message.(pgproto3.AuthenticationResponseMessage); ok {
			_ = backend.SetAuthType(frontend.GetAuthType()) // to decode the answer
		}
		if !p.pass(c, ToClient, message) {
			return
		}
	}
}

type encoder interface {
	Encode([]byte) ([]byte, error)
}

// pass forwards a message, or applies the fault to it. It reports whether the
// connection still exists.
func (p *Proxy) pass(c *conn, direction Direction, message encoder) bool {
	raw, err := message.Encode(nil)
	if err != nil {
		c.cut()
		return false
	}
	name := strings.TrimPrefix(fmt.Sprintf("%T", message), "*pgproto3.")
	_, last := message.(*pgproto3.ReadyForQuery)
	to := c.server
	if direction == ToClient {
		to = c.client
	}

	switch kind := p.next(c, direction, name); kind {
	case None:
		if direction == ToClient && c.isDropping() {
			if last {
				c.cut()
			}
			return !last
		}
		_, _ = to.Write(raw) // an error is noticed where the connection is read
		return true
	case Hold:
		p.mu.Lock()
		released := p.released
		p.mu.Unlock()
		<-released
		_, _ = to.Write(raw)
		return true
	case DropReply:
		c.mu.Lock()
		c.dropping = true
		c.mu.Unlock()
		if direction == ToServer {
			_, _ = to.Write(raw)
		} else if last {
			c.cut()
			return false
		}
		return true
	case CutInside:
		_, _ = to.Write(raw[:max(1, len(raw)/2)])
	case CutAfter:
		_, _ = to.Write(raw)
	}
	c.cut()
	return false
}

func (c *conn) isDropping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropping
}

// next counts a message and returns what to do with it.
func (p *Proxy) next(c *conn, direction Direction, name string) Kind {
	p.mu.Lock()
	if c.round != p.round {
		p.mu.Unlock()
		return None
	}
	p.counts[direction]++
	number := p.counts[direction]
	line := fmt.Sprintf("connection %d %s %d %s", c.number, direction, number, name)
	hit := !p.fired && p.fault.Kind != "" && direction == p.fault.Direction && number == p.fault.Message
	kind, then, called := None, p.then, p.called
	if hit {
		p.fired = true
		kind = p.fault.Kind
		line += ": " + string(kind)
	}
	p.record = append(p.record, line)
	p.mu.Unlock()
	if hit {
		if then != nil {
			then()
		}
		close(called)
	}
	return kind
}

func (p *Proxy) note(c *conn, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.record = append(p.record, fmt.Sprintf("connection %d %s", c.number, what))
}
