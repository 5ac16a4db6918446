//! The resources as received, judged one by one, and the model that they amount to.

use std::collections::BTreeMap;

use mesh_policy::model::{Model, Snapshot};
use mesh_proto::{
    convert::{Piece, PieceKey},
    type_url, xds,
};

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
    key: PieceKey,
}

impl Resources {
    /// Takes one resource of a type. On refusal nothing changes.
    pub fn upsert(&mut self, type_url: &str, resource: xds::Resource) -> Result<(), Rejected> {
        let reject = |cause: String| Rejected { name: resource.name.clone(), cause };
        let any = resource.resource.as_ref().ok_or_else(|| reject("it has no body".into()))?;
        if any.type_url != type_url {
            return Err(reject(format!("its body is {}, not {type_url}", any.type_url)));
        }
        let piece = Piece::read(type_url, &any.value).map_err(|error| reject(super::client::chain(&error)))?;
        let key = piece.key();
        // Two names for one thing would take it from each other, and otherwise after a restart than before.
        if key.to_string() != resource.name {
            return Err(reject(format!("it is {:?}: a resource has the name of what it is", key.to_string())));
        }
        piece.put(&mut self.model);
        let of_type = self.held.entry(type_url.into()).or_default();
        let before = of_type.insert(resource.name.clone(), Held { resource, key: key.clone() });
        if let Some(before) = before.filter(|before| before.key != key) {
            before.key.remove(&mut self.model);
        }
        Ok(())
    }

    /// Forgets a resource by its name on the wire.
    pub fn remove(&mut self, type_url: &str, name: &str) {
        if let Some(held) = self.held.get_mut(type_url).and_then(|of_type| of_type.remove(name)) {
            held.key.remove(&mut self.model);
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

    /// The next snapshot, which takes over what the previous one has built of what is unchanged.
    pub fn snapshot_after(&self, previous: &Snapshot) -> Snapshot {
        self.model.snapshot_after(previous)
    }
}

#[cfg(test)]
mod tests;
