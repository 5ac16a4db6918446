//! One backend: its endpoints, how each is reached, and what its policies say.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
};

use fastrand::Rng;
use http::HeaderMap;

use super::{Authorization, Backend, Change, Endpoint, Judgement, Transport, is_captured, name_of, named};
use crate::{
    authz::{Connection, Outcome, decide, decide_request, needs_request},
    balance::{InFlight, Member, Query, Standing},
    destination::{Hop, Refusal, to_dialled_workload},
    http::{Request, apply_header_ops, authority, normalize_path},
    model::{
        AppProtocol, Backend as Routed, Health, PathNormalization, RoutingMode, Service, Snapshot, Subset, TrafficPolicy,
        TrafficRule, Workload, WorkloadUid,
    },
    routing::change_path,
};

static PLAIN: LazyLock<TrafficPolicy> = LazyLock::new(TrafficPolicy::default);

/// What is asked of every backend.
pub(super) struct Asked<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) source: &'a Workload,
    pub(super) dialled: SocketAddr,
    pub(super) request: Option<&'a Request<'a>>,
}

/// A service's port, or a workload that was dialled itself.
pub(super) struct Place<'a> {
    pub(super) service: Option<&'a Arc<Service>>,
    pub(super) port: u16,
    pub(super) subset: Option<&'a Arc<str>>,
    pub(super) workload: Option<&'a Arc<Workload>>,
}

impl Asked<'_> {
    /// A backend that a rule names; `itself` is what was addressed.
    pub(super) fn routed(&self, itself: &Place<'_>, routed: &Routed, total: u64, change: Option<&Change<'_>>) -> Backend {
        let (key, port, subset) = match named(&routed.to) {
            Ok(named) => named,
            Err(reason) => return unavailable(None, routed, total, reason.to_owned()),
        };
        let Some(service) = self.snapshot.service(key) else {
            return unavailable(Some(key.to_string()), routed, total, format!("no service {key}"));
        };
        let same = itself.service.is_some_and(|itself| itself.key() == *key);
        let workload = itself.workload.filter(|_| same && subset.is_none());
        let place = Place { service: Some(service), port, subset, workload };
        self.backend(&place, routed.weight, total, change)
    }

    pub(super) fn backend(&self, place: &Place<'_>, weight: u32, total: u64, change: Option<&Change<'_>>) -> Backend {
        let Place { service, port, subset, workload } = place;
        let rule = service.and_then(|service| self.snapshot.traffic(&service.key(), &self.source.namespace));
        let chosen = subset.map(|name| rule.and_then(|rule| rule.subsets.get(name)).ok_or_else(|| format!("no subset {name}")));
        let policy = policy(rule, *port, *subset);
        let how = self.snapshot.http().normalization;
        let arriving = match self.request.map(|request| Arriving::new(request, change, how)).transpose() {
            Ok(arriving) => arriving,
            // The node answers 400.
            Err(why) => return Backend { policy: policy.clone(), ..broken(place, weight, total, why) },
        };
        let (endpoints, unavailable) = match (service, workload, chosen.transpose()) {
            (_, _, Err(why)) => (Vec::new(), Some(why)),
            (service, Some(workload), Ok(_)) => {
                let address = Some(SocketAddr::new(self.dialled.ip(), self.dialled.port()));
                (vec![self.endpoint(workload, address, Some(0), *service, arriving.as_ref())], None)
            }
            (Some(service), None, Ok(_)) if service.load_balancing.mode == RoutingMode::Passthrough => {
                (vec![self.as_dialled()], None)
            }
            (Some(service), None, Ok(subset)) => self.endpoints(service, *port, subset, policy, arriving.as_ref()),
            (None, None, Ok(_)) => (vec![self.as_dialled()], None),
        };
        Backend {
            service: service.map(|service| service.key().to_string()),
            port: *port,
            subset: subset.cloned(),
            weight,
            percent: percent(weight, total),
            path: arriving.as_ref().map(|arriving| arriving.path_and_query.clone()),
            host: arriving.as_ref().map(|arriving| arriving.host.clone()),
            path_change: change.and_then(Change::rewrite).and_then(|rewrite| rewrite.path.clone()),
            destination_rule: rule.map(|rule| rule.origin.clone()),
            policy: policy.clone(),
            unavailable,
            endpoints,
        }
    }

    /// Who has the address that was dialled, whoever that is.
    fn as_dialled(&self) -> Endpoint {
        Endpoint {
            workload: "the address dialled".into(),
            address: Some(self.dialled),
            healthy: true,
            tier: Some(0),
            locality: "//".into(),
            node: "".into(),
            transport: Transport::Plaintext,
            authorization: Authorization::NotEnforced,
        }
    }

    /// The endpoints by tier, then those that are not picked.
    fn endpoints(
        &self,
        service: &Arc<Service>,
        port: u16,
        subset: Option<&Subset>,
        policy: &TrafficPolicy,
        arriving: Option<&Arriving<'_>>,
    ) -> (Vec<Endpoint>, Option<String>) {
        let pool = self.snapshot.pool(&service.key()).expect("every service has a pool");
        let query = Query { source: self.source, port, subset, policy, hash: None, dialled: Some(self.dialled.ip()) };
        let picked = pool.candidates(&query, &Standing::default());
        let mut endpoints = Vec::new();
        let mut add = |member: &Member, tier| {
            let address = member.workload.address_like(self.dialled.ip());
            let address = address.map(|address| SocketAddr::new(address, member.target_port));
            endpoints.push(self.endpoint(&member.workload, address, tier, Some(service), arriving));
        };
        let mut seen: Vec<WorkloadUid> = Vec::new();
        if let Ok(picker) = &picked {
            for (tier, members) in picker.groups().enumerate() {
                for member in members {
                    add(member, Some(tier));
                    seen.push(member.workload.uid.clone());
                }
            }
        }
        pool.members(port, subset).filter(|member| !seen.contains(&member.workload.uid)).for_each(|member| add(&member, None));
        (endpoints, picked.err().map(|lack| Refusal::from(lack).code().to_owned()))
    }

    fn endpoint(
        &self,
        workload: &Arc<Workload>,
        address: Option<SocketAddr>,
        tier: Option<usize>,
        service: Option<&Arc<Service>>,
        arriving: Option<&Arriving<'_>>,
    ) -> Endpoint {
        let locality = &workload.locality;
        Endpoint {
            workload: name_of(workload),
            address,
            healthy: workload.health == Health::Healthy,
            tier,
            locality: format!("{}/{}/{}", locality.region, locality.zone, locality.subzone),
            node: workload.node.clone(),
            transport: address.map_or(Transport::Plaintext, |address| self.transport(workload, address, service)),
            authorization: address.map_or(Authorization::NotEnforced, |address| self.authorization(workload, address, arriving)),
        }
    }

    fn transport(&self, workload: &Arc<Workload>, address: SocketAddr, service: Option<&Arc<Service>>) -> Transport {
        let is_local = |_: &WorkloadUid| is_captured(workload) && !workload.node.is_empty() && workload.node == self.source.node;
        let mut candidates = to_dialled_workload(workload, address, service);
        match candidates.next_hop(&is_local, &NothingInFlight, &mut Rng::with_seed(0)) {
            Some(Hop::Hbone { expected, .. }) => {
                Transport::Hbone { expected: expected.iter().map(ToString::to_string).collect() }
            }
            Some(Hop::SameNode { .. }) => Transport::SameNode,
            Some(Hop::Direct { .. } | Hop::DirectByName { .. } | Hop::Outside { .. }) | None => Transport::Plaintext,
        }
    }

    fn authorization(&self, workload: &Workload, address: SocketAddr, arriving: Option<&Arriving<'_>>) -> Authorization {
        if !is_captured(workload) {
            return Authorization::NotEnforced;
        }
        let identity = is_captured(self.source).then(|| self.source.identity());
        let connection = Connection {
            source_identity: identity.as_ref(),
            source_ip: self.source.address_like(address.ip()).unwrap_or(IpAddr::from([0, 0, 0, 0])),
            destination_ip: address.ip(),
            destination_port: address.port(),
        };
        // The destination looks at requests where it was declared to speak HTTP, or where nobody has and a policy asks.
        let declared = self.snapshot.protocol_at(workload, address.port());
        let looked_at = declared == AppProtocol::Unknown && needs_request(self.snapshot, workload);
        let speaks_http = self.snapshot.http().enabled && (declared.is_http() || looked_at);
        let verdict = match arriving.filter(|_| speaks_http) {
            Some(arriving) => decide_request(self.snapshot, workload, &connection, &arriving.request()),
            None => decide(self.snapshot, workload, &connection),
        };
        Authorization::Judged { outcome: judgement(&verdict.outcome), dry_run: verdict.dry_run.as_ref().map(judgement) }
    }
}

/// A backend that the rule leaves no right request for.
fn broken(place: &Place<'_>, weight: u32, total: u64, why: &str) -> Backend {
    let Place { service, port, subset, workload: _ } = place;
    Backend {
        service: service.map(|service| service.key().to_string()),
        port: *port,
        subset: subset.cloned(),
        weight,
        percent: percent(weight, total),
        path: None,
        host: None,
        path_change: None,
        destination_rule: None,
        policy: TrafficPolicy::default(),
        unavailable: Some(why.to_owned()),
        endpoints: Vec::new(),
    }
}

/// A backend that has no place.
fn unavailable(service: Option<String>, routed: &Routed, total: u64, why: String) -> Backend {
    Backend {
        service,
        port: named(&routed.to).map_or(0, |(_, port, _)| port),
        subset: None,
        weight: routed.weight,
        percent: percent(routed.weight, total),
        path: None,
        host: None,
        path_change: None,
        destination_rule: None,
        policy: TrafficPolicy::default(),
        unavailable: Some(why),
        endpoints: Vec::new(),
    }
}

fn judgement(outcome: &Outcome) -> Judgement {
    let (code, by) = match outcome {
        Outcome::Allow { by } => (None, by),
        Outcome::Deny { reason, by } => (Some(reason.code()), by),
    };
    Judgement {
        allowed: outcome.is_allowed(),
        code,
        policy: by.as_ref().map(ToString::to_string),
        rule: by.as_ref().and_then(|by| by.rule),
    }
}

fn policy<'a>(rule: Option<&'a Arc<TrafficRule>>, port: u16, subset: Option<&Arc<str>>) -> &'a TrafficPolicy {
    let policy = rule.and_then(|rule| rule.policy(port, subset.map(|name| &**name)));
    policy.map_or(&*PLAIN, |policy| policy)
}

/// Of the sum of all weights, 0 to 100.
fn percent(weight: u32, total: u64) -> f64 {
    if total == 0 { 0.0 } else { f64::from(weight) * 100.0 / total as f64 }
}

/// The request as a backend's application gets it.
struct Arriving<'a> {
    request: &'a Request<'a>,
    path_and_query: String,
    host: String,
    host_port: Option<u16>,
    headers: HeaderMap,
}

impl<'a> Arriving<'a> {
    /// As the node makes it (`http::client`): path and host are rewritten, then the rule's header operations apply, then the
    /// backend's; what comes of each is brought into form. Err: it can not be, as a reason code.
    fn new(request: &'a Request<'a>, change: Option<&Change<'_>>, how: PathNormalization) -> Result<Self, &'static str> {
        const BROKEN: &str = "BAD_REQUEST";
        let query = request.query.map_or_else(String::new, |query| format!("?{query}"));
        let mut arriving = Self {
            request,
            path_and_query: format!("{}{query}", request.path),
            host: request.host.to_owned(),
            host_port: request.host_port,
            headers: request.headers.clone(),
        };
        let Some(change) = change else { return Ok(arriving) };
        if let Some(rewrite) = change.rewrite() {
            if let Some(path) = &rewrite.path {
                let changed = change_path(path, change.matched, &arriving.path_and_query);
                let normal = normalize_path(&changed, how).map_err(|_| BROKEN)?;
                arriving.path_and_query = normal.into_owned();
            }
            if let Some(host) = &rewrite.host {
                arriving.name(host)?;
            }
        }
        for ops in [&change.action.request_headers, &change.backend.request_headers] {
            let authority = apply_header_ops(ops, &mut arriving.headers, |value| Some(value.clone()));
            if let Some(authority) = authority {
                arriving.name(authority.to_str().map_err(|_| BROKEN)?)?;
            }
        }
        Ok(arriving)
    }

    fn name(&mut self, raw: &str) -> Result<(), &'static str> {
        let named = authority(raw).map_err(|_| "BAD_REQUEST")?;
        (self.host, self.host_port) = (named.host.into_owned(), named.port);
        Ok(())
    }

    fn request(&self) -> Request<'_> {
        let (path, query) = match self.path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*self.path_and_query, None),
        };
        Request { host: &self.host, host_port: self.host_port, path, query, headers: &self.headers, ..*self.request }
    }
}

struct NothingInFlight;

impl InFlight for NothingInFlight {
    fn of(&self, _: &WorkloadUid) -> u32 {
        0
    }
}
