//! Who comes first by place, and who takes over when the nearest are ejected.

use std::collections::{BTreeSet, HashSet};

use super::*;
use crate::{
    balance::{Query, Retry, Standing, hash},
    model::{Balance, Distribution, HashAlgorithm, HashKey, LocalityPolicy, TrafficPolicy},
};

/// Endpoints as `region/zone/subzone`, named by their number; the client is at `r1/z1/s1`. Which are handed out in which
/// order: those between `|` in any.
fn check(locality: LocalityPolicy, endpoints: &[&str], wanted: &str) {
    let pool = placed(endpoints);
    let policy = TrafficPolicy { locality, ..TrafficPolicy::default() };
    let source = client();
    let query = Query { policy: &policy, ..Query::plain(&source, PORT) };
    let order = match pool.candidates(&query, &Standing::default()) {
        Err(lack) => return assert_eq!(format!("{lack:?}"), wanted),
        Ok(mut picker) => drain(&mut picker),
    };
    let mut order = order.into_iter();
    for group in wanted.split('|') {
        let wanted: BTreeSet<&str> = group.split_whitespace().collect();
        let given: BTreeSet<String> = order.by_ref().take(wanted.len()).collect();
        assert_eq!(given.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted, "{endpoints:?} {policy:?}");
    }
    assert_eq!(order.next(), None);
}

#[test]
fn nearest_first() {
    let endpoints = ["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1", "r3/z1/s1", "r1/z1/s1"];
    let to = |pairs: &[(&str, &str)]| pairs.iter().map(|(from, to)| (Arc::from(*from), Arc::from(*to))).collect();
    check(LocalityPolicy::OfService, &endpoints, "0 1 2 3 4 5");
    check(LocalityPolicy::Off, &endpoints, "0 1 2 3 4 5");
    check(LocalityPolicy::Failover { to: to(&[]) }, &endpoints, "0 5 | 1 | 2 | 3 4");
    check(LocalityPolicy::Failover { to: to(&[("r1", "r3")]) }, &endpoints, "0 5 | 1 | 2 | 4 | 3");
    check(LocalityPolicy::Failover { to: to(&[("r9", "r3")]) }, &endpoints, "0 5 | 1 | 2 | 3 4");
    check(LocalityPolicy::Failover { to: to(&[("r1", "r3")]) }, &["r2/z1/s1", "r3/z1/s1"], "1 | 0");
}

#[test]
fn by_labels_in_turn() {
    let labels = |labels: &[&str]| {
        let label = |text: &&str| match text.split_once('=') {
            Some((name, value)) => (name.into(), Some(value.into())),
            None => (Arc::from(*text), None),
        };
        LocalityPolicy::Priority { labels: labels.iter().map(label).collect() }
    };
    let (region, zone) = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone");
    let endpoints = ["r1/z1/", "r1/z2/", "r2/z1/", "r2/z2/"];
    check(labels(&[region, zone]), &endpoints, "0 | 1 | 2 3");
    check(labels(&[zone, region]), &endpoints, "0 | 2 | 1 3");
    check(labels(&["topology.kubernetes.io/region=r2"]), &endpoints, "2 3 | 0 1");
    check(labels(&["topology.kubernetes.io/region=r2", zone]), &endpoints, "2 | 3 | 0 1");
    // A label that nobody has is equal everywhere.
    check(labels(&["app", zone]), &endpoints, "0 2 | 1 3");
}

#[test]
fn what_a_service_insists_on_stays() {
    let strict = LoadBalancing { mode: RoutingMode::Strict, preference: vec![RoutingScope::Zone], ..LoadBalancing::default() };
    let service = Service { load_balancing: strict, ..service("shop/s", &[], &[(PORT, PORT)]) };
    let pool = pool(&service, ["r2/z1/", "r1/z1/", "r1/z2/"].iter().enumerate().map(at_place));
    let source = client();
    for (locality, wanted) in [(LocalityPolicy::Off, 2), (LocalityPolicy::Failover { to: BTreeMap::new() }, 2)] {
        let policy = TrafficPolicy { locality, ..TrafficPolicy::default() };
        let query = Query { policy: &policy, ..Query::plain(&source, PORT) };
        let given = drain(&mut pool.candidates(&query, &Standing::default()).expect("two are in the zone"));
        assert_eq!(given.len(), wanted, "{given:?}");
        assert!(!given.contains(&"2".to_owned()));
    }
    // The views of clients elsewhere are others.
    let elsewhere = Workload { locality: place_of("r1/z9/"), ..client() };
    assert_eq!(pool.candidates(&Query::plain(&elsewhere, PORT), &Standing::default()).err(), Some(NoEndpoint::InScope));
}

#[test]
fn fixed_shares() {
    let endpoints = ["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1", "r3/z1/s1"];
    let distribute = |from: &str, to: &[(&str, u32)]| {
        let to = to.iter().map(|(to, share)| (Arc::from(*to), *share)).collect();
        LocalityPolicy::Distribute { from: vec![Distribution { from: from.into(), to }] }
    };
    let shares = |locality: &LocalityPolicy, out: &[&str]| {
        let pool = placed(&endpoints);
        let policy = TrafficPolicy { locality: locality.clone(), ..TrafficPolicy::default() };
        let source = client();
        let query = Query { policy: &policy, ..Query::plain(&source, PORT) };
        let mut rng = Rng::with_seed(8);
        let mut counts = [0_i32; 5];
        for _ in 0..10_000 {
            let mut picker = pool.candidates(&query, &ejected(out)).expect("somebody");
            counts[name(picker.pick(&Idle, &mut rng).expect("one")).parse::<usize>().unwrap()] += 1;
        }
        counts
    };
    let near = |counts: [i32; 5], wanted: [i32; 5]| {
        let close = counts.iter().zip(wanted).all(|(count, wanted)| (count - wanted * 100).abs() < 200);
        assert!(close, "{counts:?}, wanted {wanted:?} percent");
    };
    let eighty = distribute("r1/z1/*", &[("r1/z1/*", 80), ("r2/z1/*", 20)]);
    near(shares(&eighty, &[]), [40, 40, 0, 20, 0]);
    // What says more comes before what says less.
    near(shares(&distribute("r1/*", &[("*", 10), ("r1/*", 30), ("r1/z1/s1", 60)]), &[]), [60, 15, 15, 5, 5]);
    // Half of the 80 is out: 70 % of it is left, 56 to 20.
    near(shares(&eighty, &["0"]), [0, 74, 0, 26, 0]);
    near(shares(&eighty, &["0", "1"]), [0, 0, 0, 100, 0]);
    // Not for this client.
    near(shares(&distribute("r2/*", &[("r2/*", 100)]), &[]), [20, 20, 20, 20, 20]);
    check(distribute("r1/*", &[("r9/*", 100)]), &endpoints, "InScope");
    check(distribute("*", &[("r1/z1/*", 100)]), &endpoints, "0 1");
}

/// The best group of ten takes everything down to 72 % of it; from there on the next ones get their part.
#[test]
fn the_next_group_gets_what_the_best_can_not_take() {
    let endpoints: Vec<_> = (0..20).map(|at| if at < 10 { "r1/z1/s1" } else { "r1/z2/s1" }).collect();
    let pool = placed(&endpoints);
    let source = client();
    for balance in [Balance::LeastRequest, Balance::RoundRobin, by_hash()] {
        let policy = TrafficPolicy { balance, locality: failover(), ..TrafficPolicy::default() };
        for (out, wanted) in [(0, 0), (2, 0), (3, 2), (5, 30), (9, 86), (10, 100)] {
            let names: Vec<String> = (0..out).map(|at| at.to_string()).collect();
            let standing = ejected(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let mut rng = Rng::with_seed(8);
            let mut next = 0;
            for number in 0..5000_u32 {
                let query = Query { policy: &policy, hash: Some(hash(&number.to_be_bytes())), ..Query::plain(&source, PORT) };
                let standing = Standing { turn: u64::from(number), ..standing.clone() };
                let picked = name(pool.candidates(&query, &standing).expect("somebody").pick(&Idle, &mut rng).expect("one"));
                assert!(!names.contains(&picked));
                next += i32::from(picked.parse::<usize>().unwrap() >= 10);
            }
            assert!((next - wanted * 50).abs() < 120, "{out} out: {next} of 5000 to the next, wanted {wanted} %");
        }
    }
}

#[test]
fn a_retry_may_leave_its_locality() {
    let pool = placed(&["r1/z1/s1", "r1/z1/s1", "r1/z1/s1", "r1/z1/s1", "r1/z2/s1", "r2/z1/s1"]);
    let policy = TrafficPolicy { locality: failover(), ..TrafficPolicy::default() };
    let source = client();
    let query = Query { policy: &policy, ..Query::plain(&source, PORT) };
    let groups = |remote_localities| {
        let mut picker = pool.candidates(&query, &Standing::default()).expect("somebody");
        let mut rng = Rng::with_seed(8);
        let retry = Retry { avoid_previous: true, remote_localities };
        let group =
            |member: &crate::balance::Member| (*member.workload.locality.zone).to_owned() + &member.workload.locality.region;
        let first = picker.pick(&Idle, &mut rng).map(group);
        let others = (0..4).map(|_| picker.pick_again(retry, &Idle, &mut rng).map(group));
        first.into_iter().chain(others.flatten().collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(groups(false), ["z1r1", "z1r1", "z1r1", "z1r1", "z2r1"]);
    assert_eq!(groups(true), ["z1r1", "z1r1", "z2r1", "z1r2", "z1r2"][..4].iter().chain(&["z1r1"]).copied().collect::<Vec<_>>());
}

fn failover() -> LocalityPolicy {
    LocalityPolicy::Failover { to: BTreeMap::new() }
}

fn by_hash() -> Balance {
    Balance::Hash { key: HashKey::SourceAddress, algorithm: HashAlgorithm::Maglev { table_size: 1009 } }
}

fn placed(endpoints: &[&str]) -> Pool {
    pool(&service("shop/s", &[], &[(PORT, PORT)]), endpoints.iter().enumerate().map(at_place))
}

fn at_place((number, place): (usize, &&str)) -> Workload {
    Workload { locality: place_of(place), ..pod(&format!("shop/{number}"), &["10.0.0.2"]).serves("shop/s", &[]) }
}

fn place_of(text: &str) -> Locality {
    let mut parts = text.split('/').map(Arc::from);
    let mut part = || parts.next().expect("region/zone/subzone");
    Locality { region: part(), zone: part(), subzone: part() }
}

fn client() -> Workload {
    Workload { locality: place_of("r1/z1/s1"), ..pod("shop/source", &["10.0.0.1"]) }
}

fn ejected(names: &[&str]) -> Standing {
    let out: HashSet<_> = names.iter().map(|name| uid(&format!("shop/{name}"))).collect();
    Standing { out: (!out.is_empty()).then(|| Arc::new(out)), ..Standing::default() }
}

fn drain(picker: &mut Picker) -> Vec<String> {
    let mut rng = Rng::with_seed(6);
    std::iter::from_fn(|| picker.pick(&Idle, &mut rng).map(name)).collect()
}

fn name(member: &crate::balance::Member) -> String {
    member.workload.name.to_string()
}
