// Command certificates writes what a cluster for tests is trusted by: an authority, the keys of service accounts, and one
// certificate for each of its components and users.
//
// It reads a request as JSON from standard input and writes PEM files: ca.crt, ca.key, sa.pub, sa.key, and NAME.crt and
// NAME.key for each subject. Everything is valid for thirty days: no cluster for tests lives longer.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const lifetime = 30 * 24 * time.Hour

type request struct {
	Folder   string    `json:"folder"`
	Subjects []subject `json:"subjects"`
}

// A subject is a user of the API by its common name, a member of a group by its organization, and a server by its names.
type subject struct {
	Name       string   `json:"name"`
	CommonName string   `json:"common_name"`
	Group      string   `json:"group"`
	Names      []string `json:"names"`
	Addresses  []net.IP `json:"addresses"`
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "certificates:", err)
		os.Exit(1)
	}
}

func run() error {
	var wanted request
	if err := json.NewDecoder(os.Stdin).Decode(&wanted); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	if err := os.MkdirAll(wanted.Folder, 0o700); err != nil {
		return err
	}
	folder := func(name string) string { return filepath.Join(wanted.Folder, name) }
	root, err := newAuthority(folder("ca"))
	if err != nil {
		return err
	}
	if err := serviceAccountKeys(folder("sa")); err != nil {
		return err
	}
	for _, subject := range wanted.Subjects {
		if err := root.issue(subject, folder(subject.Name)); err != nil {
			return fmt.Errorf("certificate of %s: %w", subject.Name, err)
		}
	}
	return nil
}

func newAuthority(file string) (*authority, error) {
	template := template("keelson test cluster")
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	key, err := newKey(file + ".key")
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{certificate, key}, write(file+".crt", "CERTIFICATE", der, 0o644)
}

func (a *authority) issue(subject subject, file string) error {
	template := template(subject.CommonName)
	if subject.Group != "" {
		template.Subject.Organization = []string{subject.Group}
	}
	template.DNSNames = subject.Names
	template.IPAddresses = subject.Addresses
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	key, err := newKey(file + ".key")
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	return write(file+".crt", "CERTIFICATE", der, 0o644)
}

func serviceAccountKeys(file string) error {
	key, err := newKey(file + ".key")
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return write(file+".pub", "PUBLIC KEY", der, 0o644)
}

func template(commonName string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		// A clock that differs a little is no reason to fail.
		NotBefore: now.Add(-5 * time.Minute),
		NotAfter:  now.Add(lifetime),
	}
}

func newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	// The form that every reader of service accounts' keys understands.
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, write(file, "EC PRIVATE KEY", der, 0o600)
}

func write(file, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
