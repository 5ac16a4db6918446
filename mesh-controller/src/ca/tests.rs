use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use mesh_policy::model::{Identity, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;

const DAY: Duration = Duration::from_hours(24);

fn identity() -> Identity {
    Identity::new(TrustDomain::default(), "shop", "page")
}

/// A request that asks for much more than it is given.
fn greedy_request(key: &KeyPair) -> String {
    let mut params = CertificateParams::new(["bank.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()));
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn authority() -> Authority {
    let (key, root) = Authority::generate("test").unwrap();
    Authority::new(&key, &root, "", &root).unwrap()
}

fn ders(chain: &[String]) -> Vec<CertificateDer<'static>> {
    chain.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes())).map(Result::unwrap).collect()
}

/// Whether a chain (leaf first, root last) is one, for both ends of a connection.
fn verifies(chain: &[CertificateDer<'static>], roots: &str) -> bool {
    let roots: Vec<_> = CertificateDer::pem_slice_iter(roots.as_bytes()).map(Result::unwrap).collect();
    let anchors: Vec<_> = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
    [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()].into_iter().all(|usage| {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &chain[1..], UnixTime::now(), usage, None, None).is_ok()
    })
}

#[test]
fn a_certificate_has_the_identity_and_the_key_and_nothing_else_of_the_request() {
    let authority = authority();
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = ders(&authority.sign(&identity(), &greedy_request(&key), DAY).unwrap());
        assert!(verifies(&chain, authority.roots()));
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical, "the subject is empty");
        assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/page")]);
        assert!(leaf.subject().iter().next().is_none());
        assert!(!leaf.is_ca());
        assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && usage.server_auth);
        assert_eq!(leaf.public_key().subject_public_key.data, key.public_key_raw());
        let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        assert_eq!(life, 86_400 + 120, "a day, and a little in the past");
        assert!(leaf.raw_serial().len() >= 8);
    }
}

#[test]
fn short_lives_are_not_spent_in_the_past() {
    let key = KeyPair::generate().unwrap();
    let chain = ders(&authority().sign(&identity(), &greedy_request(&key), Duration::from_secs(10)).unwrap());
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp(), 11);
}

#[test]
fn what_is_not_a_sound_request_is_refused() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let good = greedy_request(&key);
    for bad in ["", "text", &good[..good.len() / 2], authority.roots()] {
        assert!(matches!(authority.sign(&identity(), bad, DAY), Err(AuthorityError::Request { .. })), "{bad}");
    }
    // Signed with another key than the one that it carries: nobody proved to have it.
    let forged = {
        use rustls_pki_types::CertificateSigningRequestDer;
        let mut der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
        let at = der.windows(6).position(|window| window == key.public_key_raw()[1..7].to_vec()).unwrap();
        der[at] ^= 1;
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", super::authority::base64(&der))
    };
    assert!(matches!(authority.sign(&identity(), &forged, DAY), Err(AuthorityError::Request { .. })));
}

#[test]
fn our_own_root_is_made_once_and_kept_secret() {
    let state = tempfile::tempdir().unwrap();
    let path = prepare_roots(state.path()).unwrap();
    assert_eq!(path, state.path().join(ROOT_FILE));
    let root = fs::read_to_string(&path).unwrap();
    let keeper = Keeper::new(state.path(), &["10.9.9.9".into(), "other.example".into()]).unwrap();
    assert_eq!(keeper.authority().roots(), root);
    assert_eq!(fs::metadata(state.path().join("ca-key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let (_, parsed) = X509Certificate::from_der(&ders(&[root])[0]).map(|(rest, found)| (rest, found.validity().clone())).unwrap();
    let years = (parsed.not_after.timestamp() - parsed.not_before.timestamp()) / (365 * 86_400);
    assert_eq!(years, 10);
}

/// A root and an intermediate, as files of a plugged-in CA.
fn plug(state: &Path) -> String {
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params, KeyPair::generate().unwrap())
    };
    let (root_params, root_key) = ca("root");
    let root = root_params.self_signed(&root_key).unwrap();
    let (own_params, own_key) = ca("intermediate");
    let own = own_params.signed_by(&own_key, &Issuer::from_params(&root_params, &root_key)).unwrap();
    let folder = state.join("cacerts");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("ca-key.pem"), own_key.serialize_pem()).unwrap();
    fs::write(folder.join("ca-cert.pem"), own.pem()).unwrap();
    fs::write(folder.join("cert-chain.pem"), own.pem() + &root.pem()).unwrap();
    fs::write(folder.join("root-cert.pem"), root.pem()).unwrap();
    root.pem()
}

#[tokio::test]
async fn a_plugged_in_authority_is_taken_up_at_once_and_never_when_it_is_broken() {
    let state = tempfile::tempdir().unwrap();
    let keeper = Keeper::new(state.path(), &[]).unwrap();
    let own = keeper.authority().roots().to_owned();

    let root = plug(state.path());
    keeper.refresh().unwrap();
    let authority = keeper.authority();
    assert_eq!(authority.roots(), root);
    assert_eq!(fs::read_to_string(state.path().join(ROOT_FILE)).unwrap(), root);
    let key = KeyPair::generate().unwrap();
    let pems = authority.sign(&identity(), &greedy_request(&key), DAY).unwrap();
    assert_eq!(pems.len(), 3, "leaf, intermediate, root");
    assert_eq!(pems[2], root, "the root comes last");
    let chain = ders(&pems);
    assert!(verifies(&chain[..2], &root) && !verifies(&chain[..2], &own));

    // A key that is not the certificate's, a root that it does not lead to, a file that is cut off or missing.
    let folder = state.path().join("cacerts");
    for (file, text) in [
        ("ca-key.pem", KeyPair::generate().unwrap().serialize_pem()),
        ("root-cert.pem", own.clone()),
        ("ca-cert.pem", "-----BEGIN CERTIFICATE-----\nMII".into()),
    ] {
        let good = fs::read(folder.join(file)).unwrap();
        fs::write(folder.join(file), text).unwrap();
        assert!(keeper.refresh().is_err(), "{file}");
        assert_eq!(keeper.authority().roots(), root);
        fs::remove_file(folder.join(file)).unwrap();
        assert!(keeper.refresh().is_err(), "no {file}");
        fs::write(folder.join(file), good).unwrap();
        keeper.refresh().unwrap();
    }
    fs::remove_dir_all(folder).unwrap();
    keeper.refresh().unwrap();
    assert_eq!(keeper.authority().roots(), own);
}
