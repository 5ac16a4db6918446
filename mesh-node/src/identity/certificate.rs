//! Reading certificates: PEM to DER, and the few facts of a leaf that the mesh decides on.

use std::time::{Duration, SystemTime};

use mesh_policy::model::{Identity, ParseIdentityError};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// What a leaf certificate says about itself. Nothing here is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFacts {
    pub identity: Identity,
    /// Lower-case hexadecimal, no separators, as the issuer encoded it.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl LeafFacts {
    /// Reads a DER certificate. Exactly one URI name must be there and be an [`Identity`].
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Encoding)?;
        if !rest.is_empty() {
            return Err(CertificateError::Encoding);
        }
        let identity = only_uri_name(&certificate)?.parse().map_err(|source| CertificateError::NotAnIdentity { source })?;
        let validity = certificate.validity();
        Ok(Self {
            identity,
            serial: hex(certificate.raw_serial()),
            not_before: from_unix(validity.not_before.timestamp()),
            not_after: from_unix(validity.not_after.timestamp()),
        })
    }

    /// From issue to expiry; zero when the certificate ends before it begins.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// When a DER certificate begins to be valid; `None` when it is not a certificate.
pub fn not_before(der: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(from_unix(certificate.validity().not_before.timestamp()))
}

/// Every certificate of a PEM text, in order. Text around the blocks is passed over, other blocks are refused.
pub fn certificates_in(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| CertificateError::Pem)?;
    if found.is_empty() { Err(CertificateError::NoCertificate) } else { Ok(found) }
}

/// A name that x509-parser could not read counts as malformed, never as absent: two URI names of which one is not UTF-8
/// must not look like one.
fn only_uri_name<'a>(certificate: &'a X509Certificate<'a>) -> Result<&'a str, CertificateError> {
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Encoding)?;
    let Some(names) = names else { return Err(CertificateError::UriNames { found: 0 }) };
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(CertificateError::MalformedName),
            _ => {}
        }
    }
    match uris[..] {
        [uri] => Ok(uri),
        _ => Err(CertificateError::UriNames { found: uris.len() }),
    }
}

/// Two lower-case digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn from_unix(seconds: i64) -> SystemTime {
    let magnitude = Duration::from_secs(seconds.unsigned_abs());
    let moved =
        if seconds >= 0 { SystemTime::UNIX_EPOCH.checked_add(magnitude) } else { SystemTime::UNIX_EPOCH.checked_sub(magnitude) };
    moved.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Why a certificate, or an authority's answer, is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("not a PEM text")]
    Pem,
    #[error("no certificate in it")]
    NoCertificate,
    #[error("the root is missing: a chain ends with the root bundle, here it has {found} elements")]
    NoRoot { found: usize },
    #[error("not a DER X.509 certificate")]
    Encoding,
    #[error("{found} URI names, exactly one is allowed")]
    UriNames { found: usize },
    #[error("a subject alternative name can not be read")]
    MalformedName,
    #[error("the URI name is not an identity")]
    NotAnIdentity { source: ParseIdentityError },
    #[error("issued to {found}, asked for {expected}")]
    OtherIdentity { expected: Identity, found: Identity },
    #[error("the private key can not be used, or is not the certificate's")]
    Key,
    #[error("it does not verify against the roots that came with it: {cause}")]
    Unverified { cause: String },
    #[error("rustls refuses it: {cause}")]
    Tls { cause: String },
}
