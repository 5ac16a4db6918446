//! Contexts and socket storage behind safe methods: the raw pointers end here.
//!
//! The verifier checks every access to a context against a list of fields and widths.

use core::{
    arch::asm,
    mem::offset_of,
    ptr::{self, NonNull, read_volatile},
};

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_STATE_CB_FLAG, bpf_pidns_info, bpf_sk_lookup, bpf_sock, bpf_sock_addr,
        bpf_sock_ops,
    },
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_ns_current_pid_tgid, bpf_set_retval,
        bpf_sk_storage_get,
    },
    programs::{SkLookupContext, SockAddrContext, SockOpsContext},
};
use mesh_common::kernel::{Address, SocketMark};

use crate::maps::{PID_NAMESPACE_DEVICE, PID_NAMESPACE_INODE, SOCKETS};

/// IPPROTO_TCP.
const TCP: u32 = 6;
/// AF_INET.
const AF_INET: u32 = 2;
/// AF_INET6.
const AF_INET6: u32 = 10;

/// Reads a word of a context.
///
/// In assembly, with the offset in the instruction: the verifier refuses a computed one, and the compiler computes as
/// soon as two branches read different fields, or merges neighbours into a wider access.
#[inline(always)]
fn load<const OFFSET: usize, C>(context: *const C) -> u32 {
    let word: u64;
    // SAFETY: the kernel calls a program with a valid context, and the verifier checks offset and width.
    unsafe {
        asm!(
            "{word} = *(u32 *)({context} + {offset})",
            word = out(reg) word,
            context = in(reg) context,
            offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    word as u32
}

/// Writes a word of a context, for the same reasons.
#[inline(always)]
fn store<const OFFSET: usize, C>(context: *mut C, word: u32) {
    // SAFETY: as for `load`; the verifier knows the fields that may be written.
    unsafe {
        asm!(
            "*(u32 *)({context} + {offset}) = {word}",
            word = in(reg) u64::from(word),
            context = in(reg) context,
            offset = const OFFSET,
            options(nostack, preserves_flags),
        );
    }
}

macro_rules! read {
    ($context:expr, $type:ident.$field:ident $([$at:literal])?) => {
        load::<{ offset_of!($type, $field) $(+ 4 * $at)? }, _>($context)
    };
}

macro_rules! read_words {
    ($context:expr, $type:ident.$field:ident) => {
        [
            read!($context, $type.$field[0]),
            read!($context, $type.$field[1]),
            read!($context, $type.$field[2]),
            read!($context, $type.$field[3]),
        ]
    };
}

macro_rules! write {
    ($value:expr => $context:expr, $type:ident.$field:ident $([$at:literal])?) => {
        store::<{ offset_of!($type, $field) $(+ 4 * $at)? }, _>($context, $value)
    };
}

/// The cgroup2 group of the process that runs the program, by its id.
#[inline(always)]
pub(crate) fn current_cgroup() -> u64 {
    // SAFETY: the helper takes nothing and can not fail.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The process (not the thread) that runs the program, as the node's PID namespace numbers it; 0 when it is in another one.
#[inline(always)]
pub(crate) fn current_process() -> u32 {
    // SAFETY: constants of the object, which the compiler must not take for those of the source.
    let (device, inode) =
        unsafe { (read_volatile(&raw const PID_NAMESPACE_DEVICE), read_volatile(&raw const PID_NAMESPACE_INODE)) };
    if inode == 0 {
        // SAFETY: the helper takes nothing and can not fail.
        return (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    }
    let mut numbers = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the helper writes the struct, whose size it is told.
    let result = unsafe { bpf_get_ns_current_pid_tgid(device, inode, &raw mut numbers, size_of::<bpf_pidns_info>() as u32) };
    if result == 0 { numbers.tgid } else { 0 }
}

/// A full socket. Exists only where the kernel has handed one out.
#[derive(Clone, Copy)]
pub(crate) struct Socket(NonNull<bpf_sock>);

impl Socket {
    /// `SO_BINDTODEVICE`, 0 when unbound.
    #[inline(always)]
    pub(crate) fn bound_ifindex(self) -> u32 {
        read!(self.0.as_ptr(), bpf_sock.bound_dev_if)
    }

    /// What is kept in the socket, if anything.
    #[inline(always)]
    pub(crate) fn mark(self) -> Option<Mark> {
        self.storage(0)
    }

    /// The same, made if there is none; `None` when there is no memory for it.
    #[inline(always)]
    pub(crate) fn mark_or_create(self) -> Option<Mark> {
        self.storage(BPF_SK_STORAGE_GET_F_CREATE.into())
    }

    #[inline(always)]
    fn storage(self, flags: u64) -> Option<Mark> {
        let map = ptr::from_ref(&SOCKETS).cast_mut().cast();
        // SAFETY: the map and the socket are valid; the helper may create the entry zeroed.
        let mark = unsafe { bpf_sk_storage_get(map, self.0.as_ptr().cast(), ptr::null_mut(), flags) };
        NonNull::new(mark.cast()).map(Mark)
    }
}

/// The storage of one socket.
#[derive(Clone, Copy)]
pub(crate) struct Mark(NonNull<SocketMark>);

impl Mark {
    #[inline(always)]
    pub(crate) fn get(&self) -> &SocketMark {
        // SAFETY: storage lives as long as the socket, which outlives the program's run.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    pub(crate) fn set(self, mark: SocketMark) {
        // SAFETY: as above. Nobody else writes while the socket is in this call.
        unsafe { self.0.as_ptr().write(mark) }
    }
}

/// The family of a hook, which is that of the app's socket: `AF_INET6` ones also dial v4-mapped addresses.
pub(crate) trait Hook {
    /// As `Original::dialled_as`.
    const DIALLED_AS: u8;
    fn address(ctx: &SockAddrContext) -> Address;
    fn set_address(ctx: &SockAddrContext, address: Address);
}

/// `connect4`, `getpeername4`.
pub(crate) enum V4 {}

/// `connect6`, `getpeername6`.
pub(crate) enum V6 {}

impl Hook for V4 {
    const DIALLED_AS: u8 = 4;

    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Address {
        Address::from_v4_be(read!(ctx.sock_addr, bpf_sock_addr.user_ip4))
    }

    #[inline(always)]
    fn set_address(ctx: &SockAddrContext, address: Address) {
        write!(address.v4_be() => ctx.sock_addr, bpf_sock_addr.user_ip4);
    }
}

impl Hook for V6 {
    const DIALLED_AS: u8 = 6;

    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Address {
        Address::from_v6_be(read_words!(ctx.sock_addr, bpf_sock_addr.user_ip6))
    }

    #[inline(always)]
    fn set_address(ctx: &SockAddrContext, address: Address) {
        let [a, b, c, d] = address.words_be();
        write!(a => ctx.sock_addr, bpf_sock_addr.user_ip6[0]);
        write!(b => ctx.sock_addr, bpf_sock_addr.user_ip6[1]);
        write!(c => ctx.sock_addr, bpf_sock_addr.user_ip6[2]);
        write!(d => ctx.sock_addr, bpf_sock_addr.user_ip6[3]);
    }
}

/// What `connect` and `getpeername` have in common.
pub(crate) trait SockAddr {
    fn is_tcp(&self) -> bool;
    fn netns_cookie(&self) -> u64;
    fn socket(&self) -> Option<Socket>;
    fn port_host(&self) -> u16;
    fn set_port_host(&self, port: u16);
    fn set_error(&self, errno: i32);
}

impl SockAddr for SockAddrContext {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        read!(self.sock_addr, bpf_sock_addr.protocol) == TCP
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: a valid context of this program type.
        unsafe { bpf_get_netns_cookie(self.as_ptr()) }
    }

    #[inline(always)]
    fn socket(&self) -> Option<Socket> {
        // SAFETY: a field of the context; a pointer has no other of its width beside it to be merged with.
        NonNull::new(unsafe { read_volatile(&raw const (*self.sock_addr).__bindgen_anon_1.sk) }).map(Socket)
    }

    #[inline(always)]
    fn port_host(&self) -> u16 {
        u16::from_be(read!(self.sock_addr, bpf_sock_addr.user_port) as u16)
    }

    #[inline(always)]
    fn set_port_host(&self, port: u16) {
        write!(port.to_be().into() => self.sock_addr, bpf_sock_addr.user_port);
    }

    /// What the caller of the system call sees when the program then returns 0.
    #[inline(always)]
    fn set_error(&self, errno: i32) {
        // SAFETY: a helper without pointers.
        unsafe { bpf_set_retval(-errno) };
    }
}

/// A `sock_ops` call.
pub(crate) struct Event {
    ops: *mut bpf_sock_ops,
}

impl Event {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockOpsContext) -> Self {
        Self { ops: ctx.ops }
    }

    /// `BPF_SOCK_OPS_*`.
    #[inline(always)]
    pub(crate) fn op(&self) -> u32 {
        read!(self.ops, bpf_sock_ops.op)
    }

    /// Whether it is over IP; the other families have no addresses here.
    #[inline(always)]
    pub(crate) fn is_ip(&self) -> bool {
        matches!(read!(self.ops, bpf_sock_ops.family), AF_INET | AF_INET6)
    }

    /// In `STATE_CB`, the state that the socket enters.
    #[inline(always)]
    pub(crate) fn new_state(&self) -> u32 {
        read!(self.ops, bpf_sock_ops.__bindgen_anon_1[1])
    }

    /// `None` for a handshake that is no socket yet.
    #[inline(always)]
    pub(crate) fn socket(&self) -> Option<Socket> {
        // SAFETY: as in `SockAddr`.
        NonNull::new(unsafe { read_volatile(&raw const (*self.ops).__bindgen_anon_2.sk) }).map(Socket)
    }

    #[inline(always)]
    pub(crate) fn netns_cookie(&self) -> u64 {
        // SAFETY: a valid context of this program type.
        unsafe { bpf_get_netns_cookie(self.ops.cast()) }
    }

    /// v4-mapped also where an `AF_INET6` socket carries IPv4.
    #[inline(always)]
    pub(crate) fn local(&self) -> Address {
        match read!(self.ops, bpf_sock_ops.family) {
            AF_INET => Address::from_v4_be(read!(self.ops, bpf_sock_ops.local_ip4)),
            _ => Address::from_v6_be(read_words!(self.ops, bpf_sock_ops.local_ip6)),
        }
    }

    /// As [`Event::local`].
    #[inline(always)]
    pub(crate) fn remote(&self) -> Address {
        match read!(self.ops, bpf_sock_ops.family) {
            AF_INET => Address::from_v4_be(read!(self.ops, bpf_sock_ops.remote_ip4)),
            _ => Address::from_v6_be(read_words!(self.ops, bpf_sock_ops.remote_ip6)),
        }
    }

    #[inline(always)]
    pub(crate) fn local_port_host(&self) -> u16 {
        read!(self.ops, bpf_sock_ops.local_port) as u16
    }

    /// The field is in network order in a word of 32 bits.
    #[inline(always)]
    pub(crate) fn remote_port_host(&self) -> u16 {
        u32::from_be(read!(self.ops, bpf_sock_ops.remote_port)) as u16
    }

    /// Asks to be called when the socket changes its state.
    #[inline(always)]
    pub(crate) fn watch_state(&self) {
        let flags = read!(self.ops, bpf_sock_ops.bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
        // SAFETY: a valid context. It can only fail for a handshake that is no socket yet.
        unsafe { aya_ebpf::helpers::generated::bpf_sock_ops_cb_flags_set(self.ops, flags as i32) };
    }
}

/// An `sk_lookup` call.
pub(crate) trait Segment {
    fn is_tcp(&self) -> bool;
    fn local(&self) -> Address;
    fn remote(&self) -> Address;
    fn local_port_host(&self) -> u16;
    fn remote_port_host(&self) -> u16;
    fn ingress_ifindex(&self) -> u32;
}

impl Segment for SkLookupContext {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        read!(self.lookup, bpf_sk_lookup.protocol) == TCP
    }

    #[inline(always)]
    fn local(&self) -> Address {
        match read!(self.lookup, bpf_sk_lookup.family) {
            AF_INET => Address::from_v4_be(read!(self.lookup, bpf_sk_lookup.local_ip4)),
            _ => Address::from_v6_be(read_words!(self.lookup, bpf_sk_lookup.local_ip6)),
        }
    }

    #[inline(always)]
    fn remote(&self) -> Address {
        match read!(self.lookup, bpf_sk_lookup.family) {
            AF_INET => Address::from_v4_be(read!(self.lookup, bpf_sk_lookup.remote_ip4)),
            _ => Address::from_v6_be(read_words!(self.lookup, bpf_sk_lookup.remote_ip6)),
        }
    }

    #[inline(always)]
    fn local_port_host(&self) -> u16 {
        read!(self.lookup, bpf_sk_lookup.local_port) as u16
    }

    #[inline(always)]
    fn remote_port_host(&self) -> u16 {
        // SAFETY: a field of the context, the only one of two bytes.
        u16::from_be(unsafe { read_volatile(&raw const (*self.lookup).remote_port) })
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        read!(self.lookup, bpf_sk_lookup.ingress_ifindex)
    }
}
