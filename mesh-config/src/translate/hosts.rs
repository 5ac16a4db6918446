//! Services by the names that routes and rules call them.

use std::collections::BTreeMap;

use super::{
    Settings,
    service::{Draft, Services},
};
use crate::kinds::Kind;

pub(super) struct Hosts<'a> {
    by_name: BTreeMap<&'a str, Vec<&'a Draft>>,
    dns_domain: &'a str,
}

impl<'a> Hosts<'a> {
    pub(super) fn new(services: &'a Services, settings: &'a Settings) -> Self {
        let mut by_name: BTreeMap<&str, Vec<&Draft>> = BTreeMap::new();
        for draft in services.by_key.values() {
            by_name.entry(&draft.service.hostname).or_default().push(draft);
        }
        Self { by_name, dns_domain: &settings.dns_domain }
    }

    /// The whole name: one without a dot is that of a Service of the namespace that says it (Istio's
    /// `ResolveShortnameToFQDN`).
    pub(super) fn full(&self, host: &str, namespace: &str) -> String {
        let host = host.to_ascii_lowercase();
        if host.contains(['.', '*', ':']) { host } else { format!("{host}.{namespace}.svc.{}", self.dns_domain) }
    }

    /// The services that a whole name, or one that begins with `*`, stands for.
    pub(super) fn matching(&self, pattern: &str) -> Vec<&'a Draft> {
        if pattern.starts_with('*') {
            let covered = self.by_name.iter().filter(|(host, _)| covers(pattern, host));
            covered.flat_map(|(_, drafts)| drafts).copied().collect()
        } else {
            self.by_name.get(pattern).cloned().unwrap_or_default()
        }
    }

    /// The services whose own name is the longest wildcard that stands for a name which is no service's itself.
    pub(super) fn standing_for(&self, name: &str) -> Vec<&'a Draft> {
        if self.by_name.contains_key(name) {
            return Vec::new();
        }
        let wild = self.by_name.iter().filter(|(host, _)| host.starts_with('*') && covers(host, name));
        wild.max_by_key(|(host, _)| host.len()).map(|(_, drafts)| drafts.clone()).unwrap_or_default()
    }

    /// What a destination means: of several with one name that of the namespace, then a Kubernetes Service, then the
    /// first by namespace. A name that is no service's may be one that a ServiceEntry's wildcard stands for.
    pub(super) fn destination(&self, host: &str, namespace: &str) -> Option<&'a Draft> {
        let drafts = self.by_name.get(host).cloned().unwrap_or_else(|| self.standing_for(host));
        let rank = |draft: &&Draft| (&*draft.service.namespace != namespace, draft.source.kind != Kind::Service);
        drafts.into_iter().min_by_key(rank)
    }
}

/// Whether a name that may begin with `*` stands for every name that another stands for.
pub(super) fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern == host,
        Some(suffix) => host.strip_prefix('*').unwrap_or(host).ends_with(suffix),
    }
}

/// The greater, the more exactly the name says what it means.
pub(super) fn specificity(pattern: &str) -> usize {
    if pattern.starts_with('*') { pattern.len() } else { usize::MAX }
}
