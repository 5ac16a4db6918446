//! The kernel side's data and decisions. `address`, `keys` and `values` are `repr(C)` without padding;
//! `decide` is pure.

mod address;
pub mod decide;
mod keys;
mod values;

#[cfg(feature = "user")]
mod plain;

pub use address::{Address, Family};
pub use keys::{ListenerKey, ListenerKind, TokenKey, TupleKey};
pub use values::{
    DEFAULT_MAX_TOKENS, DEFAULT_MAX_TUPLES, MAX_OUTBOUND_PORTS, MAX_PODS, Original, Pod, SocketKind, SocketMark, Usage,
};
