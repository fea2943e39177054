package main

// The two endpoints of Tailscale's admin API that make auth keys, and their faults.
// Shapes: tailscale.com/api, "OAuth clients" and "Create auth key".

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"tailscale.com/util/rands"
)

type client struct {
	ID     string   `json:"id"` // of an OAuth client; empty for an API key, which is its secret
	Secret string   `json:"secret"`
	Scopes []string `json:"scopes"` // nil: auth_keys
	Tags   []string `json:"tags"`   // that it may give away; nil: any
}

// mintFault replaces or spoils the answer of one endpoint.
type mintFault struct {
	Endpoint    string            `json:"endpoint"` // token, keys, or empty for both
	Times       int               `json:"times"`    // 0: until cleared
	Status      int               `json:"status"`   // 0: the true answer, spoiled by what follows
	Body        string            `json:"body"`
	ContentType string            `json:"content_type"`
	Headers     map[string]string `json:"headers"` // Retry-After, Location, …
	DelayS      float64           `json:"delay_s"` // before the first byte
	Cut         bool              `json:"cut"`     // close the connection in the middle of the body
	DripS       float64           `json:"drip_s"`  // between single bytes of the body
	used        int
}

// mintRequest is what tests look at afterwards.
type mintRequest struct {
	At      time.Time   `json:"at"`
	Method  string      `json:"method"`
	Path    string      `json:"path"`
	Host    string      `json:"host"`
	Headers http.Header `json:"headers"`
	Body    string      `json:"body"`
	Status  int         `json:"status"`
	TLS     bool        `json:"tls"`
}

type api struct {
	tailnet  *tailnet
	mu       sync.Mutex
	clients  []*client
	tokens   map[string]*client
	faults   []*mintFault
	requests []*mintRequest
}

func newAPI(t *tailnet) *api { return &api{tailnet: t, tokens: map[string]*client{}} }

// refused is an answer in the words of the real API: {"message": …}.
type refused struct {
	status  int
	message string
}

func (e refused) Error() string { return e.message }

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	seen := &mintRequest{
		At: time.Now().UTC(), Method: r.Method, Path: r.URL.Path, Host: r.Host, Headers: r.Header.Clone(),
		Body: string(body), TLS: r.TLS != nil,
	}
	a.mu.Lock()
	a.requests = append(a.requests, seen)
	a.mu.Unlock()
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	endpoint, handle := a.route(r)
	fault := a.takeFault(endpoint)
	status, out := http.StatusOK, []byte(nil)
	if fault == nil || fault.Status == 0 {
		status, out = render(handle(r))
	} else {
		status, out = fault.Status, []byte(fault.Body)
	}
	a.mu.Lock()
	seen.Status = status
	a.mu.Unlock()
	fault.send(w, r, status, out)
}

func (a *api) route(r *http.Request) (string, func(*http.Request) (any, error)) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.URL.Path == "/api/v2/oauth/token" && r.Method == http.MethodPost:
		return "token", a.makeToken
	case len(parts) == 5 && parts[2] == "tailnet" && parts[4] == "keys" && r.Method == http.MethodPost:
		return "keys", func(r *http.Request) (any, error) { return a.makeKey(r, parts[3]) }
	}
	return "", func(*http.Request) (any, error) { return nil, refused{http.StatusNotFound, "404 page not found"} }
}

func render(value any, err error) (int, []byte) {
	status := http.StatusOK
	if r := (refused{}); errors.As(err, &r) {
		status, value = r.status, map[string]string{"message": r.message}
	}
	out, _ := json.Marshal(value)
	return status, out
}

func (a *api) makeToken(r *http.Request) (any, error) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	if grant := r.PostFormValue("grant_type"); grant != "" && grant != "client_credentials" {
		return nil, refused{http.StatusBadRequest, "unsupported grant type"}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.clients {
		if c.ID != "" && c.ID == id && c.Secret == secret {
			token := "tskey-api-" + rands.HexString(12) + "CNTRL-" + rands.HexString(24)
			a.tokens[token] = c
			return map[string]any{
				"access_token": token, "token_type": "Bearer", "expires_in": 3600, "scope": strings.Join(c.Scopes, " "),
			}, nil
		}
	}
	return nil, refused{http.StatusUnauthorized, "API token invalid"}
}

func (a *api) makeKey(r *http.Request, tailnetName string) (any, error) {
	c := a.whoAsks(r)
	if c == nil {
		return nil, refused{http.StatusUnauthorized, "API token invalid"}
	}
	if tailnetName != "-" && tailnetName != a.tailnet.domain {
		return nil, refused{http.StatusNotFound, "tailnet not found"}
	}
	if c.Scopes != nil && !slices.Contains(c.Scopes, "auth_keys") && !slices.Contains(c.Scopes, "all") {
		return nil, refused{http.StatusForbidden, "calling actor does not have enough permissions to perform this function"}
	}
	var in keyRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, refused{http.StatusBadRequest, "invalid request body"}
	}
	create := in.Capabilities.Devices.Create
	if c.ID != "" && len(create.Tags) == 0 {
		return nil, refused{http.StatusBadRequest, "tags are required for keys of OAuth clients"}
	}
	for _, tag := range create.Tags {
		if c.Tags != nil && !slices.Contains(c.Tags, tag) {
			return nil, refused{http.StatusBadRequest, fmt.Sprintf("requested tags %v are invalid or not permitted", create.Tags)}
		}
	}
	return a.keep(in), nil
}

func (a *api) whoAsks(r *http.Request) *client {
	token, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if user, _, ok := r.BasicAuth(); ok && !isBearer {
		token = user
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.clients {
		if c.ID == "" && c.Secret == token && token != "" {
			return c
		}
	}
	return a.tokens[token]
}

type keyRequest struct {
	Capabilities struct {
		Devices struct {
			Create struct {
				Reusable      bool     `json:"reusable"`
				Ephemeral     bool     `json:"ephemeral"`
				Preauthorized bool     `json:"preauthorized"`
				Tags          []string `json:"tags"`
			} `json:"create"`
		} `json:"devices"`
	} `json:"capabilities"`
	ExpirySeconds float64 `json:"expirySeconds"`
	Description   string  `json:"description"`
}

// keep makes the key one that nodes may present. The real API's default lifetime is 90 days.
func (a *api) keep(in keyRequest) any {
	create := in.Capabilities.Devices.Create
	if in.ExpirySeconds == 0 {
		in.ExpirySeconds = 90 * 24 * 3600
	}
	now := time.Now().UTC()
	t := a.tailnet
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.addKey(&authKey{
		Reusable: create.Reusable, Ephemeral: create.Ephemeral, Preauthorized: create.Preauthorized, Tags: create.Tags,
		Expires: now.Add(seconds(in.ExpirySeconds)),
	})
	return map[string]any{
		"id": k.ID, "key": k.Key, "created": now, "expires": k.Expires, "description": in.Description,
		"capabilities": in.Capabilities,
	}
}

func (a *api) takeFault(endpoint string) *mintFault {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.faults {
		if (f.Endpoint == "" || f.Endpoint == endpoint) && (f.Times == 0 || f.used < f.Times) {
			f.used++
			return f
		}
	}
	return nil
}

// send writes the answer, spoiled as told. A nil fault spoils nothing.
func (f *mintFault) send(w http.ResponseWriter, r *http.Request, status int, out []byte) {
	if f == nil {
		f = &mintFault{}
	}
	if !pause(r, f.DelayS) {
		return
	}
	kind := f.ContentType
	if kind == "" {
		kind = "application/json"
	}
	w.Header().Set("Content-Type", kind)
	for name, value := range f.Headers {
		w.Header().Set(name, value)
	}
	if f.Cut {
		w.Header().Set("Content-Length", itoa(len(out)+1))
		out = out[:len(out)/2]
	}
	w.WriteHeader(status)
	if f.DripS == 0 {
		w.Write(out)
	}
	for i := 0; f.DripS != 0 && i < len(out) && pause(r, f.DripS); i++ {
		w.Write(out[i : i+1])
		w.(http.Flusher).Flush()
	}
	if f.Cut {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler) // net/http's way to cut a connection without a stack trace
	}
}

func pause(r *http.Request, s float64) bool {
	select {
	case <-time.After(seconds(s)):
		return true
	case <-r.Context().Done():
		return false
	}
}

func (a *api) addClient(r *http.Request) (any, error) {
	var c client
	if err := read(r, &c); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clients = append(a.clients, &c)
	return nil, nil
}

func (a *api) addFault(r *http.Request) (any, error) {
	var f mintFault
	if err := read(r, &f); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = append(a.faults, &f)
	return nil, nil
}

func (a *api) clearFaults(*http.Request) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = nil
	return nil, nil
}

func (a *api) allRequests(*http.Request) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []mintRequest{}
	for _, r := range a.requests {
		all = append(all, *r)
	}
	return all, nil
}
