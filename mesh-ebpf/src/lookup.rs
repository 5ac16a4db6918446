//! `sk_lookup`, linked to each enrolled pod's namespace: what arrives goes to the proxy's listeners there.

use aya_ebpf::{bindings::BPF_SK_LOOKUP_F_REPLACE, programs::SkLookupContext};
use mesh_common::kernel::{
    Address, ListenerKey, TokenKey,
    decide::{self, Arrival, Lookup},
};

use crate::{
    ctx::Segment,
    maps::{ADDRESSES, LISTENERS, TOKENS},
};

const DROP: u32 = 0;
const PASS: u32 = 1;

#[inline(always)]
pub(crate) fn lookup(ctx: &SkLookupContext) -> u32 {
    if !ctx.is_tcp() {
        return PASS;
    }
    let arrival = Arrival {
        remote: ctx.remote(),
        local: ctx.local(),
        local_port_host: ctx.local_port_host(),
        ingress_ifindex: ctx.ingress_ifindex(),
    };
    let token = || {
        TOKENS
            .get_ptr(TokenKey {
                source: arrival.remote,
                destination: arrival.local,
                source_port_host: ctx.remote_port_host(),
                destination_port_host: arrival.local_port_host,
            })
            .is_some()
    };
    match decide::lookup(&arrival, token, owner) {
        Lookup::Pass => PASS,
        Lookup::Drop => DROP,
        Lookup::Steer(kind) => {
            let key = ListenerKey::new(arrival.local, kind);
            // A missing listener means that the proxy is gone: refuse, never let through.
            match LISTENERS.redirect_sk_lookup(ctx, key, BPF_SK_LOOKUP_F_REPLACE.into()) {
                Ok(()) => PASS,
                Err(_) => DROP,
            }
        }
    }
}

#[inline(always)]
fn owner(address: &Address) -> Option<u64> {
    // SAFETY: eight bytes, written whole.
    unsafe { ADDRESSES.get(address) }.copied()
}
