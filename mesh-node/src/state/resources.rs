//! The resources as received, judged one by one, and the model that they amount to.

use std::{collections::BTreeMap, fmt};

use mesh_policy::model::{
    Authorization, Document, DocumentKey, Mesh, Model, PolicyKey, Service, ServiceKey, Snapshot, Workload, WorkloadUid,
};
use mesh_proto::{
    authorization, config,
    convert::{AddressResource, ConvertError, MESH_NAME},
    mesh, type_url, workload, xds,
};
use prost::Message;

/// The resource types that a node subscribes to, in the order in which they are asked for: what restricts a workload
/// comes before the workload.
pub const TYPES: [&str; 4] = [type_url::MESH, type_url::AUTHORIZATION, type_url::DOCUMENT, type_url::ADDRESS];

/// A resource that was refused; what was held under its name before stays in force.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} refused: {cause}")]
pub struct Rejected {
    pub name: String,
    pub cause: String,
}

#[derive(Default)]
pub struct Resources {
    held: BTreeMap<String, BTreeMap<String, Held>>,
    model: Model,
}

struct Held {
    /// As received, for the disk.
    resource: xds::Resource,
    key: Key,
}

/// What a resource is in the model; writes itself as its name on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Workload(WorkloadUid),
    Service(ServiceKey),
    Policy(PolicyKey),
    Document(DocumentKey),
    Mesh,
}

impl Resources {
    /// Takes one resource of a type. On refusal nothing changes.
    pub fn upsert(&mut self, type_url: &str, resource: xds::Resource) -> Result<(), Rejected> {
        let reject = |cause: String| Rejected { name: resource.name.clone(), cause };
        let any = resource.resource.as_ref().ok_or_else(|| reject("it has no body".into()))?;
        if any.type_url != type_url {
            return Err(reject(format!("its body is {}, not {type_url}", any.type_url)));
        }
        let piece = Piece::read(type_url, &any.value).map_err(reject)?;
        let key = piece.key();
        // Two names for one thing would take it from each other, and otherwise after a restart than before.
        if key.to_string() != resource.name {
            return Err(reject(format!("it is {:?}: a resource has the name of what it is", key.to_string())));
        }
        piece.put(&mut self.model);
        let of_type = self.held.entry(type_url.into()).or_default();
        let before = of_type.insert(resource.name.clone(), Held { resource, key: key.clone() });
        if let Some(before) = before.filter(|before| before.key != key) {
            self.forget(&before.key);
        }
        Ok(())
    }

    /// Forgets a resource by its name on the wire.
    pub fn remove(&mut self, type_url: &str, name: &str) {
        if let Some(held) = self.held.get_mut(type_url).and_then(|of_type| of_type.remove(name)) {
            self.forget(&held.key);
        }
    }

    /// Names and versions held of a type, for the first request of a stream.
    pub fn versions(&self, type_url: &str) -> impl Iterator<Item = (String, String)> + '_ {
        let of_type = self.held.get(type_url).into_iter().flatten();
        of_type.map(|(name, held)| (name.clone(), held.resource.version.clone()))
    }

    /// Everything held, as it was received.
    pub fn received(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &xds::Resource>)> {
        self.held.iter().map(|(type_url, of_type)| (type_url.as_str(), of_type.values().map(|held| &held.resource)))
    }

    pub fn snapshot(&self) -> Snapshot {
        self.model.snapshot()
    }

    fn forget(&mut self, key: &Key) {
        match key {
            Key::Workload(uid) => drop(self.model.workloads.remove(uid)),
            Key::Service(key) => drop(self.model.services.remove(key)),
            Key::Policy(key) => drop(self.model.policies.remove(key)),
            Key::Document(key) => self.model.remove_document(key),
            Key::Mesh => self.model.mesh = Mesh::default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(uid) => uid.fmt(f),
            Self::Service(key) => key.fmt(f),
            Self::Policy(key) => key.fmt(f),
            Self::Document(key) => key.fmt(f),
            Self::Mesh => f.write_str(MESH_NAME),
        }
    }
}

/// A resource as the model has it.
enum Piece {
    Workload(Box<Workload>),
    Service(Box<Service>),
    Policy(Authorization),
    Document(Document),
    Mesh(Mesh),
}

impl Piece {
    fn read(type_url: &str, body: &[u8]) -> Result<Self, String> {
        let decoding = |error: prost::DecodeError| format!("it cannot be decoded: {error}");
        let refusing = |error: ConvertError| super::client::chain(&error);
        match type_url {
            type_url::ADDRESS => {
                let address = workload::Address::decode(body).map_err(decoding)?;
                Ok(match address.try_into().map_err(refusing)? {
                    AddressResource::Workload(workload) => Self::Workload(workload),
                    AddressResource::Service(service) => Self::Service(service),
                })
            }
            type_url::AUTHORIZATION => {
                let message = authorization::Authorization::decode(body).map_err(decoding)?;
                message.try_into().map(Self::Policy).map_err(refusing)
            }
            type_url::DOCUMENT => {
                let message = config::Document::decode(body).map_err(decoding)?;
                message.try_into().map(Self::Document).map_err(refusing)
            }
            type_url::MESH => {
                let message = mesh::Mesh::decode(body).map_err(decoding)?;
                message.try_into().map(Self::Mesh).map_err(refusing)
            }
            other => Err(format!("nothing is known of the type {other}")),
        }
    }

    fn key(&self) -> Key {
        match self {
            Self::Workload(workload) => Key::Workload(workload.uid.clone()),
            Self::Service(service) => Key::Service(service.key()),
            Self::Policy(policy) => Key::Policy(policy.key.clone()),
            Self::Document(document) => Key::Document(document.key()),
            Self::Mesh(_) => Key::Mesh,
        }
    }

    fn put(self, model: &mut Model) {
        match self {
            Self::Workload(workload) => model.upsert_workload(*workload),
            Self::Service(service) => model.upsert_service(*service),
            Self::Policy(policy) => model.upsert_policy(policy),
            Self::Document(document) => model.upsert_document(document),
            Self::Mesh(mesh) => model.mesh = mesh,
        }
    }
}

#[cfg(test)]
mod tests;
