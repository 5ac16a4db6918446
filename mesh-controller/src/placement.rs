//! Which pods are on which node: what a node may ask certificates for, and which pods it is to capture.
//!
//! Kept up to date pod by pod; what has not changed is shared with the placement before.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use mesh_config::{
    enrolment::{Enrolment, Ownership, enrolment},
    kinds::{Kind, Name, Objects},
};
use mesh_policy::model::{Identity, TrustDomain};

use crate::source::Touched;

/// Immutable; replaced when objects change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    pub trust_domain: TrustDomain,
    nodes: HashMap<Arc<str>, Arc<PodsOfNode>>,
}

/// The pods of one node by name.
pub type PodsOfNode = BTreeMap<Name, Placed>;

/// A pod on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub service_account: Arc<str>,
    /// `metadata.uid`; empty where nothing gives any.
    pub uid: Arc<str>,
    /// IPv4 and IPv6; empty while the pod has none.
    pub addresses: Vec<IpAddr>,
    /// Its containers will not run again.
    pub ended: bool,
    pub enrolment: Enrolment,
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
    /// Whether the node may have a certificate for this identity.
    pub fn allows(&self, node: &str, identity: &Identity) -> Result<(), Refusal> {
        if identity.trust_domain != self.trust_domain {
            return Err(Refusal::TrustDomain { asked: identity.clone(), own: self.trust_domain.clone() });
        }
        let has_it = |(name, pod): (&Name, &Placed)| {
            !pod.ended && name.namespace == identity.namespace && pod.service_account == identity.service_account
        };
        if self.pods_of(node).is_some_and(|pods| pods.iter().any(has_it)) {
            return Ok(());
        }
        let (namespace, service_account) = (identity.namespace.to_string(), identity.service_account.to_string());
        Err(Refusal::NotPlaced { node: node.to_owned(), namespace, service_account })
    }

    /// Every pod that is on a node.
    pub fn pods(&self) -> impl Iterator<Item = (&Name, &Placed)> {
        self.nodes.values().flat_map(|pods| pods.iter())
    }

    /// The pods of a node; None: it has none. The same [`Arc`] as before when nothing of them has changed.
    pub fn pods_of(&self, node: &str) -> Option<&Arc<PodsOfNode>> {
        self.nodes.get(node)
    }
}

/// Brings the placement up to date.
#[derive(Debug, Default)]
pub struct Places {
    placement: Placement,
    node_of: HashMap<Name, Arc<str>>,
    ownership: Ownership,
    /// Where nothing is ever captured.
    exempt: Vec<String>,
}

impl Places {
    /// `exempt` are namespaces whose pods are never captured, whatever their labels say.
    pub fn new(exempt: Vec<String>) -> Self {
        Self { exempt, ..Self::default() }
    }

    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// Takes what has changed; true when anything is placed otherwise than before.
    pub fn update(&mut self, touched: &Touched, objects: &Objects) -> bool {
        let mut changed = false;
        for key in touched {
            match key.kind {
                Kind::Pod => changed |= self.place(&key.name, objects),
                // Its label is that of its pods.
                Kind::Namespace => {
                    let first = Name::new(&key.name.name, "");
                    let pods = objects.pods.range(first..).map(|(name, _)| name);
                    for name in pods.take_while(|name| name.namespace == key.name.name) {
                        changed |= self.place(name, objects);
                    }
                }
                _ => {}
            }
        }
        changed
    }

    pub fn set_trust_domain(&mut self, trust_domain: &TrustDomain) -> bool {
        let changed = self.placement.trust_domain != *trust_domain;
        if changed {
            self.placement.trust_domain = trust_domain.clone();
        }
        changed
    }

    pub fn set_ownership(&mut self, ownership: Ownership, objects: &Objects) -> bool {
        if self.ownership == ownership {
            return false;
        }
        self.ownership = ownership;
        objects.pods.keys().fold(false, |changed, name| changed | self.place(name, objects))
    }

    /// Puts a pod where it is now.
    fn place(&mut self, name: &Name, objects: &Objects) -> bool {
        let now = objects.pods.get(name).and_then(|pod| {
            let node = pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())?;
            Some((node, self.placed(name, pod, objects)))
        });
        let before = self.node_of.get(name).cloned();
        let is_there = |(node, placed): &(&str, Placed)| {
            before.as_deref() == Some(*node) && self.placement.nodes.get(*node).and_then(|pods| pods.get(name)) == Some(placed)
        };
        if now.as_ref().map_or(before.is_none(), is_there) {
            return false;
        }
        if let Some(node) = before
            && let Some(pods) = self.placement.nodes.get_mut(&node)
        {
            Arc::make_mut(pods).remove(name);
            if pods.is_empty() {
                self.placement.nodes.remove(&node);
            }
            self.node_of.remove(name);
        }
        if let Some((node, placed)) = now {
            let node = self.placement.nodes.get_key_value(node).map_or_else(|| node.into(), |(known, _)| known.clone());
            Arc::make_mut(self.placement.nodes.entry(node.clone()).or_default()).insert(name.clone(), placed);
            self.node_of.insert(name.clone(), node);
        }
        true
    }

    fn placed(&self, name: &Name, pod: &Pod, objects: &Objects) -> Placed {
        let spec = pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref().or(spec.service_account.as_deref()));
        let status = pod.status.as_ref();
        let ips = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default().iter().map(|ip| ip.ip.as_str());
        let only = status.and_then(|status| status.pod_ip.as_deref());
        let mut addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(only.and_then(|ip| ip.parse::<IpAddr>().ok()));
        }
        let namespace = objects.namespaces.get(&Name::new("", &name.namespace)).map(AsRef::as_ref);
        let exempt = self.exempt.iter().any(|exempt| **exempt == *name.namespace);
        Placed {
            service_account: account.filter(|account| !account.is_empty()).unwrap_or("default").into(),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            addresses,
            ended: matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")),
            enrolment: if exempt { Enrolment::NotAsked } else { enrolment(pod, namespace, self.ownership) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_config::{
        kinds::ObjectKey,
        validate::{Verdict, admit},
    };
    use serde_json::{Value, json};

    use super::*;

    /// Objects and places that follow them.
    struct Cluster {
        objects: Objects,
        places: Places,
    }

    impl Cluster {
        fn new() -> Self {
            Self { objects: Objects::default(), places: Places::new(vec!["exempt".to_owned()]) }
        }

        fn set(&mut self, document: &Value) -> bool {
            let Verdict::Admitted(admitted) = admit(document) else { panic!("{document}") };
            self.objects.insert(admitted.key.name.clone(), admitted.object);
            self.update(admitted.key)
        }

        fn remove(&mut self, key: ObjectKey) -> bool {
            self.objects.remove(&key);
            self.update(key)
        }

        fn update(&mut self, key: ObjectKey) -> bool {
            let changed = self.places.update(&BTreeSet::from([key]), &self.objects);
            // Step by step is as good as all at once.
            let mut again = Places::new(vec!["exempt".to_owned()]);
            again.ownership = self.places.ownership;
            let everything = self.objects.pods.keys().map(|name| ObjectKey { kind: Kind::Pod, name: name.clone() });
            again.update(&everything.collect(), &self.objects);
            assert_eq!(again.placement, self.places.placement);
            changed
        }

        fn enrolled(&self, node: &str, namespace: &str, name: &str) -> Option<bool> {
            let pod = self.places.placement().pods_of(node)?.get(&Name::new(namespace, name))?;
            Some(pod.enrolment == Enrolment::Enrolled)
        }
    }

    fn pod(namespace: &str, name: &str, node: &str, phase: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": namespace, "name": name, "uid": "u" },
            "spec": { "nodeName": node, "serviceAccountName": "page", "containers": [] },
            "status": { "phase": phase, "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] },
        })
    }

    fn namespace(name: &str, mode: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { "istio.io/dataplane-mode": mode } } })
    }

    #[test]
    fn pods_are_where_they_are_now() {
        let mut cluster = Cluster::new();
        assert!(!cluster.set(&pod("shop", "a", "", "Pending")), "no node yet");
        assert!(cluster.set(&pod("shop", "a", "n1", "Pending")));
        assert!(!cluster.set(&pod("shop", "a", "n1", "Running")), "nothing that is asked has changed");
        let pods = cluster.places.placement().pods_of("n1").unwrap().clone();
        assert_eq!(pods.values().next().unwrap().addresses, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert!(cluster.set(&pod("shop", "b", "n2", "Running")));
        assert!(Arc::ptr_eq(&pods, cluster.places.placement().pods_of("n1").unwrap()), "the other node's list is as it was");
        assert!(cluster.remove(ObjectKey::new(Kind::Pod, "shop", "a")));
        assert_eq!(cluster.places.placement().pods_of("n1"), None);
        assert!(!cluster.remove(ObjectKey::new(Kind::Pod, "shop", "a")));
    }

    #[test]
    fn a_namespaces_label_is_that_of_its_pods_alone() {
        let mut cluster = Cluster::new();
        for (name, mode) in [("shop", "none"), ("shop-2", "keelson"), ("exempt", "keelson")] {
            cluster.set(&namespace(name, mode));
            cluster.set(&pod(name, "a", "n1", "Running"));
        }
        let enrolled =
            |cluster: &Cluster| ["shop", "shop-2", "exempt"].map(|namespace| cluster.enrolled("n1", namespace, "a").unwrap());
        assert_eq!(enrolled(&cluster), [false, true, false]);
        assert!(cluster.set(&namespace("shop", "keelson")));
        assert_eq!(enrolled(&cluster), [true, true, false]);
        assert!(!cluster.set(&namespace("exempt", "ambient")));
        cluster.set(&namespace("shop", "ambient"));
        assert_eq!(enrolled(&cluster), [false, true, false]);
        assert!(cluster.places.set_ownership(Ownership { ambient: true }, &cluster.objects));
        assert_eq!(enrolled(&cluster), [true, true, false]);
        assert!(cluster.remove(ObjectKey::new(Kind::Namespace, "", "shop")));
        assert_eq!(enrolled(&cluster), [false, true, false]);
    }

    #[test]
    fn certificates_are_for_pods_that_run_on_the_node() {
        let mut cluster = Cluster::new();
        cluster.set(&pod("shop", "a", "n1", "Running"));
        cluster.set(&pod("shop", "b", "n2", "Succeeded"));
        let own = TrustDomain::default();
        cluster.places.set_trust_domain(&own);
        let identity = |trust_domain: &TrustDomain, account: &str| Identity {
            trust_domain: trust_domain.clone(),
            namespace: "shop".into(),
            service_account: account.into(),
        };
        let placement = cluster.places.placement();
        assert_eq!(placement.allows("n1", &identity(&own, "page")), Ok(()));
        assert!(matches!(placement.allows("n1", &identity(&own, "other")), Err(Refusal::NotPlaced { .. })));
        assert!(matches!(placement.allows("n2", &identity(&own, "page")), Err(Refusal::NotPlaced { .. })), "it has ended");
        assert!(matches!(placement.allows("n3", &identity(&own, "page")), Err(Refusal::NotPlaced { .. })));
        let other = TrustDomain::new("elsewhere.test").unwrap();
        assert!(matches!(placement.allows("n1", &identity(&other, "page")), Err(Refusal::TrustDomain { .. })));
    }
}
