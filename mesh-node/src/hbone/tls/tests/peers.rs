//! The other side: rustls, with its records in the test's hands.

use std::io::{Read, Write};

use rustls::Error;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::identity::tls::provider;

/// A peer of rustls whose records the test sends as it likes.
pub(super) struct Raw {
    pub(super) tcp: TcpStream,
    pub(super) tls: rustls::Connection,
}

impl Raw {
    /// As a client of our server, or a server of our client.
    pub(super) async fn shake(tcp: TcpStream, tls: impl Into<rustls::Connection>) -> Self {
        let mut raw = Self { tcp, tls: tls.into() };
        while raw.tls.is_handshaking() || raw.tls.wants_write() {
            let out = raw.sealed();
            raw.tcp.write_all(&out).await.expect("write");
            if raw.tls.is_handshaking() {
                raw.receive().await.expect("a handshake");
            }
        }
        raw
    }

    /// What rustls wants to send.
    pub(super) fn sealed(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).expect("a vector");
        }
        out
    }

    pub(super) fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).expect("a vector");
        self.sealed()
    }

    pub(super) async fn receive(&mut self) -> Result<(), Error> {
        let mut some = [0; 4096];
        let len = self.tcp.read(&mut some).await.expect("read");
        assert!(len > 0, "the end");
        let mut some = &some[..len];
        while !some.is_empty() {
            self.tls.read_tls(&mut some).expect("a slice");
            self.tls.process_new_packets()?;
        }
        Ok(())
    }

    pub(super) async fn hear(&mut self, len: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        loop {
            let mut some = [0; 4096];
            match self.tls.reader().read(&mut some) {
                Ok(read) => heard.extend_from_slice(&some[..read]),
                Err(_) if heard.len() < len => self.receive().await.expect("records"),
                Err(_) => return heard,
            }
        }
    }
}

/// Takes every certificate.
#[derive(Debug)]
pub(super) struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
