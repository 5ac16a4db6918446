//! A policy change closes the open connections that it now denies.

use std::sync::Arc;

use mesh_policy::{
    authz::{self, Connection},
    model::Snapshot,
};
use tracing::info;

use super::denied;
use crate::{
    state::Store,
    telemetry::{Direction, Flow, Telemetry},
};

/// Judges every inbound connection anew on each snapshot, for ever.
pub async fn watch(store: Arc<Store>, telemetry: Arc<Telemetry>) {
    let mut changes = store.subscribe();
    while changes.changed().await.is_ok() {
        let snapshot = store.load();
        for connection in telemetry.revocable() {
            if let Some(failure) = judge(&snapshot, connection.flow()) {
                info!(source = %connection.flow().source_address, %failure, "policy change closes an open connection");
                connection.revoke();
            }
        }
    }
}

/// The destination's half is judged; the source's half ends with it.
fn judge(snapshot: &Snapshot, flow: &Flow) -> Option<crate::reason::Failure> {
    let (Direction::Inbound, Some(workload)) = (flow.direction, &flow.destination.workload) else { return None };
    // A workload that is gone is no reason to cut what it still does: its connections end with it.
    let workload = snapshot.workload(&workload.uid)?;
    let target = flow.destination_address.unwrap_or(flow.original_destination);
    let connection = Connection {
        source_identity: flow.source.identity.as_ref(),
        source_ip: flow.source_address.ip(),
        destination_ip: target.ip(),
        destination_port: target.port(),
    };
    denied(&authz::decide(snapshot, workload, &connection).outcome)
}
