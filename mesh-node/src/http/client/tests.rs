//! What `meshctl explain` says is what the node does: on random rules and requests, the same way through both.

use std::{collections::BTreeMap, net::IpAddr};

use http::{Method, Request as HttpRequest};
use mesh_policy::{
    binding::{self, Binding},
    destination::Refusal,
    explain::{self, Answer as Explained, Explanation, Question, Route},
    model::{
        AppProtocol, BackendRef, DirectResponse, Exports, Header, HeaderMatch, HeaderOps, Health, HttpMatch, HttpRule,
        LoadBalancing, Locality, Model, NetworkMode, Origin, OutboundPolicy, PathChange, PathMatch, Pattern, PortMapping,
        QueryMatch, Redirect, RedirectPort, RetryPolicy, Routes, RoutesKey, RoutingMode, Service, ServiceKey, ServicePort,
        TextMatch, TrustDomain, TunnelProtocol, VirtualAddress, WorkloadKind, WorkloadUid,
        header::{Name, Value},
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::balance::PodBalance;

const CART: &str = "10.96.0.1";
const PEER: &str = "10.1.0.9";
const NOBODY: &str = "192.0.2.1";

fn workload(name: &str, address: &str, behind: &[(&ServiceKey, u16, u16)]) -> Workload {
    let mapping = |(key, service_port, target_port): &(&ServiceKey, u16, u16)| {
        ((*key).clone(), vec![PortMapping { service_port: *service_port, target_port: *target_port }])
    };
    Workload {
        uid: WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into()),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![address.parse().expect("an address")],
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        trust_domain: TrustDomain::default(),
        service_account: name.into(),
        node: "node-1".into(),
        cluster: "Kubernetes".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        policies: Vec::new(),
        health: Health::Healthy,
        locality: Locality::default(),
        capacity: 1,
        labels: BTreeMap::new(),
        services: behind.iter().map(mapping).collect(),
    }
}

fn key(hostname: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: hostname.into() }
}

fn service(name: &str, hostname: &str, addresses: &[&str], mode: RoutingMode) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: hostname.into(),
        addresses: addresses.iter().map(|text| VirtualAddress::host(text.parse().expect("an address"))).collect(),
        ports: vec![ServicePort { service_port: 80, target_port: 8080, protocol: AppProtocol::Http11 }],
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing { mode, ..LoadBalancing::default() },
        exports: Exports::Everywhere,
    }
}

const CART_HOST: &str = "cart.shop.svc.cluster.local";
const PEERS_HOST: &str = "peers.shop.svc.cluster.local";
const WILD: &str = "*.example.com";
const FOO: &str = "foo.example.com";

/// A shop with a service, a headless one, and a wildcard of the internet; each has rules, or none.
fn model(rules: [Vec<HttpRule>; 4], registry_only: bool) -> Model {
    let mut model = Model::default();
    let (cart, peers) = (key(CART_HOST), key(PEERS_HOST));
    model.upsert_workload(workload("page", "10.1.0.1", &[]));
    model.upsert_workload(workload("cart-0", "10.1.0.2", &[(&cart, 80, 8080)]));
    model.upsert_workload(workload("peer-0", PEER, &[(&peers, 80, 8080)]));
    model.upsert_service(service("cart", CART_HOST, &[CART], RoutingMode::Unspecified));
    model.upsert_service(service("peers", PEERS_HOST, &[], RoutingMode::Unspecified));
    model.upsert_service(service("wild", WILD, &[], RoutingMode::Passthrough));
    if registry_only {
        model.mesh.outbound_policy = OutboundPolicy::RegistryOnly;
    }
    for (host, http) in [CART_HOST, PEERS_HOST, WILD, FOO].into_iter().zip(rules) {
        if !http.is_empty() {
            let key = RoutesKey { service: key(host), port: 80, consumer: None };
            model.routes.insert(key.clone(), Arc::new(Routes { key, http, tls: Vec::new(), tcp: Vec::new() }));
        }
    }
    model
}

/// A way of a request, as far as node and explanation both say it.
#[derive(Debug, PartialEq)]
enum Way {
    /// In the words of neither: the status.
    Answered {
        rule: Option<Origin>,
        status: u16,
        location: Option<String>,
    },
    Forwarded {
        rule: Option<Origin>,
        retry: RetryPolicy,
        backends: Vec<Arrival>,
    },
}

/// Service, port, host, path and query, then the endpoints.
type Arrived = (Option<String>, u16, String, String, Vec<String>);

/// What a backend's application gets, and who it is; None: the request fails on its way there.
#[derive(Debug, PartialEq)]
struct Arrival {
    weight: u32,
    arrives: Option<Arrived>,
}

fn by_node(snapshot: &Snapshot, source: &Arc<Workload>, dialled: SocketAddr, request: HttpRequest<()>) -> Way {
    let (mut head, ()) = request.into_parts();
    let facts = Facts::normalize(&mut head, snapshot.http().normalization, "").expect("a good request");
    let bound = binding::bind(snapshot, source, dialled).map(Binding::into_bound).expect("every address here speaks HTTP");
    let answered = |rule, error: &ExchangeError| {
        let reply = error.reply();
        let location = reply.headers.get(http::header::LOCATION).map(|value| value.to_str().expect("text").to_owned());
        Way::Answered { rule, status: reply.status.as_u16(), location }
    };
    let addressed = match bound.address(snapshot, source, facts.host()) {
        Ok(addressed) => addressed,
        Err(Unaddressed::Refused(refusal)) => {
            assert_eq!(refusal, Refusal::RegistryOnly);
            return answered(None, &ExchangeError::NotRegistered { refusal, host: facts.host().to_owned() });
        }
        Err(Unaddressed::Gone(what)) => panic!("{what}"),
    };
    let selected = match destination::route(&addressed, snapshot, source, &facts.request(&head)) {
        Ok(selected) => selected,
        Err(error) => return answered(None, &error),
    };
    let rule = selected.as_ref().map(|selected| selected.rule.origin.clone());
    let default = HttpAction::default();
    let action = selected.as_ref().map_or(&default, |selected| &*selected.rule.action);
    let mut rng = fastrand::Rng::with_seed(0);
    if let Err(error) = own_answer_or_backend(action, selected.as_ref(), &facts, &head, dialled.port(), &mut rng) {
        return answered(rule, &error);
    }
    let balance = PodBalance::default();
    let as_came = head.headers.clone();
    let ends = Ends { remote: dialled, local: dialled, client: None };
    let arrival = |backend: Option<&Backend>| {
        let (mut head, facts) = (clone(&head), facts.clone());
        let facts = changed(&mut head, facts, &as_came, action, backend, selected.as_ref(), &ends, snapshot).ok()?;
        let forward = Forward::new(snapshot, source, &addressed, backend.map(|backend| &backend.to), &balance).ok()?;
        let mut candidates = forward.candidates(snapshot, source, dialled).ok()?;
        let mut at = Vec::new();
        while let Some(hop) = candidates.next_hop(&|_| true, &NobodyBusy, &mut rng.clone()) {
            at.push(hop.workload().map_or_else(|| "the address dialled".into(), |workload| format!("shop/{}", workload.name)));
        }
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let service = forward.service.map(|service| service.key().to_string());
        Some((service, forward.port, target, facts.host().to_owned(), at))
    };
    let backends = match &action.target {
        _ if selected.is_none() => vec![Arrival { weight: 1, arrives: arrival(None) }],
        Target::Forward(backends) => {
            backends.iter().map(|backend| Arrival { weight: backend.weight, arrives: arrival(Some(backend)) }).collect()
        }
        Target::Redirect(_) | Target::Respond(_) => unreachable!("answered above"),
    };
    let retry = action.retry.as_ref().unwrap_or(&snapshot.http().retry).clone();
    Way::Forwarded { rule, retry, backends }
}

fn clone(head: &Parts) -> Parts {
    let mut request = HttpRequest::builder().method(head.method.clone()).uri(head.uri.clone()).version(head.version);
    *request.headers_mut().expect("a good request") = head.headers.clone();
    request.body(()).expect("a good request").into_parts().0
}

struct NobodyBusy;

impl mesh_policy::balance::InFlight for NobodyBusy {
    fn of(&self, _: &WorkloadUid) -> u32 {
        0
    }
}

fn by_explanation(explanation: Explanation) -> Way {
    let Explanation { route, answer, treatment, backends, .. } = explanation;
    let rule = match route {
        Route::Rule { origin, .. } => Some(origin),
        Route::None | Route::NoRule { .. } => None,
    };
    let answered = |status, location| Way::Answered { rule: rule.clone(), status, location };
    match answer {
        Some(Explained::Redirect { status, location }) => return answered(status, Some(location)),
        Some(Explained::Respond { status }) => return answered(status, None),
        Some(Explained::NoRoute) => return answered(404, None),
        Some(Explained::NoBackend) => return answered(500, None),
        Some(Explained::NotRegistered) => return answered(502, None),
        None => {}
    }
    let arrival = |backend: explain::Backend| {
        let picked = backend.endpoints.iter().filter(|endpoint| endpoint.tier.is_some());
        let at = picked.map(|endpoint| endpoint.workload.clone()).collect();
        let (path, host) = (backend.path.unwrap_or_default(), backend.host.unwrap_or_default());
        let arrives = backend.unavailable.is_none().then_some((backend.service, backend.port, path, host, at));
        Arrival { weight: backend.weight, arrives }
    };
    let retry = treatment.expect("every request is treated").retry;
    Way::Forwarded { rule, retry, backends: backends.into_iter().map(arrival).collect() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explain_says_what_the_node_does(
        rules in [rules(), rules(), rules(), rules()],
        registry_only in any::<bool>(),
        dialled in select(vec![(CART, 80), (PEER, 8080), (NOBODY, 80)]),
        asked in asked(),
    ) {
        let snapshot = model(rules, registry_only).snapshot();
        let source = snapshot.workload(&WorkloadUid("Kubernetes//Pod/shop/page".into())).expect("the page").clone();
        let dialled = SocketAddr::new(dialled.0.parse::<IpAddr>().expect("an address"), dialled.1);
        let (mut head, ()) = clone_request(&asked).into_parts();
        let facts = Facts::normalize(&mut head, snapshot.http().normalization, "").expect("a good request");
        let request = facts.request(&head);
        let question = Question { source: &source, dialled, sni: None, request: Some(request) };
        let explained = by_explanation(explain::explain(&snapshot, &question));
        prop_assert_eq!(explained, by_node(&snapshot, &source, dialled, asked));
    }
}

fn clone_request(request: &HttpRequest<()>) -> HttpRequest<()> {
    let mut copy = HttpRequest::builder().method(request.method().clone()).uri(request.uri().clone());
    *copy.headers_mut().expect("a good request") = request.headers().clone();
    copy.body(()).expect("a good request")
}

fn asked() -> impl Strategy<Value = HttpRequest<()>> {
    let paths = vec!["/", "/a", "/a/b", "/A/b", "/a/../b?q=1", "/ab?q=2", "/a//b"];
    let hosts = vec!["cart", "cart:80", "peers", "foo.example.com", "bar.example.com", "x.foo.example.com", "other.org"];
    let header = option::of(select(vec!["v1", "v2"]));
    (select(vec![Method::GET, Method::POST]), select(paths), select(hosts), header).prop_map(|(method, path, host, header)| {
        let mut request = HttpRequest::builder().method(method).uri(path).header("host", host);
        if let Some(header) = header {
            request = request.header("x-version", header);
        }
        request.body(()).expect("a request")
    })
}

fn rules() -> impl Strategy<Value = Vec<HttpRule>> {
    vec((vec(one_match(), 0..3), action()), 0..4).prop_map(|rules| {
        let rule = |(at, (matches, action)): (usize, (Vec<HttpMatch>, HttpAction))| HttpRule {
            name: format!("rule-{at}").into(),
            origin: Origin {
                kind: "VirtualService".into(),
                namespace: "shop".into(),
                name: "one".into(),
                field: format!("spec.http[{at}]").into(),
            },
            matches,
            action: Arc::new(action),
        };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

fn name(text: &str) -> Name {
    Name(text.parse().expect("a name"))
}

fn one_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        Just(PathMatch::Exact("/a".into())),
        Just(PathMatch::Prefix("/a".into())),
        Just(PathMatch::Segments("/a".into())),
        Just(PathMatch::Regex(Pattern::new("/a.*b").expect("a pattern"))),
    ];
    let headers = vec(Just(HeaderMatch { name: name("x-version"), value: TextMatch::Exact("v1".into()) }), 0..2);
    let query = vec(Just(QueryMatch { name: "q".into(), value: TextMatch::Exact("1".into()) }), 0..2);
    (option::of(path), any::<bool>(), headers, query).prop_map(|(path, ignore_path_case, headers, query)| HttpMatch {
        path,
        ignore_path_case,
        headers,
        query,
        ..HttpMatch::default()
    })
}

fn action() -> impl Strategy<Value = HttpAction> {
    let redirect = (select(vec![301, 308]), option::of(select(vec!["new.example"])), option::of(path_change())).prop_map(
        |(status, host, path)| {
            let (host, port) = (host.map(Into::into), RedirectPort::Unchanged);
            Target::Redirect(Redirect { scheme: None, host, port, path, status })
        },
    );
    let respond = Just(Target::Respond(DirectResponse { status: 418, body: Arc::from([]) }));
    let target = prop_oneof![6 => vec(backend(), 0..3).prop_map(Target::Forward), 1 => redirect, 1 => respond];
    let retry = option::of((0..4_u32).prop_map(|attempts| RetryPolicy { attempts, ..RetryPolicy::default() }));
    (target, option::of(rewrite()), ops(), retry).prop_map(|(target, rewrite, request_headers, retry)| HttpAction {
        target,
        rewrite,
        request_headers,
        retry,
        ..HttpAction::default()
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    let service =
        |host: &str, port, subset: Option<&str>| BackendRef::Service { service: key(host), port, subset: subset.map(Into::into) };
    let to = select(vec![
        service(CART_HOST, 80, None),
        service(PEERS_HOST, 80, None),
        service(WILD, 80, None),
        service(CART_HOST, 81, None),
        service(CART_HOST, 80, Some("v9")),
        service("gone.shop.svc.cluster.local", 80, None),
        BackendRef::Invalid { reason: "no ReferenceGrant".into() },
    ]);
    (to, 0..3_u32, option::of(rewrite()), ops()).prop_map(|(to, weight, rewrite, request_headers)| Backend {
        rewrite,
        request_headers,
        ..Backend::new(to, weight)
    })
}

fn path_change() -> impl Strategy<Value = PathChange> {
    prop_oneof![
        select(vec!["/new", "/x//y", "/n/../m"]).prop_map(|path| PathChange::Full(path.into())),
        select(vec!["/new", "/", "/x/"]).prop_map(|path| PathChange::Prefix(path.into())),
    ]
}

fn rewrite() -> impl Strategy<Value = Rewrite> {
    let host = option::of(select(vec!["Shop.example", "shop.example:81"]).prop_map(Into::into));
    (option::of(path_change()), host).prop_map(|(path, host)| Rewrite { path, host })
}

fn ops() -> impl Strategy<Value = HeaderOps> {
    let value = |text: &str| Value(text.parse().expect("a value"));
    let one = move |(at, text): (&str, &str)| Header { name: name(at), value: value(text) };
    let set = vec(select(vec![("host", "set.example"), ("x-version", "v3"), ("te", "x")]).prop_map(one), 0..2);
    let add = vec(select(vec![("host", "added.example:82"), ("x-version", "v4")]).prop_map(one), 0..2);
    let remove = vec(select(vec!["x-version", "host"]).prop_map(name), 0..2);
    (set, add, remove).prop_map(|(set, add, remove)| HeaderOps { set, add, remove })
}
