//! What a route is attached to: ports of services.

use std::collections::BTreeSet;

use mesh_policy::model::{AppProtocol, RoutesKey};

use super::super::{
    Report,
    service::{Draft as Service, Services},
};
use crate::{
    kinds::{
        Kind, ObjectKey,
        gateway::{GATEWAY_GROUP, ParentRef},
    },
    status::{Code, Level, Message},
};

/// What became of a reference to a parent.
pub(super) enum Attachment {
    /// At least one port.
    To(BTreeSet<RoutesKey>),
    Refused {
        reason: &'static str,
        message: String,
    },
    /// Not a parent of the mesh: somebody else's business, or nobody's.
    Elsewhere,
}

pub(super) fn parents(
    key: &ObjectKey,
    parents: &[ParentRef],
    services: &Services,
    report: &mut Report,
) -> Vec<(ParentRef, Attachment)> {
    let mut found = Vec::new();
    for (index, parent) in parents.iter().enumerate() {
        let attachment = attachment(key, parent, services);
        let at = format!("spec.parentRefs[{index}]");
        match &attachment {
            Attachment::To(_) => {}
            Attachment::Refused { reason: _, message } => {
                report.tell(key.clone(), Message::new(Level::Error, Code::TargetNotFound, at, message.clone()));
            }
            Attachment::Elsewhere if parent.group == GATEWAY_GROUP => {
                let text = format!("{} {}: only services carry routes in this version", parent.kind, parent.name);
                report.tell(key.clone(), Message::new(Level::Info, Code::NotHonoured, at, text));
            }
            Attachment::Elsewhere => {
                let text = format!("nothing is known of {}/{} {}", parent.group, parent.kind, parent.name);
                report.tell(key.clone(), Message::new(Level::Warning, Code::TargetNotFound, at, text));
            }
        }
        found.push((parent.clone(), attachment));
    }
    if found.is_empty() {
        let text = "without a parent the route has no effect";
        report.tell(key.clone(), Message::new(Level::Warning, Code::TargetNotFound, "spec.parentRefs", text));
    }
    found
}

fn attachment(key: &ObjectKey, parent: &ParentRef, services: &Services) -> Attachment {
    let ParentRef { group, kind, namespace, name, section_name: section, port } = parent;
    let kind = match (group.as_str(), kind.as_str()) {
        ("" | "core", "Service") => Kind::Service,
        ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
        _ => return Attachment::Elsewhere,
    };
    let refused = |message: String| Attachment::Refused { reason: "NoMatchingParent", message };
    let namespace = namespace.as_deref().unwrap_or(&key.name.namespace);
    let source = ObjectKey::new(kind, namespace, name);
    let behind: Vec<&Service> = services.of(&source).collect();
    if behind.is_empty() {
        return refused(format!("there is no {source}"));
    }
    let wanted = |found: &super::super::service::Port| {
        port.is_none_or(|port| port == found.number) && section.as_ref().is_none_or(|section| *section == found.name)
    };
    let consumer = (*key.name.namespace != *namespace).then(|| key.name.namespace.clone());
    let mut targets = BTreeSet::new();
    let mut other_protocol = BTreeSet::new();
    for service in behind {
        for found in service.ports.iter().filter(|found| wanted(found)) {
            let protocol = service.service.port(found.number).map_or(AppProtocol::Unknown, |port| port.protocol);
            if carries(key.kind, protocol) {
                let target = RoutesKey { service: service.service.key(), port: found.number, consumer: consumer.clone() };
                targets.insert(target);
            } else {
                other_protocol.insert(found.number);
            }
        }
    }
    if !targets.is_empty() {
        return Attachment::To(targets);
    }
    let one = match (port, section) {
        (None, None) => "port".to_owned(),
        (Some(port), None) => format!("port {port}"),
        (None, Some(section)) => format!("port named {section}"),
        (Some(port), Some(section)) => format!("port {port} named {section}"),
    };
    if other_protocol.is_empty() {
        return refused(format!("{source} has no {one}"));
    }
    let speaks = if is_http(key.kind) { "is declared to speak something else than HTTP" } else { "is declared to speak HTTP" };
    let numbers: Vec<String> = other_protocol.iter().map(ToString::to_string).collect();
    refused(format!("{source} has no {one} for a {}: {} {speaks}", key.kind, numbers.join(", ")))
}

/// HTTP's routes count where HTTP is spoken, the others where it is not; what is not declared may be either.
fn carries(kind: Kind, protocol: AppProtocol) -> bool {
    protocol == AppProtocol::Unknown || protocol.is_http() == is_http(kind)
}

fn is_http(kind: Kind) -> bool {
    matches!(kind, Kind::HttpRoute | Kind::GrpcRoute)
}
