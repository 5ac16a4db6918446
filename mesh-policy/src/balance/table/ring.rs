//! A ring of points, each an endpoint's (Karger et al., "Consistent Hashing and Random Trees"; as libketama and Envoy).

use std::io::Write;

use crate::balance::{Member, hash::hash};

/// Points of a ring that is not asked to be larger (0.5 MiB).
const MOST: u128 = 32_768;

/// Envoy's bound for a ring, whoever asks.
const LARGEST: u32 = 8 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Ring(Box<[Point]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u64,
    member: u32,
}

impl Ring {
    /// Each member has points by its weight, the lightest `minimum`, however many there are: so one more or less moves
    /// its own keys and no others, where Envoy, which divides the minimum among the endpoints, moves as many again. Only
    /// rings of more than [`MOST`] points are shrunk.
    pub(super) fn build(minimum: u32, members: &[Member], start: u32) -> Self {
        let minimum = u128::from(minimum.clamp(1, LARGEST));
        let weight = |member: &Member| u128::from(member.weight());
        let total: u128 = members.iter().map(weight).sum();
        let lightest = members.iter().map(weight).min().expect("a group has a member");
        let size = (minimum * total / lightest).min(minimum.max(MOST));
        let mut points = Vec::with_capacity(size as usize + members.len());
        let mut name = Vec::new();
        for (member, at) in members.iter().zip(start..) {
            let count = ((size * weight(member) + total / 2) / total).max(1);
            for number in 0..count {
                name.clear();
                write!(name, "{}_{number}", member.workload.uid).expect("memory takes every write");
                points.push(Point { hash: hash(&name), member: at });
            }
        }
        points.sort_unstable();
        Self(points.into())
    }

    /// The owner of the first point at or behind the hash.
    pub(super) fn member(&self, hash: u64, skips: impl Fn(u32) -> bool) -> Option<u32> {
        let first = self.0.partition_point(|point| point.hash < hash);
        let (before, behind) = self.0.split_at(first);
        behind.iter().chain(before).map(|point| point.member).find(|member| !skips(*member))
    }
}
