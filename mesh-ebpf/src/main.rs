//! The kernel programs, in the order in which one connection meets them: the app connects, the proxy's listener
//! accepts, the far pod is reached, and somebody asks for the peer's name.
//!
//! Thin shells over `mesh_common::kernel::decide`. Attached at the cgroup2 root they run for every process of the
//! machine, so each asks first whether the socket's network namespace is an enrolled pod's.

#![no_std]
#![no_main]
#![allow(internal_features, reason = "atomic addition, which `core` offers this target under no stable name")]
#![feature(asm_experimental_arch, core_intrinsics)]

mod connect;
mod ctx;
mod lookup;
mod maps;
mod peer;
mod sockops;

use aya_ebpf::{
    macros::{cgroup_sock_addr, sk_lookup, sock_ops},
    programs::{SkLookupContext, SockAddrContext, SockOpsContext},
};

#[cgroup_sock_addr(connect4)]
fn keelson_conn4(ctx: SockAddrContext) -> i32 {
    connect::connect::<ctx::V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
fn keelson_conn6(ctx: SockAddrContext) -> i32 {
    connect::connect::<ctx::V6>(&ctx)
}

#[sock_ops]
fn keelson_sockops(ctx: SockOpsContext) -> u32 {
    sockops::sock_ops(&ctx::Event::new(&ctx));
    1
}

#[sk_lookup]
fn keelson_lookup(ctx: SkLookupContext) -> u32 {
    lookup::lookup(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
fn keelson_peer4(ctx: SockAddrContext) -> i32 {
    peer::peer::<ctx::V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
fn keelson_peer6(ctx: SockAddrContext) -> i32 {
    peer::peer::<ctx::V6>(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
