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
    telemetry::{Direction, Flow, Telemetry, Tracked},
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

/// Judges a connection that has just been listed once more: between its judgement and its listing a policy may have come, and
/// [`watch`] may have gone by.
pub fn catch_up(store: &Store, connection: &Tracked) {
    if let Some(failure) = judge(&store.load(), connection.flow()) {
        info!(source = %connection.flow().source_address, %failure, "a policy change overtook a connection and closes it");
        connection.revoke();
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use mesh_policy::model::{Action, Authorization, Model, PolicyKey, Scope};

    use super::*;
    use crate::telemetry::testing::{flow, workload};

    /// The destination of [`flow`], and a policy that lets nobody reach it.
    fn closed() -> Snapshot {
        let (key, reviews) = (PolicyKey { namespace: "shop".into(), name: "nobody".into() }, workload("reviews"));
        let policy =
            Authorization { key: key.clone(), scope: Scope::Namespace, action: Action::Allow, dry_run: false, rules: Vec::new() };
        let mut model = Model::default();
        model.workloads.insert(reviews.uid.clone(), reviews);
        model.policies.insert(key, policy.into());
        model.snapshot()
    }

    #[test]
    fn a_policy_that_overtakes_a_connection_closes_it() {
        let (store, telemetry) = (Store::new(), Telemetry::new());
        let early = telemetry.open(flow(Direction::Inbound));
        catch_up(&store, &early);
        assert_eq!(early.revoked().now_or_never(), None, "nothing denies it");
        store.publish(closed());
        let late = telemetry.open(flow(Direction::Inbound));
        catch_up(&store, &late);
        assert_eq!(late.revoked().now_or_never(), Some(()));
        let source_half = telemetry.open(flow(Direction::Outbound));
        catch_up(&store, &source_half);
        assert_eq!(source_half.revoked().now_or_never(), None, "it ends with the other half");
    }
}
