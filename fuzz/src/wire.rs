//! The model on the wire.

use mesh_policy::model::{Authorization, Mesh, Model};
use mesh_proto::{authorization, convert::AddressResource, mesh, workload};
use prost::Message;

/// A node takes everything that a controller with this model sends, and has the same model then.
pub(crate) fn survives(model: &Model) {
    for expected in model.workloads.values() {
        let found: Result<AddressResource, _> = sent(&workload::Address::from(&**expected)).try_into();
        assert_eq!(found, Ok(AddressResource::Workload(Box::new((**expected).clone()))));
    }
    for expected in model.services.values() {
        let found: Result<AddressResource, _> = sent(&workload::Address::from(&**expected)).try_into();
        assert_eq!(found, Ok(AddressResource::Service(Box::new((**expected).clone()))));
    }
    for expected in model.policies.values() {
        let found: Result<Authorization, _> = sent(&authorization::Authorization::from(&**expected)).try_into();
        assert_eq!(found.as_ref(), Ok(&**expected));
    }
    let found: Result<Mesh, _> = sent(&mesh::Mesh::from(&model.mesh)).try_into();
    assert_eq!(found.as_ref(), Ok(&model.mesh));
}

fn sent<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("what was encoded can be decoded")
}
