package testkit

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// A Wire carries the store's connections. It counts round trips and cuts connections.
type Wire struct {
	mu         sync.Mutex
	roundTrips int
	sent       bytes.Buffer
	halfClosed int // connections on which the client closed only its direction
	decide     func(sent []byte) Action
	written    func() // called once the message that decide got is written
}

// An Action is what happens to a message.
type Action int

const (
	Pass       Action = iota
	CutBefore         // nothing of it reaches the server
	CutAfter          // it reaches the server, but the answer does not come back
	CutUnheard        // it reaches the server, but nobody waits for the answer
)

// Dial connects to the server.
func (w *Wire) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: conn, wire: w}, nil
}

// Reset clears the count and the record. From now on decide chooses what happens to
// each message.
func (w *Wire) Reset(decide func(sent []byte) Action) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.roundTrips, w.decide = 0, decide
	w.sent.Reset()
}

// Count returns the round trips since Reset, and everything that was sent.
func (w *Wire) Count() (roundTrips int, sent string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.roundTrips, w.sent.String()
}

// HalfClosed returns the number of connections on which the client closed only its direction.
func (w *Wire) HalfClosed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.halfClosed
}

// WhenWritten calls f when the message is written. Call it only while deciding on a message.
func (w *Wire) WhenWritten(f func()) { w.written = f }

// OnceWritten acts on the first message that contains text, and calls then when it
// is written. If a context is cancelled before that, pgx may not send the message.
func (w *Wire) OnceWritten(act Action, text string, then func()) func([]byte) Action {
	return Once(act, text, func() { w.WhenWritten(then) })
}

// Once acts on the first message that contains text. It calls then before the
// message is written.
func Once(act Action, text string, then ...func()) func([]byte) Action {
	done := false
	return func(sent []byte) Action {
		if done || !bytes.Contains(sent, []byte(text)) {
			return Pass
		}
		done = true
		for _, f := range then {
			f()
		}
		return act
	}
}

type wireConn struct {
	net.Conn
	wire  *Wire
	wrote bool
	deaf  bool // an answer counts as lost
}

func (c *wireConn) Write(p []byte) (int, error) {
	c.wire.mu.Lock()
	if !c.wrote && p[0] != 'X' { // a Terminate message is not answered
		c.wrote = true
		c.wire.roundTrips++
	}
	c.wire.sent.Write(p)
	act := Pass
	if c.wire.decide != nil {
		act = c.wire.decide(p)
	}
	c.deaf = c.deaf || act == CutAfter
	written := c.wire.written
	c.wire.written = nil
	c.wire.mu.Unlock()
	if act == CutBefore {
		_ = c.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	n, err := c.Conn.Write(p)
	if act == CutAfter && err == nil {
		c.awaitAnswer()
	}
	if act != Pass {
		_ = c.Conn.Close()
	}
	if written != nil {
		written()
	}
	return n, err
}

// awaitAnswer returns when the server has answered. Otherwise the cancellation that
// pgx sends for a lost connection could overtake the commit.
func (c *wireConn) awaitAnswer() {
	_ = c.Conn.SetReadDeadline(time.Now().Add(Patience))
	_, _ = c.Read(make([]byte, 1))
}

func (c *wireConn) CloseWrite() error {
	c.wire.mu.Lock()
	c.wire.halfClosed++
	c.wire.mu.Unlock()
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func (c *wireConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.mu.Lock()
	c.wrote = false
	deaf := c.deaf
	c.wire.mu.Unlock()
	if deaf {
		// pgx also reads if a write takes long. Whoever reads the answer ends the wait
		// of the other.
		_ = c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}
