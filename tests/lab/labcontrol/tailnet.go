package main

// What the lab's tailnet knows beyond testcontrol: auth keys, who was granted what, who is gone, and what is to
// go wrong next. No network code here.

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/dnstype"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/util/dnsname"
	"tailscale.com/util/rands"
)

// Values of settings.Auth.
const (
	authOpen     = "open"     // everybody joins; keys are not looked at
	authRequired = "required" // a valid key, else a URL to visit: what Tailscale does
	authKeyOnly  = "key"      // a valid key, else an error
)

// settings are changed by tests while nodes run. The zero value misbehaves in no way.
type settings struct {
	Auth            string   `json:"auth"`
	Approval        bool     `json:"approval"`       // machines need approval, unless the key is preauthorized
	PermittedTags   []string `json:"permitted_tags"` // tags a node may ask for beyond those of its key
	RegisterError   string   `json:"register_error"` // text for every login
	RegisterStatus  int      `json:"register_status"`
	RegisterBody    string   `json:"register_body"`
	RegisterDelayS  float64  `json:"register_delay_s"`
	RateLimit       int      `json:"rate_limit"` // so many logins get 429; -1: all
	RetryAfter      string   `json:"retry_after"`
	MapStatus       int      `json:"map_status"` // answer of every map request
	MapBody         string   `json:"map_body"`
	NodeKeyExpiryS  float64  `json:"node_key_expiry_s"`   // of untagged nodes from their login on; 0: never
	ReapEphemeralS  float64  `json:"reap_ephemeral_s"`    // after their last map request; 0: never
	DNSResolvers    []string `json:"dns_resolvers"`       // global resolvers
	MagicDNS        bool     `json:"magic_dns"`           // nodes are to resolve names of the tailnet
	DNSRecords      []record `json:"dns_records"`         // extra records
	ClockOffsetS    float64  `json:"clock_offset_s"`      // of the server's clock that nodes are told; 0: not told
	RegisterPending bool     `json:"register_never_ends"` // logins are read and never answered
}

type record struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// authKey is a key that nodes may present. ID is what error texts name.
type authKey struct {
	Key           string    `json:"key"`
	ID            string    `json:"id"`
	Reusable      bool      `json:"reusable"`
	Ephemeral     bool      `json:"ephemeral"`
	Preauthorized bool      `json:"preauthorized"`
	Tags          []string  `json:"tags"`
	Expires       time.Time `json:"expires"` // zero: never
	Error         string    `json:"error"`   // if set, the answer to whoever presents it
	Uses          int       `json:"uses"`
	usedBy        key.NodePublic
}

// refusal is what the real control server says, or "".
//
// Texts as users report them: github.com/tailscale/tailscale issues 17047 and 9715.
func (k *authKey) refusal(node key.NodePublic, now time.Time) string {
	switch {
	case k == nil:
		return "invalid key: API key does not exist"
	case k.Error != "":
		return k.Error
	case !k.Expires.IsZero() && now.After(k.Expires):
		return "invalid key: API key does not exist"
	case !k.Reusable && k.Uses > 0 && k.usedBy != node:
		return fmt.Sprintf("invalid key: API key %s not valid", k.ID)
	}
	return ""
}

// node is one granted identity. It is kept after its end, because testcontrol cannot forget it either.
type node struct {
	id        string
	machine   key.MachinePublic
	nodeKey   key.NodePublic
	hostname  string
	name      string // full, with a final dot
	tags      []string
	authKey   string
	expiry    time.Time
	ephemeral bool
	approved  bool
	gone      bool // deleted, logged out or replaced
	offline   bool // shown as offline whatever the truth
	logins    int
	streams   map[int]context.CancelFunc // open map polls
}

// loginSeen is one register request, for tests that count.
type loginSeen struct {
	At       time.Time `json:"at"`
	Machine  string    `json:"machine"`
	NodeKey  string    `json:"node_key"`
	OldKey   string    `json:"old_node_key"`
	Hostname string    `json:"hostname"`
	Tags     []string  `json:"tags"`
	AuthKey  string    `json:"auth_key"`
	Followup bool      `json:"followup"`
	Logout   bool      `json:"logout"`
	Outcome  string    `json:"outcome"` // granted, known, url, expired, logout, error, http, pending

	Ephemeral bool   `json:"ephemeral"`
	Text      string `json:"text"` // of the error
}

// pendingLogin is a URL that a person must visit.
type pendingLogin struct {
	URL     string `json:"url"`
	NodeKey string `json:"node_key"`
	done    chan struct{}
	refused string // text instead of success
}

type tailnet struct {
	domain string
	url    string
	inner  *testcontrol.Server

	mu       sync.Mutex
	settings settings
	keys     map[string]*authKey
	nodes    map[key.NodePublic]*node
	pending  map[string]*pendingLogin
	seen     []*loginSeen
	fakes    []*tailcfg.Node
	streams  int // numbers map polls
}

func newTailnet(domain, url string, derp *tailcfg.DERPMap, logf logger.Logf) *tailnet {
	return &tailnet{
		domain:   domain,
		url:      url,
		inner:    &testcontrol.Server{DERPMap: derp, ExplicitBaseURL: url, MagicDNSDomain: domain, Logf: logf},
		settings: settings{Auth: authRequired},
		keys:     map[string]*authKey{},
		nodes:    map[key.NodePublic]*node{},
		pending:  map[string]*pendingLogin{},
	}
}

// poke makes every open map poll send its answer again. This call of testcontrol changes nothing else;
// UpdateNode would write back a stale copy of the node.
func (t *tailnet) poke() { t.inner.SetGlobalAppCaps(nil) }

// rename follows the hostname that a node reports; an unchanged one keeps the name it was given. t.mu must be held.
func (t *tailnet) rename(n *node, hostname string) {
	if n.name == "" || n.hostname != hostname {
		n.hostname = hostname
		n.name = t.uniqueName(n)
	}
}

// uniqueName gives a node its DNS name as the real server does: the second "web" is "web-1".
func (t *tailnet) uniqueName(n *node) string {
	base := dnsname.SanitizeHostname(n.hostname)
	if base == "" {
		base = "node"
	}
	for i := 0; ; i++ {
		name := base
		if i > 0 {
			name = base + "-" + strconv.Itoa(i)
		}
		if name += "." + t.domain + "."; !t.isTaken(name, n) {
			return name
		}
	}
}

func (t *tailnet) isTaken(name string, by *node) bool {
	for _, other := range t.nodes {
		if other != by && !other.gone && other.name == name {
			return true
		}
	}
	return slices.ContainsFunc(t.fakes, func(f *tailcfg.Node) bool { return f.Name == name })
}

// retire takes a node out of the tailnet and cuts its map polls. t.mu must be held.
func (t *tailnet) retire(n *node) {
	n.gone = true
	for _, cancel := range n.streams {
		cancel()
	}
}

// openStream notes a map poll; the returned func ends it.
func (t *tailnet) openStream(n *node, cancel context.CancelFunc) func() {
	t.mu.Lock()
	t.streams++
	id := t.streams
	n.streams[id] = cancel
	t.mu.Unlock()
	t.poke()
	return func() {
		t.mu.Lock()
		delete(n.streams, id)
		reap := t.settings.ReapEphemeralS
		if n.ephemeral && len(n.streams) == 0 && reap > 0 {
			time.AfterFunc(seconds(reap), func() { t.reap(n) })
		}
		t.mu.Unlock()
		t.poke()
	}
}

func (t *tailnet) reap(n *node) {
	t.mu.Lock()
	if len(n.streams) == 0 {
		t.retire(n)
	}
	t.mu.Unlock()
	t.poke()
}

// find returns living nodes by hostname, DNS name, id, node key, address or "all". t.mu must be held.
func (t *tailnet) find(which string) (found []*node) {
	for _, n := range t.nodes {
		if n.gone {
			continue
		}
		short, _, _ := strings.Cut(n.name, ".")
		names := []string{"all", n.hostname, short, n.name, strings.TrimSuffix(n.name, "."), n.id, n.nodeKey.String()}
		if slices.Contains(names, which) || slices.Contains(t.addresses(n), which) {
			found = append(found, n)
		}
	}
	return found
}

func (t *tailnet) addresses(n *node) (ips []string) {
	if known := t.inner.Node(n.nodeKey); known != nil {
		for _, p := range known.Addresses {
			ips = append(ips, p.Addr().String())
		}
	}
	return ips
}

// addURL makes a URL that a person must visit for this node key. t.mu must be held.
func (t *tailnet) addURL(nk key.NodePublic) string {
	id := rands.HexString(12)
	p := &pendingLogin{URL: t.url + "/auth/" + id, NodeKey: nk.String(), done: make(chan struct{})}
	t.pending[id] = p
	return p.URL
}

// visit ends the wait for a URL or for its last part; refused is told to the node if not empty.
func (t *tailnet) visit(url, refused string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := url[strings.LastIndex(url, "/")+1:]
	p := t.pending[id]
	if p == nil {
		return false
	}
	p.refused = refused
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return true
}

// dnsConfig is what nodes are to use, nil if no test asked for any. t.mu must be held.
func (t *tailnet) dnsConfig(certName string) *tailcfg.DNSConfig {
	s := t.settings
	if len(s.DNSResolvers) == 0 && !s.MagicDNS && len(s.DNSRecords) == 0 {
		return nil
	}
	config := &tailcfg.DNSConfig{Proxied: s.MagicDNS, Domains: []string{t.domain}, CertDomains: []string{certName}}
	for _, addr := range s.DNSResolvers {
		config.Resolvers = append(config.Resolvers, &dnstype.Resolver{Addr: addr})
	}
	for _, r := range s.DNSRecords {
		config.ExtraRecords = append(config.ExtraRecords, tailcfg.DNSRecord{Name: r.Name, Value: r.Value})
	}
	return config
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func itoa(n int) string { return strconv.Itoa(n) }
