package main

// The tests' own API: JSON over HTTP, one path per knob. Not part of any product; free to change with the tests.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/rands"
)

type admin struct {
	*tailnet
	api   *api
	front *faultListener
}

// newAdmin routes. A GET reads, everything else changes; errors are {"error": text} with a 4xx status.
func newAdmin(t *tailnet, minting *api, front *faultListener) http.Handler {
	a := &admin{tailnet: t, api: minting, front: front}
	mux := http.NewServeMux()
	mux.Handle("GET /settings", answer(func(*http.Request) (any, error) { return a.current(), nil }))
	mux.Handle("PATCH /settings", answer(a.patchSettings))
	mux.Handle("GET /keys", answer(func(*http.Request) (any, error) { return a.allKeys(), nil }))
	mux.Handle("POST /keys", answer(a.addKey))
	mux.Handle("DELETE /keys/{key}", answer(a.removeKey))
	mux.Handle("GET /nodes", answer(func(*http.Request) (any, error) { return a.allNodes(), nil }))
	mux.Handle("POST /nodes/{node}/{act}", answer(a.changeNodes))
	mux.Handle("GET /logins", answer(func(*http.Request) (any, error) { return a.allLogins(), nil }))
	mux.Handle("GET /urls", answer(func(*http.Request) (any, error) { return a.openURLs(), nil }))
	mux.Handle("POST /urls", answer(a.visitURL))
	mux.Handle("POST /fakes", answer(a.addFakes))
	mux.Handle("POST /outage", answer(a.setOutage))
	mux.Handle("POST /stall", answer(a.setStall))
	mux.Handle("POST /minting/clients", answer(minting.addClient))
	mux.Handle("POST /minting/faults", answer(minting.addFault))
	mux.Handle("DELETE /minting/faults", answer(minting.clearFaults))
	mux.Handle("GET /minting/requests", answer(minting.allRequests))
	return mux
}

// answer turns a func into a handler.
func answer(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := f(r)
		if err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		if value == nil {
			value = struct{}{}
		}
		writeJSON(w, http.StatusOK, value)
	})
}

// read decodes a body and refuses fields that nobody knows, so that a misspelt knob fails its test.
func read(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	return d.Decode(into)
}

func (a *admin) current() settings {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.settings
}

// patchSettings changes the fields that are named and tells all nodes.
func (a *admin) patchSettings(r *http.Request) (any, error) {
	a.mu.Lock()
	changed := a.settings
	err := read(r, &changed)
	if err == nil && changed.Auth != authOpen && changed.Auth != authRequired && changed.Auth != authKeyOnly {
		err = fmt.Errorf("auth is open, required or key, not %q", changed.Auth)
	}
	if err == nil {
		a.settings = changed
	}
	a.mu.Unlock()
	a.poke()
	return changed, err
}

func (a *admin) allKeys() []authKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []authKey{}
	for _, k := range a.keys {
		all = append(all, *k)
	}
	return all
}

// addKey makes an auth key; without "key" a fresh one that looks like a real one.
func (a *admin) addKey(r *http.Request) (any, error) {
	var in struct {
		authKey
		ExpiresInS *float64 `json:"expires_in_s"` // negative: expired already
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	k := in.authKey
	if in.ExpiresInS != nil {
		k.Expires = time.Now().Add(seconds(*in.ExpiresInS))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tailnet.addKey(&k), nil
}

// addKey stores k and fills in what it lacks. t.mu must be held.
func (t *tailnet) addKey(k *authKey) *authKey {
	if k.ID == "" {
		k.ID = "k" + rands.HexString(10) + "CNTRL"
	}
	if k.Key == "" {
		k.Key = "tskey-auth-" + k.ID + "-" + rands.HexString(32)
	}
	t.keys[k.Key] = k
	return k
}

func (a *admin) removeKey(r *http.Request) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keys[r.PathValue("key")] == nil {
		return nil, fmt.Errorf("no such key")
	}
	delete(a.keys, r.PathValue("key"))
	return nil, nil
}

// nodeSeen is a node as tests read it.
type nodeSeen struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"` // without the final dot
	Hostname  string    `json:"hostname"`
	NodeKey   string    `json:"node_key"`
	Machine   string    `json:"machine"`
	IPs       []string  `json:"ips"`
	Tags      []string  `json:"tags"`
	AuthKey   string    `json:"auth_key"`
	KeyExpiry time.Time `json:"key_expiry"`
	Ephemeral bool      `json:"ephemeral"`
	Approved  bool      `json:"approved"`
	Online    bool      `json:"online"`
	Logins    int       `json:"logins"`
}

func (a *admin) allNodes() []nodeSeen {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []nodeSeen{}
	for _, n := range a.find("all") {
		all = append(all, nodeSeen{
			ID: n.id, Name: strings.TrimSuffix(n.name, "."), Hostname: n.hostname, NodeKey: n.nodeKey.String(),
			Machine: n.machine.String(), IPs: a.addresses(n), Tags: append([]string{}, n.tags...), AuthKey: n.authKey,
			KeyExpiry: n.expiry, Ephemeral: n.ephemeral, Approved: n.approved, Online: len(n.streams) > 0, Logins: n.logins,
		})
	}
	return all
}

// changeNodes does one act to each node that fits (tailnet.find), and fails if none does.
func (a *admin) changeNodes(r *http.Request) (any, error) {
	a.mu.Lock()
	found := a.find(r.PathValue("node"))
	err := error(nil)
	for _, n := range found {
		err = a.change(n, r.PathValue("act"))
	}
	a.mu.Unlock()
	if len(found) == 0 {
		return nil, fmt.Errorf("no node %q", r.PathValue("node"))
	}
	a.poke()
	return map[string]int{"changed": len(found)}, err
}

func (a *admin) change(n *node, act string) error {
	switch act {
	case "approve":
		n.approved = true
	case "delete":
		a.retire(n)
	case "forget": // as headscale does: the open poll goes on, everything else is answered 404
		n.gone = true
	case "expire":
		n.expiry = time.Now().Add(-time.Minute)
	case "offline":
		n.offline = true
	case "online":
		n.offline = false
	case "cut": // ends its map polls once; it comes back by itself
		for _, cancel := range n.streams {
			cancel()
		}
	default:
		return fmt.Errorf("no act %q: approve, delete, forget, expire, offline, online, cut", act)
	}
	return nil
}

func (a *admin) allLogins() []loginSeen {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []loginSeen{}
	for _, s := range a.seen {
		all = append(all, *s)
	}
	return all
}

func (a *admin) openURLs() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	open := []string{}
	for _, p := range a.pending {
		select {
		case <-p.done:
		default:
			open = append(open, p.URL)
		}
	}
	return open
}

func (a *admin) visitURL(r *http.Request) (any, error) {
	var in struct {
		URL   string `json:"url"`
		Error string `json:"error"` // what the node is told instead of success
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	if !a.visit(in.URL, in.Error) {
		return nil, fmt.Errorf("no such login URL")
	}
	return nil, nil
}

// addFakes puts n peers into everybody's network map that nobody runs; the first `online` of them look online.
func (a *admin) addFakes(r *http.Request) (any, error) {
	var in struct {
		N      int    `json:"n"`
		Online int    `json:"online"`
		Prefix string `json:"prefix"`
		Tag    string `json:"tag"`
	}
	if err := read(r, &in); err != nil {
		return nil, err
	}
	if in.Prefix == "" {
		in.Prefix = "fake"
	}
	a.mu.Lock()
	for i := range in.N {
		a.fakes = append(a.fakes, a.newFake(in.Prefix, in.Tag, i < in.Online))
	}
	a.mu.Unlock()
	a.poke()
	return nil, nil
}

func (a *admin) newFake(prefix, tag string, online bool) *tailcfg.Node {
	number := len(a.fakes) + 1
	// 100.65.x.y: testcontrol gives its nodes 100.64.x.y.
	address := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 65, byte(number >> 8), byte(number)}), 32)
	hostname := prefix + "-" + itoa(number)
	fake := &tailcfg.Node{
		ID: tailcfg.NodeID(1_000_000 + number), StableID: tailcfg.StableNodeID("FAKE" + itoa(number)),
		Name: hostname + "." + a.domain + ".", User: 1, Key: key.NewNode().Public(), Machine: key.NewMachine().Public(),
		DiscoKey: key.NewDisco().Public(), Addresses: []netip.Prefix{address}, AllowedIPs: []netip.Prefix{address},
		Hostinfo:          (&tailcfg.Hostinfo{Hostname: hostname, OS: "linux"}).View(),
		MachineAuthorized: true, HomeDERP: 1, Online: &online, Cap: tailcfg.CurrentCapabilityVersion,
	}
	if tag != "" {
		fake.Tags = []string{tag}
	}
	return fake
}

func (a *admin) setOutage(r *http.Request) (any, error) {
	on, err := readOn(r)
	if err != nil {
		return nil, err
	}
	return nil, a.front.setOutage(on)
}

func (a *admin) setStall(r *http.Request) (any, error) {
	on, err := readOn(r)
	if err == nil {
		a.front.setStall(on)
	}
	return nil, err
}

func readOn(r *http.Request) (bool, error) {
	var in struct {
		On bool `json:"on"`
	}
	err := read(r, &in)
	return in.On, err
}
