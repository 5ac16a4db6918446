//! Certificates for tests, made on the spot.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_policy::model::{Identity, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{CertificateAuthority, SignError, TlsIdentity};

/// An authority of the trust domain `cluster.local`.
pub(crate) struct TestCa {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// What new certificates last.
    pub(crate) life: Duration,
}

/// What is to be wrong with a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) names: Vec<SanType>,
    pub(crate) common_name: Option<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) is_ca: bool,
}

impl Leaf {
    /// A good one, for an hour.
    pub(crate) fn of(identity: &str) -> Self {
        let now = SystemTime::now();
        Self {
            names: vec![uri(identity)],
            common_name: None,
            not_before: now - Duration::from_mins(1),
            not_after: now + Duration::from_hours(1),
            is_ca: false,
        }
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("IA5"))
}

pub(crate) fn identity(account: &str) -> Identity {
    Identity::new(TrustDomain::default(), "shop", account)
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // All of them have one name: a chain to the wrong one is told by its signature alone.
        params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).expect("root").pem();
        Self { pem, issuer: Issuer::new(params, key), life: Duration::from_hours(1) }
    }

    pub(crate) fn root_pem(&self) -> &str {
        &self.pem
    }

    /// Leaf, then root; and the key.
    pub(crate) fn issue(&self, leaf: &Leaf) -> (Vec<String>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &leaf.common_name {
            params.distinguished_name.push(DnType::CommonName, name.clone());
        }
        params.subject_alt_names.clone_from(&leaf.names);
        params.not_before = leaf.not_before.into();
        params.not_after = leaf.not_after.into();
        if leaf.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![certificate.pem(), self.pem.clone()], der)
    }

    /// A good certificate of `cluster.local/ns/shop/sa/<account>`.
    pub(crate) fn tls(&self, account: &str) -> Arc<TlsIdentity> {
        let identity = identity(account);
        let (chain, key) = self.issue(&Leaf::of(&identity.to_string()));
        Arc::new(TlsIdentity::new(&identity, key, chain, &crate::identity::Aliases::default()).expect("a good certificate"))
    }
}

impl CertificateAuthority for TestCa {
    async fn sign(&self, _identity: &Identity, csr_pem: &str) -> Result<Vec<String>, SignError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|error| SignError::Refused { cause: error.to_string() })?;
        let now = SystemTime::now();
        request.params.not_before = (now - Duration::from_secs(1)).into();
        request.params.not_after = (now + self.life).into();
        let certificate = request.signed_by(&self.issuer).map_err(|error| SignError::Refused { cause: error.to_string() })?;
        Ok(vec![certificate.pem(), self.pem.clone()])
    }
}
