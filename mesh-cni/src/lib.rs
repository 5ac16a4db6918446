//! The CNI plugin `keelson-cni`: the last in the chain of a node's pod network. It holds a pod's start until the pod's traffic
//! is captured.
//!
//! A container runtime runs it for every pod, after the plugins that gave the pod its network ([`invocation`], [`netconf`]). It
//! passes on what those said ([`answer`]). For a pod of a namespace that is exempt it asks nobody, so that the mesh's own pods and
//! the cluster's DNS start while everything else is down. For any other it asks the API server for the pod and its namespace
//! ([`api`]), judges by their labels, and has the node proxy capture a pod that belongs to the mesh ([`node`]); all of that in
//! [`add`]. While one of them is away the pod waits, within a bound; then its start fails with a reason, and the kubelet tries
//! again. A pod that belongs to the mesh never starts outside of it.
//!
//! Its configuration is written by the node proxy, which installs it ([`mesh_proto::cni`]). Deleting a pod needs nobody: the
//! node proxy sees namespaces end.

pub mod add;
pub mod answer;
pub mod api;
pub mod invocation;
pub mod journal;
pub mod netconf;
pub mod node;
pub mod plugin;
