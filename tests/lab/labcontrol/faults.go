package main

// Faults of the wire: an outage (nobody listens, all connections cut), a stall (connections are accepted and
// nothing is answered).

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// faultListener owns the address that nodes know, whether or not anybody listens there at the moment.
type faultListener struct {
	mu       sync.Mutex
	address  string
	listener net.Listener // nil during an outage
	conns    map[*faultConn]bool
	running  chan struct{} // closed unless stalled
	handler  http.Handler
}

func newFaultListener(address string) (*faultListener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	running := make(chan struct{})
	close(running)
	return &faultListener{
		address: l.Addr().String(), listener: l, conns: map[*faultConn]bool{}, running: running,
	}, nil
}

func (f *faultListener) addr() string { return f.address }

// serve starts to answer with h; it does not block.
func (f *faultListener) serve(h http.Handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handler = h
	go http.Serve(wrapping{f.listener, f}, h)
}

// setOutage closes the listener and every connection, or listens again on the same port.
func (f *faultListener) setOutage(on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on == (f.listener == nil) {
		return nil
	}
	if on {
		f.listener.Close()
		f.listener = nil
		for c := range f.conns {
			c.Conn.Close()
		}
		return nil
	}
	l, err := listenAgain(f.address)
	if err != nil {
		return err
	}
	f.listener = l
	go http.Serve(wrapping{l, f}, f.handler)
	return nil
}

// listenAgain waits up to a second for a port that another process may have taken as its outgoing one.
func listenAgain(address string) (net.Listener, error) {
	deadline := time.Now().Add(time.Second)
	for {
		l, err := net.Listen("tcp", address)
		if err == nil || time.Now().After(deadline) {
			return l, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// setStall freezes or thaws all traffic, of old connections and of new ones.
func (f *faultListener) setStall(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.running:
		if on {
			f.running = make(chan struct{})
		}
	default:
		if !on {
			close(f.running)
		}
	}
}

func (f *faultListener) gate() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running
}

type wrapping struct {
	net.Listener
	owner *faultListener
}

func (w wrapping) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	wrapped := &faultConn{Conn: c, owner: w.owner, closed: make(chan struct{})}
	w.owner.mu.Lock()
	defer w.owner.mu.Unlock()
	w.owner.conns[wrapped] = true
	return wrapped, nil
}

// faultConn holds what it read, and what it is to write, for as long as the stall lasts.
type faultConn struct {
	net.Conn
	owner  *faultListener
	once   sync.Once
	closed chan struct{}
}

var errClosed = errors.New("closed during a stall")

func (c *faultConn) wait() error {
	select {
	case <-c.owner.gate():
		return nil
	case <-c.closed:
		return errClosed
	}
}

func (c *faultConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		return n, err
	}
	return n, c.wait()
}

func (c *faultConn) Write(p []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *faultConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.owner.mu.Lock()
		delete(c.owner.conns, c)
		c.owner.mu.Unlock()
	})
	return c.Conn.Close()
}
