//! Names of maps, programs and pins.
//!
//! The kernel keeps 15 bytes of an object's name, hence the short ones. Pins of an instance live in
//! `<bpffs>/keelson/<instance>/v<LAYOUT>/{maps,links,pods}/`.

/// Version of the layout of keys, values and pins. Within one layout, values change only in their
/// spare bytes, so that programs of two releases can share the pinned maps.
pub const LAYOUT: u32 = 1;

/// First folder below the BPF file system.
pub const PIN_ROOT: &str = "keelson";
/// Folder of the pinned maps, named as in [`MAPS`].
pub const PIN_MAPS: &str = "maps";
/// Folder of the pinned cgroup links, named as their programs.
pub const PIN_LINKS: &str = "links";
/// Folder of the pinned links of pods, `<hash of the uid>-<cookie>`.
pub const PIN_PODS: &str = "pods";

/// See `mesh-ebpf`'s `maps.rs` for each map's key, value, writer and reader.
pub const PODS: &str = "PODS";
/// See [`PODS`].
pub const USAGE: &str = "USAGE";
/// See [`PODS`].
pub const SOCKETS: &str = "SOCKETS";
/// See [`PODS`].
pub const TUPLES: &str = "TUPLES";
/// See [`PODS`].
pub const TOKENS: &str = "TOKENS";
/// See [`PODS`].
pub const ADDRESSES: &str = "ADDRESSES";
/// See [`PODS`].
pub const LISTENERS: &str = "LISTENERS";

/// See [`PODS`].
pub const PROBERS: &str = "PROBERS";

/// See [`PODS`].
pub const PROBER_TASKS: &str = "PROBER_TASKS";

/// Every map.
pub const MAPS: [&str; 9] = [PODS, USAGE, SOCKETS, TUPLES, TOKENS, ADDRESSES, LISTENERS, PROBERS, PROBER_TASKS];

/// Constants of the kernel object that the loader sets: the PID namespace by which processes are numbered (device and inode of
/// its file), where that is not the machine's first one; else both are zero.
pub const PID_NAMESPACE_DEVICE: &str = "PID_NAMESPACE_DEVICE";
/// See [`PID_NAMESPACE_DEVICE`].
pub const PID_NAMESPACE_INODE: &str = "PID_NAMESPACE_INODE";

/// Starts the name of every program of ours, of any instance.
pub const PROGRAM_PREFIX: &str = "keelson_";
/// cgroup `connect4`.
pub const CONNECT4: &str = "keelson_conn4";
/// cgroup `connect6`.
pub const CONNECT6: &str = "keelson_conn6";
/// cgroup `getpeername4`.
pub const PEER4: &str = "keelson_peer4";
/// cgroup `getpeername6`.
pub const PEER6: &str = "keelson_peer6";
/// cgroup `sock_ops`.
pub const SOCK_OPS: &str = "keelson_sockops";
/// `sk_lookup`, one link per pod.
pub const LOOKUP: &str = "keelson_lookup";

/// Every program.
pub const PROGRAMS: [&str; 6] = [CONNECT4, CONNECT6, PEER4, PEER6, SOCK_OPS, LOOKUP];

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer names are cut by the kernel, and then two programs could not be told apart.
    #[test]
    fn names_fit_the_kernel() {
        for name in MAPS.iter().chain(&PROGRAMS) {
            assert!(name.len() <= 15, "{name}");
        }
        assert!(PROGRAMS.iter().all(|name| name.starts_with(PROGRAM_PREFIX)));
    }
}
