package main

// A private certificate authority, so that minting is tested over TLS.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

// serveTLS writes the authority's certificate to caFile and serves h with one signed by it for host, localhost
// and 127.0.0.1, valid for a day from start on. It returns the base URL.
func serveTLS(host string, h http.Handler, caFile string, start time.Time) string {
	caKey, ca := certificate(nil, nil, start, "Lab CA", nil)
	check(os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o644))
	leafKey, leaf := certificate(ca, caKey, start, "Lab API", []net.IP{net.ParseIP(host), net.IPv4(127, 0, 0, 1)})
	chain := tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: leafKey}
	l, err := tls.Listen("tcp", net.JoinHostPort(host, "0"), &tls.Config{Certificates: []tls.Certificate{chain}})
	check(err)
	go http.Serve(l, h)
	return "https://" + l.Addr().String()
}

// certificate makes an authority (parent nil) or a server certificate.
func certificate(
	parent *x509.Certificate, parentKey *ecdsa.PrivateKey, start time.Time, name string, ips []net.IP,
) (*ecdsa.PrivateKey, *x509.Certificate) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: start, NotAfter: start.Add(24 * time.Hour), BasicConstraintsValid: true,
	}
	if parent == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		parent, parentKey = template, private
	} else {
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		template.DNSNames, template.IPAddresses = []string{"localhost"}, ips
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, parentKey)
	check(err)
	made, err := x509.ParseCertificate(der)
	check(err)
	return private, made
}
