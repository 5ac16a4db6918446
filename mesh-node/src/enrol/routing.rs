//! What a pod's namespace needs so that a connection delivered with the client's own source address works.
//!
//! The delivery socket carries [`DELIVERY_MARK`]; `tcp_fwmark_accept` gives the mark to the application's accepted socket,
//! and a rule routes marked packets by a table in which everything is local on `lo`: the answer to a client's address
//! comes back to the delivery socket instead of leaving the pod. No decision of policy ever reads the mark: a pod can
//! set one, and then reaches itself.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder, new_connection,
    packet_route::{
        route::{RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute},
    },
};
use tokio::sync::Mutex;
use tracing::warn;

use super::netns::{Netns, NetnsError};

/// On packets of a delivery and of its answers.
pub const DELIVERY_MARK: u32 = 0x539;
const TABLE: u32 = 100;
/// Before the rule of the main table (32766), after local (0).
const PRIORITY: u32 = 100;

/// Set in an enrolled pod; those that were otherwise before are restored.
///
/// `tcp_tw_reuse`: all captured connections of a pod share one address and few ports, and closed ones would block them
/// for a minute (measured: 28,000 connections a minute and then EADDRNOTAVAIL). `fwmark_reflect`: resets too; it is a
/// setting of each IP version, the other two are TCP's.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/tcp_fwmark_accept", "1"),
    ("net/ipv4/fwmark_reflect", "1"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv6/fwmark_reflect", "1"),
];

#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("sysctl {name} could not be set in the pod")]
    Sysctl {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("no netlink socket in the pod")]
    Netlink(#[source] io::Error),
    #[error("the {what} for deliveries could not be added in the pod")]
    Route {
        what: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
}

/// The routing of every namespace where deliveries arrive.
///
/// One a namespace, counted: open connections keep the routing of a pod that has left, and the pod may have joined again
/// by the time that they end. Whoever ends last takes it away.
#[derive(Default)]
pub struct Routings {
    standing: Mutex<HashMap<u64, Standing>>,
    /// Another process serves the pods: what stands is its own.
    retired: AtomicBool,
}

/// What was changed in a namespace.
struct Standing {
    users: usize,
    netns: Arc<Netns>,
    handle: Handle,
    before: Vec<(&'static str, String)>,
}

/// A namespace's routing stands until the last of these is dropped.
pub struct DeliveryRouting {
    cookie: u64,
    routings: Arc<Routings>,
    runtime: tokio::runtime::Handle,
}

impl Routings {
    /// Adds sysctls, rules and routes in the namespace with this cookie; what is there already (a node that restarted) is
    /// left as it is.
    pub async fn set_up(self: &Arc<Self>, cookie: u64, netns: &Arc<Netns>) -> Result<DeliveryRouting, RoutingError> {
        let mut standing = self.standing.lock().await;
        match standing.entry(cookie) {
            Entry::Occupied(mut one) => one.get_mut().users += 1,
            Entry::Vacant(none) => drop(none.insert(Standing::add(netns.clone()).await?)),
        }
        Ok(DeliveryRouting { cookie, routings: self.clone(), runtime: tokio::runtime::Handle::current() })
    }

    /// From here on nothing is taken away.
    pub fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    async fn leave(&self, cookie: u64) {
        if self.retired.load(Relaxed) {
            return;
        }
        // Held to the end: nobody may count on what is being removed.
        let mut standing = self.standing.lock().await;
        let Entry::Occupied(mut one) = standing.entry(cookie) else { return };
        one.get_mut().users -= 1;
        if one.get().users == 0 {
            one.remove().take_away().await;
        }
    }
}

impl Drop for DeliveryRouting {
    fn drop(&mut self) {
        let (routings, cookie) = (self.routings.clone(), self.cookie);
        self.runtime.spawn(async move { routings.leave(cookie).await });
    }
}

impl Standing {
    async fn add(netns: Arc<Netns>) -> Result<Self, RoutingError> {
        let (before, connection) = netns.run(|| -> Result<_, RoutingError> {
            let before = SYSCTLS
                .iter()
                .map(|(name, value)| set_sysctl(name, value).map_err(|source| RoutingError::Sysctl { name, source }))
                .collect::<Result<Vec<_>, _>>()?;
            Ok((before, new_connection().map_err(RoutingError::Netlink)?))
        })??;
        let (connection, handle, _) = connection;
        tokio::spawn(connection);
        let before = SYSCTLS.iter().zip(before).filter_map(|((name, _), before)| Some((*name, before?))).collect();
        let standing = Self { users: 1, netns, handle, before };
        match add_routes(&standing.handle).await {
            Ok(()) => Ok(standing),
            Err(error) => {
                standing.take_away().await;
                Err(error)
            }
        }
    }

    async fn take_away(self) {
        // The pod may be gone already, and all of this with it.
        if let Err(error) = remove_routes(&self.handle).await {
            warn!(%error, "deliveries' routes stay behind in a pod that left");
        }
        let restored = self.netns.run(|| {
            for (name, value) in self.before {
                let _ = fs::write(sysctl_path(name), value);
            }
        });
        if let Err(error) = restored {
            warn!(%error, "sysctls stay behind in a pod that left");
        }
    }
}

/// Sets a value and returns the one before, if it was another.
fn set_sysctl(name: &str, value: &str) -> io::Result<Option<String>> {
    let path = sysctl_path(name);
    let before = match fs::read_to_string(&path) {
        // A kernel without IPv6 has nothing to deliver by it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("net/ipv6/") => return Ok(None),
        read => read?.trim().to_owned(),
    };
    if before == value {
        return Ok(None);
    }
    fs::write(&path, value)?;
    Ok(Some(before))
}

fn sysctl_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

async fn add_routes(handle: &Handle) -> Result<(), RoutingError> {
    let rule = || handle.rule().add().fw_mark(DELIVERY_MARK).table_id(TABLE).priority(PRIORITY).action(RuleAction::ToTable);
    present(rule().v4().execute().await, "IPv4 rule")?;
    present(handle.route().add(local_v4()).execute().await, "IPv4 route")?;
    // A kernel or pod without IPv6 has nothing to deliver by it.
    optional(rule().v6().execute().await, "IPv6 rule")?;
    optional(handle.route().add(local_v6()).execute().await, "IPv6 route")
}

/// `lo` is the first device of every network namespace.
const LOOPBACK: u32 = 1;

fn local_v4() -> rtnetlink::packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .output_interface(LOOPBACK)
        .table_id(TABLE)
        .build()
}

fn local_v6() -> rtnetlink::packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
        .kind(RouteType::Local)
        .output_interface(LOOPBACK)
        .table_id(TABLE)
        .build()
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

fn present(result: Result<(), rtnetlink::Error>, what: &'static str) -> Result<(), RoutingError> {
    match result {
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
        other => other.map_err(|source| RoutingError::Route { what, source }),
    }
}

fn optional(result: Result<(), rtnetlink::Error>, what: &'static str) -> Result<(), RoutingError> {
    let absent = [libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::EACCES, libc::EPERM];
    match result {
        Err(error) if errno(&error).is_some_and(|code| absent.contains(&code)) => Ok(()),
        other => present(other, what),
    }
}

async fn remove_routes(handle: &Handle) -> Result<(), rtnetlink::Error> {
    for family in [IpVersion::V4, IpVersion::V6] {
        let mut rules = handle.rule().get(family).execute();
        while let Ok(Some(rule)) = rules.try_next().await {
            let is_ours = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::FwMark(DELIVERY_MARK));
            if rule.attributes.iter().any(is_ours) && rule.header.table == TABLE as u8 {
                gone(handle.rule().del(rule).execute().await)?;
            }
        }
    }
    gone(handle.route().del(local_v4()).execute().await)?;
    gone(handle.route().del(local_v6()).execute().await)
}

fn gone(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    let absent = [libc::ENOENT, libc::ESRCH, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
    match result {
        Err(error) if errno(&error).is_some_and(|code| absent.contains(&code)) => Ok(()),
        other => other,
    }
}
