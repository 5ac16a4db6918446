//! Drawing endpoints from a view, none twice until all were tried.

use std::sync::Arc;

use fastrand::Rng;

use super::{
    Member, NoEndpoint, Query, Standing,
    hash::remix,
    spill::{self, Count, Load},
    tried::Tried,
    view::{Group, View, Weights},
    warmup,
};
use crate::model::{Balance, TrafficPolicy, WorkloadUid};

/// How many endpoints one connection without retries of its own may be tried on.
pub const MAX_TRIES: usize = 3;

/// Draws before a group is scanned: only where most are passed over, or weights favour few by far.
const DRAWS: usize = 8;

/// Attempts in one group before a retry that may go to other localities does (Envoy's `previous_priorities`).
const ATTEMPTS_PER_GROUP: usize = 2;

/// How many connections (or requests) the caller has open on an endpoint.
pub trait InFlight {
    fn of(&self, uid: &WorkloadUid) -> u32;
}

/// Endpoints for one connection or request, best first. It owns what it needs: no snapshot is kept alive by it.
#[derive(Clone, Debug)]
pub struct Picker {
    view: Arc<View>,
    how: How,
    /// None, in most cases: nobody is passed over, and the groups have their plain shares.
    exceptions: Option<Box<Exceptions>>,
    tried: Tried,
    most: usize,
    attempts: usize,
    /// Groups before this one come last.
    first_group: usize,
}

#[derive(Clone, Copy, Debug)]
enum How {
    LeastRequest,
    RoundRobin {
        turn: u64,
    },
    Random,
    /// None: there is no key.
    Hash(Option<u64>),
    /// The endpoint that was dialled.
    Only(u32),
}

#[derive(Clone, Debug)]
struct Exceptions {
    /// In ascending order.
    out: Vec<u32>,
    /// With their share in thousandths, in ascending order.
    warming: Vec<(u32, u32)>,
    /// None: the groups have their plain shares.
    loads: Option<Vec<u64>>,
}

/// How a further attempt differs from the first.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// On an endpoint that was not tried, unless all were
    /// ([`RetryPolicy::avoid_previous`](crate::model::RetryPolicy::avoid_previous)). With consistent hashing that is the
    /// next of the key's ring or table.
    pub avoid_previous: bool,
    /// In the next group, after two attempts in one.
    pub remote_localities: bool,
}

impl Picker {
    pub(super) fn new(view: Arc<View>, query: &Query<'_>, standing: &Standing) -> Result<Self, NoEndpoint> {
        let how = match query.policy.balance {
            Balance::LeastRequest => How::LeastRequest,
            Balance::RoundRobin => How::RoundRobin { turn: standing.turn },
            Balance::Random => How::Random,
            Balance::Hash { .. } => How::Hash(query.hash),
            Balance::Passthrough => {
                let dialled = query.dialled.and_then(|address| view.position_at(address.to_canonical()));
                dialled.map_or(How::LeastRequest, How::Only)
            }
        };
        let exceptions = match how {
            // Whoever dials an endpoint gets that one.
            How::Only(_) => None,
            How::LeastRequest | How::RoundRobin { .. } | How::Random | How::Hash(_) => {
                Exceptions::of(&view, query.policy, standing)?
            }
        };
        Ok(Self { view, how, exceptions, tried: Tried::default(), most: usize::MAX, attempts: 0, first_group: 0 })
    }

    /// At most so many endpoints are handed out.
    #[must_use]
    pub fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// The next endpoint to try, or None when all have been, or enough.
    pub fn pick(&mut self, in_flight: &dyn InFlight, rng: &mut Rng) -> Option<&Member> {
        if self.attempts >= self.most {
            return None;
        }
        let chosen = self.choose(in_flight, rng)?;
        self.tried.push(chosen);
        self.attempts += 1;
        Some(self.view.member(chosen))
    }

    /// The endpoint for a further attempt: in distinction from [`Self::pick`], there is one as long as enough have not
    /// been handed out.
    pub fn pick_again(&mut self, retry: Retry, in_flight: &dyn InFlight, rng: &mut Rng) -> Option<&Member> {
        if !retry.avoid_previous || self.choose(in_flight, rng).is_none() {
            self.tried.clear();
        }
        if retry.remote_localities {
            self.first_group = (self.attempts / ATTEMPTS_PER_GROUP).min(self.view.groups.len() - 1);
        }
        self.pick(in_flight, rng)
    }

    /// The endpoints that could be picked if none were ejected, in their groups: the nearest first, where the groups have
    /// no fixed shares.
    pub fn groups(&self) -> impl Iterator<Item = &[Member]> {
        self.view.groups.iter().map(|group| {
            let members = group.members();
            &self.view.members()[members.start as usize..members.end as usize]
        })
    }

    /// How many endpoints could be picked if none were ejected.
    pub fn len(&self) -> usize {
        self.view.members().len()
    }

    /// Never: a picker has an endpoint.
    pub fn is_empty(&self) -> bool {
        self.view.members().is_empty()
    }

    fn choose(&self, in_flight: &dyn InFlight, rng: &mut Rng) -> Option<u32> {
        if let How::Only(at) = self.how {
            return (!self.tried.contains(at)).then_some(at);
        }
        let first = self.first_group(rng);
        let groups = self.view.groups.len();
        let in_order = std::iter::once(first).chain(first + 1..groups).chain((0..first).rev());
        in_order.map(|at| &self.view.groups[at]).find_map(|group| self.choose_in(group, in_flight, rng))
    }

    /// The group that this attempt falls to.
    fn first_group(&self, rng: &mut Rng) -> usize {
        let groups = &self.view.groups;
        if groups.len() == 1 {
            return 0;
        }
        let loads = self.exceptions.as_ref().and_then(|exceptions| exceptions.loads.as_ref());
        let drawn = match loads {
            None if !self.view.shared => 0,
            None => self.draw_group(groups.iter().map(|group| u64::from(group.share)), rng),
            Some(loads) => self.draw_group(loads.iter().copied(), rng),
        };
        drawn.max(self.first_group)
    }

    /// A key's group is always the same while the loads are.
    fn draw_group(&self, loads: impl Iterator<Item = u64> + Clone, rng: &mut Rng) -> usize {
        let total: u64 = loads.clone().sum();
        let drawn = match self.how {
            How::Hash(Some(hash)) => remix(hash) % total,
            How::Hash(None) | How::LeastRequest | How::RoundRobin { .. } | How::Random | How::Only(_) => rng.u64(..total),
        };
        let mut sum = 0;
        let reaches = |load| {
            sum += load;
            drawn < sum
        };
        loads.map(reaches).position(|reached| reached).expect("what was drawn is below the sum")
    }

    fn choose_in(&self, group: &Group, in_flight: &dyn InFlight, rng: &mut Rng) -> Option<u32> {
        match self.how {
            How::LeastRequest => self.less_loaded(group, in_flight, rng),
            How::RoundRobin { turn } => self.in_turn(group, turn, rng),
            How::Random | How::Only(_) => self.draw(group, None, rng),
            How::Hash(hash) => {
                let table = group.table.as_ref().expect("a view for hashing has tables");
                table.member(hash.unwrap_or_else(|| rng.u64(..)), |at| self.skips(at))
            }
        }
    }

    /// Of two members drawn by weight, the one with less in flight for its weight; of equals the first drawn, so that
    /// idle endpoints share by their weights.
    fn less_loaded(&self, group: &Group, in_flight: &dyn InFlight, rng: &mut Rng) -> Option<u32> {
        let first = self.draw(group, None, rng)?;
        let Some(second) = self.draw(group, Some(first), rng) else { return Some(first) };
        let load = |at: u32| u128::from(in_flight.of(&self.view.member(at).workload.uid));
        let weight = |at: u32| u128::from(self.weight(at));
        // load a / weight a > load b / weight b
        let heavier = load(first) * weight(second) > load(second) * weight(first);
        Some(if heavier { second } else { first })
    }

    fn in_turn(&self, group: &Group, turn: u64, rng: &mut Rng) -> Option<u32> {
        let passed_over = self.exceptions.as_ref().is_some_and(|exceptions| !exceptions.out.is_empty());
        let due = match &group.weights {
            Weights::Equal if !passed_over => group.members().nth((turn % u64::from(group.len())) as usize),
            // Those that are left take turns; the ejected one's does not go to its neighbor.
            Weights::Equal => {
                let left = || group.members().filter(|at| !self.is_out(*at));
                let count = left().count().max(1) as u64;
                left().nth((turn % count) as usize)
            }
            Weights::Cumulative(sums) => Some(at_sequence(group, sums, turn)),
        }?;
        if !self.skips(due) && self.is_warm_enough(due, rng) {
            return Some(due);
        }
        if self.tried.contains(due) && matches!(group.weights, Weights::Equal) {
            let behind = group.members().cycle().skip((due + 1 - group.members().start) as usize).take(group.len() as usize);
            return behind.into_iter().find(|at| !self.skips(*at));
        }
        self.draw(group, None, rng)
    }

    /// A member by weight, not one that is passed over, nor `except`.
    fn draw(&self, group: &Group, except: Option<u32>, rng: &mut Rng) -> Option<u32> {
        let excluded = |at: u32| Some(at) == except || self.skips(at);
        let drawn = (0..DRAWS).map(|_| draw_any(group, rng)).find(|at| !excluded(*at));
        match drawn {
            Some(at) if self.is_warm_enough(at, rng) => Some(at),
            _ => self.scan(group, excluded, rng),
        }
    }

    /// Looks at every member once: each takes the place of the one held with the probability of its share so far.
    fn scan(&self, group: &Group, excluded: impl Fn(u32) -> bool, rng: &mut Rng) -> Option<u32> {
        let mut held = None;
        let mut total = 0;
        for at in group.members().filter(|at| !excluded(*at)) {
            let weight = self.weight(at);
            total += weight;
            if rng.u64(..total) < weight {
                held = Some(at);
            }
        }
        held
    }

    /// In thousandths; a sum of those of 10 million endpoints fits.
    fn weight(&self, at: u32) -> u64 {
        self.view.member(at).weight() * u64::from(self.warmth(at))
    }

    fn is_warm_enough(&self, at: u32, rng: &mut Rng) -> bool {
        let warmth = self.warmth(at);
        warmth == warmup::WHOLE || rng.u32(..warmup::WHOLE) < warmth
    }

    /// In thousandths.
    fn warmth(&self, at: u32) -> u32 {
        let Some(exceptions) = &self.exceptions else { return warmup::WHOLE };
        let found = exceptions.warming.binary_search_by_key(&at, |(at, _)| *at);
        found.map_or(warmup::WHOLE, |index| exceptions.warming[index].1)
    }

    fn skips(&self, at: u32) -> bool {
        self.tried.contains(at) || self.is_out(at)
    }

    fn is_out(&self, at: u32) -> bool {
        self.exceptions.as_ref().is_some_and(|exceptions| exceptions.out.binary_search(&at).is_ok())
    }
}

impl Exceptions {
    fn of(view: &View, policy: &TrafficPolicy, standing: &Standing) -> Result<Option<Box<Self>>, NoEndpoint> {
        let Standing { out, since, now, turn: _ } = standing;
        let mut ejected: Vec<u32> = out.iter().flat_map(|out| out.iter()).filter_map(|uid| view.position(uid)).collect();
        ejected.sort_unstable();
        let warming = policy.warmup.as_ref().zip(since.as_ref()).map(|(warmup, since)| {
            let share =
                |(uid, since): (&WorkloadUid, &_)| Some((view.position(uid)?, warmup::share(warmup, now.saturating_sub(*since))));
            let mut warming: Vec<_> = since.iter().filter_map(share).filter(|(_, share)| *share < warmup::WHOLE).collect();
            warming.sort_unstable();
            warming
        });
        let warming = warming.unwrap_or_default();
        if ejected.is_empty() && warming.is_empty() {
            return Ok(None);
        }
        let mut loads = None;
        if !ejected.is_empty() {
            let spread = spread(view, &ejected, policy).ok_or(NoEndpoint::Ejected)?;
            for (group, load) in view.groups.iter().zip(&spread) {
                ejected.retain(|at| !(load.panics && group.members().contains(at)));
            }
            loads = Some(spread.into_iter().map(|load| load.load).collect());
        }
        Ok(Some(Box::new(Self { out: ejected, warming, loads })))
    }
}

fn spread(view: &View, ejected: &[u32], policy: &TrafficPolicy) -> Option<Vec<Load>> {
    let min_health = policy.outlier.as_ref().map_or(0, |outlier| outlier.min_health_percent);
    let count = |group: &Group| {
        let out = ejected.iter().filter(|at| group.members().contains(at)).count() as u32;
        Count { total: group.len(), healthy: group.len() - out }
    };
    if view.shared {
        spill::by_share(&view.groups.iter().map(|group| (count(group), group.share)).collect::<Vec<_>>(), min_health)
    } else {
        spill::by_preference(&view.groups.iter().map(count).collect::<Vec<_>>(), min_health)
    }
}

fn draw_any(group: &Group, rng: &mut Rng) -> u32 {
    let members = group.members();
    match &group.weights {
        Weights::Equal => rng.u32(members),
        Weights::Cumulative(sums) => members.start + position(sums, rng.u64(..*sums.last().expect("a group has a member"))),
    }
}

/// The place of a turn in the sequence of multiples of the golden ratio: any stretch of it is spread evenly (Weyl;
/// Knuth, "The Art of Computer Programming", vol. 3, 6.4), so that shares hold over short runs.
fn at_sequence(group: &Group, sums: &[u64], turn: u64) -> u32 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let total = sums.last().expect("a group has a member");
    let scaled = (u128::from(turn.wrapping_mul(GOLDEN)) * u128::from(*total)) >> 64;
    group.members().start + position(sums, scaled as u64)
}

fn position(sums: &[u64], drawn: u64) -> u32 {
    sums.partition_point(|sum| *sum <= drawn) as u32
}
