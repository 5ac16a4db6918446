//! Routes of both APIs on one port: the Gateway API has precedence.

use std::collections::{BTreeMap, BTreeSet};

use mesh_policy::model::{Origin, Routes, RoutesKey, ServiceKey};

use super::super::Report;
use crate::{
    kinds::{Kind, ObjectKey},
    status::{Code, Level, Message},
};

/// All routes. A VirtualService whose rules give way on a port is told so. HTTP and the rest are judged apart, as they
/// never meet on one connection.
pub(in crate::translate) fn merge(
    virtual_services: BTreeMap<RoutesKey, Routes>,
    mut gateway: BTreeMap<RoutesKey, Routes>,
    report: &mut Report,
) -> BTreeMap<RoutesKey, Routes> {
    let mut losers: BTreeMap<(ObjectKey, ServiceKey), BTreeSet<u16>> = BTreeMap::new();
    for (key, mut lesser) in virtual_services {
        let Some(routes) = gateway.get_mut(&key) else {
            gateway.insert(key, lesser);
            continue;
        };
        let mut lost = BTreeSet::new();
        if routes.http.is_empty() {
            routes.http.append(&mut lesser.http);
        } else {
            lost.extend(lesser.http.iter().map(|rule| object(&rule.origin)));
        }
        if routes.tls.is_empty() && routes.tcp.is_empty() {
            routes.tls.append(&mut lesser.tls);
            routes.tcp.append(&mut lesser.tcp);
        } else {
            lost.extend(lesser.tls.iter().map(|rule| object(&rule.origin)));
            lost.extend(lesser.tcp.iter().map(|rule| object(&rule.origin)));
        }
        for loser in lost {
            losers.entry((loser, key.service.clone())).or_default().insert(key.port);
        }
    }
    for ((loser, service), ports) in losers {
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let text = format!("{service}:{ports} has routes of the Gateway API, which have precedence");
        report.tell(loser, Message::new(Level::Error, Code::Conflict, "spec.hosts", text));
    }
    gateway
}

fn object(origin: &Origin) -> ObjectKey {
    ObjectKey::new(Kind::VirtualService, &origin.namespace, &origin.name)
}
