//! Drawing endpoints from an index, none twice.

use std::sync::Arc;

use fastrand::Rng;

use super::{
    Member,
    pool::{Group, Index, Path, Weights},
};
use crate::model::WorkloadUid;

/// How many endpoints one connection may be tried on.
pub const MAX_TRIES: usize = 3;

/// From here on, drawing at random and rejecting is cheaper than looking at every member.
const SCANNED: usize = 16;

/// Draws before a large group is scanned after all: only weights that favour few members by far come here.
const DRAWS: usize = 8;

/// How many connections (or requests) the caller has open on an endpoint.
pub trait InFlight {
    fn of(&self, uid: &WorkloadUid) -> u32;
}

/// Endpoints for one connection, best first, at most [`MAX_TRIES`].
#[derive(Clone, Debug)]
pub struct Picker {
    index: Arc<Index>,
    path: Path,
    tried: Tried,
}

impl Picker {
    pub(super) fn new(index: Arc<Index>, path: Path) -> Self {
        Self { index, path, tried: Tried::default() }
    }

    /// The next endpoint to try, or None when all have been, or enough.
    pub fn pick(&mut self, in_flight: &dyn InFlight, rng: &mut Rng) -> Option<&Member> {
        if self.tried.len == MAX_TRIES {
            return None;
        }
        let index = &self.index;
        let chosen = self.path.best_first().find_map(|id| choose(index, index.group(id), self.tried, in_flight, rng))?;
        self.tried.push(chosen);
        Some(self.index.member(chosen))
    }
}

/// Of two members drawn by weight, the one with less in flight for its weight; of equals the first drawn, so that
/// idle endpoints share by their weights.
fn choose(index: &Index, group: &Group, tried: Tried, in_flight: &dyn InFlight, rng: &mut Rng) -> Option<u32> {
    let first = draw(index, group, tried, rng)?;
    let mut seen = tried;
    seen.push(first);
    let Some(second) = draw(index, group, seen, rng) else { return Some(first) };
    let (a, b) = (index.member(first), index.member(second));
    let load = |member: &Member| u64::from(in_flight.of(&member.workload.uid));
    // load a / weight a > load b / weight b; a product of two 32-bit numbers fits.
    let heavier = load(a) * b.weight() > load(b) * a.weight();
    Some(if heavier { second } else { first })
}

/// A member that was not tried, by weight.
fn draw(index: &Index, group: &Group, tried: Tried, rng: &mut Rng) -> Option<u32> {
    if group.members.len() > SCANNED {
        let drawn = (0..DRAWS).map(|_| draw_any(group, rng)).find(|at| !tried.contains(*at));
        if drawn.is_some() {
            return drawn;
        }
    }
    scan(index, group, tried, rng)
}

fn draw_any(group: &Group, rng: &mut Rng) -> u32 {
    let position = match &group.weights {
        Weights::Equal => rng.usize(..group.members.len()),
        Weights::Cumulative(sums) => {
            let total = sums.last().expect("a group has a member");
            let drawn = rng.u64(..*total);
            sums.partition_point(|sum| *sum <= drawn)
        }
    };
    group.members[position]
}

/// Looks at every member once: each takes the place of the one held with the probability of its share so far.
fn scan(index: &Index, group: &Group, tried: Tried, rng: &mut Rng) -> Option<u32> {
    let mut held = None;
    let mut total = 0;
    for at in group.members.iter().filter(|at| !tried.contains(**at)) {
        let weight = index.member(*at).weight();
        total += weight;
        if rng.u64(..total) < weight {
            held = Some(*at);
        }
    }
    held
}

/// The members tried so far, and one more while a second is drawn.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    members: [u32; MAX_TRIES],
    len: usize,
}

impl Tried {
    fn push(&mut self, member: u32) {
        self.members[self.len] = member;
        self.len += 1;
    }

    fn contains(&self, member: u32) -> bool {
        self.members[..self.len].contains(&member)
    }
}
