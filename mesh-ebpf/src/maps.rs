//! Every map: key, value, who writes, who reads, how large. The node pins them all (`mesh_common::names`).
//!
//! | map | key → value | written by | read by | entries |
//! |---|---|---|---|---|
//! | `PODS` | netns cookie → `Pod` | node, at enrolment | connect, sock_ops | a pod each, and the node's own, 1024 |
//! | `USAGE` | netns cookie → `Usage` | node creates; sock_ops counts | sock_ops, node's metrics | a pod each, 1024 |
//! | `SOCKETS` | socket → `SocketMark` | connect, sock_ops; node by descriptor | all but lookup; node by descriptor | a socket each, freed with it |
//! | `TUPLES` | `TupleKey` → `Original` | sock_ops, at the SYN | sock_ops, at the accept | `Pod::max_tuples` a pod, 65,536 |
//! | `TOKENS` | `TokenKey` → netns cookie of the owner | sock_ops, at the SYN | lookup | `Pod::max_tokens` a pod, 65,536 |
//! | `ADDRESSES` | `Address` → netns cookie | node, at enrolment | lookup, connect | a pod's address each, 4096 |
//! | `PROBERS` | cgroup id → 1 | node, at its start | connect | the kubelet's cgroups, 16 |
//! | `PROBER_TASKS` | process id → 1 | node, when the kubelet starts or ends | connect | the kubelet, 16 |
//! | `LISTENERS` | `ListenerKey` → listening socket | node, at enrolment | lookup | two an address, 8192 |
//!
//! `TUPLES` and `TOKENS` are plain hashes with a bound a pod: in an LRU one pod could evict another's entries. They
//! allocate as they grow, since entries live for the length of a handshake.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{HashMap, SockHash},
};
use mesh_common::kernel::{Address, ListenerKey, MAX_PODS, Original, Pod, SocketMark, TokenKey, TupleKey, Usage};

/// Handshakes of all pods together.
const MAX_HANDSHAKES: u32 = 64 * 1024;

#[map]
pub(crate) static PODS: HashMap<u64, Pod> = HashMap::with_max_entries(MAX_PODS, 0);

#[map]
pub(crate) static USAGE: HashMap<u64, Usage> = HashMap::with_max_entries(MAX_PODS, 0);

#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketMark> = SkStorage::new();

#[map]
pub(crate) static TUPLES: HashMap<TupleKey, Original> = HashMap::with_max_entries(MAX_HANDSHAKES, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static TOKENS: HashMap<TokenKey, u64> = HashMap::with_max_entries(MAX_HANDSHAKES, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static ADDRESSES: HashMap<Address, u64> = HashMap::with_max_entries(MAX_PODS * 4, 0);

#[map]
pub(crate) static PROBERS: HashMap<u64, u32> = HashMap::with_max_entries(16, 0);

#[map]
pub(crate) static PROBER_TASKS: HashMap<u32, u32> = HashMap::with_max_entries(16, 0);

#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(MAX_PODS * 8, 0);

/// The PID namespace in which `PROBER_TASKS` numbers processes (`mesh_common::names`). Constants by the time that the verifier
/// sees them: the branch not taken, with a helper that older kernels lack here, is never looked at.
#[unsafe(no_mangle)]
pub(crate) static PID_NAMESPACE_DEVICE: u64 = 0;
/// See [`PID_NAMESPACE_DEVICE`].
#[unsafe(no_mangle)]
pub(crate) static PID_NAMESPACE_INODE: u64 = 0;
