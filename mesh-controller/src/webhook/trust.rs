//! Tells the API server which roots the webhook's certificate leads to: `caBundle` of the ValidatingWebhookConfiguration
//! `keelson`, kept right by whoever leads. The configuration itself comes with the installation.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{ByteString, api::admissionregistration::v1::ValidatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

const NAME: &str = "keelson";
/// An upgrade of the installation may empty the field.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Trust {
    pub client: Client,
    /// In PEM form.
    pub roots: watch::Receiver<Arc<str>>,
}

impl Trust {
    /// Looks after it, for ever.
    pub async fn run(self) {
        let Self { client, mut roots } = self;
        let api = Api::<ValidatingWebhookConfiguration>::all(client);
        let mut last_failure = String::new();
        loop {
            let text = roots.borrow_and_update().clone();
            let failure = match timeout(PATIENCE, look(&api, &text)).await {
                Ok(Ok(())) => String::new(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server does not answer".to_owned(),
            };
            if !failure.is_empty() && failure != last_failure {
                warn!(error = failure, "the webhook's roots cannot be looked after");
            }
            last_failure = failure;
            tokio::select! {
                changed = roots.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }
}

async fn look(api: &Api<ValidatingWebhookConfiguration>, roots: &str) -> Result<(), kube::Error> {
    // No configuration, no webhook: then objects are judged when they are read.
    let Some(found) = api.get_opt(NAME).await? else { return Ok(()) };
    let wanted = ByteString(roots.as_bytes().to_vec());
    let wrong = found.webhooks.unwrap_or_default();
    let wrong: Vec<_> = wrong.iter().filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&wanted)).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let bundle = |name: &str| json!({ "name": name, "clientConfig": { "caBundle": wanted } });
    let webhooks: Vec<_> = wrong.iter().map(|webhook| bundle(&webhook.name)).collect();
    // Webhooks are merged by name.
    api.patch(NAME, &PatchParams::default(), &Patch::Strategic(json!({ "webhooks": webhooks }))).await?;
    info!("told the API server which roots the webhook's certificate leads to");
    Ok(())
}
