//! Which service accounts have a pod on which node: what a node may ask certificates for.

use std::collections::HashSet;

use mesh_config::kinds::Objects;
use mesh_policy::model::{Identity, TrustDomain};

/// Immutable; replaced when objects change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    pub trust_domain: TrustDomain,
    /// Node, namespace, service account of every pod that has not ended.
    placed: HashSet<(String, String, String)>,
}

/// Why a node is given no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{asked} is not of this mesh's trust domain {own}")]
    TrustDomain { asked: Identity, own: TrustDomain },
    #[error("no pod with service account {namespace}/{service_account} is on node {node}")]
    NotPlaced { node: String, namespace: String, service_account: String },
}

impl Placement {
    pub fn of(objects: &Objects, trust_domain: &TrustDomain) -> Self {
        let placed = objects.pods.iter().filter_map(|(name, pod)| {
            let spec = pod.spec.as_ref()?;
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if matches!(phase, Some("Succeeded" | "Failed")) {
                return None;
            }
            let account =
                spec.service_account_name.as_deref().or(spec.service_account.as_deref()).filter(|name| !name.is_empty());
            let node = spec.node_name.clone().filter(|node| !node.is_empty())?;
            Some((node, name.namespace.to_string(), account.unwrap_or("default").to_owned()))
        });
        Self { trust_domain: trust_domain.clone(), placed: placed.collect() }
    }

    /// Whether the node may have a certificate for this identity.
    pub fn allows(&self, node: &str, identity: &Identity) -> Result<(), Refusal> {
        if identity.trust_domain != self.trust_domain {
            return Err(Refusal::TrustDomain { asked: identity.clone(), own: self.trust_domain.clone() });
        }
        let key = (node.to_owned(), identity.namespace.to_string(), identity.service_account.to_string());
        if self.placed.contains(&key) {
            return Ok(());
        }
        let (node, namespace, service_account) = key;
        Err(Refusal::NotPlaced { node, namespace, service_account })
    }
}
