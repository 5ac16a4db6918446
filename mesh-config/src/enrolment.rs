//! Which pods belong to the mesh: what their labels and their namespace's ask for, and who can not be taken in.
//!
//! One answer for all who ask: the CNI plugin before a pod starts, the controller for pods that run already, `meshctl` for
//! people.

use std::fmt;

use k8s_openapi::api::core::v1::{Namespace, Pod};

/// On a namespace for all of its pods, on a pod for itself.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// On a pod whose capture stands.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Its value then.
pub const REDIRECTION_ENABLED: &str = "enabled";
/// Written by the injector of sidecars.
const SIDECAR_STATUS: &str = "sidecar.istio.io/status";

/// What this mesh owns beside the pods that name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// `ambient` means this mesh: istio-cni is not installed.
    pub ambient: bool,
}

/// Whether a pod's traffic is to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolment {
    Enrolled,
    /// No label asks for it, or one declines.
    NotAsked,
    /// A label asks for it, and it can not be done.
    Refused(Refusal),
}

/// Why a pod that asks is not taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    HostNetwork,
    Sidecar,
    /// The pod's connections do not end in sockets of the node's kernel.
    RuntimeClass(String),
    VirtualMachine,
    /// Its containers have ended and will not start again.
    Ended,
}

impl Refusal {
    /// Stable, for events, conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::HostNetwork => "HostNetwork",
            Self::Sidecar => "Sidecar",
            Self::RuntimeClass(_) => "SandboxedRuntime",
            Self::VirtualMachine => "VirtualMachine",
            Self::Ended => "Ended",
        }
    }

    /// Whether the user has to be told: a pod that has ended needs nothing.
    pub fn is_news(&self) -> bool {
        !matches!(self, Self::Ended)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => {
                f.write_str("the pod is in its node's network (hostNetwork), where nothing tells its traffic apart")
            }
            Self::Sidecar => {
                f.write_str("the pod has a sidecar, which is in the mesh for it: turn the injection off to have it captured")
            }
            Self::RuntimeClass(name) => write!(
                f,
                "the pod's runtime class {name} keeps its connections out of the node's kernel, where they would be captured"
            ),
            Self::VirtualMachine => f.write_str(
                "the pod runs a virtual machine, whose connections do not end in the node's kernel, where they would be captured",
            ),
            Self::Ended => f.write_str("the pod has ended"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Judges a pod. The pod's own label comes before that of its namespace, whatever it says.
pub fn enrolment(pod: &Pod, namespace: Option<&Namespace>, ownership: Ownership) -> Enrolment {
    let asked = match mode(pod, namespace) {
        Some("keelson") => true,
        Some("ambient") => ownership.ambient,
        _ => false,
    };
    if !asked {
        return Enrolment::NotAsked;
    }
    refusal(pod).map_or(Enrolment::Enrolled, Enrolment::Refused)
}

/// Whether a pod asks for another mesh's dataplane: what that has written on it is not ours to change.
pub fn is_foreign(pod: &Pod, namespace: Option<&Namespace>, ownership: Ownership) -> bool {
    !ownership.ambient && mode(pod, namespace) == Some("ambient")
}

fn mode<'a>(pod: &'a Pod, namespace: Option<&'a Namespace>) -> Option<&'a str> {
    let of_namespace = || label(namespace?.metadata.labels.as_ref(), DATAPLANE_MODE);
    label(pod.metadata.labels.as_ref(), DATAPLANE_MODE).or_else(of_namespace)
}

fn refusal(pod: &Pod) -> Option<Refusal> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Some(Refusal::Ended);
    }
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return Some(Refusal::HostNetwork);
    }
    if label(pod.metadata.annotations.as_ref(), SIDECAR_STATUS).is_some() {
        return Some(Refusal::Sidecar);
    }
    let class = spec.and_then(|spec| spec.runtime_class_name.as_deref());
    if let Some(class) = class.filter(|class| is_sandbox(class)) {
        return Some(Refusal::RuntimeClass(class.to_owned()));
    }
    (label(pod.metadata.labels.as_ref(), "kubevirt.io") == Some("virt-launcher")).then_some(Refusal::VirtualMachine)
}

/// gVisor and Kata, by the names under which their documentation installs them.
fn is_sandbox(class: &str) -> bool {
    matches!(class, "gvisor" | "runsc") || class.starts_with("kata")
}

fn label<'a>(found: Option<&'a std::collections::BTreeMap<String, String>>, name: &str) -> Option<&'a str> {
    found?.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(document: &Value) -> Pod {
        serde_json::from_value(document.clone()).unwrap()
    }

    fn labelled(mode: &str) -> Value {
        json!({ "metadata": { "labels": { DATAPLANE_MODE: mode } } })
    }

    fn check(of_pod: &Value, of_namespace: Option<&str>, ambient: bool, expected: &Enrolment) {
        let namespace = of_namespace.map(|mode| serde_json::from_value(labelled(mode)).unwrap());
        let found = enrolment(&pod(of_pod), namespace.as_ref(), Ownership { ambient });
        assert_eq!(&found, expected, "pod {of_pod}, namespace {of_namespace:?}, ambient is ours: {ambient}");
        // One owner a pod.
        let foreign = is_foreign(&pod(of_pod), namespace.as_ref(), Ownership { ambient });
        assert!(!foreign || found == Enrolment::NotAsked, "pod {of_pod}, namespace {of_namespace:?}");
    }

    #[test]
    fn labels_decide_and_the_pods_own_comes_first() {
        use Enrolment::{Enrolled, NotAsked};
        let none = json!({ "metadata": {} });
        let cases = [
            // pod, namespace, where `ambient` is ours, where it is not
            (&none, None, NotAsked, NotAsked),
            (&none, Some("keelson"), Enrolled, Enrolled),
            (&none, Some("ambient"), Enrolled, NotAsked),
            (&none, Some("none"), NotAsked, NotAsked),
            (&none, Some("Keelson"), NotAsked, NotAsked),
            (&none, Some(""), NotAsked, NotAsked),
            (&labelled("keelson"), None, Enrolled, Enrolled),
            (&labelled("keelson"), Some("none"), Enrolled, Enrolled),
            (&labelled("keelson"), Some("ambient"), Enrolled, Enrolled),
            (&labelled("ambient"), None, Enrolled, NotAsked),
            (&labelled("ambient"), Some("keelson"), Enrolled, NotAsked),
            (&labelled("none"), Some("keelson"), NotAsked, NotAsked),
            (&labelled("none"), Some("ambient"), NotAsked, NotAsked),
            (&labelled("other"), Some("keelson"), NotAsked, NotAsked),
            (&labelled(""), Some("keelson"), NotAsked, NotAsked),
        ];
        for (of_pod, of_namespace, where_ours, where_not) in cases {
            check(of_pod, of_namespace, true, &where_ours);
            check(of_pod, of_namespace, false, &where_not);
        }
    }

    #[test]
    fn who_can_not_be_captured_is_refused() {
        use Enrolment::{Enrolled, Refused};
        let class = |name: &str| json!({ "metadata": {}, "spec": { "containers": [], "runtimeClassName": name } });
        let cases = [
            (json!({ "metadata": {}, "spec": { "containers": [], "hostNetwork": true } }), Refused(Refusal::HostNetwork)),
            (json!({ "metadata": {}, "spec": { "containers": [], "hostNetwork": false } }), Enrolled),
            (json!({ "metadata": { "annotations": { "sidecar.istio.io/status": "{}" } } }), Refused(Refusal::Sidecar)),
            (json!({ "metadata": { "annotations": { "sidecar.istio.io/inject": "true" } } }), Enrolled),
            (class("gvisor"), Refused(Refusal::RuntimeClass("gvisor".into()))),
            (class("runsc"), Refused(Refusal::RuntimeClass("runsc".into()))),
            (class("kata"), Refused(Refusal::RuntimeClass("kata".into()))),
            (class("kata-qemu"), Refused(Refusal::RuntimeClass("kata-qemu".into()))),
            (class("nvidia"), Enrolled),
            (json!({ "metadata": { "labels": { "kubevirt.io": "virt-launcher" } } }), Refused(Refusal::VirtualMachine)),
            (json!({ "metadata": { "labels": { "kubevirt.io": "virt-api" } } }), Enrolled),
            (json!({ "metadata": {}, "status": { "phase": "Succeeded" } }), Refused(Refusal::Ended)),
            (json!({ "metadata": {}, "status": { "phase": "Failed" } }), Refused(Refusal::Ended)),
            (json!({ "metadata": {}, "status": { "phase": "Pending" } }), Enrolled),
            (json!({ "metadata": {}, "status": { "phase": "Unknown" } }), Enrolled),
            // One reason is told: the one that no change of the pod's labels would take away comes first.
            (
                json!({
                    "metadata": { "annotations": { "sidecar.istio.io/status": "{}" } },
                    "spec": { "containers": [], "hostNetwork": true, "runtimeClassName": "kata" },
                }),
                Refused(Refusal::HostNetwork),
            ),
        ];
        for (of_pod, expected) in cases {
            check(&of_pod, Some("keelson"), false, &expected);
            // Who does not ask is not refused.
            check(&of_pod, None, true, &Enrolment::NotAsked);
        }
    }

    #[test]
    fn ambient_is_foreign_where_it_is_not_ours() {
        let foreign = |ambient| is_foreign(&pod(&labelled("ambient")), None, Ownership { ambient });
        assert_eq!([true, false].map(foreign), [false, true]);
    }

    #[test]
    fn a_refusal_speaks_to_people() {
        let refusal = Refusal::RuntimeClass("kata-clh".into());
        assert!(refusal.to_string().contains("kata-clh"));
        assert_eq!(refusal.reason(), "SandboxedRuntime");
        assert!(!Refusal::Ended.is_news());
    }
}
