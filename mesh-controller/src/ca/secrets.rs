//! The authority's keys in a cluster: the Secret `cacerts` when somebody has plugged one in, else a root of our own in
//! `keelson-ca-secret`, made by the replica that is first.
//!
//! Looked at every five seconds, by name: the controller may read no other Secret.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::{
    authority::{Authority, AuthorityError},
    keeper::{Keeper, ORGANISATION, RootsError, describe},
    plugged::{FILES, Material, OWN_CERTIFICATE, OWN_KEY, PLUGGED},
};

/// Our own root.
const OWN: &str = "keelson-ca-secret";
const LOOK_EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("the Secret {name} in {namespace} cannot be {done}")]
    Api {
        name: &'static str,
        namespace: String,
        done: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("the API server does not answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("the Secret {name} has no text under {key}")]
    Key { name: &'static str, key: &'static str },
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Roots(#[from] RootsError),
}

/// The two Secrets of the controller's namespace.
pub struct Secrets {
    api: Api<Secret>,
    namespace: String,
}

impl Secrets {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned() }
    }

    /// The authority of the moment, which is made when there is none. `sans`: names and addresses of the endpoints.
    pub async fn keeper(&self, sans: &[String]) -> Result<Arc<Keeper>, SecretsError> {
        let material = self.load().await?;
        Ok(Keeper::with(material, sans, None)?)
    }

    /// Brings the keeper whatever keys there are, for ever. Keys that cannot be read or used leave what there was in force.
    pub async fn follow(self, keeper: Arc<Keeper>) {
        let mut last_failure = String::new();
        loop {
            sleep(LOOK_EVERY).await;
            let taken = self.load().await.and_then(|material| Ok(keeper.take(material)?));
            match taken {
                Ok(()) => last_failure.clear(),
                Err(error) => {
                    let text = describe(&error);
                    if text != last_failure {
                        error!(error = text, "the authority stays as it was");
                        last_failure = text;
                    }
                }
            }
        }
    }

    async fn load(&self) -> Result<Material, SecretsError> {
        if let Some(found) = self.get(PLUGGED).await? {
            let data = found.data.unwrap_or_default();
            let [key, own, between, roots] = FILES.map(|file| text(PLUGGED, &data, file));
            return Ok(Material::plugged([key?, own?, between?, roots?]));
        }
        match self.get(OWN).await? {
            Some(found) => root(&found),
            None => self.make().await,
        }
    }

    async fn make(&self) -> Result<Material, SecretsError> {
        let (key, own) = Authority::generate(ORGANISATION)?;
        let texts = [(OWN_KEY, key), (OWN_CERTIFICATE, own)];
        let mut secret = Secret { type_: Some("keelson.io/ca-root".into()), ..Secret::default() };
        secret.metadata.name = Some(OWN.into());
        secret.data = Some(texts.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).into());
        let created = self.within(self.api.create(&PostParams::default(), &secret)).await?;
        match created {
            Ok(made) => {
                info!(secret = OWN, "made a root for the mesh");
                root(&made)
            }
            // Another replica was first: its root counts.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let found = self.get(OWN).await?.ok_or(SecretsError::Key { name: OWN, key: OWN_KEY })?;
                root(&found)
            }
            Err(source) => Err(self.failed(OWN, "made", source)),
        }
    }

    async fn get(&self, name: &'static str) -> Result<Option<Secret>, SecretsError> {
        let found = self.within(self.api.get_opt(name)).await?;
        found.map_err(|source| self.failed(name, "read", source))
    }

    async fn within<T>(&self, call: impl Future<Output = T>) -> Result<T, SecretsError> {
        timeout(PATIENCE, call).await.map_err(|_| SecretsError::Slow)
    }

    fn failed(&self, name: &'static str, done: &'static str, source: kube::Error) -> SecretsError {
        if matches!(&source, kube::Error::Api(status) if status.code == 403) {
            warn!(secret = name, namespace = self.namespace, "the controller's account may not do this (RBAC)");
        }
        SecretsError::Api { name, namespace: self.namespace.clone(), done, source }
    }
}

fn root(secret: &Secret) -> Result<Material, SecretsError> {
    let data = secret.data.clone().unwrap_or_default();
    Ok(Material::root(text(OWN, &data, OWN_KEY)?, text(OWN, &data, OWN_CERTIFICATE)?))
}

fn text(name: &'static str, data: &BTreeMap<String, ByteString>, key: &'static str) -> Result<String, SecretsError> {
    let found = data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
    found.ok_or(SecretsError::Key { name, key })
}
