package main

// The gate: what nodes connect to. It ends their Noise layer, so that requests can be read and answers
// rewritten, and speaks Noise again to testcontrol inside this process.

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"tailscale.com/control/controlbase"
	"tailscale.com/control/controlhttp/controlhttpcommon"
	"tailscale.com/control/controlhttp/controlhttpserver"
	"tailscale.com/net/memnet"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// passed are the paths that go to testcontrol as they are. It ends the whole process on a path that it does
// not know, so all others get 404 here.
var passed = map[string]bool{
	"/machine/set-dns":         true,
	"/machine/update-health":   true,
	"/machine/tka/init/begin":  true,
	"/machine/tka/init/finish": true,
	"/machine/tka/bootstrap":   true,
	"/machine/tka/sync/offer":  true,
	"/machine/tka/sign":        true,
}

// innerAddress is what dials to testcontrol are made to; a memnet listener insists on its own name.
const innerAddress = "testcontrol:80"

type gate struct {
	*tailnet
	logf     logger.Logf
	private  key.MachinePrivate // what nodes take for the server's key
	testctl  *memnet.Listener
	innerKey key.MachinePublic // testcontrol's

	tunnelsMu sync.Mutex
	tunnels   map[key.MachinePublic]*tunnel
}

func newGate(t *tailnet, logf logger.Logf) *gate {
	g := &gate{
		tailnet: t, logf: logf, private: key.NewMachine(), testctl: memnet.Listen(innerAddress),
		tunnels: map[key.MachinePublic]*tunnel{},
	}
	go http.Serve(g.testctl, t.inner)
	check(g.learnInnerKey())
	return g
}

func (g *gate) learnInnerKey() error {
	plain := &http.Client{Transport: &http.Transport{DialContext: g.testctl.Dial}}
	defer plain.CloseIdleConnections()
	res, err := plain.Get("http://testcontrol/key?v=1")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var keys tailcfg.OverTLSPublicKeyResponse
	err = json.NewDecoder(res.Body).Decode(&keys)
	g.innerKey = keys.PublicKey
	return err
}

// ServeHTTP is the plain HTTP side, as a node's first request or a browser sees it.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/key":
		writeJSON(w, http.StatusOK, tailcfg.OverTLSPublicKeyResponse{
			LegacyPublicKey: g.private.Public(), PublicKey: g.private.Public(),
		})
	case r.URL.Path == "/ts2021":
		g.serveNoise(w, r)
	case r.URL.Path == "/generate_204":
		w.WriteHeader(http.StatusNoContent)
	case strings.HasPrefix(r.URL.Path, "/auth/") && g.visit(r.URL.Path, ""):
		io.WriteString(w, "You are logged in. This page may be closed.\n")
	case strings.HasPrefix(r.URL.Path, "/c2n/"):
		g.inner.ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (g *gate) serveNoise(w http.ResponseWriter, r *http.Request) {
	conn, err := controlhttpserver.AcceptHTTP(r.Context(), w, r, g.private, nil)
	if err != nil {
		g.logf("labcontrol: noise handshake: %v", err)
		return
	}
	defer conn.Close()
	machine := conn.Peer()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serveMachine(w, r, machine) })
	var server http2.Server
	server.ServeConn(conn, &http2.ServeConnOpts{
		Context: context.WithoutCancel(r.Context()), BaseConfig: &http.Server{Handler: handler},
	})
}

func (g *gate) serveMachine(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	switch {
	case r.URL.Path == "/machine/register":
		g.serveRegister(w, r, machine)
	case r.URL.Path == "/machine/map":
		g.serveMap(w, r, machine)
	case passed[r.URL.Path]:
		(&httputil.ReverseProxy{Director: toInner, Transport: g.tunnel(machine)}).ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

func toInner(r *http.Request) { r.URL.Scheme, r.URL.Host = "https", "testcontrol" }

// ask sends body to testcontrol in the name of a machine. The caller closes the response's body.
func (g *gate) ask(ctx context.Context, machine key.MachinePublic, path string, body []byte) (*http.Response, error) {
	r := &http.Request{
		Method: "POST", URL: &url.URL{Path: path}, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(string(body))), ContentLength: int64(len(body)),
	}
	toInner(r)
	return g.tunnel(machine).RoundTrip(r.WithContext(ctx))
}

// tunnel is a Noise connection to testcontrol with a machine key that stands for one node's.
type tunnel struct {
	gate    *gate
	private key.MachinePrivate
	mu      sync.Mutex
	conn    *http2.ClientConn
}

func (g *gate) tunnel(machine key.MachinePublic) *tunnel {
	g.tunnelsMu.Lock()
	defer g.tunnelsMu.Unlock()
	t := g.tunnels[machine]
	if t == nil {
		t = &tunnel{gate: g, private: key.NewMachine()}
		g.tunnels[machine] = t
	}
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *tunnel) RoundTrip(r *http.Request) (*http.Response, error) {
	conn, err := t.connect()
	if err != nil {
		return nil, err
	}
	return conn.RoundTrip(r)
}

func (t *tunnel) connect() (*http2.ClientConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil && t.conn.CanTakeNewRequest() {
		return t.conn, nil
	}
	noise, err := t.handshake(context.Background())
	if err != nil {
		return nil, fmt.Errorf("noise to testcontrol: %w", err)
	}
	t.conn, err = (&http2.Transport{}).NewClientConn(noise)
	return t.conn, err
}

// handshake upgrades an HTTP request to Noise, as described in tailscale.com/control/controlhttp.
func (t *tunnel) handshake(ctx context.Context) (net.Conn, error) {
	hello, finish, err := controlbase.ClientDeferred(t.private, t.gate.innerKey, uint16(tailcfg.CurrentCapabilityVersion))
	if err != nil {
		return nil, err
	}
	conn, err := t.gate.testctl.Dial(ctx, "tcp", innerAddress)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "POST /ts2021 HTTP/1.1\r\nHost: testcontrol\r\nConnection: upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n",
		controlhttpcommon.UpgradeHeaderValue,
		controlhttpcommon.HandshakeHeaderName, base64.StdEncoding.EncodeToString(hello))
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, errors.New(res.Status)
	}
	return finish(ctx, buffered{conn, reader})
}

// buffered reads first what ReadResponse took beyond the header.
type buffered struct {
	net.Conn
	reader *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.reader.Read(p) }

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}
