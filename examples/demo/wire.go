package main

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
)

// A wire counts what its connections do. It sees no locks if they use TLS.
type wire struct{ roundTrips, locks atomic.Int64 }

type cost struct{ roundTrips, locks int64 }

// take returns the counts since the last call.
func (w *wire) take() cost { return cost{w.roundTrips.Swap(0), w.locks.Swap(0)} }

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: conn, wire: w}, nil
}

type wireConn struct {
	net.Conn
	wire    *wire
	waiting atomic.Bool // for the server's answer
}

func (c *wireConn) Write(p []byte) (int, error) {
	if !c.waiting.Swap(true) {
		c.wire.roundTrips.Add(1)
	}
	c.wire.locks.Add(int64(bytes.Count(p, []byte("pg_advisory_xact_lock("))))
	return c.Conn.Write(p)
}

func (c *wireConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.waiting.Store(false)
	}
	return n, err
}
