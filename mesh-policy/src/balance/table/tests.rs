//! What consistent hashing promises: shares by weight, and few keys that move.

use std::{collections::HashMap, sync::Arc};

use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof};

use super::*;
use crate::{balance::hash::hash, fixtures::pod, model::Workload};

const RING: HashAlgorithm = HashAlgorithm::RingHash { minimum_size: 1024 };
const MAGLEV: HashAlgorithm = HashAlgorithm::Maglev { table_size: 65537 };

const KEYS: u64 = 4000;

#[test]
fn shares_follow_the_weights() {
    for (algorithm, tolerance) in [(RING, 0.15), (MAGLEV, 0.15)] {
        let members = members(&[1, 1, 2, 4]);
        let table = Table::build(algorithm, &members, 0);
        let mut counts = HashMap::new();
        for at in owners(&table) {
            *counts.entry(at).or_insert(0_u32) += 1;
        }
        for (at, weight) in [(0, 1), (1, 1), (2, 2), (3, 4)] {
            let wanted = f64::from(weight) / 8.0;
            let share = f64::from(counts[&at]) / KEYS as f64;
            assert!((share / wanted - 1.0).abs() < tolerance, "{algorithm:?}: {at} has {share}, wanted {wanted}");
        }
    }
}

#[test]
fn extreme_weights_build_and_everybody_may_be_found() {
    for algorithm in [RING, MAGLEV, HashAlgorithm::RingHash { minimum_size: 1 }, HashAlgorithm::Maglev { table_size: 0 }] {
        let table = Table::build(algorithm, &members(&[1, u32::MAX]), 7);
        assert_eq!(table.member(hash(b"x"), |at| at == 8).unwrap_or(7), 7, "{algorithm:?}");
        assert_eq!(table.member(hash(b"x"), |at| at == 7), Some(8), "{algorithm:?}");
        assert_eq!(table.member(hash(b"x"), |_| true), None, "{algorithm:?}");
    }
}

/// More members than places, and a size that is no prime.
#[test]
fn a_table_of_any_size_is_filled() {
    for size in [0, 1, 2, 3, 4, 100, 1000] {
        let table = Table::build(HashAlgorithm::Maglev { table_size: size }, &members(&[1; 20]), 0);
        assert!(owners(&table).all(|at| at < 20), "{size}");
    }
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    /// The order in which endpoints are listed does not matter, nor do tables have a past.
    #[test]
    fn the_same_endpoints_give_the_same_owners(algorithm in algorithm(), count in 1..30_usize, seed in any::<u64>()) {
        let members = members(&vec![1; count]);
        let again = Table::build(algorithm, &members, 100);
        let table = Table::build(algorithm, &members, 0);
        for key in 0..200_u64 {
            let key = hash(&(key ^ seed).to_le_bytes());
            proptest::prop_assert_eq!(table.member(key, |_| false).map(|at| at + 100), again.member(key, |_| false));
        }
    }

    /// One more of N moves about 1/N of the keys, nearly all of them to itself; one fewer the same.
    #[test]
    fn one_more_endpoint_moves_its_share_only(algorithm in algorithm(), count in 2..40_usize, newcomer in 0..40_usize) {
        let with = members(&vec![1; count + 1]);
        let newcomer = newcomer % with.len();
        let mut without = with.clone();
        without.remove(newcomer);
        let (before, after) = (Table::build(algorithm, &without, 0), Table::build(algorithm, &with, 0));
        let name = |members: &[Member], at: u32| members[at as usize].workload.uid.clone();
        let (mut to_newcomer, mut elsewhere) = (0.0, 0.0);
        for (old, new) in owners(&before).zip(owners(&after)) {
            if new as usize == newcomer {
                to_newcomer += 1.0;
            } else if name(&without, old) != name(&with, new) {
                elsewhere += 1.0;
            }
        }
        let fair = KEYS as f64 / with.len() as f64;
        proptest::prop_assert!((0.5 * fair..1.6 * fair).contains(&to_newcomer), "{to_newcomer} of {KEYS} to it, fair are {fair}");
        // Maglev moves a little beside (§3.4 of the paper), as does a ring that is too large for every endpoint's 1024.
        let bound = if algorithm == RING && with.len() <= 32 { 0.0 } else { fair + 0.02 * KEYS as f64 };
        proptest::prop_assert!(elsewhere <= bound, "{elsewhere} of {KEYS} move between others");
    }

    /// Those that are passed over lose their keys, and nobody else any.
    #[test]
    fn an_endpoint_passed_over_moves_its_own_keys_only(algorithm in algorithm(), count in 2..20_u32, out in 0..20_u32) {
        let out = out % count;
        let table = Table::build(algorithm, &members(&vec![1; count as usize]), 0);
        let mut heirs = std::collections::HashSet::new();
        for key in 0..KEYS {
            let key = hash(&key.to_le_bytes());
            let (before, after) = (table.member(key, |_| false), table.member(key, |at| at == out));
            if before == Some(out) {
                proptest::prop_assert_ne!(after, Some(out));
                heirs.insert(after);
            } else {
                proptest::prop_assert_eq!(after, before);
            }
        }
        proptest::prop_assert!(heirs.len() as u32 >= (count - 1).min(3), "the load falls on {heirs:?} alone");
    }
}

fn algorithm() -> impl Strategy<Value = HashAlgorithm> {
    prop_oneof![proptest::prelude::Just(RING), proptest::prelude::Just(MAGLEV)]
}

fn owners(table: &Table) -> impl Iterator<Item = u32> {
    (0..KEYS).map(|key| table.member(hash(&key.to_le_bytes()), |_| false).expect("somebody has it"))
}

fn members(capacities: &[u32]) -> Vec<Member> {
    let member = |(number, capacity): (usize, &u32)| {
        let workload = Workload { capacity: *capacity, ..pod(&format!("shop/w-{number}"), &["10.0.0.2"]) };
        Member { workload: Arc::new(workload), target_port: 80 }
    };
    capacities.iter().enumerate().map(member).collect()
}
