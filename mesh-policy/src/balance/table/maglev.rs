//! A table in which each endpoint prefers its own permutation of the places (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, §3.4; weights as in Envoy).

use crate::balance::{
    Member,
    hash::{hash, hash_seeded, remix},
};

/// Envoy's bound, a prime.
const LARGEST: u32 = 5_000_011;

/// Draws before a member is looked for one by one: only where nearly all are passed over.
const DRAWS: usize = 32;

/// At each place the position of a member.
#[derive(Debug)]
pub(crate) struct Maglev(Box<[u32]>);

/// A member's next wish.
struct Wish {
    place: u64,
    skip: u64,
    weight: u64,
    /// Takes a place in the rounds in which `round * weight` has come to this.
    due: u128,
}

impl Maglev {
    /// The size is raised to the next prime if it is none.
    pub(super) fn build(size: u32, members: &[Member], start: u32) -> Self {
        const FREE: u32 = u32::MAX;
        let size = u64::from(prime_from(size));
        let heaviest = members.iter().map(Member::weight).max().expect("a group has a member");
        let wish = |member: &Member| {
            let name = member.workload.uid.0.as_bytes();
            Wish { place: hash(name) % size, skip: hash_seeded(name, 1) % (size - 1) + 1, weight: member.weight(), due: 0 }
        };
        let mut wishes: Vec<Wish> = members.iter().map(wish).collect();
        let mut places = vec![FREE; size as usize];
        let mut free = places.len();
        let mut round = 0;
        while free > 0 {
            round += 1;
            for (wish, at) in wishes.iter_mut().zip(start..) {
                if round * u128::from(wish.weight) < wish.due || free == 0 {
                    continue;
                }
                wish.due += u128::from(heaviest);
                while places[wish.place as usize] != FREE {
                    wish.place = (wish.place + wish.skip) % size;
                }
                places[wish.place as usize] = at;
                free -= 1;
            }
        }
        Self(places.into())
    }

    pub(super) fn member(&self, hash: u64, skips: impl Fn(u32) -> bool) -> Option<u32> {
        let at = |hash: u64| self.0[(hash % self.0.len() as u64) as usize];
        let draws = std::iter::successors(Some(hash), |hash| Some(remix(*hash))).take(DRAWS).map(at);
        let from = (hash % self.0.len() as u64) as usize;
        let others = || self.0[from..].iter().chain(&self.0[..from]).copied();
        draws.chain(std::iter::once_with(others).flatten()).find(|member| !skips(*member))
    }
}

fn prime_from(size: u32) -> u32 {
    let is_prime = |number: &u32| (2..=number.isqrt()).all(|part| !number.is_multiple_of(part));
    (size.clamp(3, LARGEST)..=LARGEST).find(is_prime).expect("the largest is a prime")
}
