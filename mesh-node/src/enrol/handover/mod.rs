//! Upgrade without a failed connection: a new process takes the listeners inside the pods over from the one that runs.
//!
//! Both run for a while. The new one ([`take`]) asks on a unix socket, has the old one ([`give`]) stand still, sets up its kernel
//! side over the same pins, and is given the very sockets (`SCM_RIGHTS`): a connection whose handshake is under way is accepted by one
//! or the other, and none is refused. Then the old one stops accepting. The connections that it has go on, under the mesh's policies as
//! they change, until it is told to end and drains. Without an old process, or when one breaks off, the new one takes up what is on
//! disk, as after a crash.
//!
//! The messages ([`wire`]) are JSON with a version, and fields that are not known are passed over: the two may be of different
//! releases, in either direction.

pub mod give;
pub mod take;
pub mod wire;

pub use give::{Giver, serve};
pub use take::{Taken, Taker};
pub use wire::{HandoverError, SOCKET};
