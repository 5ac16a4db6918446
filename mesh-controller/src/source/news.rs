//! What a source tells: everything that there is, or what has changed since.

use std::{collections::HashSet, sync::Arc};

use mesh_config::{
    enrolment::Ownership,
    kinds::{Kind, Name, ObjectKey},
};
use serde_json::Value;

use super::scan::Sources;

/// A source's word, in the order in which it came about.
#[derive(Debug)]
pub enum News {
    /// Everything that there is: what it does not have is gone.
    State(Sources),
    /// What has changed since the last news.
    Changes(Vec<Changed>),
    /// From here on everything has been told at least once.
    Complete,
    /// What this mesh owns beside the pods that name it.
    Ownership(Ownership),
}

/// One object, or one kind, that is no longer as it was.
#[derive(Debug)]
pub enum Changed {
    Present(Found),
    Gone(ObjectKey),
    /// Of this kind there are objects of these names and no others.
    Only {
        kind: Kind,
        names: HashSet<Name>,
    },
}

/// An object as it was found.
#[derive(Debug)]
pub struct Found {
    /// Without its status, where its kind has one that the mesh writes.
    pub document: Arc<Value>,
    /// That status, whoever wrote it.
    pub status: Option<Arc<Value>>,
}
