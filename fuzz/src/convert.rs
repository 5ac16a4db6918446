//! Resources of the discovery stream to the model. The input's first byte chooses the type, the rest is the message.

use mesh_policy::model::{Authorization, Mesh, Model};
use mesh_proto::{authorization, convert::AddressResource, mesh, workload};
use prost::Message;

use crate::wire;

/// What was taken from the wire means the same when it is sent on.
pub(crate) fn check(input: &[u8]) {
    let Some((kind, body)) = input.split_first() else { return };
    let mut model = Model::default();
    let taken = match kind % 3 {
        0 => workload::Address::decode(body).ok().and_then(|message| AddressResource::try_from(message).ok()).map(|address| {
            match address {
                AddressResource::Workload(workload) => model.upsert_workload(*workload),
                AddressResource::Service(service) => model.upsert_service(*service),
            }
        }),
        1 => authorization::Authorization::decode(body)
            .ok()
            .and_then(|message| Authorization::try_from(message).ok())
            .map(|policy| model.upsert_policy(policy)),
        _ => mesh::Mesh::decode(body).ok().and_then(|message| Mesh::try_from(message).ok()).map(|settings| model.mesh = settings),
    };
    if taken.is_some() {
        wire::survives(&model);
    }
}
