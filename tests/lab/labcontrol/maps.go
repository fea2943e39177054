package main

// Map polls: testcontrol's answers with this tailnet's names, tags, expiries, online marks and absent nodes.

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"
)

func (g *gate) serveMap(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	body, err := io.ReadAll(r.Body)
	var req tailcfg.MapRequest
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	if err != nil {
		http.Error(w, "bad map request", http.StatusBadRequest)
		return
	}
	n, status, text := g.mayPoll(&req, machine)
	if status != 0 {
		http.Error(w, text, status)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	res, err := g.ask(ctx, machine, "/machine/map", body)
	if err != nil {
		http.Error(w, "labcontrol: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	w.WriteHeader(res.StatusCode)
	if req.Stream {
		defer g.openStream(n, cancel)()
	}
	g.copyFrames(w, res.Body, &req)
}

// mayPoll finds the node; a status that is not 0 is the refusal. The real server's words for a deleted node
// are "404 node not found".
func (g *gate) mayPoll(req *tailcfg.MapRequest, machine key.MachinePublic) (n *node, status int, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.settings.MapStatus; s != 0 {
		return nil, s, g.settings.MapBody
	}
	n = g.nodes[req.NodeKey]
	if n == nil || n.gone || n.machine != machine {
		return nil, http.StatusNotFound, "node not found"
	}
	if req.Hostinfo != nil && req.Hostinfo.Hostname != "" {
		g.rename(n, req.Hostinfo.Hostname)
	}
	return n, 0, ""
}

// copyFrames rewrites one length-prefixed message after the other until either side ends.
func (g *gate) copyFrames(w http.ResponseWriter, from io.Reader, req *tailcfg.MapRequest) {
	for {
		var size [4]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return
		}
		message := make([]byte, binary.LittleEndian.Uint32(size[:]))
		if _, err := io.ReadFull(from, message); err != nil {
			return
		}
		message, err := g.rewriteMessage(message, req)
		if err != nil {
			g.logf("labcontrol: map response: %v", err)
			return
		}
		binary.LittleEndian.PutUint32(size[:], uint32(len(message)))
		if _, err := w.Write(append(size[:], message...)); err != nil {
			return
		}
		w.(http.Flusher).Flush()
	}
}

func (g *gate) rewriteMessage(message []byte, req *tailcfg.MapRequest) ([]byte, error) {
	compressed := req.Compress != ""
	plain := message
	if compressed {
		var err error
		if plain, err = zstdframe.AppendDecode(nil, message); err != nil {
			return nil, err
		}
	}
	var res tailcfg.MapResponse
	if err := json.Unmarshal(plain, &res); err != nil {
		return nil, err
	}
	if res.Node == nil {
		return message, nil // keep-alives and pings
	}
	g.rewrite(&res, req.NodeKey)
	plain, err := json.Marshal(res)
	if err != nil || !compressed {
		return plain, err
	}
	return zstdframe.AppendEncode(nil, plain, zstdframe.FastestCompression), nil
}

func (g *gate) rewrite(res *tailcfg.MapResponse, self key.NodePublic) {
	g.mu.Lock()
	defer g.mu.Unlock()
	res.Domain = g.domain
	res.ControlTime = nil // testcontrol's is in 2020
	if offset := g.settings.ClockOffsetS; offset != 0 {
		now := time.Now().Add(seconds(offset))
		res.ControlTime = &now
	}
	if config := g.dnsConfig(g.certName(self)); config != nil {
		res.DNSConfig = config
	}
	if n := g.nodes[self]; n != nil {
		n.describe(res.Node)
		res.Node.Online = nil
		if !n.approved {
			res.Peers = nil
			return
		}
	}
	var absent []tailcfg.NodeID
	res.Peers = slices.DeleteFunc(res.Peers, func(p *tailcfg.Node) bool {
		n := g.nodes[p.Key]
		isAbsent := n == nil || n.gone || !n.approved
		if isAbsent {
			absent = append(absent, p.ID)
		}
		return isAbsent
	})
	for _, p := range res.Peers {
		g.nodes[p.Key].describe(p)
	}
	res.Peers = append(res.Peers, g.fakes...)
	if len(res.Peers) == 0 {
		res.PeersRemoved = absent // to a client no Peers means: as before (tailcfg.MapResponse)
	}
}

func (g *gate) certName(self key.NodePublic) string {
	if n := g.nodes[self]; n != nil && n.name != "" {
		return n.name[:len(n.name)-1]
	}
	return ""
}

// describe puts the tailnet's view of n into testcontrol's.
func (n *node) describe(to *tailcfg.Node) {
	online := len(n.streams) > 0 && !n.offline
	to.Name, to.Tags, to.KeyExpiry, to.MachineAuthorized, to.Machine = n.name, n.tags, n.expiry, n.approved, n.machine
	to.Online = &online
}
