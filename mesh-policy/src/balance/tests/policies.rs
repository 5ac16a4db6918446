//! Each way to choose: in turn, at random, by hash, as dialled; past ejections, warming up, again.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use super::*;
use crate::{
    balance::{Query, Retry, Standing, hash},
    fixtures::address,
    model::{
        Balance, Document, DocumentKey, HashAlgorithm, HashKey, Model, OutlierDetection, Snapshot, Subset, TrafficKey,
        TrafficPolicy, TrafficRule, Warmup,
    },
};

const AVOIDING: Retry = Retry { avoid_previous: true, remote_localities: false };

#[test]
fn equal_endpoints_take_turns() {
    let pool = of(&[1, 1, 1, 1, 1]);
    let policy = policy(Balance::RoundRobin);
    let order: Vec<_> = (0..10).map(|turn| first(&pool, &policy, &Standing { turn, ..Standing::default() }, None)).collect();
    assert_eq!(order[..5].iter().collect::<BTreeSet<_>>().len(), 5);
    assert_eq!(order[..5], order[5..]);
    // Two of them out: the others share alike, none takes the turns of its neighbor.
    let standing = |turn| Standing { out: Some(out(&["w-1", "w-2"])), turn, ..Standing::default() };
    let counts = count((0..300).map(|turn| first(&pool, &policy, &standing(turn), None)));
    assert_eq!(counts, [("w-0", 100), ("w-3", 100), ("w-4", 100)].into_iter().map(|(name, n)| (name.to_owned(), n)).collect());
}

#[test]
fn turns_follow_the_weights_over_any_short_run() {
    let pool = of(&[1, 2, 5]);
    let policy = policy(Balance::RoundRobin);
    for start in [0, 7, 1000, u64::MAX - 20] {
        let turns = (0..80).map(|at: u64| start.wrapping_add(at));
        let counts = count(turns.map(|turn| first(&pool, &policy, &Standing { turn, ..Standing::default() }, None)));
        for (name, wanted) in [("w-0", 10), ("w-1", 20), ("w-2", 50_u32)] {
            assert!(counts[name].abs_diff(wanted) <= 3, "from {start}: {counts:?}");
        }
    }
}

#[test]
fn the_turn_of_one_tried_goes_to_the_next() {
    let pool = of(&[1, 1, 1]);
    let mut picker = candidates(&pool, &policy(Balance::RoundRobin), &Standing { turn: 1, ..Standing::default() }, None);
    assert_eq!(drain(&mut picker), ["w-1", "w-2", "w-0"]);
}

#[test]
fn random_choices_follow_the_weights_and_no_load() {
    let pool = of(&[1, 3]);
    let policy = policy(Balance::Random);
    let load = Loaded(HashMap::from([(uid("shop/w-1"), 1000)]));
    let mut rng = Rng::with_seed(1);
    let pick = |_| {
        let mut picker = candidates(&pool, &policy, &Standing::default(), None);
        name(picker.pick(&load, &mut rng).expect("one"))
    };
    let counts = count((0..8000).map(pick));
    assert!(counts["w-0"].abs_diff(2000) < 200, "{counts:?}");
}

#[test]
fn a_key_keeps_its_endpoint_until_that_is_out() {
    for algorithm in [HashAlgorithm::RingHash { minimum_size: 1024 }, HashAlgorithm::Maglev { table_size: 65537 }] {
        let policy = policy(Balance::Hash { key: HashKey::SourceAddress, algorithm });
        let pool = of(&[1; 8]);
        let rebuilt = of(&[1; 8]);
        let mut owners = BTreeSet::new();
        for key in 0..200_u32 {
            let key = hash(&key.to_be_bytes());
            let owner = first(&pool, &policy, &Standing::default(), Some(key));
            assert_eq!(first(&rebuilt, &policy, &Standing::default(), Some(key)), owner);
            let elsewhere = Standing { out: Some(out(&[if owner == "w-0" { "w-1" } else { "w-0" }])), ..Standing::default() };
            assert_eq!(first(&pool, &policy, &elsewhere, Some(key)), owner, "{algorithm:?}");
            let standing = Standing { out: Some(out(&[owner.as_str()])), ..Standing::default() };
            assert_ne!(first(&pool, &policy, &standing, Some(key)), owner);
            owners.insert(owner);
        }
        assert_eq!(owners.len(), 8, "{algorithm:?}");
        // Without a key, anyone.
        let mut rng = Rng::with_seed(2);
        let anyone = |_| name(candidates(&pool, &policy, &Standing::default(), None).pick(&Idle, &mut rng).expect("one"));
        assert_eq!(count((0..500).map(anyone)).len(), 8);
    }
}

#[test]
fn what_was_dialled_is_what_passthrough_gives() {
    let service = service("shop/s", &["10.1.0.1"], &[(PORT, PORT)]);
    let pool = pool(&service, (0..5).map(|at| pod(&format!("shop/w-{at}"), &[&format!("10.0.0.{at}")]).serves("shop/s", &[])));
    let policy = policy(Balance::Passthrough);
    let source = client();
    let query = |dialled: &str| Query { policy: &policy, dialled: Some(address(dialled)), ..Query::plain(&source, PORT) };
    // Ejected or not: it is what the client asked for.
    let standing = Standing { out: Some(out(&["w-3"])), ..Standing::default() };
    for dialled in ["10.0.0.3", "::ffff:10.0.0.3"] {
        let mut picker = pool.candidates(&query(dialled), &standing).expect("it is there");
        assert_eq!(drain(&mut picker), ["w-3"]);
        assert_eq!(picker.pick_again(AVOIDING, &Idle, &mut Rng::with_seed(1)).map(name).as_deref(), Some("w-3"));
    }
    let mut picker = pool.candidates(&query("10.1.0.1"), &standing).expect("balanced");
    assert_eq!(drain(&mut picker).len(), 4);
}

#[test]
fn the_ejected_are_left_out_by_every_policy() {
    for balance in every_balance() {
        let pool = of(&[1, 2, 1, 3, 1, 1]);
        let standing = Standing { out: Some(out(&["w-1", "w-3", "w-9"])), turn: 1, ..Standing::default() };
        for seed in 0..50 {
            let mut picker = candidates(&pool, &policy(balance.clone()), &standing, Some(hash(&[seed])));
            let mut all = drain(&mut picker);
            all.sort();
            assert_eq!(all, ["w-0", "w-2", "w-4", "w-5"], "{balance:?}");
        }
    }
}

#[test]
fn with_all_ejected_there_is_none_unless_a_minimum_is_wanted() {
    let pool = of(&[1, 1]);
    let source = client();
    let standing = Standing { out: Some(out(&["w-0", "w-1"])), ..Standing::default() };
    let mut policy = TrafficPolicy { outlier: Some(OutlierDetection::default()), ..TrafficPolicy::default() };
    let query = Query { policy: &policy, ..Query::plain(&source, PORT) };
    assert_eq!(pool.candidates(&query, &standing).err(), Some(NoEndpoint::Ejected));
    policy.outlier = Some(OutlierDetection { min_health_percent: 30, ..OutlierDetection::default() });
    let query = Query { policy: &policy, ..Query::plain(&source, PORT) };
    assert_eq!(drain(&mut pool.candidates(&query, &standing).expect("panic")).len(), 2);
}

#[test]
fn subsets_are_by_label_and_say_what_lacks() {
    let labelled = |name: &str, version: &str, health| {
        let workload = Workload { health, ..pod(name, &["10.0.0.2"]) };
        Workload { labels: BTreeMap::from([("version".into(), version.into())]), ..workload }.serves("shop/s", &[])
    };
    let pool = pool(
        &service("shop/s", &[], &[(PORT, PORT)]),
        [
            labelled("shop/w-0", "v1", Health::Healthy),
            labelled("shop/w-1", "v2", Health::Healthy),
            labelled("shop/w-2", "v2", Health::Healthy),
            labelled("shop/w-3", "v3", Health::Unhealthy),
        ],
    );
    let source = client();
    let ask = |version: &str, port, members| {
        let labels = BTreeMap::from([("version".into(), version.into())]);
        let subset = Subset { labels, policy: Arc::default(), ports: BTreeMap::new() };
        let query = Query { subset: Some(&subset), ..Query::plain(&source, port) };
        assert_eq!(pool.members(port, Some(&subset)).count(), members, "ready or not");
        pool.candidates(&query, &Standing::default()).map(|mut picker| {
            let mut names = drain(&mut picker);
            names.sort();
            names
        })
    };
    // Twice: the second time from the views.
    for _ in 0..2 {
        assert_eq!(ask("v1", PORT, 1), Ok(vec!["w-0".to_owned()]));
        assert_eq!(ask("v2", PORT, 2), Ok(vec!["w-1".to_owned(), "w-2".to_owned()]));
        assert_eq!(ask("v3", PORT, 1), Err(NoEndpoint::Healthy));
        assert_eq!(ask("v4", PORT, 0), Err(NoEndpoint::Subset));
        assert_eq!(ask("v1", 81, 0), Err(NoEndpoint::Port));
        assert_eq!(drain(&mut picker(&pool)).len(), 3, "the service as a whole");
    }
}

#[test]
fn a_newcomer_gets_the_share_that_it_has_warmed_up_to() {
    for balance in [Balance::Random, Balance::RoundRobin] {
        let pool = of(&[1; 4]);
        let warmup = Warmup { duration: Duration::from_secs(100), minimum_percent: 10, aggression_milli: 1000 };
        let policy = TrafficPolicy { warmup: Some(warmup), ..policy(balance.clone()) };
        let mut rng = Rng::with_seed(3);
        let mut share = |age: u64| {
            let since = Some(Arc::new(HashMap::from([(uid("shop/w-2"), Duration::from_secs(50))])));
            let pick = |turn| {
                let standing = Standing { since: since.clone(), now: Duration::from_secs(50 + age), turn, out: None };
                name(candidates(&pool, &policy, &standing, None).pick(&Idle, &mut rng).expect("one"))
            };
            let counts = count((0..10_000).map(pick));
            f64::from(counts.get("w-2").copied().unwrap_or(0)) / 10_000.0
        };
        if balance == Balance::Random {
            // A weight of 0.1, 0.5 and 1 beside three.
            for (age, wanted) in [(0, 0.1 / 3.1), (50, 0.5 / 3.5), (100, 0.25)] {
                let share = share(age);
                assert!((share - wanted).abs() < 0.02, "{balance:?} at {age}: {share}");
            }
        } else {
            // Its own turn, as often as it is warm, and its part of the turns that it gave away.
            for (age, wanted) in [(0, 0.25 * 0.1 + 0.25 * 0.9 * (0.1 / 3.1)), (100, 0.25)] {
                let share = share(age);
                assert!((share - wanted).abs() < 0.02, "{balance:?} at {age}: {share}");
            }
        }
    }
}

#[test]
fn retries_avoid_whom_they_tried_until_all_were() {
    for balance in every_balance() {
        let pool = of(&[1, 1, 1]);
        let mut picker = candidates(&pool, &policy(balance.clone()), &Standing::default(), Some(7));
        let mut rng = Rng::with_seed(9);
        for round in 0..4 {
            let mut seen = BTreeSet::new();
            for attempt in 0..3 {
                let picked = if round == 0 && attempt == 0 {
                    picker.pick(&Idle, &mut rng).map(name)
                } else {
                    picker.pick_again(AVOIDING, &Idle, &mut rng).map(name)
                };
                assert!(
                    seen.insert(picked.clone().expect("there is always one")),
                    "{balance:?}: {picked:?} again in round {round}"
                );
            }
        }
    }
}

#[test]
fn a_retry_that_need_not_avoid_keeps_to_the_key() {
    let algorithm = HashAlgorithm::RingHash { minimum_size: 64 };
    let policy = policy(Balance::Hash { key: HashKey::SourceAddress, algorithm });
    let mut picker = candidates(&of(&[1; 5]), &policy, &Standing::default(), Some(99));
    let mut rng = Rng::with_seed(9);
    let owner = picker.pick(&Idle, &mut rng).map(name);
    let staying = Retry { avoid_previous: false, remote_localities: false };
    assert_eq!(picker.pick_again(staying, &Idle, &mut rng).map(name), owner);
    assert_ne!(picker.pick_again(AVOIDING, &Idle, &mut rng).map(name), owner);
}

/// Views are one a kind, and shared by clones of the pool.
#[test]
fn the_same_query_is_answered_from_the_same_view() {
    let pool = of(&[1, 1]);
    let again = pool.clone();
    assert!(pool.is(&again.id()) && !of(&[1, 1]).is(&pool.id()));
    let policies: Vec<_> = every_balance().into_iter().map(policy).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for policy in &policies {
                    for key in 0..20 {
                        assert_eq!(drain(&mut candidates(&again, policy, &Standing::default(), Some(key))).len(), 2);
                    }
                }
            });
        }
    });
    assert_eq!(pool.views(PORT), 3, "one with a ring, one with a Maglev table, and one for all others");
}

/// Of three services, one whose endpoint changed and one whose DestinationRule did are built anew.
#[test]
fn a_pool_goes_over_into_the_next_snapshot_while_nothing_about_it_changes() {
    let mut model = Model::default();
    for name in ["a", "b", "c"] {
        model.upsert_service(service(&format!("shop/{name}"), &[], &[(PORT, PORT)]));
        model.upsert_workload(pod(&format!("shop/{name}-1"), &["10.0.0.1"]).serves(&format!("shop/{name}"), &[]));
    }
    let rule = |service: &str| {
        let rule = TrafficRule {
            key: TrafficKey { service: key(service), consumer: None },
            origin: "shop/rule".into(),
            policy: Arc::default(),
            ports: BTreeMap::new(),
            subsets: BTreeMap::new(),
        };
        Document::Traffic(Box::new(rule))
    };
    model.upsert_document(rule("shop/a"));
    let old = model.snapshot();
    model.upsert_workload(pod("shop/b-1", &["10.0.0.9"]).serves("shop/b", &[]));
    model.upsert_document(rule("shop/c"));
    let new = model.snapshot_after(&old);
    let kept = |new: &Snapshot, old: &Snapshot| {
        ["shop/a", "shop/b", "shop/c"].map(|name| new.pool(&key(name)).unwrap().is(&old.pool(&key(name)).unwrap().id()))
    };
    assert_eq!(kept(&new, &old), [true, false, false]);
    assert_eq!(new.endpoints(&key("shop/b"))[0].workload.addresses, [address("10.0.0.9")]);
    assert_eq!(kept(&model.snapshot_after(&new), &new), [true, true, true]);
    model.remove_document(&DocumentKey::Traffic(TrafficKey { service: key("shop/a"), consumer: None }));
    assert_eq!(kept(&model.snapshot_after(&new), &new), [false, true, true]);
    assert_eq!(kept(&model.snapshot(), &new), [false, false, false], "from nothing");
}

fn every_balance() -> Vec<Balance> {
    let hash = |algorithm| Balance::Hash { key: HashKey::SourceAddress, algorithm };
    vec![
        Balance::LeastRequest,
        Balance::RoundRobin,
        Balance::Random,
        Balance::Passthrough,
        hash(HashAlgorithm::RingHash { minimum_size: 1024 }),
        hash(HashAlgorithm::Maglev { table_size: 251 }),
    ]
}

fn of(capacities: &[u32]) -> Pool {
    pool(&service("shop/s", &[], &[(PORT, PORT)]), capacities.iter().enumerate().map(weighted))
}

fn client() -> Workload {
    pod("shop/source", &["10.0.0.1"])
}

fn policy(balance: Balance) -> TrafficPolicy {
    TrafficPolicy { balance, ..TrafficPolicy::default() }
}

fn candidates(pool: &Pool, policy: &TrafficPolicy, standing: &Standing, hash: Option<u64>) -> Picker {
    let source = client();
    let query = Query { policy, hash, ..Query::plain(&source, PORT) };
    pool.candidates(&query, standing).expect("somebody serves")
}

fn first(pool: &Pool, policy: &TrafficPolicy, standing: &Standing, hash: Option<u64>) -> String {
    name(candidates(pool, policy, standing, hash).pick(&Idle, &mut Rng::with_seed(4)).expect("one"))
}

fn drain(picker: &mut Picker) -> Vec<String> {
    let mut rng = Rng::with_seed(6);
    std::iter::from_fn(|| picker.pick(&Idle, &mut rng).map(name)).collect()
}

fn name(member: &crate::balance::Member) -> String {
    member.workload.name.to_string()
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

fn out(names: &[&str]) -> Arc<HashSet<WorkloadUid>> {
    Arc::new(names.iter().map(|name| uid(&format!("shop/{name}"))).collect())
}
