// Labcontrol is the control server of the tests: Tailscale's own in-memory testcontrol with DERP and STUN,
// behind a gate that can refuse, delay and rewrite what nodes are told, beside the two endpoints of the
// admin API that mint auth keys.
//
// It prints one line of JSON when it is ready and ends when its standard input closes, so that no control
// server outlives the test that started it. It keeps everything in memory and must never be reachable from
// outside the machine.
//
// Why a gate: testcontrol compares every login with one single key, cannot forget a node, and shows register
// requests to nobody. Nodes speak Noise, so the gate is a Noise server of its own for them and a Noise client
// (one machine key per node) of testcontrol; only exported packages of tailscale.com are used.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tailscale.com/tstest/integration"
	"tailscale.com/types/logger"
)

// ready is the one line on standard output.
type ready struct {
	URL    string `json:"url"`     // what nodes get as --login-server
	Admin  string `json:"admin"`   // http://… or unix:/path of the tests' own API
	DERP   string `json:"derp"`    // host:port of the relay (TLS, certificate not checked by lab nodes)
	API    string `json:"api"`     // base URL of the minting endpoints
	APITLS string `json:"api_tls"` // the same over TLS, empty without -tls-dir
	CA     string `json:"ca"`      // PEM file that signs it, empty without -tls-dir
	PID    int    `json:"pid"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address for nodes; its host is used for DERP and the API too")
	admin := flag.String("admin", "127.0.0.1:0", "address of the tests' own API, or unix:/path")
	tailnet := flag.String("tailnet", "example.ts.net", "tailnet name and MagicDNS domain")
	auth := flag.String("auth", authRequired, "who may join: open, required (valid key or URL), key (valid key only)")
	tlsDir := flag.String("tls-dir", "", "serve the API over TLS too and write ca.pem here")
	tlsStart := flag.Duration("tls-start", -time.Hour, "start of the certificate's validity, from now")
	verbose := flag.Bool("verbose", false, "log what testcontrol logs")
	flag.Parse()
	log.SetFlags(log.Ltime | log.Lmicroseconds)

	host, _, err := net.SplitHostPort(*listen)
	check(err)
	var logf logger.Logf = logger.Discard
	if *verbose {
		logf = log.Printf
	}
	derp := integration.RunDERPAndSTUN(harness{}, logf, host)

	front, err := newFaultListener(*listen)
	check(err)
	url := "http://" + front.addr()
	network := newTailnet(*tailnet, url, derp, logf)
	network.settings.Auth = *auth
	front.serve(newGate(network, logf))

	api := newAPI(network)
	out := ready{URL: url, API: serveOn(net.JoinHostPort(host, "0"), api), PID: os.Getpid()}
	if *tlsDir != "" {
		out.CA = filepath.Join(*tlsDir, "ca.pem")
		out.APITLS = serveTLS(host, api, out.CA, time.Now().Add(*tlsStart))
	}
	for _, region := range derp.Regions {
		out.DERP = net.JoinHostPort(host, itoa(region.Nodes[0].DERPPort))
	}
	out.Admin = serveOn(*admin, newAdmin(network, api, front))
	check(json.NewEncoder(os.Stdout).Encode(out))

	io.Copy(io.Discard, os.Stdin)
}

// serveOn serves h on host:port or unix:/path and returns its URL.
func serveOn(addr string, h http.Handler) string {
	network, scheme := "tcp", "http://"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, scheme, addr = "unix", "unix:", path
	}
	l, err := net.Listen(network, addr)
	check(err)
	go http.Serve(l, h)
	return scheme + l.Addr().String()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// harness is the little of testing.TB that RunDERPAndSTUN wants from a program which is not a test. Its
// clean-ups are not kept: the end of the process is the clean-up.
type harness struct{ testing.TB }

func (harness) Helper()                           {}
func (harness) Cleanup(func())                    {}
func (harness) Logf(format string, args ...any)   { log.Printf(format, args...) }
func (harness) Log(args ...any)                   { log.Print(args...) }
func (harness) Fatal(args ...any)                 { log.Fatal(args...) }
func (harness) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }
func (harness) Error(args ...any)                 { log.Fatal(args...) }
func (harness) Errorf(format string, args ...any) { log.Fatalf(format, args...) }
func (harness) Name() string                      { return "labcontrol" }
