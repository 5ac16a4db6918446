//! Each class of bad certificate, at the verifier itself; whole handshakes are in `hbone::tests`.

use rcgen::SanType;

use super::*;
use crate::identity::{
    certificate::certificates_in,
    testing::{Leaf, TestCa, identity, uri},
};

const PAGE: &str = "spiffe://cluster.local/ns/shop/sa/page";

/// Whether an error is the one that is meant.
type Check = fn(&VerifyError) -> bool;

fn trust(ca: &TestCa, domains: &[&str]) -> Arc<Trust> {
    let mut domains = domains.iter().map(|domain| TrustDomain::new(domain).expect("a trust domain"));
    let (own, aliases) = (domains.next().expect("an own domain"), Aliases::default());
    let trust = Trust::new(certificates_in(ca.root_pem()).expect("a root"), own, aliases.clone()).expect("trust");
    // Set afterwards: a change of the aliases is in force for certificates that are there.
    aliases.set(domains.collect());
    Arc::new(trust)
}

fn verify(trust: &Trust, ca: &TestCa, leaf: &Leaf) -> Result<Identity, VerifyError> {
    let (chain, _) = ca.issue(leaf);
    let chain = certificates_in(&chain[0]).expect("a certificate");
    let both = [Usage::Client, Usage::Server].map(|usage| trust.verify(usage, &chain[0], &chain[1..], UnixTime::now()));
    assert_eq!(both[0], both[1]);
    both[0].clone()
}

#[test]
fn good_certificates_prove_their_identity() {
    let ca = TestCa::new();
    let trust = trust(&ca, &["cluster.local", "old.example"]);
    assert_eq!(verify(&trust, &ca, &Leaf::of(PAGE)), Ok(identity("page")));
    // Names of other kinds beside it say nothing, and an alias is a trust domain of ours.
    let mut leaf = Leaf::of("spiffe://old.example/ns/shop/sa/page");
    leaf.names.push(SanType::DnsName("page.shop".try_into().expect("IA5")));
    leaf.common_name = Some("root".into());
    assert_eq!(
        verify(&trust, &ca, &leaf).map(|identity| identity.to_string()),
        Ok("spiffe://old.example/ns/shop/sa/page".into())
    );
}

#[test]
fn bad_certificates_are_refused_for_what_is_bad() {
    let ca = TestCa::new();
    let trust = trust(&ca, &["cluster.local"]);
    let now = SystemTime::now();
    let good = || Leaf::of(PAGE);
    let named = |names: Vec<SanType>| Leaf { names, ..good() };
    let dns = SanType::DnsName("page.shop".try_into().expect("IA5"));
    let minutes = |count: u64| Duration::from_secs(count * 60);
    let cases: [(&str, Leaf, Check); 12] = [
        ("no name", Leaf { common_name: Some(PAGE.into()), ..named(vec![]) }, |e| {
            matches!(e, VerifyError::UriNames { found: 0 })
        }),
        ("only DNS", named(vec![dns]), |e| matches!(e, VerifyError::UriNames { found: 0 })),
        ("two names", named(vec![uri(PAGE), uri("spiffe://cluster.local/ns/shop/sa/stock")]), |e| {
            matches!(e, VerifyError::UriNames { found: 2 })
        }),
        ("the name twice", named(vec![uri(PAGE), uri(PAGE)]), |e| matches!(e, VerifyError::UriNames { found: 2 })),
        ("no identity", named(vec![uri("https://cluster.local/ns/shop/sa/page")]), |e| {
            matches!(e, VerifyError::NotAnIdentity { .. })
        }),
        ("NUL", named(vec![uri(&format!("{PAGE}\0.example"))]), |e| matches!(e, VerifyError::NotAnIdentity { .. })),
        ("trust domain", Leaf::of("spiffe://evil.example/ns/shop/sa/page"), |e| matches!(e, VerifyError::TrustDomain { .. })),
        ("expired", Leaf { not_before: now - minutes(60), not_after: now - Duration::from_secs(2), ..good() }, |e| {
            matches!(e, VerifyError::Expired { .. })
        }),
        ("far in the future", Leaf { not_before: now + minutes(20), not_after: now + minutes(80), ..good() }, |e| {
            matches!(e, VerifyError::NotYetValid { .. })
        }),
        ("an authority", Leaf { is_ca: true, ..good() }, |e| matches!(e, VerifyError::AuthorityAsLeaf { .. })),
        ("never valid", Leaf { not_before: now, not_after: now - minutes(60), ..good() }, |e| {
            matches!(e, VerifyError::Expired { .. } | VerifyError::Chain { .. })
        }),
        ("an empty segment", Leaf::of("spiffe://cluster.local/ns//sa/page"), |e| matches!(e, VerifyError::NotAnIdentity { .. })),
    ];
    for (what, leaf, is_it) in cases {
        let error = verify(&trust, &ca, &leaf).expect_err(what);
        assert!(is_it(&error), "{what}: {error:?}");
    }
    let other = TestCa::new();
    let error = verify(&trust, &other, &good()).expect_err("another root of the same name");
    assert!(matches!(error, VerifyError::UnknownRoot { .. }), "{error:?}");
}

#[test]
fn a_clock_ten_minutes_behind_takes_new_certificates_and_no_expired_ones() {
    let ca = TestCa::new();
    let trust = trust(&ca, &["cluster.local"]);
    let ten = Duration::from_mins(10);
    let now = SystemTime::now();
    let young = Leaf { not_before: now + ten, not_after: now + ten * 3, ..Leaf::of(PAGE) };
    assert_eq!(verify(&trust, &ca, &young), Ok(identity("page")));
    let old = Leaf { not_before: now - ten * 3, not_after: now - Duration::from_secs(2), ..Leaf::of(PAGE) };
    assert!(matches!(verify(&trust, &ca, &old), Err(VerifyError::Expired { .. })));
}

#[test]
fn only_the_expected_identities_are_taken() {
    let ca = TestCa::new();
    let trust = trust(&ca, &["cluster.local"]);
    let check = |expected: &[Identity]| ExpectedPeer::new(Arc::clone(&trust), expected).check(identity("page"));
    assert_eq!(check(&[identity("stock"), identity("page")]), Ok(()));
    assert!(matches!(check(&[]), Err(VerifyError::Mismatch { .. })));
    let error = check(&[identity("stock"), identity("pay")]).expect_err("another identity");
    assert_eq!(
        error.to_string(),
        "identity mismatch: expected spiffe://cluster.local/ns/shop/sa/stock or spiffe://cluster.local/ns/shop/sa/pay, \
         found spiffe://cluster.local/ns/shop/sa/page"
    );
}
