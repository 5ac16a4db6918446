//! The members tried so far for one request.

/// So many are remembered; of a request that is tried more often, the latest ones.
pub(super) const REMEMBERED: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried {
    members: [u32; REMEMBERED],
    /// All that were pushed since the last `clear`.
    count: usize,
}

impl Tried {
    pub(super) fn push(&mut self, member: u32) {
        self.members[self.count % REMEMBERED] = member;
        self.count += 1;
    }

    pub(super) fn contains(&self, member: u32) -> bool {
        self.members[..self.count.min(REMEMBERED)].contains(&member)
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }
}
