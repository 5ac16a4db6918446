//! `connect4` and `connect6`: an enrolled pod's TCP goes to the proxy's listener in that pod.

use aya_ebpf::programs::SockAddrContext;
use mesh_common::kernel::{
    Address, Original, SocketKind, SocketMark,
    decide::{self, Connect, Dial},
};

use crate::{
    ctx::{Hook, SockAddr, Socket, current_cgroup, current_process},
    maps::{ADDRESSES, PODS, PROBER_TASKS, PROBERS},
};

const PASS: i32 = 1;
const DENY: i32 = 0;
const ENOMEM: i32 = 12;
const ENETUNREACH: i32 = 101;

#[inline(always)]
pub(crate) fn connect<H: Hook>(ctx: &SockAddrContext) -> i32 {
    if !ctx.is_tcp() {
        return PASS;
    }
    // SAFETY: entries change only at enrolment; a torn read could only mix two enrolments of one pod.
    let Some(pod) = (unsafe { PODS.get(ctx.netns_cookie()) }) else { return PASS };
    let Some(socket) = ctx.socket() else { return DENY };
    let mark = socket.mark();
    let kind = mark.map_or(SocketKind::None, |mark| mark.get().kind());
    let dial =
        Dial { destination: H::address(ctx), port_host: ctx.port_host(), bound_ifindex: socket.bound_ifindex(), socket: kind };
    if pod.is_node() {
        return probe(socket, &dial);
    }
    match decide::connect(pod, &dial) {
        Connect::Pass => {
            // A captured socket that was disconnected and now dials something else.
            if let (SocketKind::Captured, Some(mark)) = (kind, mark) {
                mark.set(SocketMark::default());
            }
            PASS
        }
        Connect::Unreachable => refuse(ctx, ENETUNREACH),
        Connect::Capture { address, port_host } => {
            let Some(mark) = socket.mark_or_create() else { return refuse(ctx, ENOMEM) };
            let original = Original { address: dial.destination, port_host: dial.port_host, dialled_as: H::DIALLED_AS, spare: 0 };
            mark.set(SocketMark::new(SocketKind::Captured, original));
            H::set_address(ctx, address);
            ctx.set_port_host(port_host);
            PASS
        }
    }
}

/// The node's own namespace: nothing is captured, and a probe of the kubelet's is marked, so that its SYN leaves a token.
#[inline(always)]
fn probe(socket: Socket, dial: &Dial) -> i32 {
    // SAFETY: all are read for their presence only.
    let by_kubelet = || unsafe { PROBERS.get(current_cgroup()).is_some() || PROBER_TASKS.get(current_process()).is_some() };
    let to_pod = |address: &Address| unsafe { ADDRESSES.get(address) }.is_some();
    if decide::probe(dial, by_kubelet, to_pod)
        && let Some(mark) = socket.mark_or_create()
    {
        mark.set(SocketMark::exempt(SocketKind::ProxyToken));
    }
    PASS
}

#[inline(always)]
fn refuse(ctx: &SockAddrContext, errno: i32) -> i32 {
    ctx.set_error(errno);
    DENY
}
