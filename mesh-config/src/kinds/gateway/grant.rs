//! ReferenceGrant: a namespace lets others name its objects.

use serde::Deserialize;

use crate::kinds::Resource;

pub type ReferenceGrant = Resource<ReferenceGrantSpec>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    pub from: Vec<GrantFrom>,
    pub to: Vec<GrantTo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantFrom {
    pub group: String,
    pub kind: String,
    pub namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantTo {
    pub group: String,
    pub kind: String,
    /// None: all of the kind.
    #[serde(default)]
    pub name: Option<String>,
}
