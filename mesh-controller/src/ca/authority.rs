//! A key that signs, and the certificates that lead from it to the roots.

use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use mesh_policy::model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject};
use time::OffsetDateTime;

const ROOT_YEARS: i64 = 10;
/// How long the certificate of the gRPC endpoint is valid.
const SERVING_LIFETIME: Duration = Duration::from_hours(24);
/// Clocks differ: certificates begin a little in the past, but never by much of their life.
const LONGEST_BACKDATE: Duration = Duration::from_mins(2);

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{path} cannot be read or written")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{what} is not usable")]
    Material {
        what: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("{what} holds no certificate in PEM form")]
    NoCertificate { what: &'static str },
    #[error("the signing certificate does not lead to the roots: {source}")]
    Chain { source: webpki::Error },
    #[error("the request is not a certificate signing request: {source}")]
    Request { source: rcgen::Error },
    #[error("the request's key is not of a kind that is signed (ECDSA P-256 or P-384, Ed25519)")]
    Key,
    #[error("signing failed")]
    Sign {
        #[source]
        source: rcgen::Error,
    },
    #[error("no randomness")]
    Random,
}

/// The certificate and key of the gRPC endpoint.
pub struct Serving {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub renew_after: Duration,
}

/// Signs for one set of roots. Immutable: other roots are another authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// From the signing certificate up, without roots; empty when a root signs.
    intermediates: Vec<CertificateDer<'static>>,
    /// What nodes trust, in PEM form.
    roots: String,
}

impl Authority {
    /// A new root: its key and certificate in PEM form.
    pub fn generate(organisation: &str) -> Result<(String, String), AuthorityError> {
        let root = |source| AuthorityError::Material { what: "the new root", source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(root)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.distinguished_name.push(DnType::CommonName, "Keelson root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        let now = OffsetDateTime::now_utc();
        params.not_before = now - LONGEST_BACKDATE;
        params.not_after = now + time::Duration::days(365 * ROOT_YEARS);
        let certificate = params.self_signed(&key).map_err(root)?;
        Ok((key.serialize_pem(), certificate.pem()))
    }

    /// An authority from PEM: its key, its own certificate, those between it and the roots, and the roots. Tried out
    /// before it is used: a certificate that it signs has to lead to the roots.
    pub fn new(key: &str, own: &str, between: &str, roots: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(|source| AuthorityError::Material { what: "the signing key", source })?;
        let own = certificates("the signing certificate", own)?.swap_remove(0);
        let of_roots = certificates("the root file", roots)?;
        let between = CertificateDer::pem_slice_iter(between.as_bytes()).filter_map(Result::ok);
        let mut intermediates: Vec<CertificateDer<'static>> = Vec::new();
        for certificate in std::iter::once(own.clone()).chain(between) {
            if !of_roots.contains(&certificate) && !intermediates.contains(&certificate) {
                intermediates.push(certificate);
            }
        }
        let issuer = Issuer::from_ca_cert_der(&own, key)
            .map_err(|source| AuthorityError::Material { what: "the signing certificate", source })?;
        let authority = Self { issuer, intermediates, roots: roots.to_owned() };
        authority.try_out(&of_roots)?;
        Ok(authority)
    }

    /// What nodes trust, in PEM form.
    pub fn roots(&self) -> &str {
        &self.roots
    }

    /// A certificate for a workload: leaf first, root last, in PEM form. Of the request only the public key counts.
    pub fn sign(&self, identity: &Identity, request: &str, lifetime: Duration) -> Result<Vec<String>, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request).map_err(|source| AuthorityError::Request { source })?;
        let key = request.public_key;
        let length = key.der_bytes().len();
        let algorithm = PublicKeyData::algorithm(&key);
        // The name of a signature does not tell the curve: the length of the key does.
        let accepted = (*algorithm == PKCS_ECDSA_P256_SHA256 && length == 65)
            || (*algorithm == PKCS_ECDSA_P384_SHA384 && length == 97)
            || (*algorithm == PKCS_ED25519 && length == 32);
        if !accepted {
            return Err(AuthorityError::Key);
        }
        let uri = identity.to_string().try_into().map_err(|source| AuthorityError::Sign { source })?;
        let mut params = leaf(lifetime)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(|source| AuthorityError::Sign { source })?;
        let mut chain = vec![certificate.pem()];
        chain.extend(self.intermediates.iter().map(|certificate| pem(certificate)));
        chain.push(self.roots.clone());
        Ok(chain)
    }

    /// A certificate for the gRPC endpoint.
    pub fn serve(&self, names: &[String], addresses: &[IpAddr]) -> Result<Serving, AuthorityError> {
        let sign = |source| AuthorityError::Sign { source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(sign)?;
        let mut params = leaf(SERVING_LIFETIME)?;
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(sign)?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(sign)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Serving { chain, key, renew_after: SERVING_LIFETIME / 2 })
    }

    fn try_out(&self, roots: &[CertificateDer<'static>]) -> Result<(), AuthorityError> {
        let refuse = |source| AuthorityError::Chain { source };
        let serving = self.serve(&["localhost".to_owned()], &[])?;
        let anchors = roots.iter().map(webpki::anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>().map_err(refuse)?;
        let (leaf, between) = serving.chain.split_first().ok_or(AuthorityError::NoCertificate { what: "the chain" })?;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(refuse)?;
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, between, UnixTime::now(), usage, None, None)
            .map(drop)
            .map_err(refuse)
    }
}

/// Every certificate of a PEM text, at least one.
fn certificates(what: &'static str, text: &str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(AuthorityError::NoCertificate { what })
}

/// No subject: the alternative names are then critical (RFC 5280 §4.2.1.6).
fn leaf(lifetime: Duration) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - (lifetime / 10).min(LONGEST_BACKDATE);
    params.not_after = now + lifetime;
    Ok(params)
}

/// 127 random bits: positive, and never the same twice.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let body = base64(certificate);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// RFC 4648 §4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
