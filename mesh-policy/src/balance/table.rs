//! Consistent hashing: from a key's hash to an endpoint that stays the same while others come and go.
//!
//! Both tables are built of the endpoints' uids and weights alone, so that every node gives a key the same endpoint, and
//! a rebuilt table the same as before. An endpoint that may not be used for now (ejected, or tried before) is passed over
//! without a new table: its keys alone move, to different endpoints each.

mod maglev;
mod ring;

pub(super) use self::{maglev::Maglev, ring::Ring};
use super::Member;
use crate::model::HashAlgorithm;

#[derive(Debug)]
pub(super) enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    /// `start` is the position of the first member in its view.
    pub(super) fn build(algorithm: HashAlgorithm, members: &[Member], start: u32) -> Self {
        match algorithm {
            HashAlgorithm::RingHash { minimum_size } => Self::Ring(Ring::build(minimum_size, members, start)),
            HashAlgorithm::Maglev { table_size } => Self::Maglev(Maglev::build(table_size, members, start)),
        }
    }

    /// The member of a key that is not passed over, if any.
    pub(super) fn member(&self, hash: u64, skips: impl Fn(u32) -> bool) -> Option<u32> {
        match self {
            Self::Ring(ring) => ring.member(hash, skips),
            Self::Maglev(maglev) => maglev.member(hash, skips),
        }
    }
}

#[cfg(test)]
mod tests;
