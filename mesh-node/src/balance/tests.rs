//! Permits that count back, judgements that stay with their pod, and memory that is given back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use mesh_policy::{
    balance::{
        InFlight, NoEndpoint, Pool, Query,
        outlier::{Cause, Judgement, Outcome},
    },
    model::{
        AppProtocol, Balance, ConnectionLimits, Document, Exports, Health, LoadBalancing, Locality, Model, NetworkMode,
        OutlierDetection, RetryBudget, Service, ServiceKey, ServicePort, Snapshot, Subset, TrafficKey, TrafficPolicy,
        TrafficRule, TrustDomain, TunnelProtocol, Warmup, Workload, WorkloadKind, WorkloadUid,
    },
};

use super::*;

const PORT: u16 = 80;
const FAILED: Outcome = Outcome::Status(503);

/// A pod's own view of the service `s`, at a time that the test sets.
struct Client {
    balance: PodBalance,
    backend: Arc<Backend>,
    start: Instant,
    source: Workload,
    rng: Rng,
}

impl Client {
    fn new() -> Self {
        let balance = PodBalance::default();
        let backend = balance.backend(&backend_key("s"));
        Self { balance, backend, start: Instant::now(), source: workload("client", &[]), rng: Rng::with_seed(1) }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    /// Which endpoints a request at that time may be sent to.
    fn may_use(&mut self, snapshot: &Snapshot, policy: &TrafficPolicy, seconds: u64) -> Result<BTreeSet<String>, NoEndpoint> {
        let query = Query { policy, ..Query::plain(&self.source, PORT) };
        let mut picker = self.backend.candidates(pool(snapshot), &query, self.at(seconds))?;
        Ok(std::iter::from_fn(|| picker.pick(&Idle, &mut self.rng).map(|member| member.workload.name.to_string())).collect())
    }

    fn fail(&self, name: &str, policy: &TrafficPolicy, times: usize, seconds: u64) -> Judgement {
        (0..times).fold(Judgement::Nothing, |_, _| self.backend.record(policy, &uid(name), FAILED, self.at(seconds)))
    }
}

#[test]
fn a_hostile_pod_ejects_nothing_for_its_neighbors() {
    let snapshot = mesh(&["a", "b", "c"]).snapshot();
    let policy = judging();
    let (mut hostile, mut neighbor) = (Client::new(), Client::new());
    for client in [&mut hostile, &mut neighbor] {
        assert_eq!(client.may_use(&snapshot, &policy, 0), Ok(names(&["a", "b", "c"])));
    }
    for name in ["a", "b", "c"] {
        assert_eq!(hostile.fail(name, &policy, 3, 1), Judgement::Ejected(Cause::Consecutive5xx));
    }
    assert_eq!(hostile.may_use(&snapshot, &policy, 2), Err(NoEndpoint::Ejected));
    assert_eq!(neighbor.may_use(&snapshot, &policy, 2), Ok(names(&["a", "b", "c"])));

    // Nor does it use the neighbor's limits up.
    let limited = TrafficPolicy { limits: ConnectionLimits { max_requests: Some(1), ..Default::default() }, ..judging() };
    let _open = hostile.backend.try_request(&limited, hostile.at(2)).expect("the first");
    assert!(hostile.backend.try_request(&limited, hostile.at(2)).is_err());
    assert!(neighbor.backend.try_request(&limited, neighbor.at(2)).is_ok());
    let counts = hostile.balance.counts();
    assert_eq!(counts.ejections[0], (Cause::Consecutive5xx, 3));
    assert_eq!(counts.overflows[2], (Limited::Request, 1));
    assert_eq!(neighbor.balance.counts(), PodBalance::default().counts());
}

#[test]
fn an_ejected_endpoint_returns() {
    let snapshot = mesh(&["a", "b"]).snapshot();
    let policy = judging();
    let mut client = Client::new();
    assert_eq!(client.may_use(&snapshot, &policy, 0).map(|names| names.len()), Ok(2));
    client.fail("a", &policy, 3, 1);
    assert_eq!(client.backend.ejected(), [uid("a")]);
    // A success that was under way when it was ejected changes nothing.
    client.backend.record(&policy, &uid("a"), Outcome::Status(200), client.at(2));
    assert_eq!(client.may_use(&snapshot, &policy, 30), Ok(names(&["b"])));
    assert_eq!(client.may_use(&snapshot, &policy, 50), Ok(names(&["a", "b"])));
    // A policy without outlier detection ignores what was judged under another.
    client.fail("a", &policy, 3, 51);
    assert_eq!(client.may_use(&snapshot, &TrafficPolicy::default(), 52), Ok(names(&["a", "b"])));
}

#[test]
fn ejections_are_bounded_by_the_endpoints_there_are() {
    let snapshot = mesh(&["a", "b", "c", "d"]).snapshot();
    let policy = TrafficPolicy { outlier: Some(OutlierDetection { max_ejection_percent: 50, ..outlier() }), ..judging() };
    let mut client = Client::new();
    assert_eq!(client.may_use(&snapshot, &policy, 0).map(|names| names.len()), Ok(4));
    let judged: Vec<_> = ["a", "b", "c"].map(|name| client.fail(name, &policy, 3, 1)).into();
    let ejected = Judgement::Ejected(Cause::Consecutive5xx);
    assert_eq!(judged, [ejected, ejected, Judgement::Spared(Cause::Consecutive5xx)]);
    assert_eq!(client.may_use(&snapshot, &policy, 2), Ok(names(&["c", "d"])));
    assert_eq!(client.balance.counts().spared, 1);
}

/// A pod that is replaced under the same name is not blamed for what the old one did.
#[test]
fn endpoints_that_left_are_forgotten() {
    let mut model = mesh(&["a", "b"]);
    let policy = judging();
    let mut client = Client::new();
    let with_both = model.snapshot();
    assert_eq!(client.may_use(&with_both, &policy, 0).map(|names| names.len()), Ok(2));
    client.fail("a", &policy, 3, 1);
    let a = model.workloads.remove(&uid("a")).expect("it was there");
    let without = model.snapshot_after(&with_both);
    assert_eq!(client.may_use(&without, &policy, 2), Ok(names(&["b"])), "whoever left gets nothing new");
    assert_eq!(client.backend.ejected(), []);
    model.upsert_workload((*a).clone());
    assert_eq!(client.may_use(&model.snapshot_after(&without), &policy, 3), Ok(names(&["a", "b"])));
}

#[test]
fn services_that_left_are_forgotten_once_nothing_is_open() {
    let mut model = mesh(&["a"]);
    model.upsert_service(service("other"));
    let subset = || Subset { labels: BTreeMap::new(), policy: Arc::default(), ports: BTreeMap::new() };
    let rule = |subsets: &[&str]| {
        let key = TrafficKey { service: backend_key("s").service, consumer: None };
        let subsets = subsets.iter().map(|name| (Arc::from(*name), subset())).collect();
        Document::Traffic(Box::new(TrafficRule {
            key,
            origin: "".into(),
            policy: Arc::default(),
            ports: BTreeMap::new(),
            subsets,
        }))
    };
    model.upsert_document(rule(&["v1", "v2"]));
    let balance = PodBalance::default();
    let of_subset = |name: &str| BackendKey { subset: Some(name.into()), ..backend_key("s") };
    let keys =
        [backend_key("s"), of_subset("v1"), of_subset("v2"), backend_key("other"), BackendKey { port: 81, ..backend_key("s") }];
    for key in &keys {
        balance.backend(key);
    }
    let held = || {
        balance
            .report()
            .into_iter()
            .map(|report| (report.key.service.hostname.to_string(), report.key.port, report.key.subset))
            .collect::<BTreeSet<_>>()
    };
    let namespace: Arc<str> = "shop".into();
    balance.retain(&model.snapshot(), &namespace);
    assert_eq!(held().len(), 4, "the port 81 is not there");

    let open = balance.backend(&backend_key("other")).try_request(&TrafficPolicy::default(), Instant::now()).expect("no limit");
    model.services.remove(&backend_key("other").service);
    model.upsert_document(rule(&["v1"]));
    balance.retain(&model.snapshot(), &namespace);
    assert_eq!(
        held(),
        BTreeSet::from([("other".into(), PORT, None), ("s".into(), PORT, None), ("s".into(), PORT, Some("v1".into()))])
    );
    drop(open);
    balance.retain(&model.snapshot(), &namespace);
    assert_eq!(held().len(), 2);
}

#[test]
fn a_pod_that_talks_to_everybody_is_not_remembered_whole() {
    let balance = PodBalance::default();
    let kept = balance.backend(&backend_key("kept")).try_connection(&TrafficPolicy::default()).expect("no limit");
    for number in 0..2 * MOST_BACKENDS {
        balance.backend(&backend_key(&format!("s{number}")));
    }
    let report = balance.report();
    assert!(report.len() <= MOST_BACKENDS, "{}", report.len());
    let found = report.iter().find(|report| report.key == backend_key("kept")).expect("it has something open");
    assert_eq!(found.open[0], (Limited::Connection, 1));
    drop(kept);
}

#[test]
fn permits_count_back_however_they_end() {
    let balance = PodBalance::default();
    let backend = balance.backend(&backend_key("s"));
    let limits = ConnectionLimits {
        max_connections: Some(2),
        max_pending_requests: Some(0),
        max_requests: Some(3),
        max_retries: Some(1),
        ..Default::default()
    };
    let policy = TrafficPolicy { limits, ..TrafficPolicy::default() };
    let now = Instant::now();
    let open = |limited| backend.open(limited);
    let first = backend.try_connection(&policy).expect("one");
    let second = backend.try_connection(&policy).expect("two");
    assert_eq!(backend.try_connection(&policy).err(), Some(Overflow { limited: Limited::Connection, limit: 2 }));
    assert_eq!(backend.try_pending(&policy).err(), Some(Overflow { limited: Limited::PendingRequest, limit: 0 }));
    drop(first);
    assert_eq!(open(Limited::Connection), 1);
    let third = backend.try_connection(&policy).expect("there is room again");
    let in_task = std::thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            let _request = backend.try_request(&policy, now).expect("one");
            let _retry = backend.try_retry(&policy, now).expect("one");
            assert!(backend.try_retry(&policy, now).is_err());
            panic!("the request's task dies");
        });
        panicking.join()
    });
    assert!(in_task.is_err());
    drop((second, third));
    assert_eq!(Limited::ALL.map(open), [0; 4]);
    assert_eq!(balance.counts().overflows.map(|(_, count)| count), [1, 1, 0, 1]);

    // Many at once never exceed the limit, and all of them go back.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    if let Ok(_permit) = backend.try_request(&policy, now) {
                        assert!(open(Limited::Request) <= 3);
                    }
                }
            });
        }
    });
    assert_eq!(open(Limited::Request), 0);
}

#[test]
fn the_budget_allows_a_share_of_what_is_open() {
    let backend = PodBalance::default().backend(&backend_key("s"));
    let budget = |interval| TrafficPolicy {
        retry_budget: Some(RetryBudget { percent_centi: 2000, min_concurrency: 2, interval: Duration::from_secs(interval) }),
        // The budget takes the place of the number.
        limits: ConnectionLimits { max_retries: Some(0), ..Default::default() },
        ..TrafficPolicy::default()
    };
    let start = Instant::now();
    let allowed = |policy: &TrafficPolicy, now| {
        let permits: Vec<_> = std::iter::from_fn(|| backend.try_retry(policy, now).ok()).take(1000).collect();
        permits.len()
    };
    let open = budget(0);
    assert_eq!(allowed(&open, start), 2, "so many always");
    let requests: Vec<_> = (0..50).map(|_| backend.try_request(&open, start).expect("no limit")).collect();
    assert_eq!(allowed(&open, start), 10);
    drop(requests);
    assert_eq!(allowed(&open, start), 2);

    // Within the interval those count that are over, too.
    let recent = budget(10);
    for _ in 0..100 {
        drop(backend.try_request(&recent, start).expect("no limit"));
    }
    let after = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(allowed(&recent, start), 20);
    assert_eq!(allowed(&recent, after(9)), 20);
    assert!((2..20).contains(&allowed(&recent, after(16))), "fading");
    assert_eq!(allowed(&recent, after(40)), 2);
}

#[test]
fn turns_are_taken_one_after_the_other() {
    let snapshot = mesh(&["a", "b", "c"]).snapshot();
    let policy = TrafficPolicy { balance: Balance::RoundRobin, ..TrafficPolicy::default() };
    let mut client = Client::new();
    let mut order = Vec::new();
    for _ in 0..6 {
        let query = Query { policy: &policy, ..Query::plain(&client.source, PORT) };
        let mut picker = client.backend.candidates(pool(&snapshot), &query, client.start).expect("three serve");
        order.push(picker.pick(&Idle, &mut client.rng).expect("one").workload.name.to_string());
    }
    assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn newcomers_warm_up_and_old_ones_do_not() {
    let mut model = mesh(&["a", "b"]);
    let warmup = Warmup { duration: Duration::from_secs(100), minimum_percent: 10, aggression_milli: 1000 };
    let policy = TrafficPolicy { warmup: Some(warmup), ..TrafficPolicy::default() };
    let client = Client::new();
    let standing = |snapshot: &Snapshot, seconds| client.backend.standing(pool(snapshot), None, &policy, client.at(seconds));
    let first = model.snapshot();
    assert!(standing(&first, 10).since.is_none(), "of the first look nobody is new");
    model.upsert_workload(workload("c", &["s"]));
    let second = model.snapshot_after(&first);
    let since = standing(&second, 20).since.expect("one is new");
    assert_eq!(since.keys().collect::<Vec<_>>(), [&uid("c")]);
    // It stays the same newcomer through later changes, and is none any more when it is warm or gone.
    model.upsert_workload(workload("d", &["s"]));
    let third = model.snapshot_after(&second);
    let later = standing(&third, 70).since.expect("two are new");
    assert_eq!((later.len(), later[&uid("c")]), (2, since[&uid("c")]));
    model.workloads.remove(&uid("d"));
    let fourth = model.snapshot_after(&third);
    assert_eq!(standing(&fourth, 80).since.map(|since| since.len()), Some(1));
    assert!(standing(&fourth, 130).since.is_none());
}

fn judging() -> TrafficPolicy {
    TrafficPolicy { outlier: Some(outlier()), ..TrafficPolicy::default() }
}

fn outlier() -> OutlierDetection {
    OutlierDetection { consecutive_5xx: 3, max_ejection_percent: 100, ..OutlierDetection::default() }
}

fn pool(snapshot: &Snapshot) -> &Pool {
    snapshot.pool(&backend_key("s").service).expect("the service is there")
}

fn backend_key(service: &str) -> BackendKey {
    BackendKey::of_port(ServiceKey { namespace: "shop".into(), hostname: service.into() }, PORT)
}

/// The service `s` with these endpoints.
fn mesh(endpoints: &[&str]) -> Model {
    let mut model = Model::default();
    model.upsert_service(service("s"));
    for name in endpoints {
        model.upsert_workload(workload(name, &["s"]));
    }
    model
}

fn service(name: &str) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: name.into(),
        addresses: Vec::new(),
        ports: vec![ServicePort { service_port: PORT, target_port: 8080, protocol: AppProtocol::Http11 }],
        subject_alt_names: Vec::new(),
        load_balancing: LoadBalancing::default(),
        exports: Exports::Everywhere,
    }
}

fn workload(name: &str, services: &[&str]) -> Workload {
    Workload {
        uid: uid(name),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec!["10.0.0.1".parse().expect("an address")],
        hostname: "".into(),
        network: "".into(),
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        trust_domain: TrustDomain::default(),
        service_account: "default".into(),
        node: "node1".into(),
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
        services: services.iter().map(|service| (backend_key(service).service, Vec::new())).collect(),
    }
}

fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("Kubernetes//Pod/shop/{name}").into())
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

struct Idle;

impl InFlight for Idle {
    fn of(&self, _: &WorkloadUid) -> u32 {
        0
    }
}
