//! Services that speak plain TCP.

pub(crate) mod echo;
pub(crate) mod ledger;

use bytes::Bytes;

/// The first `size` bytes of what the shop sends when anything will do: 0 to 250, over and over.
///
/// 251 is prime, so that a block that was lost, doubled or moved shows, whatever its size.
pub(crate) fn pattern(size: usize) -> Bytes {
    (0..=250u8).cycle().take(size).collect()
}
