//! Which programs run at our attach points, and in which order.

use mesh_common::names::{CONNECT4, CONNECT6, PEER4, PEER6, PROGRAM_PREFIX, SOCK_OPS};

use super::sys::AttachType;

/// Where in the cgroup2 root a program of ours is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttachPoint {
    /// `sock_ops`.
    SockOps,
    /// `getpeername` over IPv4.
    GetPeerName4,
    /// `getpeername` over IPv6.
    GetPeerName6,
    /// `connect` over IPv4.
    Connect4,
    /// `connect` over IPv6.
    Connect6,
}

impl AttachPoint {
    /// Readers before writers: in this order programs are attached and replaced, so that nothing is captured that a
    /// reader does not understand.
    pub const ALL: [Self; 5] = [Self::SockOps, Self::GetPeerName4, Self::GetPeerName6, Self::Connect4, Self::Connect6];

    /// As bpftool calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SockOps => "cgroup_sock_ops",
            Self::GetPeerName4 => "cgroup_inet4_getpeername",
            Self::GetPeerName6 => "cgroup_inet6_getpeername",
            Self::Connect4 => "cgroup_inet4_connect",
            Self::Connect6 => "cgroup_inet6_connect",
        }
    }

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::SockOps => SOCK_OPS,
            Self::GetPeerName4 => PEER4,
            Self::GetPeerName6 => PEER6,
            Self::Connect4 => CONNECT4,
            Self::Connect6 => CONNECT6,
        }
    }

    pub(super) const fn kernel(self) -> AttachType {
        match self {
            Self::SockOps => AttachType::SockOps,
            Self::GetPeerName4 => AttachType::GetPeerName4,
            Self::GetPeerName6 => AttachType::GetPeerName6,
            Self::Connect4 => AttachType::Connect4,
            Self::Connect6 => AttachType::Connect6,
        }
    }

    /// Whether it writes what the others read.
    pub(super) const fn is_writer(self) -> bool {
        matches!(self, Self::Connect4 | Self::Connect6)
    }
}

/// A program that runs at an attach point of the cgroup2 root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramAt {
    pub point: AttachPoint,
    /// The kernel's id, as in `bpftool prog show id`.
    pub id: u32,
    /// At most 15 bytes; may be empty.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// This instance's.
    Own,
    /// Another instance's of Keelson, by its name. It acts on its own pods only.
    Instance,
    /// Somebody else's.
    Foreign,
}

impl ProgramAt {
    pub(super) fn new(point: AttachPoint, id: u32, name: String, own: Option<u32>) -> Self {
        let owner = match own {
            Some(own) if own == id => Owner::Own,
            _ if name.starts_with(PROGRAM_PREFIX) => Owner::Instance,
            _ => Owner::Foreign,
        };
        Self { point, id, name, owner }
    }
}

/// Foreign programs that run before this instance's at `connect`: a socket load balancer there (Cilium, Calico) would
/// hide the service addresses from us. `order` is what [`super::Kernel::attach_order`] returned.
pub fn foreign_ahead(order: &[ProgramAt]) -> Vec<&ProgramAt> {
    [AttachPoint::Connect4, AttachPoint::Connect6]
        .into_iter()
        .flat_map(|point| {
            order.iter().filter(move |program| program.point == point).take_while(|program| program.owner != Owner::Own)
        })
        .filter(|program| program.owner == Owner::Foreign)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_foreign_programs_in_front_at_connect_count() {
        let at = |point, id, name: &str| ProgramAt::new(point, id, name.into(), [2, 5, 7].into_iter().find(|own| *own == id));
        let order = [
            at(AttachPoint::SockOps, 1, "other"),
            at(AttachPoint::SockOps, 2, SOCK_OPS),
            at(AttachPoint::Connect4, 3, "cil_sock4_conne"),
            // Another instance's.
            at(AttachPoint::Connect4, 4, CONNECT4),
            at(AttachPoint::Connect4, 5, CONNECT4),
            at(AttachPoint::Connect4, 6, "behind"),
            at(AttachPoint::Connect6, 7, CONNECT6),
            at(AttachPoint::Connect6, 8, "behind"),
        ];
        assert_eq!(foreign_ahead(&order).iter().map(|program| program.id).collect::<Vec<_>>(), [3]);
    }
}
