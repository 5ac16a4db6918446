//! Requests for certificates, as nodes send them to the authority. The input is a request in DER, or its PEM text.

use std::{borrow::Cow, fmt::Write, sync::LazyLock, time::Duration};

use mesh_controller::ca::Authority;
use mesh_node::identity::{Aliases, LeafFacts, Trust, certificate::certificates_in, verify::Usage};
use mesh_policy::model::{Identity, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

const LIFETIME: Duration = Duration::from_hours(1);

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let (key, root) = Authority::generate("fuzzing").expect("a new root");
    Authority::new(&key, &root, "", &root).expect("a new root is an authority")
});
static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let roots = certificates_in(AUTHORITY.roots()).expect("roots");
    Trust::new(roots, TrustDomain::default(), Aliases::default()).expect("roots are certificates")
});

/// Whatever a request says, its certificate proves the identity that was asked for beside it, and nothing else of the request
/// than its key is in it.
pub(crate) fn check(input: &[u8]) {
    let text = match std::str::from_utf8(input) {
        Ok(text) if text.contains("-----BEGIN") => Cow::Borrowed(text),
        _ => Cow::Owned(pem(input)),
    };
    let identity = Identity::new(TrustDomain::default(), "shop", "page");
    let Ok(chain) = AUTHORITY.sign(&identity, &text, LIFETIME) else { return };
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().flat_map(|text| certificates_in(text).expect("a chain of certificates")).collect();
    let [leaf, root] = &chain[..] else { panic!("{} certificates in the chain of a root that signs", chain.len()) };
    assert_eq!(TRUST.roots(), std::slice::from_ref(root));
    for usage in [Usage::Client, Usage::Server] {
        assert_eq!(TRUST.verify(usage, leaf, &[], UnixTime::now()).ok().as_ref(), Some(&identity));
    }
    let facts = LeafFacts::read(leaf).expect("a leaf");
    assert!(facts.lifetime() <= LIFETIME + LIFETIME / 10, "{facts:?}");
    let (_, leaf) = X509Certificate::from_der(leaf).expect("a certificate");
    assert!(leaf.subject().iter().next().is_none(), "{}", leaf.subject());
    let names = leaf.subject_alternative_name().expect("readable").expect("present");
    assert_eq!(names.value.general_names.len(), 1);
    assert!(!leaf.is_ca());
}

fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned();
    for line in der.chunks(48) {
        for chunk in line.chunks(3) {
            let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for index in 0..4 {
                let letter = char::from(ALPHABET[(word >> (18 - 6 * index) & 63) as usize]);
                text.push(if index <= chunk.len() { letter } else { '=' });
            }
        }
        text.push('\n');
    }
    writeln!(text, "-----END CERTIFICATE REQUEST-----").expect("a string takes everything");
    text
}
