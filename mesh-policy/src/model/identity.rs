//! Who a workload is: a SPIFFE identity in Istio's form.

use std::{fmt, str::FromStr, sync::Arc};

/// A trust domain such as `cluster.local`: the root of a set of identities.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Takes 1 to 255 of lower-case letters, digits, `.`, `-` and `_` (SPIFFE-ID §2.1).
    pub fn new(name: &str) -> Result<Self, ParseIdentityError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
            return Err(ParseIdentityError::TrustDomain { found: name.into() });
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Parsing is strict: exactly this form, no query, no empty, `.` or `..` segment, no percent encoding. A certificate
/// whose URI is anything else has no identity here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    pub trust_domain: TrustDomain,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

impl Identity {
    pub fn new(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Self {
        Self { trust_domain, namespace: namespace.into(), service_account: service_account.into() }
    }

    /// The identity without `spiffe://`, which is how AuthorizationPolicy principals are written.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let form = || ParseIdentityError::Form { found: uri.chars().take(256).collect() };
        let rest = uri.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or_else(form);
        let (domain, ns, namespace, sa, account) = (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return Err(form());
        }
        if !is_segment(namespace) || !is_segment(account) {
            return Err(form());
        }
        Ok(Self { trust_domain: TrustDomain::new(domain)?, namespace: namespace.into(), service_account: account.into() })
    }
}

/// SPIFFE-ID §2.2 allows letters, digits, `.`, `-` and `_`; Kubernetes names are a subset.
fn is_segment(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !segment.is_empty() && segment != "." && segment != ".." && segment.len() <= 253 && segment.bytes().all(allowed)
}

/// Why a string is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdentityError {
    #[error("not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>: {found:?}")]
    Form { found: String },
    #[error("not a trust domain (1 to 255 of a-z, 0-9, '.', '-', '_'): {found:?}")]
    TrustDomain { found: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_an_identity() {
        let id = Identity::new(TrustDomain::default(), "shop", "page");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "spiffe://",
            "spiffe://cluster.local",
            "http://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/b?q",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a%2f/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/sa/a/ns/b",
            "spiffe://a:1/ns/a/sa/b",
            "spiffe://u@a/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b\0",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad:?}");
        }
    }
}
