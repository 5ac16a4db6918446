//! Annotations by which sidecars leave traffic alone. A node's proxy takes all of a captured pod's TCP: they are reported.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::status::{Code, Level, Message};

const PREFIX: &str = "traffic.sidecar.istio.io/";
/// Annotations, and the values that mean what is done anyway.
const ANNOTATIONS: [(&str, &[&str]); 9] = [
    ("includeInboundPorts", &["*"]),
    ("excludeInboundPorts", &[""]),
    ("includeOutboundIPRanges", &["*"]),
    ("excludeOutboundIPRanges", &[""]),
    ("includeOutboundPorts", &["", "*"]),
    ("excludeOutboundPorts", &[""]),
    ("excludeInterfaces", &[""]),
    ("kubevirtInterfaces", &[""]),
    ("rerouteVirtualInterfaces", &[""]),
];

/// What a captured pod is told of the exclusions that it asks for.
pub(super) fn remarks(metadata: &ObjectMeta) -> Vec<Message> {
    let Some(annotations) = &metadata.annotations else { return Vec::new() };
    let asked = ANNOTATIONS.iter().filter_map(|(name, as_it_is)| {
        let annotation = format!("{PREFIX}{name}");
        let value = annotations.get(&annotation)?.trim();
        let text =
            format!("{annotation} has no effect: all TCP of a captured pod goes through the mesh, and policies decide on it");
        let field = format!("metadata.annotations[{annotation}]");
        (!as_it_is.contains(&value)).then(|| Message::new(Level::Warning, Code::NotHonoured, field, text))
    });
    asked.collect()
}
