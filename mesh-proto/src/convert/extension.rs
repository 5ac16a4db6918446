//! What Keelson adds to Istio's messages, in the place that they leave for it.

use std::{collections::BTreeMap, sync::Arc};

use mesh_policy::model::{Exports, RequestMatch};
use prost::Message;
use prost_types::Any;

use super::error::Cause;
use crate::{config, type_url, workload::Extension};

const LABELS: &str = "keelson.labels";
const REQUEST: &str = "keelson.request";
const EXPORTS: &str = "keelson.exports";

fn write(name: &str, type_url: &str, message: &impl Message) -> Extension {
    let config = Any { type_url: type_url.into(), value: message.encode_to_vec() };
    Extension { name: name.into(), config: Some(config) }
}

fn read<M: Message + Default>(extension: &Extension, type_url: &str) -> Result<M, Cause> {
    let config = extension.config.as_ref().filter(|config| config.type_url == type_url).ok_or(Cause::Unsupported)?;
    M::decode(&*config.value).map_err(|error| Cause::Encoding { message: error.to_string() })
}

/// The labels that a workload carries; extensions of others are passed over: nothing in them decides who may speak to whom.
pub(super) fn labels(extensions: &[Extension]) -> Result<BTreeMap<Arc<str>, Arc<str>>, Cause> {
    let Some(found) = extensions.iter().find(|extension| extension.name == LABELS) else { return Ok(BTreeMap::new()) };
    let message: config::Labels = read(found, type_url::LABELS)?;
    Ok(message.labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

pub(super) fn wire_labels(labels: &BTreeMap<Arc<str>, Arc<str>>) -> Vec<Extension> {
    if labels.is_empty() {
        return Vec::new();
    }
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    vec![write(LABELS, type_url::LABELS, &config::Labels { labels })]
}

/// Whose clients know a service; extensions of others are passed over, as above.
pub(super) fn exports(extensions: &[Extension]) -> Result<Exports, Cause> {
    let Some(found) = extensions.iter().find(|extension| extension.name == EXPORTS) else { return Ok(Exports::Everywhere) };
    let config::Exports { namespaces } = read(found, type_url::EXPORTS)?;
    Ok(Exports::To(namespaces.into_iter().map(Into::into).collect()))
}

pub(super) fn wire_exports(exports: &Exports) -> Vec<Extension> {
    match exports {
        Exports::Everywhere => Vec::new(),
        Exports::To(namespaces) => {
            let namespaces = namespaces.iter().map(ToString::to_string).collect();
            vec![write(EXPORTS, type_url::EXPORTS, &config::Exports { namespaces })]
        }
    }
}

/// The conditions on a request that a match carries. Any other extension may say what the match means: it is refused.
pub(super) fn request(extensions: &[Extension]) -> Result<RequestMatch, Cause> {
    match extensions {
        [] => Ok(RequestMatch::default()),
        [one] if one.name == REQUEST => {
            let message: config::RequestMatch = read(one, type_url::REQUEST_MATCH)?;
            let request: RequestMatch = from_json(&message.json)?;
            // Written only where there is something to say: an empty one was more once.
            if request == RequestMatch::default() { Err(Cause::Empty) } else { Ok(request) }
        }
        _ => Err(Cause::Unsupported),
    }
}

pub(super) fn wire_request(request: &RequestMatch) -> Vec<Extension> {
    if *request == RequestMatch::default() {
        return Vec::new();
    }
    vec![write(REQUEST, type_url::REQUEST_MATCH, &config::RequestMatch { json: to_json(request) })]
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Cause> {
    serde_json::from_slice(json).map_err(|error| Cause::Encoding { message: error.to_string() })
}

pub(super) fn to_json(value: &impl serde::Serialize) -> bytes::Bytes {
    serde_json::to_vec(value).expect("the model has string keys and no float that is not a number").into()
}
