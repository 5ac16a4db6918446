//! Fetching, keeping and handing out, with an authority that can be told to fail.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;

use super::*;
use crate::identity::{
    disk::Disk,
    testing::{TestCa, identity},
};

/// Signs while it is up.
struct Authority {
    ca: TestCa,
    up: watch::Sender<bool>,
    asked: AtomicUsize,
    /// Signs for this one instead.
    lies: Option<Identity>,
}

impl Authority {
    fn new(up: bool) -> Arc<Self> {
        Arc::new(Self { ca: TestCa::new(), up: watch::Sender::new(up), asked: AtomicUsize::new(0), lies: None })
    }
}

impl CertificateAuthority for Authority {
    async fn sign(&self, identity: &Identity, csr_pem: &str) -> Result<Vec<String>, SignError> {
        self.asked.fetch_add(1, Relaxed);
        if !*self.up.borrow() {
            return Err(SignError::Unavailable { cause: "away".into() });
        }
        match &self.lies {
            None => self.ca.sign(identity, csr_pem).await,
            Some(other) => {
                let (_, csr) = request(other).expect("a request");
                self.ca.sign(other, &csr).await
            }
        }
    }
}

fn soon() -> Deadline {
    Deadline::now() + Duration::from_mins(1)
}

#[tokio::test]
async fn a_retained_identity_gets_a_certificate_and_a_dropped_one_is_forgotten() {
    let authority = Authority::new(true);
    let certificates = Certificates::new(Aliases::default(), None);
    let running = tokio::spawn(Arc::clone(&certificates).run(Arc::clone(&authority)));
    let page = identity("page");
    assert_eq!(
        certificates.wait(&page, soon()).await.expect_err("nobody has it"),
        IdentityError::NotHere { identity: page.clone() }
    );

    let (one, two) = (certificates.retain(page.clone()), certificates.retain(page.clone()));
    let waited = certificates.wait(&page, soon()).await.expect("a certificate");
    assert_eq!(waited.identity(), &page);
    assert!(Arc::ptr_eq(&waited, &certificates.current(&page).expect("the same")));
    assert_eq!(authority.asked.load(Relaxed), 1);
    let snapshot = certificates.snapshot();
    assert_eq!((snapshot.len(), &snapshot[0].identity), (1, &page));
    drop(one);
    assert!(certificates.current(&page).is_some());
    drop(two);
    assert!(certificates.current(&page).is_none() && certificates.snapshot().is_empty());
    running.abort();
}

#[tokio::test]
async fn a_connection_that_comes_early_waits_within_its_bound() {
    let authority = Authority::new(false);
    let certificates = Certificates::new(Aliases::default(), None);
    let running = tokio::spawn(Arc::clone(&certificates).run(Arc::clone(&authority)));
    let page = identity("page");
    let _guard = certificates.retain(page.clone());
    while certificates.book().last_error(&page).is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = certificates.wait(&page, Deadline::now()).await.expect_err("the authority is away");
    assert_eq!(error, IdentityError::Pending { identity: page.clone(), cause: "the authority does not answer: away".into() });
    assert_eq!(error.reason(), Reason::CertificatePending);
    // It comes back, and whoever waits by then is served.
    authority.up.send_replace(true);
    certificates.wait(&page, soon()).await.expect("a certificate");
    running.abort();
}

#[tokio::test]
async fn an_answer_for_somebody_else_is_not_installed() {
    let mut authority = Authority::new(true);
    Arc::get_mut(&mut authority).expect("only ours").lies = Some(identity("admin"));
    let certificates = Certificates::new(Aliases::default(), None);
    let running = tokio::spawn(Arc::clone(&certificates).run(authority));
    let page = identity("page");
    let _guard = certificates.retain(page.clone());
    while certificates.book().last_error(&page).is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let snapshot = certificates.snapshot();
    assert_eq!(snapshot[0].state, State::Failing);
    assert!(snapshot[0].certificate.is_none());
    running.abort();
}

#[tokio::test]
async fn a_short_certificate_is_renewed_in_place() {
    let mut authority = Authority::new(true);
    Arc::get_mut(&mut authority).expect("only ours").ca.life = Duration::from_secs(2);
    let certificates = Certificates::new(Aliases::default(), None);
    let running = tokio::spawn(Arc::clone(&certificates).run(authority));
    let page = identity("page");
    let _guard = certificates.retain(page.clone());
    let first = certificates.wait(&page, soon()).await.expect("a certificate");
    let renewed = async {
        while certificates.current(&page).is_none_or(|current| current.facts().serial == first.facts().serial) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_mins(1), renewed).await.expect("renewed");
    running.abort();
}

#[tokio::test]
async fn a_node_that_restarts_serves_without_the_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = || Some(Arc::new(Disk::open(folder.path()).expect("a disk")) as Arc<dyn Persist>);
    let page = identity("page");
    let serial = {
        let certificates = Certificates::new(Aliases::default(), disk());
        let running = tokio::spawn(Arc::clone(&certificates).run(Authority::new(true)));
        let _guard = certificates.retain(page.clone());
        let serial = certificates.wait(&page, soon()).await.expect("a certificate").facts().serial.clone();
        while disk().expect("a disk").load(&page).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.abort();
        serial
    };
    let authority = Authority::new(false);
    let certificates = Certificates::new(Aliases::default(), disk());
    let running = tokio::spawn(Arc::clone(&certificates).run(Arc::clone(&authority)));
    let _guard = certificates.retain(page.clone());
    assert_eq!(certificates.wait(&page, soon()).await.expect("restored").facts().serial, serial);
    assert_eq!(authority.asked.load(Relaxed), 0);
    running.abort();
}

#[test]
fn a_request_has_one_critical_uri_name_and_a_p256_key() {
    use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};
    let (_, csr) = request(&identity("page")).expect("a request");
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).expect("PEM");
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).expect("DER");
    let extensions: Vec<_> = csr.requested_extensions().expect("extensions").collect();
    let names = extensions.iter().find_map(|extension| match extension {
        x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => Some(names),
        _ => None,
    });
    let names = &names.expect("names").general_names;
    assert!(matches!(names[..], [x509_parser::extensions::GeneralName::URI("spiffe://cluster.local/ns/shop/sa/page")]));
    assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
    // An uncompressed point of P-256.
    assert_eq!(csr.certification_request_info.subject_pki.subject_public_key.data.len(), 65);
    // The extension as it stands in the request: its name, then critical.
    let critical = [0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff];
    assert!(pem.contents.windows(critical.len()).any(|window| window == critical));
}
