//! Marks the shared structs as plain data for the loader.
#![allow(unsafe_code, reason = "`aya::Pod` is an unsafe marker trait")]

use super::{Address, ListenerKey, Original, Pod, SocketMark, TokenKey, TupleKey, Usage};

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)`, integers only, and no padding (the sizes are tested beside the structs).
            unsafe impl aya::Pod for $type {}
        )+
    };
}

plain!(Address, ListenerKey, Original, Pod, SocketMark, TokenKey, TupleKey, Usage);
