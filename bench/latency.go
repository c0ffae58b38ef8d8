package main

import (
	"context"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// delayed dials through a proxy that holds back what the client sends. A round
// trip so takes longer by latency, however much is sent at once: throughput is
// not limited.
func delayed(latency time.Duration) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var dialer net.Dialer
		server, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			server.Close()
			return nil, err
		}
		defer listener.Close() // one connection each
		client, err := dialer.DialContext(ctx, "tcp", listener.Addr().String())
		if err != nil {
			server.Close()
			return nil, err
		}
		inside, err := listener.Accept()
		if err != nil {
			server.Close()
			client.Close()
			return nil, err
		}
		go forward(server, inside, latency)
		go forward(inside, server, 0)
		return client, nil
	}
}

// forward copies from one connection to the other until one ends, and then ends
// both.
func forward(to, from net.Conn, delay time.Duration) {
	type chunk struct {
		bytes []byte
		due   time.Time
	}
	chunks := make(chan chunk, 4096) // far more than is under way at any delay here
	go func() {
		defer to.Close()
		defer from.Close()
		for c := range chunks {
			if delay > 0 {
				time.Sleep(time.Until(c.due))
			}
			if _, err := to.Write(c.bytes); err != nil {
				break
			}
		}
		for range chunks { // lets the reader end
		}
	}()
	defer close(chunks)
	for {
		buffer := make([]byte, 64<<10)
		n, err := from.Read(buffer)
		if n > 0 {
			chunks <- chunk{buffer[:n], time.Now().Add(delay)}
		}
		if err != nil {
			return
		}
	}
}
