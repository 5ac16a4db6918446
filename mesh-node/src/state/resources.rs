//! The resources as received, judged one by one, and the model that they amount to.

use std::collections::BTreeMap;

use mesh_policy::model::{Authorization, Mesh, Model, PolicyKey, ServiceKey, Snapshot, WorkloadUid};
use mesh_proto::{
    authorization,
    convert::{AddressResource, ConvertError},
    mesh, type_url, workload, xds,
};
use prost::Message;

/// The resource types that a node subscribes to, in the order in which they are asked for: what restricts a workload
/// comes before the workload.
pub const TYPES: [&str; 3] = [type_url::MESH, type_url::AUTHORIZATION, type_url::ADDRESS];

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

/// What a resource is in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Workload(WorkloadUid),
    Service(ServiceKey),
    Policy(PolicyKey),
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
        let key = self.apply(type_url, &any.value).map_err(reject)?;
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

    fn apply(&mut self, type_url: &str, body: &[u8]) -> Result<Key, String> {
        let decoding = |error: prost::DecodeError| format!("it cannot be decoded: {error}");
        let refusing = |error: ConvertError| super::client::chain(&error);
        match type_url {
            type_url::ADDRESS => {
                let address = workload::Address::decode(body).map_err(decoding)?;
                match address.try_into().map_err(refusing)? {
                    AddressResource::Workload(workload) => {
                        let key = Key::Workload(workload.uid.clone());
                        self.model.upsert_workload(*workload);
                        Ok(key)
                    }
                    AddressResource::Service(service) => {
                        let key = Key::Service(service.key());
                        self.model.upsert_service(*service);
                        Ok(key)
                    }
                }
            }
            type_url::AUTHORIZATION => {
                let message = authorization::Authorization::decode(body).map_err(decoding)?;
                let policy = Authorization::try_from(message).map_err(refusing)?;
                let key = Key::Policy(policy.key.clone());
                self.model.upsert_policy(policy);
                Ok(key)
            }
            type_url::MESH => {
                let message = mesh::Mesh::decode(body).map_err(decoding)?;
                self.model.mesh = message.try_into().map_err(refusing)?;
                Ok(Key::Mesh)
            }
            other => Err(format!("nothing is known of the type {other}")),
        }
    }

    fn forget(&mut self, key: &Key) {
        match key {
            Key::Workload(uid) => drop(self.model.workloads.remove(uid)),
            Key::Service(key) => drop(self.model.services.remove(key)),
            Key::Policy(key) => drop(self.model.policies.remove(key)),
            Key::Mesh => self.model.mesh = Mesh::default(),
        }
    }
}

#[cfg(test)]
mod tests;
