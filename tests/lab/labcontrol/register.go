package main

// Logins: who may join, by which key, under which name.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// decision is the answer to a login before testcontrol hears of it. Exactly one field is set, or none: granted.
type decision struct {
	outcome string // granted, known, url, expired, logout, error
	url     string
	text    string
	key     *authKey
}

func (g *gate) serveRegister(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	body, err := io.ReadAll(r.Body)
	var req tailcfg.RegisterRequest
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	if err != nil || req.NodeKey.IsZero() || req.Hostinfo == nil {
		http.Error(w, "bad register request", http.StatusBadRequest)
		return
	}
	seen := g.note(&req, machine)
	if g.misbehave(w, r, seen) {
		return
	}
	if req.Followup != "" && !g.awaitVisit(w, r, &req, seen) {
		return
	}
	d := g.decide(&req, machine)
	g.settle(seen, d.outcome, d.text)
	switch d.outcome {
	case "error":
		writeJSON(w, http.StatusOK, tailcfg.RegisterResponse{Error: d.text})
	case "url":
		writeJSON(w, http.StatusOK, tailcfg.RegisterResponse{AuthURL: d.url})
	case "expired":
		writeJSON(w, http.StatusOK, tailcfg.RegisterResponse{NodeKeyExpired: true})
	case "logout":
		g.logOut(&req)
		writeJSON(w, http.StatusOK, tailcfg.RegisterResponse{})
	default:
		g.grant(w, r, &req, machine, d)
	}
}

func (g *gate) note(req *tailcfg.RegisterRequest, machine key.MachinePublic) *loginSeen {
	seen := &loginSeen{
		At: time.Now().UTC(), Machine: machine.String(), NodeKey: req.NodeKey.String(), Hostname: req.Hostinfo.Hostname,
		Tags: req.Hostinfo.RequestTags, Followup: req.Followup != "", Logout: isLogout(req), Ephemeral: req.Ephemeral,
		Outcome: "pending",
	}
	if !req.OldNodeKey.IsZero() {
		seen.OldKey = req.OldNodeKey.String()
	}
	if req.Auth != nil {
		seen.AuthKey = req.Auth.AuthKey
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, seen)
	return seen
}

// isLogout: a node asks to be forgotten by an expiry in the past (controlclient/direct.go, loginOpt.Logout).
func isLogout(req *tailcfg.RegisterRequest) bool {
	return !req.Expiry.IsZero() && req.Expiry.Before(time.Now())
}

func (g *gate) settle(seen *loginSeen, outcome, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen.Outcome, seen.Text = outcome, text
}

// misbehave plays the faults that tests asked for and reports whether the request is thereby answered.
func (g *gate) misbehave(w http.ResponseWriter, r *http.Request, seen *loginSeen) bool {
	g.mu.Lock()
	s := g.settings
	limited := s.RateLimit != 0
	if s.RateLimit > 0 {
		g.settings.RateLimit--
	}
	g.mu.Unlock()
	select {
	case <-time.After(seconds(s.RegisterDelayS)):
	case <-r.Context().Done():
		return true
	}
	switch {
	case s.RegisterPending:
		<-r.Context().Done()
	case limited:
		g.settle(seen, "http", "429")
		if s.RetryAfter != "" {
			w.Header().Set("Retry-After", s.RetryAfter)
		}
		http.Error(w, "too many registrations", http.StatusTooManyRequests)
	case s.RegisterStatus != 0:
		g.settle(seen, "http", itoa(s.RegisterStatus))
		http.Error(w, s.RegisterBody, s.RegisterStatus)
	case s.RegisterError != "":
		g.settle(seen, "error", s.RegisterError)
		writeJSON(w, http.StatusOK, tailcfg.RegisterResponse{Error: s.RegisterError})
	default:
		return false
	}
	return true
}

// awaitVisit blocks until a person visited the URL; false if the request is answered or given up.
func (g *gate) awaitVisit(w http.ResponseWriter, r *http.Request, req *tailcfg.RegisterRequest, seen *loginSeen) bool {
	g.mu.Lock()
	p := g.pending[req.Followup[strings.LastIndex(req.Followup, "/")+1:]]
	g.mu.Unlock()
	if p == nil || p.NodeKey != req.NodeKey.String() {
		g.settle(seen, "error", "unknown login URL")
		writeJSON(w, http.StatusOK, tailcfg.RegisterResponse{Error: "unknown login URL"})
		return false
	}
	select {
	case <-p.done:
	case <-r.Context().Done():
		return false
	}
	if p.refused != "" {
		g.settle(seen, "error", p.refused)
		writeJSON(w, http.StatusOK, tailcfg.RegisterResponse{Error: p.refused})
		return false
	}
	return true
}

// decide is the policy, without side effects but for the use count of a key and a new URL.
func (g *gate) decide(req *tailcfg.RegisterRequest, machine key.MachinePublic) decision {
	g.mu.Lock()
	defer g.mu.Unlock()
	if isLogout(req) {
		return decision{outcome: "logout"}
	}
	var k *authKey
	presented := req.Auth != nil && req.Auth.AuthKey != ""
	if presented {
		k = g.keys[req.Auth.AuthKey]
		// A bad key is refused even from a node in good standing: tailscale issues 16987 and 19501.
		if text := k.refusal(req.NodeKey, time.Now()); text != "" && g.settings.Auth != authOpen {
			return decision{outcome: "error", text: text}
		}
	}
	if text := g.refuseTags(req.Hostinfo.RequestTags, k); text != "" {
		return decision{outcome: "error", text: text}
	}
	if n := g.nodes[req.NodeKey]; n != nil && !n.gone && n.machine == machine {
		if isPast(n.expiry) {
			return decision{outcome: "expired"}
		}
		return decision{outcome: "known", key: k}
	}
	return g.decideNew(req, k)
}

func (g *gate) decideNew(req *tailcfg.RegisterRequest, k *authKey) decision {
	switch {
	case req.Followup != "" || g.settings.Auth == authOpen:
	case k != nil:
		k.Uses++
		k.usedBy = req.NodeKey
	case g.settings.Auth == authKeyOnly:
		return decision{outcome: "error", text: "invalid key: unable to validate API key"}
	default:
		return decision{outcome: "url", url: g.addURL(req.NodeKey)}
	}
	return decision{outcome: "granted", key: k}
}

// refuseTags says which requested tags neither the key nor the policy allows. g.mu must be held.
func (g *gate) refuseTags(requested []string, k *authKey) string {
	if g.settings.Auth == authOpen && k == nil {
		return ""
	}
	var bad []string
	for _, tag := range requested {
		if !(k != nil && slices.Contains(k.Tags, tag)) && !slices.Contains(g.settings.PermittedTags, tag) {
			bad = append(bad, tag)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	return fmt.Sprintf("requested tags %v are invalid or not permitted", bad)
}

func isPast(t time.Time) bool { return !t.IsZero() && t.Before(time.Now()) }

// grant lets testcontrol make or keep the node and answers with what this tailnet decides.
func (g *gate) grant(w http.ResponseWriter, r *http.Request, req *tailcfg.RegisterRequest, machine key.MachinePublic, d decision) {
	answer, err := g.registerInside(r, req, machine)
	if err != nil {
		g.logf("labcontrol: register: %v", err)
		http.Error(w, "labcontrol: "+err.Error(), http.StatusBadGateway)
		return
	}
	n := g.enter(req, machine, d)
	answer.AuthURL, answer.NodeKeyExpired, answer.MachineAuthorized = "", false, n.approved
	writeJSON(w, http.StatusOK, answer)
	g.poke()
}

func (g *gate) registerInside(r *http.Request, req *tailcfg.RegisterRequest, machine key.MachinePublic) (*tailcfg.RegisterResponse, error) {
	inner := *req
	// testcontrol would wait for a URL of its own, and give the address of the old key's node to the new one.
	inner.Followup, inner.Auth = "", nil
	g.mu.Lock()
	if old := g.nodes[req.OldNodeKey]; old == nil || old.gone {
		inner.OldNodeKey = key.NodePublic{}
	}
	g.mu.Unlock()
	body, err := json.Marshal(inner)
	if err != nil {
		return nil, err
	}
	res, err := g.ask(r.Context(), machine, "/machine/register", body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var answer tailcfg.RegisterResponse
	err = json.NewDecoder(res.Body).Decode(&answer)
	return &answer, err
}

// enter writes the node into the books. Its key's tags are the node's, as on the real server.
func (g *gate) enter(req *tailcfg.RegisterRequest, machine key.MachinePublic, d decision) *node {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[req.NodeKey]
	if n == nil || n.gone {
		n = newNode(req, machine, g.nodes[req.OldNodeKey])
		g.nodes[req.NodeKey] = n
		n.approved = n.approved || !g.settings.Approval
	}
	n.logins++
	g.rename(n, req.Hostinfo.Hostname)
	n.ephemeral = n.ephemeral || req.Ephemeral
	if tags := req.Hostinfo.RequestTags; len(tags) > 0 {
		n.tags = tags
	}
	if d.outcome == "granted" {
		n.adopt(d.key)
		n.expiry = time.Time{}
		if s := g.settings.NodeKeyExpiryS; s != 0 && len(n.tags) == 0 {
			n.expiry = time.Now().Add(seconds(s)).Truncate(time.Second) // as clients show it
		}
	}
	if inner := g.inner.Node(n.nodeKey); inner != nil {
		n.id = string(inner.StableID)
	}
	return n
}

// newNode takes over approval and, by its end, the name of the node whose key this one replaces.
func newNode(req *tailcfg.RegisterRequest, machine key.MachinePublic, old *node) *node {
	n := &node{machine: machine, nodeKey: req.NodeKey, streams: map[int]context.CancelFunc{}}
	if old != nil && !old.gone && old.machine == machine {
		n.approved, n.tags, n.ephemeral = old.approved, old.tags, old.ephemeral
		old.gone = true
	}
	return n
}

func (n *node) adopt(k *authKey) {
	if k == nil {
		return
	}
	n.authKey = k.Key
	n.ephemeral = n.ephemeral || k.Ephemeral
	n.approved = n.approved || k.Preauthorized
	if len(n.tags) == 0 {
		n.tags = k.Tags
	}
}

// logOut ends the node: an ephemeral one disappears, another one's key is expired.
func (g *gate) logOut(req *tailcfg.RegisterRequest) {
	g.mu.Lock()
	if n := g.nodes[req.NodeKey]; n != nil {
		n.expiry = time.Now().Add(-time.Minute)
		if n.ephemeral {
			g.retire(n)
		}
	}
	g.mu.Unlock()
	g.poke()
}
