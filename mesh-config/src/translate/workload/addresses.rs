//! Whose an address is that several claim.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use mesh_policy::model::NetworkMode;

use super::{Draft, Origin};
use crate::{
    kinds::Kind,
    status::{Code, Level, Message},
    translate::Report,
};

/// Of two that claim the same address, the lesser has it: what is not leaving, then what is younger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    leaving: bool,
    created: Reverse<Option<Time>>,
}

impl Age {
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        Self { leaving: metadata.deletion_timestamp.is_some(), created: Reverse(metadata.creation_timestamp.clone()) }
    }
}

/// An address belongs to one workload: of two that claim it, the one that is leaving gives way, then the older. A pod
/// that got the address of one that has just ended is never taken for it.
pub(in crate::translate) fn settle_addresses(drafts: &mut [Draft], report: &mut Report) {
    let rank = |draft: &Draft| (draft.source.kind != Kind::Pod, draft.age.clone(), draft.workload.uid.clone());
    let mut owners: HashMap<IpAddr, usize> = HashMap::new();
    let mut losers: Vec<(usize, IpAddr, usize)> = Vec::new();
    for (index, draft) in drafts.iter().enumerate() {
        // An address that entries list may be listed by several of them; a pod's own comes before any in lookups.
        if draft.workload.network_mode == NetworkMode::HostNetwork || matches!(draft.origin, Origin::Inline { .. }) {
            continue;
        }
        for address in &draft.workload.addresses {
            match owners.entry(*address) {
                Entry::Vacant(free) => drop(free.insert(index)),
                Entry::Occupied(mut taken) => {
                    let held = *taken.get();
                    let (winner, loser) = if rank(draft) < rank(&drafts[held]) { (index, held) } else { (held, index) };
                    taken.insert(winner);
                    losers.push((loser, *address, winner));
                }
            }
        }
    }
    for (loser, address, winner) in losers {
        let text = format!("{address} belongs to {}", drafts[winner].source);
        report.tell(drafts[loser].source.clone(), Message::new(Level::Warning, Code::Conflict, "", text));
        drafts[loser].workload.addresses.retain(|own| *own != address);
    }
}
