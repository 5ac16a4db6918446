//! Who may be picked against a naive ranking, and how often against what weights and loads promise.

mod nearness;
mod policies;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fastrand::Rng;
use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof},
    sample::{select, subsequence},
};

use super::{InFlight, MAX_TRIES, NoEndpoint, Picker, Pool};
use crate::{
    fixtures::{Idle, Serves, key, pod, service, uid},
    model::{Endpoint, Health, HealthPolicy, LoadBalancing, Locality, RoutingMode, RoutingScope, Service, Workload, WorkloadUid},
};

const PORT: u16 = 80;

#[test]
fn picks_follow_the_weights() {
    let near = |share: f64, wanted: f64| (0.9 * wanted..1.1 * wanted).contains(&share);
    let small = pool(&service("shop/s", &[], &[(PORT, PORT)]), [1, 2, 5].iter().enumerate().map(weighted));
    let of_small = shares(&small, &Idle, 40_000);
    for (name, wanted) in [("shop/w-0", 1.0 / 8.0), ("shop/w-1", 2.0 / 8.0), ("shop/w-2", 5.0 / 8.0)] {
        assert!(near(of_small[&uid(name)], wanted), "{of_small:?}");
    }

    // A group that is drawn from and not scanned: every tenth weighs four times as much.
    let capacities: Vec<u32> = (0..200).map(|at| if at % 10 == 0 { 4 } else { 1 }).collect();
    let large = pool(&service("shop/s", &[], &[(PORT, PORT)]), capacities.iter().enumerate().map(weighted));
    let of_large = shares(&large, &Idle, 40_000);
    let heavy: f64 = of_large.iter().filter(|(uid, _)| uid.0.ends_with('0')).map(|(_, share)| share).sum();
    assert!(near(heavy, 80.0 / 260.0), "{heavy}");
    assert_eq!(of_large.len(), 200, "everybody gets some");
}

#[test]
fn equal_idle_endpoints_share_alike() {
    for count in [2, 3, 16, 17, 100] {
        let pool = pool(&service("shop/s", &[], &[(PORT, PORT)]), (0..count).map(|at| weighted((at, &1))));
        let shares = shares(&pool, &Idle, 200 * count);
        let fair = 1.0 / count as f64;
        assert_eq!(shares.len(), count);
        assert!(shares.values().all(|share| (0.6 * fair..1.6 * fair).contains(share)), "{count}: {shares:?}");
    }
}

#[test]
fn of_two_the_less_loaded_is_picked() {
    let two = pool(&service("shop/s", &[], &[(PORT, PORT)]), [1, 1].iter().enumerate().map(weighted));
    let shares = shares(&two, &Loaded(HashMap::from([(uid("shop/w-0"), 1)])), 1000);
    assert_eq!(shares, BTreeMap::from([(uid("shop/w-1"), 1.0)]));
}

#[test]
fn a_load_counts_for_its_weight() {
    let two = pool(&service("shop/s", &[], &[(PORT, PORT)]), [1, 10].iter().enumerate().map(weighted));
    // 1 on a weight of 1 against 5 on 10.
    let load = Loaded(HashMap::from([(uid("shop/w-0"), 1), (uid("shop/w-1"), 5)]));
    assert_eq!(shares(&two, &load, 1000), BTreeMap::from([(uid("shop/w-1"), 1.0)]));
    // 1 on 1 against 30 on 10.
    let load = Loaded(HashMap::from([(uid("shop/w-0"), 1), (uid("shop/w-1"), 30)]));
    assert_eq!(shares(&two, &load, 1000), BTreeMap::from([(uid("shop/w-0"), 1.0)]));
}

#[test]
fn connections_that_stay_open_spread_by_weight() {
    let capacities = [1, 1, 2, 4];
    let pool = pool(&service("shop/s", &[], &[(PORT, PORT)]), capacities.iter().enumerate().map(weighted));
    let mut load = Loaded(HashMap::new());
    let mut rng = Rng::with_seed(11);
    for _ in 0..800 {
        let uid = picker(&pool).pick(&load, &mut rng).expect("somebody serves").workload.uid.clone();
        *load.0.entry(uid).or_default() += 1;
    }
    for (at, capacity) in capacities.iter().enumerate() {
        let held = load.0[&uid(&format!("shop/w-{at}"))];
        assert!((90 * capacity..=110 * capacity).contains(&held), "weight {capacity} holds {held} of 800: {:?}", load.0);
    }
}

#[test]
fn a_favourite_does_not_hide_the_others() {
    // Nearly every draw hits the first: its tries exhausted, the group is scanned.
    let mut capacities = vec![1; 100];
    capacities[0] = u32::MAX;
    let pool = pool(&service("shop/s", &[], &[(PORT, PORT)]), capacities.iter().enumerate().map(weighted));
    let mut picker = picker(&pool);
    let mut rng = Rng::with_seed(3);
    let picked: Vec<_> = std::iter::from_fn(|| picker.pick(&Idle, &mut rng).map(|member| member.workload.uid.clone())).collect();
    assert_eq!(picked.len(), MAX_TRIES);
    assert_eq!(picked[0], uid("shop/w-0"));
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is picked is eligible, new, and of the best rank that has any left; nothing is withheld.
    #[test]
    fn picks_are_the_best_that_are_left(
        balancing in balancing(), named_port in any::<bool>(), source in place(), places in vec((place(), any::<bool>(), 1..4u32), 0..24), seed in any::<u64>()
    ) {
        let target_port = if named_port { 0 } else { 8080 };
        let service = Service { load_balancing: balancing.clone(), ..service("shop/s", &[], &[(PORT, target_port)]) };
        let source = at(pod("shop/source", &["10.0.0.1"]), source);
        let workloads: Vec<Workload> = places.iter().enumerate().map(|(number, (place, healthy, capacity))| {
            let workload = at(pod(&format!("shop/w-{number}"), &["10.0.0.2"]), *place);
            let health = if *healthy { Health::Healthy } else { Health::Unhealthy };
            // Every third maps the port itself.
            let ports: &[(u16, u16)] = if number % 3 == 0 { &[(PORT, 9090)] } else { &[] };
            Workload { health, capacity: *capacity, ..workload }.serves("shop/s", ports)
        }).collect();

        let ranked = naive_ranks(&balancing, target_port, &source, &workloads);
        let pool = pool(&service, workloads);
        let mut left = match ranked {
            Ok(ranked) => ranked,
            Err(lack) => {
                proptest::prop_assert_eq!(pool.picker(&source, PORT).err(), Some(lack));
                return Ok(());
            }
        };
        let mut picker = pool.picker(&source, PORT).expect("somebody is eligible");
        let mut rng = Rng::with_seed(seed);
        for _ in 0..MAX_TRIES {
            let Some(best) = left.values().max().copied() else { break };
            let member = picker.pick(&Idle, &mut rng).expect("somebody is left");
            proptest::prop_assert_eq!(left.remove(&member.workload.uid), Some(best));
            let own = member.workload.services[&key("shop/s")].first().map(|mapping| mapping.target_port);
            proptest::prop_assert_eq!(member.target_port, own.unwrap_or(target_port));
        }
        proptest::prop_assert!(picker.pick(&Idle, &mut rng).is_none());
    }
}

/// Each eligible workload with the number of leading scopes that it shares, as the words have it.
fn naive_ranks(
    balancing: &LoadBalancing,
    target_port: u16,
    source: &Workload,
    workloads: &[Workload],
) -> Result<BTreeMap<WorkloadUid, usize>, NoEndpoint> {
    let serves = |workload: &&Workload| target_port != 0 || !workload.services[&key("shop/s")].is_empty();
    let healthy = |workload: &&Workload| balancing.health == HealthPolicy::AllowAll || workload.health == Health::Healthy;
    let same = |scope: &RoutingScope, workload: &Workload| match scope {
        RoutingScope::Network => workload.network == source.network,
        RoutingScope::Region => workload.locality.region == source.locality.region,
        RoutingScope::Zone => workload.locality.zone == source.locality.zone,
        RoutingScope::Subzone => workload.locality.subzone == source.locality.subzone,
        RoutingScope::Node => workload.node == source.node,
        RoutingScope::Cluster => workload.cluster == source.cluster,
    };
    let rank = |workload: &Workload| balancing.preference.iter().take_while(|scope| same(scope, workload)).count();
    let serving: Vec<_> = workloads.iter().filter(serves).collect();
    let eligible: Vec<_> =
        serving.iter().copied().filter(healthy).filter(|workload| workload.network == source.network).collect();
    if eligible.is_empty() {
        return Err(if serving.iter().all(healthy) { NoEndpoint::None } else { NoEndpoint::Healthy });
    }
    let ranks: BTreeMap<_, _> = match balancing.mode {
        RoutingMode::Unspecified | RoutingMode::Passthrough => {
            eligible.iter().map(|workload| (workload.uid.clone(), 0)).collect()
        }
        RoutingMode::Failover => eligible.iter().map(|workload| (workload.uid.clone(), rank(workload))).collect(),
        RoutingMode::Strict => {
            let sharing_all = eligible.iter().filter(|workload| rank(workload) == balancing.preference.len());
            sharing_all.map(|workload| (workload.uid.clone(), 0)).collect()
        }
    };
    if ranks.is_empty() { Err(NoEndpoint::InScope) } else { Ok(ranks) }
}

fn balancing() -> impl Strategy<Value = LoadBalancing> {
    let scopes = vec![
        RoutingScope::Network,
        RoutingScope::Region,
        RoutingScope::Zone,
        RoutingScope::Subzone,
        RoutingScope::Node,
        RoutingScope::Cluster,
    ];
    let ordered = (subsequence(scopes, 0..=6), any::<bool>()).prop_map(|(mut scopes, doubled)| {
        if doubled {
            scopes.extend(scopes.first().copied());
        }
        scopes
    });
    let mode = select(vec![RoutingMode::Unspecified, RoutingMode::Strict, RoutingMode::Failover]);
    let health = select(vec![HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]);
    (mode, ordered, health).prop_map(|(mode, preference, health)| LoadBalancing { mode, preference, health })
}

/// Region, zone, subzone, node, cluster, network, each of two values.
type Place = [bool; 6];

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![1 => Just([false; 6]), 3 => any::<Place>().prop_map(|mut place| {
        // Most share the network, else there is little to rank.
        place[5] &= place[0] && place[1];
        place
    })]
}

fn at(workload: Workload, place: Place) -> Workload {
    let text = |at: usize| if place[at] { "there" } else { "here" }.into();
    let locality = Locality { region: text(0), zone: text(1), subzone: text(2) };
    Workload { locality, node: text(3), cluster: text(4), network: text(5), ..workload }
}

fn weighted((number, capacity): (usize, &u32)) -> Workload {
    Workload { capacity: *capacity, ..pod(&format!("shop/w-{number}"), &["10.0.0.2"]).serves("shop/s", &[]) }
}

fn pool(service: &Service, workloads: impl IntoIterator<Item = Workload>) -> Pool {
    let endpoint = |workload| Endpoint { workload: Arc::new(workload), service: service.key() };
    Pool::new(Arc::new(service.clone()), workloads.into_iter().map(endpoint).collect())
}

fn picker(pool: &Pool) -> Picker {
    pool.picker(&pod("shop/source", &["10.0.0.1"]), PORT).expect("somebody serves")
}

/// How often each endpoint is the first picked.
fn shares(pool: &Pool, in_flight: &dyn InFlight, picks: usize) -> BTreeMap<WorkloadUid, f64> {
    let mut rng = Rng::with_seed(5);
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        let uid = picker(pool).pick(in_flight, &mut rng).expect("somebody serves").workload.uid.clone();
        *counts.entry(uid).or_insert(0u32) += 1;
    }
    counts.into_iter().map(|(uid, count)| (uid, f64::from(count) / picks as f64)).collect()
}

struct Loaded(HashMap<WorkloadUid, u32>);

impl InFlight for Loaded {
    fn of(&self, uid: &WorkloadUid) -> u32 {
        self.0.get(uid).copied().unwrap_or(0)
    }
}
