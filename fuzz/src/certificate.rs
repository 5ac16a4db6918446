//! Certificates that peers and authorities send. The input is a certificate in DER, or a PEM text.

use std::{sync::LazyLock, time::Duration};

use mesh_node::identity::{
    Aliases, LeafFacts, Trust,
    certificate::{certificates_in, not_before},
    verify::Usage,
};
use mesh_policy::model::TrustDomain;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A root whose key was thrown away after it had signed one leaf.
const ROOT: &[u8] = include_bytes!("../seeds/certificate/root.der");
const LEAF: &[u8] = include_bytes!("../seeds/certificate/leaf.der");

static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    Trust::new(vec![ROOT.into()], TrustDomain::default(), Aliases::default()).expect("the root is a certificate")
});
/// A day on which both are valid.
static NOW: LazyLock<UnixTime> = LazyLock::new(|| {
    let begins = not_before(LEAF).and_then(|begins| begins.duration_since(std::time::UNIX_EPOCH).ok());
    UnixTime::since_unix_epoch(begins.expect("the leaf is a certificate") + Duration::from_hours(24))
});
/// What the root has signed.
static SIGNED: LazyLock<Vec<u8>> =
    LazyLock::new(|| X509Certificate::from_der(LEAF).expect("a certificate").1.tbs_certificate.as_ref().to_vec());

/// Facts stand in the bytes as they are told, nothing verifies but what the root signed, and what comes beside a good leaf
/// does it no harm.
pub(crate) fn check(input: &[u8]) {
    der(input);
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(found) = certificates_in(text)
    {
        assert!((1..=text.matches("-----BEGIN CERTIFICATE-----").count()).contains(&found.len()));
        for certificate in &found {
            der(certificate);
        }
    }
}

fn der(input: &[u8]) {
    let certificate = CertificateDer::from(input);
    let facts = LeafFacts::read(input);
    if let Ok(facts) = &facts {
        assert!(contains(input, facts.identity.to_string().as_bytes()), "{facts:?}");
        assert_eq!(not_before(input), Some(facts.not_before));
        assert!(facts.lifetime() == Duration::ZERO || facts.not_before + facts.lifetime() == facts.not_after);
        assert!(LeafFacts::read(&[input, &[0]].concat()).is_err(), "bytes behind a certificate were passed over");
    }
    for usage in [Usage::Client, Usage::Server] {
        if let Ok(proved) = TRUST.verify(usage, &certificate, &[], *NOW) {
            assert!(contains(input, &SIGNED), "{proved} is proved by what the root never signed");
            assert_eq!(Some(proved), facts.as_ref().ok().map(|facts| facts.identity.clone()));
        }
    }
    let beside = TRUST.verify(Usage::Client, &LEAF.into(), &[certificate], *NOW);
    assert!(beside.is_ok(), "{beside:?}");
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}
