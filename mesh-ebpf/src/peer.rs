//! `getpeername4` and `getpeername6`: the app sees what it dialled.

use aya_ebpf::programs::SockAddrContext;
use mesh_common::kernel::decide;

use crate::ctx::{Hook, SockAddr};

#[inline(always)]
pub(crate) fn peer<H: Hook>(ctx: &SockAddrContext) -> i32 {
    if let Some(mark) = ctx.socket().and_then(|socket| socket.mark())
        && let Some(original) = decide::peer(mark.get().kind(), &mark.get().original)
    {
        H::set_address(ctx, original.address);
        ctx.set_port_host(original.port_host);
    }
    // These hooks may not refuse.
    1
}
