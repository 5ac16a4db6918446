//! Where a route sends: service, port and subset, if they are there (Istio's `GetDestinationCluster`).

use mesh_policy::model::{BackendRef, TrafficKey, TrafficRule};

use super::Place;
use crate::{
    kinds::virtual_service::Destination,
    status::{Code, Level, Message},
    translate::service::Draft,
};

/// `namespace`: of the object that says it; `at`: the destination's field; `otherwise`: what happens where there is no
/// such destination.
pub(super) fn backend(
    place: &Place<'_>,
    namespace: &str,
    at: &str,
    found: &Destination,
    otherwise: &str,
    tell: &mut impl FnMut(Message),
) -> BackendRef {
    match resolve(place, namespace, found) {
        Ok(backend) => backend,
        Err(Missing { field, code, reason }) => {
            tell(Message::new(Level::Error, code, format!("{at}.{field}"), format!("{reason}: {otherwise}")));
            BackendRef::Invalid { reason: reason.into() }
        }
    }
}

struct Missing {
    field: &'static str,
    code: Code,
    reason: String,
}

fn resolve(place: &Place<'_>, namespace: &str, found: &Destination) -> Result<BackendRef, Missing> {
    let Destination { host, subset, port: _ } = found;
    let missing = |field, reason| Missing { field, code: Code::TargetNotFound, reason };
    // A route may name the service that it routes.
    let own = Some(place.service).filter(|draft| *draft.service.hostname == *host);
    let service = own.or_else(|| place.sources.hosts.destination(host, namespace));
    let service = service.ok_or_else(|| missing("host", format!("no service has the name {host} (IST0101)")))?;
    let port = port(place, service, found)?;
    if !subset.is_empty() && !has_subset(place, service, subset) {
        return Err(missing("subset", format!("no DestinationRule for {host} has the subset {subset} (IST0101)")));
    }
    let subset = Some(subset.as_str()).filter(|subset| !subset.is_empty()).map(Into::into);
    Ok(BackendRef::Service { service: service.service.key(), port, subset })
}

/// The port that is named, else the only one, else the one that is routed.
fn port(place: &Place<'_>, service: &Draft, found: &Destination) -> Result<u16, Missing> {
    let has = |port: u16| service.service.port(port).is_some();
    let named = found.port.map(|port| u16::try_from(port.number).ok().filter(|port| has(*port)).ok_or(port.number));
    match (named, &service.service.ports[..]) {
        (Some(Ok(port)), _) => Ok(port),
        (Some(Err(number)), _) => {
            let reason = format!("{} has no port {number}", found.host);
            Err(Missing { field: "port", code: Code::TargetNotFound, reason })
        }
        (None, [only]) => Ok(only.service_port),
        (None, _) if has(place.port) => Ok(place.port),
        (None, _) => {
            let reason = format!("{} has several ports and none is {}: name one (IST0112)", found.host, place.port);
            Err(Missing { field: "port", code: Code::TargetNotFound, reason })
        }
    }
}

/// Whether a rule that counts for some of the clients has it.
fn has_subset(place: &Place<'_>, service: &Draft, subset: &str) -> bool {
    let traffic = place.sources.traffic;
    let key = |consumer| TrafficKey { service: service.service.key(), consumer };
    let of = |consumer| traffic.get(&key(consumer));
    let has = |rule: &TrafficRule| rule.subsets.contains_key(subset);
    if let Some(consumer) = place.consumer {
        return of(Some(consumer.clone())).or_else(|| of(None)).is_some_and(has);
    }
    let mut rules = traffic.range(key(None)..).take_while(|(found, _)| found.service == service.service.key());
    rules.any(|(_, rule)| has(rule))
}
