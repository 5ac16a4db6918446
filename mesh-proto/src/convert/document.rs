//! `keelson.config.v1.Document`.

use mesh_policy::model::Document;

use super::{
    error::{At, ConvertError},
    extension::{from_json, to_json},
};
use crate::config as wire;

impl TryFrom<wire::Document> for Document {
    type Error = ConvertError;

    fn try_from(document: wire::Document) -> Result<Self, Self::Error> {
        let at = At { kind: "Document", name: "" };
        from_json(&document.json).map_err(|cause| at.refuse("json", cause))
    }
}

impl From<&Document> for wire::Document {
    fn from(document: &Document) -> Self {
        Self { json: to_json(document) }
    }
}
