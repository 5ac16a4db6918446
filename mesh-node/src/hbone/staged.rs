//! Bytes that came from the tunnel and that the application's socket has not taken yet.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Pieces under this size are copied together: a thousand frames of one byte must not cost a thousand allocations.
const SMALL: usize = 2 * 1024;

/// Pieces offered to one write.
pub(super) const SLICES: usize = 16;

/// A queue of bytes, first in first out. Empty, it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pieces: VecDeque<Bytes>,
    /// The small pieces at the end, joined.
    tail: BytesMut,
    len: usize,
}

impl Staged {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        // The first piece is most often alone, and then written without a copy.
        if piece.len() < SMALL && !self.pieces.is_empty() {
            self.tail.extend_from_slice(&piece);
            if self.tail.len() >= SMALL * 8 {
                self.pieces.push_back(self.tail.split().freeze());
            }
            return;
        }
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// Fills `slices` from the front and says how many it used.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let pieces = self.pieces.iter().map(|piece| &piece[..]).chain(tail);
        slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    /// Drops `written` bytes from the front.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
        self.tail.advance(written);
        if self.len == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn comes_out_as_it_went_in(pieces in prop::collection::vec(0_usize..5000, 0..40), steps in prop::collection::vec(1_usize..9000, 1..20)) {
            let mut staged = Staged::default();
            let mut expected = Vec::new();
            let mut found = Vec::new();
            let mut steps = steps.into_iter().cycle();
            for (index, len) in pieces.into_iter().enumerate() {
                let piece = vec![index as u8; len];
                expected.extend_from_slice(&piece);
                staged.push(piece.into());
                if index % 7 == 6 {
                    take(&mut staged, steps.next().expect("endless"), &mut found);
                }
            }
            while !staged.is_empty() {
                take(&mut staged, steps.next().expect("endless"), &mut found);
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(staged.pieces.capacity() + staged.tail.capacity(), 0);
        }
    }

    fn take(staged: &mut Staged, step: usize, found: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = staged.slices(&mut slices);
        let offered: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
        let taken = &offered[..step.min(offered.len())];
        found.extend_from_slice(taken);
        let taken = taken.len();
        staged.advance(taken);
    }
}
