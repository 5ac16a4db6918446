//! The Gateway API's routes to routes of the model, in the mesh: attached to services (GAMMA).
//!
//! A route in the namespace of its parent is the producer's and counts for every client; one in another namespace counts
//! for the clients of its own namespace only, and comes in place of the producer's. All routes of one kind on one port
//! become one list, whose order is the specification's precedence ([`precedence`]).

mod attach;
mod backend;
mod conditions;
mod filter;
mod grpc;
mod http;
mod merge;
mod precedence;
mod stream;
pub(crate) mod values;
mod waypoint;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use merge::merge;
use mesh_policy::model::{HttpRule, Origin, RetryPolicy, Routes, RoutesKey, TcpRule, TlsRule};
pub(super) use waypoint::Waypoints;

use self::{
    attach::Attachment,
    backend::{Backends, Grants, Unresolved},
    precedence::{Placed, Rank, Seniority},
};
use super::{Report, service::Services};
use crate::{
    kinds::{
        Kind, Name, ObjectKey, Objects,
        gateway::{GrpcRoute, HttpRoute, ParentRef, TcpRoute, TlsRoute},
    },
    status::{Code, Conditions, Level, Message},
};

/// All routes, and what the Gateway API wants to be told of each object.
#[derive(Default)]
pub(super) struct Attached {
    pub(super) routes: BTreeMap<RoutesKey, Routes>,
    pub(super) conditions: BTreeMap<ObjectKey, Conditions>,
}

/// Translates every route. `retry` is the mesh's default.
pub(super) fn routes(objects: &Objects, services: &Services, retry: &RetryPolicy, report: &mut Report) -> Attached {
    let grants = Grants::of(objects);
    let mut drafts = Vec::new();
    for (name, route) in &objects.http_routes {
        drafts.push(of_http(name, route, &Surroundings { services, grants: &grants, retry }, report));
    }
    for (name, route) in &objects.grpc_routes {
        drafts.push(of_grpc(name, route, &Surroundings { services, grants: &grants, retry }, report));
    }
    for (name, route) in &objects.tls_routes {
        drafts.push(of_tls(name, route, &Surroundings { services, grants: &grants, retry }, report));
    }
    for (name, route) in &objects.tcp_routes {
        drafts.push(of_tcp(name, route, &Surroundings { services, grants: &grants, retry }, report));
    }
    let lost = precedence::lost_to_the_other_kind(&drafts);
    let mut attached = Attached::default();
    for draft in &drafts {
        let lost = lost.get(&draft.key);
        tell(draft, report);
        let found = conditions::of_route(draft, lost);
        if !found.parents.is_empty() {
            attached.conditions.insert(draft.key.clone(), found);
        }
    }
    attached.routes = precedence::merged(drafts, &lost);
    attached
}

/// What routes are read with.
struct Surroundings<'a> {
    services: &'a Services,
    grants: &'a Grants,
    retry: &'a RetryPolicy,
}

/// A route on its way.
struct Draft {
    key: ObjectKey,
    generation: Option<i64>,
    seniority: Seniority,
    /// In the order of the object.
    parents: Vec<(ParentRef, Attachment)>,
    rules: Rules,
}

impl Draft {
    /// Everything that it is attached to.
    fn targets(&self) -> BTreeSet<&RoutesKey> {
        let mut targets = BTreeSet::new();
        for (_, attachment) in &self.parents {
            if let Attachment::To(keys) = attachment {
                targets.extend(keys);
            }
        }
        targets
    }
}

/// The rules of one route, and what is wrong with them.
#[derive(Default)]
struct Rules {
    http: Vec<Placed<HttpRule>>,
    tls: Vec<Placed<TlsRule>>,
    tcp: Vec<Placed<TcpRule>>,
    /// References that lead nowhere.
    unresolved: Vec<Unresolved>,
    /// Rules that are answered with an error, by their paths, with why.
    failing: Vec<(String, String)>,
    count: usize,
}

fn draft(key: ObjectKey, metadata: &Metadata, parents: Vec<(ParentRef, Attachment)>, rules: Rules) -> Draft {
    let seniority = Seniority::of(&key.name, metadata);
    Draft { key, generation: metadata.generation, seniority, parents, rules }
}

type Metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn of_http(name: &Name, route: &HttpRoute, surroundings: &Surroundings<'_>, report: &mut Report) -> Draft {
    let key = ObjectKey { kind: Kind::HttpRoute, name: name.clone() };
    let spec = &route.spec;
    let parents = attach::parents(&key, &spec.parent_refs, surroundings.services, report);
    remark(&key, !spec.hostnames.is_empty(), spec.use_default_gateways.as_deref(), &parents, report);
    let backends = Backends { surroundings, route: &key, parents: &spec.parent_refs };
    let rules = http::rules(spec, &backends, report);
    draft(key, &route.metadata, parents, rules)
}

fn of_grpc(name: &Name, route: &GrpcRoute, surroundings: &Surroundings<'_>, report: &mut Report) -> Draft {
    let key = ObjectKey { kind: Kind::GrpcRoute, name: name.clone() };
    let spec = &route.spec;
    let parents = attach::parents(&key, &spec.parent_refs, surroundings.services, report);
    remark(&key, !spec.hostnames.is_empty(), spec.use_default_gateways.as_deref(), &parents, report);
    let backends = Backends { surroundings, route: &key, parents: &spec.parent_refs };
    let rules = grpc::rules(spec, &backends, report);
    draft(key, &route.metadata, parents, rules)
}

fn of_tls(name: &Name, route: &TlsRoute, surroundings: &Surroundings<'_>, report: &mut Report) -> Draft {
    let key = ObjectKey { kind: Kind::TlsRoute, name: name.clone() };
    let spec = &route.spec;
    let parents = attach::parents(&key, &spec.parent_refs, surroundings.services, report);
    remark(&key, false, spec.use_default_gateways.as_deref(), &parents, report);
    let rules = stream::tls_rules(spec, &Backends { surroundings, route: &key, parents: &spec.parent_refs });
    draft(key, &route.metadata, parents, rules)
}

fn of_tcp(name: &Name, route: &TcpRoute, surroundings: &Surroundings<'_>, report: &mut Report) -> Draft {
    let key = ObjectKey { kind: Kind::TcpRoute, name: name.clone() };
    let spec = &route.spec;
    let parents = attach::parents(&key, &spec.parent_refs, surroundings.services, report);
    remark(&key, false, spec.use_default_gateways.as_deref(), &parents, report);
    let rules = stream::tcp_rules(spec, &Backends { surroundings, route: &key, parents: &spec.parent_refs });
    draft(key, &route.metadata, parents, rules)
}

/// What has no effect in the mesh.
fn remark(
    key: &ObjectKey,
    hostnames: bool,
    default_gateways: Option<&str>,
    parents: &[(ParentRef, Attachment)],
    report: &mut Report,
) {
    if hostnames && parents.iter().any(|(_, attachment)| !matches!(attachment, Attachment::Elsewhere)) {
        let text = "a service is what the client dialled, whatever the Host says: hostnames have no effect on it";
        report.tell(key.clone(), Message::new(Level::Info, Code::NotHonoured, "spec.hostnames", text));
    }
    if default_gateways.is_some_and(|scope| scope != "None") {
        let text = "no Gateway is carried out in this version";
        report.tell(key.clone(), Message::new(Level::Info, Code::NotHonoured, "spec.useDefaultGateways", text));
    }
}

/// What is wrong with the rules of a route.
fn tell(draft: &Draft, report: &mut Report) {
    let Rules { http: _, tls: _, tcp: _, unresolved, failing, count: _ } = &draft.rules;
    for Unresolved { field, reason, text } in unresolved {
        report.tell(draft.key.clone(), Message::new(Level::Error, reason.code(), field.clone(), text.clone()));
    }
    for (field, text) in failing {
        report.tell(draft.key.clone(), Message::new(Level::Error, Code::NotHonoured, field.clone(), text.clone()));
    }
}

fn origin(key: &ObjectKey, field: String) -> Origin {
    let ObjectKey { kind, name: Name { namespace, name } } = key;
    Origin { kind: kind.as_str().into(), namespace: namespace.clone(), name: name.clone(), field: field.into() }
}
