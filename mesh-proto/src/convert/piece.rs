//! One resource of any type, as a piece of the model, and a whole model as a row of resources.

use std::fmt;

use mesh_policy::model::{
    Authorization, Document, DocumentKey, Mesh, Model, PolicyKey, Service, ServiceKey, Workload, WorkloadUid,
};
use prost::{DecodeError, Message};
use prost_types::Any;

use super::{AddressResource, ConvertError, MESH_NAME};
use crate::{authorization, config, mesh, type_url, workload};

/// A part of the model that travels as one resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Workload(Box<Workload>),
    Service(Box<Service>),
    Policy(Authorization),
    Document(Document),
    Mesh(Mesh),
}

/// What a piece is in the model; writes itself as its name on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceKey {
    Workload(WorkloadUid),
    Service(ServiceKey),
    Policy(PolicyKey),
    Document(DocumentKey),
    Mesh,
}

/// Why a resource's body is no piece of the model.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    #[error("it cannot be decoded")]
    Encoding {
        #[source]
        source: DecodeError,
    },
    #[error("it is refused")]
    Refused {
        #[source]
        source: ConvertError,
    },
    #[error("nothing is known of the type {type_url}")]
    UnknownType { type_url: String },
}

impl Piece {
    pub fn read(type_url: &str, body: &[u8]) -> Result<Self, PieceError> {
        let decoding = |source| PieceError::Encoding { source };
        let refusing = |source| PieceError::Refused { source };
        Ok(match type_url {
            type_url::ADDRESS => match workload::Address::decode(body).map_err(decoding)?.try_into().map_err(refusing)? {
                AddressResource::Workload(workload) => Self::Workload(workload),
                AddressResource::Service(service) => Self::Service(service),
            },
            type_url::AUTHORIZATION => {
                Self::Policy(authorization::Authorization::decode(body).map_err(decoding)?.try_into().map_err(refusing)?)
            }
            type_url::DOCUMENT => Self::Document(config::Document::decode(body).map_err(decoding)?.try_into().map_err(refusing)?),
            type_url::MESH => Self::Mesh(mesh::Mesh::decode(body).map_err(decoding)?.try_into().map_err(refusing)?),
            other => return Err(PieceError::UnknownType { type_url: other.into() }),
        })
    }

    pub fn key(&self) -> PieceKey {
        match self {
            Self::Workload(workload) => PieceKey::Workload(workload.uid.clone()),
            Self::Service(service) => PieceKey::Service(service.key()),
            Self::Policy(policy) => PieceKey::Policy(policy.key.clone()),
            Self::Document(document) => PieceKey::Document(document.key()),
            Self::Mesh(_) => PieceKey::Mesh,
        }
    }

    /// Puts it in the place of whatever has its key.
    pub fn put(self, model: &mut Model) {
        match self {
            Self::Workload(workload) => model.upsert_workload(*workload),
            Self::Service(service) => model.upsert_service(*service),
            Self::Policy(policy) => model.upsert_policy(policy),
            Self::Document(document) => model.upsert_document(document),
            Self::Mesh(mesh) => model.mesh = mesh,
        }
    }
}

impl PieceKey {
    /// Takes what has this key out of the model.
    pub fn remove(&self, model: &mut Model) {
        match self {
            Self::Workload(uid) => drop(model.workloads.remove(uid)),
            Self::Service(key) => drop(model.services.remove(key)),
            Self::Policy(key) => drop(model.policies.remove(key)),
            Self::Document(key) => model.remove_document(key),
            Self::Mesh => model.mesh = Mesh::default(),
        }
    }
}

impl fmt::Display for PieceKey {
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

/// A model as bytes: one length-delimited `Any` for each piece.
pub fn archive(model: &Model) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |type_url: &str, body: Vec<u8>| {
        let any = Any { type_url: type_url.into(), value: body };
        bytes.extend(any.encode_length_delimited_to_vec());
    };
    add(type_url::MESH, mesh::Mesh::from(&model.mesh).encode_to_vec());
    for policy in model.policies.values() {
        add(type_url::AUTHORIZATION, authorization::Authorization::from(&**policy).encode_to_vec());
    }
    for document in model.documents() {
        add(type_url::DOCUMENT, config::Document::from(&document).encode_to_vec());
    }
    for service in model.services.values() {
        add(type_url::ADDRESS, workload::Address::from(&**service).encode_to_vec());
    }
    for workload in model.workloads.values() {
        add(type_url::ADDRESS, workload::Address::from(&**workload).encode_to_vec());
    }
    bytes
}

/// The model of an [`archive`].
pub fn unarchive(mut bytes: &[u8]) -> Result<Model, PieceError> {
    let mut model = Model::default();
    while !bytes.is_empty() {
        let any = Any::decode_length_delimited(&mut bytes).map_err(|source| PieceError::Encoding { source })?;
        Piece::read(&any.type_url, &any.value)?.put(&mut model);
    }
    Ok(model)
}
