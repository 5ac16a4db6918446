//! Every resource at one moment, encoded once for all nodes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use mesh_policy::model::{Model, TunnelProtocol, WorkloadUid};
use mesh_proto::{
    authorization, config,
    convert::{MESH_NAME, service_aliases, workload_aliases},
    mesh, type_url, workload,
};
use prost::Message;
use prost_types::Any;
use sha2::{Digest, Sha256};

/// The types of resources that are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    Mesh,
    Authorization,
    Document,
    Address,
}

impl ResourceType {
    pub const ALL: [Self; 4] = [Self::Mesh, Self::Authorization, Self::Document, Self::Address];

    pub fn url(self) -> &'static str {
        match self {
            Self::Mesh => type_url::MESH,
            Self::Authorization => type_url::AUTHORIZATION,
            Self::Document => type_url::DOCUMENT,
            Self::Address => type_url::ADDRESS,
        }
    }

    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.url() == url)
    }

    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Authorization => "Authorization",
            Self::Document => "Document",
            Self::Address => "Address",
        }
    }
}

/// One resource, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: Arc<str>,
    pub aliases: Vec<String>,
    /// Equal versions are equal contents.
    pub version: Arc<str>,
    pub body: Any,
}

impl Entry {
    fn new(kind: ResourceType, name: &str, aliases: Vec<String>, message: &impl Message) -> Arc<Self> {
        let value = message.encode_to_vec();
        let digest = Sha256::digest(&value);
        let version = digest[..8].iter().fold(String::with_capacity(16), |text, byte| text + &format!("{byte:02x}"));
        let body = Any { type_url: kind.url().into(), value: Bytes::from(value).into() };
        Arc::new(Self { name: name.into(), aliases, version: version.into(), body })
    }
}

type Entries = BTreeMap<Arc<str>, Arc<Entry>>;

/// Immutable; the next one shares what has not changed.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Counts up with every publication.
    pub generation: u64,
    pub model: Arc<Model>,
    entries: HashMap<ResourceType, Entries>,
    /// Made when a node first asks by address.
    aliases: OnceLock<HashMap<String, Arc<str>>>,
}

impl Published {
    /// The resources of a model, sharing with those before what is the same; None when nothing has changed.
    pub fn next(&self, model: Model) -> Option<Self> {
        let before = &self.model;
        let mut addresses = Entries::new();
        for (uid, found) in &model.workloads {
            let same = before.workloads.get(uid).is_some_and(|old| old == found);
            let entry = self.reuse(same, ResourceType::Address, &uid.0).unwrap_or_else(|| {
                let message = workload::Address::from(&**found);
                Entry::new(ResourceType::Address, &uid.0, workload_aliases(found), &message)
            });
            addresses.insert(entry.name.clone(), entry);
        }
        for (key, found) in &model.services {
            let name = key.to_string();
            let same = before.services.get(key).is_some_and(|old| old == found);
            let entry = self.reuse(same, ResourceType::Address, &name).unwrap_or_else(|| {
                let message = workload::Address::from(&**found);
                Entry::new(ResourceType::Address, &name, service_aliases(found), &message)
            });
            addresses.insert(entry.name.clone(), entry);
        }
        let mut policies = Entries::new();
        for (key, found) in &model.policies {
            let name = key.to_string();
            let same = before.policies.get(key).is_some_and(|old| old == found);
            let entry = self.reuse(same, ResourceType::Authorization, &name).unwrap_or_else(|| {
                Entry::new(ResourceType::Authorization, &name, Vec::new(), &authorization::Authorization::from(&**found))
            });
            policies.insert(entry.name.clone(), entry);
        }
        let documents = model.documents().map(|document| {
            let entry =
                Entry::new(ResourceType::Document, &document.key().to_string(), Vec::new(), &config::Document::from(&document));
            (entry.name.clone(), entry)
        });
        let documents = documents.collect();
        let settings = Entry::new(ResourceType::Mesh, MESH_NAME, Vec::new(), &mesh::Mesh::from(&model.mesh));
        let mesh = Entries::from([(settings.name.clone(), settings)]);
        let entries = HashMap::from([
            (ResourceType::Mesh, mesh),
            (ResourceType::Authorization, policies),
            (ResourceType::Document, documents),
            (ResourceType::Address, addresses),
        ]);
        if self.generation != 0 && entries == self.entries {
            return None;
        }
        Some(Self { generation: self.generation + 1, model: Arc::new(model), entries, aliases: OnceLock::new() })
    }

    fn reuse(&self, same: bool, kind: ResourceType, name: &str) -> Option<Arc<Entry>> {
        same.then(|| self.entries.get(&kind)?.get(name).cloned()).flatten()
    }

    /// All resources of a type by name; none before the first publication.
    pub fn of_type(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.get(&kind).into_iter().flat_map(Entries::values)
    }

    /// A resource by its name.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(&kind)?.get(name)
    }

    /// A resource by its name, or by an address that it has.
    pub fn find(&self, kind: ResourceType, name: &str) -> Option<&Arc<Entry>> {
        let by_address = || match kind {
            ResourceType::Address => self.get(kind, self.aliases().get(name)?),
            ResourceType::Mesh | ResourceType::Authorization | ResourceType::Document => None,
        };
        self.get(kind, name).or_else(by_address)
    }

    fn aliases(&self) -> &HashMap<String, Arc<str>> {
        let of_entry = |entry: &Arc<Entry>| {
            let name = entry.name.clone();
            entry.aliases.clone().into_iter().map(move |alias| (alias, name.clone()))
        };
        self.aliases.get_or_init(|| self.of_type(ResourceType::Address).flat_map(of_entry).collect())
    }

    /// How a workload is reached at this moment; None: it is not known.
    pub fn tunnel(&self, uid: &str) -> Option<TunnelProtocol> {
        self.model.workloads.get(&WorkloadUid(uid.into())).map(|workload| workload.tunnel)
    }
}
