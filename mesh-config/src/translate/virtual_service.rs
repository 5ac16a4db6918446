//! VirtualServices to routes.
//!
//! One in the namespace of a host's service routes every client that it is exported to; one of another namespace routes
//! that namespace's clients alone, and comes before the former. Nothing is merged: of several for one host and scope the
//! most specific host counts, then the oldest, for HTTP, TLS and TCP each. A route of the Gateway API for the same port
//! and scope comes before all of them.

mod action;
mod connection;
mod delegate;
mod destination;
mod http_rules;
mod matching;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use delegate::Route;
use mesh_policy::model::{AppProtocol, Origin, Routes, RoutesKey, ServiceKey};

use super::{
    Report,
    exports::Exports,
    hosts::{Hosts, specificity},
    mesh::MeshSettings,
    service::{self, created},
    traffic::Traffic,
};
use crate::{
    kinds::{Kind, Name, ObjectKey, Objects, VirtualServiceSpec},
    status::{Code, Level, Message},
};

const MESH: &str = "mesh";

pub(super) type Table = BTreeMap<RoutesKey, Routes>;

/// What destinations are looked up in.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) objects: &'a Objects,
    pub(super) mesh: &'a MeshSettings,
    pub(super) hosts: &'a Hosts<'a>,
    pub(super) traffic: &'a Traffic,
}

/// The routes of all VirtualServices, which are still to give way to those of the Gateway API with the same key.
pub(super) fn routes(sources: Sources<'_>, of_gateway_api: &Table, report: &mut Report) -> Table {
    let roots = roots(sources, report);
    let scopes = scopes(sources, &roots, report);
    let mut table = Table::new();
    for (service, (draft, by_consumer)) in &scopes {
        let everybody = by_consumer.get(&None).map_or(&[][..], |found| found);
        for (consumer, candidates) in by_consumer {
            let mut ranked = candidates.clone();
            if consumer.is_some() {
                ranked.extend(everybody.iter().map(|candidate| Candidate { rank: Rank::Public, ..*candidate }));
            }
            ranked.sort();
            let scope = Scope { sources, roots: &roots, service, draft, consumer, candidates: &ranked, of_gateway_api };
            scope.add(&mut table, report);
        }
    }
    table
}

/// A VirtualService that routes in the mesh.
struct Root<'a> {
    name: &'a Name,
    spec: &'a VirtualServiceSpec,
    /// Whole names.
    hosts: Vec<String>,
    /// With those delegated to in their places.
    http: Vec<Route>,
    exports: Exports,
}

impl Root<'_> {
    fn key(&self) -> ObjectKey {
        key(self.name)
    }

    fn origin(&self, field: String) -> Origin {
        origin(self.name, field)
    }
}

fn key(name: &Name) -> ObjectKey {
    ObjectKey { kind: Kind::VirtualService, name: name.clone() }
}

fn origin(name: &Name, field: String) -> Origin {
    Origin { kind: "VirtualService".into(), namespace: name.namespace.clone(), name: name.name.clone(), field: field.into() }
}

/// All that bear on the mesh, the oldest first.
fn roots<'a>(sources: Sources<'a>, report: &mut Report) -> Vec<Root<'a>> {
    let mut ordered: Vec<_> = sources.objects.virtual_services.iter().collect();
    ordered.sort_by_key(|(name, found)| (created(&found.metadata), *name));
    let mut roots = Vec::new();
    for (name, found) in ordered {
        let spec = &found.spec;
        if spec.hosts.is_empty() {
            continue;
        }
        if !in_mesh(&spec.gateways) {
            let text = "bound to gateways alone: without effect on traffic within the mesh";
            report.tell(key(name), Message::new(Level::Info, Code::NotHonoured, "spec.gateways", text));
            continue;
        }
        let exports = Exports::of(&spec.export_to, &sources.mesh.virtual_service_exports, &name.namespace);
        let hosts = spec.hosts.iter().map(|host| sources.hosts.full(host, &name.namespace)).collect();
        roots.push(Root { name, spec, hosts, http: delegate::http(sources, name, spec, report), exports });
    }
    roots
}

/// No gateways at all, or `mesh` among them.
fn in_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH)
}

/// The lesser, the more it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The client's namespace's own.
    Own,
    /// Of the service's owner, exported to this namespace by name.
    Exported,
    /// Of the service's owner, for everyone.
    Public,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: Rank,
    specificity: Reverse<usize>,
    /// Index of the root: the older, the less.
    root: usize,
    /// Index of the host by which it applies.
    host: usize,
}

type Consumer = Option<Arc<str>>;

/// Services by the names that routes are for: their own, or one that a ServiceEntry's wildcard stands for.
type Scopes<'a> = BTreeMap<ServiceKey, (&'a service::Draft, BTreeMap<Consumer, Vec<Candidate>>)>;

fn scopes<'a>(sources: Sources<'a>, roots: &[Root<'_>], report: &mut Report) -> Scopes<'a> {
    let mut scopes = Scopes::new();
    for (index, root) in roots.iter().enumerate() {
        let mut seen = BTreeSet::new();
        for (host_index, host) in root.hosts.iter().enumerate() {
            let field = format!("spec.hosts[{host_index}]");
            let mut tell = |level, code, text: String| report.tell(root.key(), Message::new(level, code, &field, text));
            let itself = |draft: &'a service::Draft| (draft.service.key(), draft);
            let standing = |draft: &'a service::Draft| {
                let hostname = host.as_str().into();
                (ServiceKey { hostname, ..draft.service.key() }, draft)
            };
            let own = sources.hosts.matching(host).into_iter().map(itself);
            let services: Vec<_> = own.chain(sources.hosts.standing_for(host).into_iter().map(standing)).collect();
            if services.is_empty() {
                let hint = if host.matches('.').count() == 1 { " (a short name has no dot)" } else { "" };
                tell(Level::Warning, Code::TargetNotFound, format!("no service has the name {host}{hint}"));
            }
            for (key, draft) in services {
                if !seen.insert(key.clone()) {
                    continue;
                }
                let (_, by_consumer) = scopes.entry(key).or_insert_with(|| (draft, BTreeMap::new()));
                for (consumer, rank) in consumers(root, draft, &mut tell) {
                    let candidate = Candidate { rank, specificity: Reverse(specificity(host)), root: index, host: host_index };
                    by_consumer.entry(consumer).or_default().push(candidate);
                }
            }
        }
    }
    scopes
}

/// Whose requests to a service a VirtualService routes.
fn consumers(root: &Root<'_>, draft: &service::Draft, tell: &mut impl FnMut(Level, Code, String)) -> Vec<(Consumer, Rank)> {
    let namespace = &root.name.namespace;
    if *namespace == draft.service.namespace {
        return match &root.exports {
            Exports::Everyone => vec![(None, Rank::Public)],
            Exports::Only(only) => only.iter().map(|consumer| (Some(consumer.clone()), Rank::Exported)).collect(),
        };
    }
    let (host, owner) = (&draft.service.hostname, &draft.service.namespace);
    if !root.exports.include(namespace) {
        let text = format!("{host} is of namespace {owner}: from {namespace} only clients of {namespace} can be routed");
        tell(Level::Error, Code::NotHonoured, text);
        return Vec::new();
    }
    let beyond = match &root.exports {
        Exports::Everyone => !root.spec.export_to.is_empty(),
        Exports::Only(only) => only.len() > 1,
    };
    let level = if beyond { Level::Warning } else { Level::Info };
    tell(level, Code::NotHonoured, format!("{host} is of namespace {owner}: only clients of {namespace} are routed by this"));
    vec![(Some(namespace.clone()), Rank::Own)]
}

/// A port that rules are made for.
struct Place<'a> {
    service: &'a service::Draft,
    port: u16,
    consumer: &'a Consumer,
    sources: Sources<'a>,
}

/// The VirtualServices of one service for one kind of client, the most important first.
struct Scope<'a> {
    sources: Sources<'a>,
    roots: &'a [Root<'a>],
    /// The name that the routes are for.
    service: &'a ServiceKey,
    /// The service that has it, or stands for it.
    draft: &'a service::Draft,
    consumer: &'a Consumer,
    candidates: &'a [Candidate],
    of_gateway_api: &'a Table,
}

impl Scope<'_> {
    fn add(&self, table: &mut Table, report: &mut Report) {
        let draft = self.draft;
        let mut carried = Carried::default();
        for port in &draft.service.ports {
            use AppProtocol::{Grpc, Http2, Http11, Tcp, Tls, Unknown};
            let carries = match port.protocol {
                Http11 | Http2 | Grpc => Carried { http: true, ..Carried::default() },
                Tls => Carried { tls: true, tcp: true, ..Carried::default() },
                Tcp => Carried { tcp: true, ..Carried::default() },
                Unknown => Carried { http: true, tls: true, tcp: true },
            };
            carried = carried.or(carries);
            let place = Place { service: draft, port: port.service_port, consumer: self.consumer, sources: self.sources };
            self.at(&place, carries, table, report);
        }
        for candidate in self.candidates {
            self.tell_unspoken(&self.roots[candidate.root], carried, report);
        }
    }

    fn at(&self, place: &Place<'_>, carries: Carried, table: &mut Table, report: &mut Report) {
        let key = |consumer: Consumer| RoutesKey { service: self.service.clone(), port: place.port, consumer };
        let of_owner = self.consumer.as_ref().and_then(|_| self.of_gateway_api.get(&key(None)));

        let http = carries.http.then(|| {
            let rules = |root: &Root<'_>, report: &mut Report| http_rules::rules(root, place, report);
            self.settle(of_owner.and_then(first_http), report, rules)
        });
        let tls = carries.tls.then(|| {
            let rules = |root: &Root<'_>, report: &mut Report| connection::tls_rules(root, place, report);
            self.settle(of_owner.and_then(first_tls), report, rules)
        });
        let tcp = carries.tcp.then(|| {
            let rules = |root: &Root<'_>, report: &mut Report| connection::tcp_rules(root, place, report);
            self.settle(of_owner.and_then(first_tcp), report, rules)
        });
        let (http, tls, tcp) = (http.flatten(), tls.flatten(), tcp.flatten());
        // What is everybody's needs no copy for one namespace.
        let own = |rank: Option<Rank>| rank.is_some_and(|rank| rank != Rank::Public || self.consumer.is_none());
        let ranks = [http.as_ref().map(|found| found.0), tls.as_ref().map(|found| found.0), tcp.as_ref().map(|found| found.0)];
        if !ranks.into_iter().any(own) {
            return;
        }
        let mut routes = Routes {
            key: key(self.consumer.clone()),
            http: of_owner.map(|routes| routes.http.clone()).unwrap_or_default(),
            tls: of_owner.map(|routes| routes.tls.clone()).unwrap_or_default(),
            tcp: of_owner.map(|routes| routes.tcp.clone()).unwrap_or_default(),
        };
        if let Some((_, rules)) = http {
            routes.http = rules;
        }
        if let Some((_, rules)) = tls {
            routes.tls = rules;
            routes.tcp = connection::after_tls(&routes.tls, place);
        }
        if let Some((_, rules)) = tcp {
            routes.tcp = rules;
        }
        table.insert(routes.key.clone(), routes);
    }

    /// The first candidate with rules, which are its own; the others of its rank are told.
    fn settle<R>(
        &self,
        of_owner: Option<&Origin>,
        report: &mut Report,
        mut rules: impl FnMut(&Root<'_>, &mut Report) -> Vec<R>,
    ) -> Option<(Rank, Vec<R>)> {
        let mut winner: Option<(&Candidate, Vec<R>)> = None;
        for candidate in self.candidates {
            let root = &self.roots[candidate.root];
            // What is for everybody has been told what there is to tell.
            let (told, mut scratch) = (self.consumer.is_some() && candidate.rank == Rank::Public, Report::default());
            let found = rules(root, if told { &mut scratch } else { &mut *report });
            if found.is_empty() {
                continue;
            }
            let before = of_owner.filter(|_| candidate.rank != Rank::Own);
            let by = match (before, &winner) {
                _ if told && (before.is_some() || winner.is_some()) => continue,
                (Some(origin), _) => format!("{} {}/{}", origin.kind, origin.namespace, origin.name),
                (None, None) => {
                    winner = Some((candidate, found));
                    continue;
                }
                (None, Some((first, _))) if (first.rank, first.specificity) == (candidate.rank, candidate.specificity) => {
                    self.roots[first.root].key().to_string()
                }
                // Less specific, or the owner's where the client's namespace has its own: meant to give way.
                (None, Some(_)) => continue,
            };
            let text = format!("{} is routed by {by}, which has precedence (IST0109)", root.hosts[candidate.host]);
            let field = format!("spec.hosts[{}]", candidate.host);
            report.tell(root.key(), Message::new(Level::Error, Code::Conflict, field, text));
        }
        winner.map(|(candidate, rules)| (candidate.rank, rules))
    }

    fn tell_unspoken(&self, root: &Root<'_>, carried: Carried, report: &mut Report) {
        let VirtualServiceSpec { http, tls, tcp, .. } = root.spec;
        let classes = [
            ("spec.http", !http.is_empty() && !carried.http, "HTTP"),
            ("spec.tls", !tls.is_empty() && !carried.tls, "TLS"),
            ("spec.tcp", !tcp.is_empty() && !carried.tcp, "TCP"),
        ];
        for (field, _, protocol) in classes.into_iter().filter(|(_, unspoken, _)| *unspoken) {
            let text = format!("no port of {} is declared to speak {protocol}", self.service.hostname);
            report.tell(root.key(), Message::new(Level::Warning, Code::NotHonoured, field, text));
        }
    }
}

/// Which kinds of rules bear on a port.
#[derive(Clone, Copy, Default)]
struct Carried {
    http: bool,
    tls: bool,
    tcp: bool,
}

impl Carried {
    fn or(self, other: Self) -> Self {
        Self { http: self.http || other.http, tls: self.tls || other.tls, tcp: self.tcp || other.tcp }
    }
}

fn first_http(routes: &Routes) -> Option<&Origin> {
    routes.http.first().map(|rule| &rule.origin)
}

fn first_tls(routes: &Routes) -> Option<&Origin> {
    routes.tls.first().map(|rule| &rule.origin)
}

fn first_tcp(routes: &Routes) -> Option<&Origin> {
    routes.tcp.first().map(|rule| &rule.origin)
}
