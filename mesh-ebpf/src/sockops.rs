//! `sock_ops`: what one side of a handshake leaves for the other.
//!
//! An app's SYN leaves its original destination, which the proxy's accepted socket takes; the proxy's SYN to another
//! pod leaves a token, which that pod's `sk_lookup` honours until the app's socket is established. Whatever is still
//! there when the dialling socket closes is removed.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{
    BPF_EXIST, BPF_NOEXIST, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_TCP_CLOSE,
};
use mesh_common::kernel::{
    Original, SocketKind, SocketMark, TokenKey, TupleKey,
    decide::{self, Trace},
};

use crate::{
    ctx::Event,
    maps::{PODS, TOKENS, TUPLES, USAGE},
};

#[inline(always)]
pub(crate) fn sock_ops(event: &Event) {
    match event.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => dialling(event),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(event),
        BPF_SOCK_OPS_STATE_CB if event.new_state() == BPF_TCP_CLOSE => closed(event),
        _ => {}
    }
}

/// Before the SYN: a local listener may answer it before this socket hears of it.
#[inline(always)]
fn dialling(event: &Event) {
    // Only sockets of ours have a mark, so no other namespace's pay for more than this.
    let Some(mark) = event.socket().and_then(|socket| socket.mark()) else { return };
    match decide::trace(mark.get().kind()) {
        Trace::Nothing => return,
        Trace::Tuple => leave_tuple(event, &mark.get().original),
        Trace::Token => leave_token(event),
    }
    event.watch_state();
}

#[inline(always)]
fn leave_tuple(event: &Event, original: &Original) {
    let cookie = event.netns_cookie();
    // SAFETY: see `connect`.
    let Some(pod) = (unsafe { PODS.get(cookie) }) else { return };
    let Some(held) = held_tuples(cookie) else { return };
    let key = dialled_tuple(event, cookie);
    if !held.take_place(pod.max_tuples) {
        return;
    }
    if TUPLES.insert(key, original, BPF_NOEXIST.into()).is_err() {
        // Either the map is full, or an entry stayed behind and is counted already.
        held.give_back();
        let _ = TUPLES.insert(key, original, BPF_EXIST.into());
    }
}

#[inline(always)]
fn leave_token(event: &Event) {
    let cookie = event.netns_cookie();
    // SAFETY: see `connect`.
    let Some(pod) = (unsafe { PODS.get(cookie) }) else { return };
    let Some(held) = held_tokens(cookie) else { return };
    let key = dialled_token(event);
    if !held.take_place(pod.max_tokens) {
        return;
    }
    if TOKENS.insert(key, cookie, BPF_NOEXIST.into()).is_err() {
        held.give_back();
        let _ = TOKENS.insert(key, cookie, BPF_EXIST.into());
    }
}

#[inline(always)]
fn accepted(event: &Event) {
    if !event.is_ip() {
        return;
    }
    let cookie = event.netns_cookie();
    // SAFETY: see `connect`.
    let Some(pod) = (unsafe { PODS.get(cookie) }) else { return };
    match decide::accepted(pod, event.local_port_host()) {
        Trace::Tuple => take_tuple(event, cookie),
        Trace::Token => remove_token(TokenKey {
            source: event.remote(),
            destination: event.local(),
            source_port_host: event.remote_port_host(),
            destination_port_host: event.local_port_host(),
        }),
        Trace::Nothing => {}
    }
}

/// Moves the original destination into the accepted socket, where the proxy reads it. Without an entry the proxy
/// finds nothing and refuses.
#[inline(always)]
fn take_tuple(event: &Event, cookie: u64) {
    let key = TupleKey::new(cookie, event.remote(), event.remote_port_host(), event.local_port_host());
    // SAFETY: read once, before anybody deletes it: the dialling socket is still connecting.
    let Some(original) = (unsafe { TUPLES.get(key) }).copied() else { return };
    if let Some(mark) = event.socket().and_then(|socket| socket.mark_or_create()) {
        mark.set(SocketMark::new(SocketKind::Accepted, original));
    }
    remove_tuple(key);
}

#[inline(always)]
fn closed(event: &Event) {
    let Some(mark) = event.socket().and_then(|socket| socket.mark()) else { return };
    match decide::trace(mark.get().kind()) {
        Trace::Nothing => {}
        Trace::Tuple => remove_tuple(dialled_tuple(event, event.netns_cookie())),
        Trace::Token => remove_token(dialled_token(event)),
    }
}

#[inline(always)]
fn dialled_tuple(event: &Event, cookie: u64) -> TupleKey {
    TupleKey::new(cookie, event.local(), event.local_port_host(), event.remote_port_host())
}

#[inline(always)]
fn dialled_token(event: &Event) -> TokenKey {
    TokenKey {
        source: event.local(),
        destination: event.remote(),
        source_port_host: event.local_port_host(),
        destination_port_host: event.remote_port_host(),
    }
}

/// Whoever deletes the entry gives its place back, so it is given back once.
#[inline(always)]
fn remove_tuple(key: TupleKey) {
    if TUPLES.remove(key).is_ok()
        && let Some(held) = held_tuples(key.netns_cookie)
    {
        held.give_back();
    }
}

#[inline(always)]
fn remove_token(key: TokenKey) {
    // SAFETY: eight bytes, written whole.
    let Some(owner) = (unsafe { TOKENS.get(key) }).copied() else { return };
    if TOKENS.remove(key).is_ok()
        && let Some(held) = held_tokens(owner)
    {
        held.give_back();
    }
}

#[inline(always)]
fn held_tuples(cookie: u64) -> Option<Held> {
    // SAFETY: a pointer into the map's value, from which a field's is made.
    USAGE.get_ptr_mut(cookie).map(|usage| Held(unsafe { &raw mut (*usage).tuples }))
}

#[inline(always)]
fn held_tokens(cookie: u64) -> Option<Held> {
    // SAFETY: as above.
    USAGE.get_ptr_mut(cookie).map(|usage| Held(unsafe { &raw mut (*usage).tokens }))
}

/// How many entries a pod holds in a map. Programs on other CPUs count at the same time.
#[derive(Clone, Copy)]
struct Held(*mut u64);

impl Held {
    /// Whether the pod had a place left.
    #[inline(always)]
    fn take_place(self, bound: u32) -> bool {
        if self.add(1) < u64::from(bound) {
            return true;
        }
        self.give_back();
        false
    }

    #[inline(always)]
    fn give_back(self) {
        self.add(u64::MAX);
    }

    /// Returns the count before. `AtomicU64` has no such method for this target: its first instruction
    /// set had no compare and swap.
    /// Ordered, because for a relaxed addition the compiler emits the instruction that returns nothing.
    #[inline(always)]
    fn add(self, amount: u64) -> u64 {
        // SAFETY: aligned, in the map, and only ever accessed atomically by programs.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(self.0, amount) }
    }
}
