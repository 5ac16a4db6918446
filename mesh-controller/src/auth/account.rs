//! The service account of the nodes, and its pods.

use crate::placement::Placement;

/// The service account under which nodes run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub namespace: String,
    pub name: String,
}

impl Account {
    /// As Kubernetes calls the user that a service account's token stands for.
    pub fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// Whether this pod of the account is on this node and has not ended. A pod does not outlive its node, and cannot change
    /// its account: this is what a stream stands on once its token is old.
    pub fn runs(&self, placement: &Placement, node: &str, uid: &str) -> bool {
        let of_account = |(name, pod): (&mesh_config::kinds::Name, &crate::placement::Placed)| {
            *name.namespace == *self.namespace && *pod.service_account == *self.name && *pod.uid == *uid && !pod.ended
        };
        placement.pods_of(node).is_some_and(|pods| pods.iter().any(of_account))
    }
}
