//! A SPIFFE identity in a certificate or a request.

use mesh_policy::model::Identity;

/// The parser agrees with the form read part by part, and an identity writes itself as it was read.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parsed: Result<Identity, _> = text.parse();
    assert_eq!(parsed.is_ok(), is_identity(text), "{text:?}: {parsed:?}");
    if let Ok(identity) = parsed {
        assert_eq!(identity.to_string(), text);
        assert_eq!(format!("spiffe://{}", identity.principal()), text);
        assert_eq!(Identity::new(identity.trust_domain.clone(), &identity.namespace, &identity.service_account), identity);
    }
}

fn is_identity(text: &str) -> bool {
    let segment = |part: &str| {
        (1..=253).contains(&part.len())
            && part.chars().all(|c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'))
            && !part.trim_matches('.').is_empty()
            || part.len() > 2 && part.len() <= 253 && part.chars().all(|c| c == '.')
    };
    let domain = |part: &str| {
        (1..=255).contains(&part.len()) && part.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_'))
    };
    let parts: Vec<&str> = text.split('/').collect();
    matches!(parts[..], ["spiffe:", "", name, "ns", namespace, "sa", account]
        if domain(name) && segment(namespace) && segment(account))
}
