//! Writes the annotations of captured pods.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
};
use mesh_config::{
    enrolment::{REDIRECTION, REDIRECTION_ENABLED},
    kinds::Name,
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{Mark, Marks};
use crate::{pause::Pause, telemetry::Telemetry};

const AT_ONCE: usize = 8;
/// For one write.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Who writes, in `managedFields`.
const MANAGER: &str = "keelson-controller";

/// The owner of the annotation.
pub struct Annotator {
    pub client: Client,
    pub marks: watch::Receiver<Marks>,
    pub telemetry: Arc<Telemetry>,
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the API server refuses it or is not there: {source}")]
    Refused {
        #[source]
        source: kube::Error,
    },
    #[error("no answer within {PATIENCE:?}")]
    Late,
}

impl Annotator {
    /// Follows what is to be written until nobody says any more.
    pub async fn run(mut self) {
        let mut written: BTreeMap<Name, Mark> = BTreeMap::new();
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut failing = false;
        loop {
            let wanted = self.marks.borrow_and_update().clone();
            written.retain(|name, mark| wanted.get(name) == Some(mark));
            let due: Vec<(Name, Mark)> = (wanted.iter())
                .filter(|(name, mark)| written.get(*name) != Some(mark))
                .map(|(name, mark)| (name.clone(), mark.clone()))
                .collect();
            let client = &self.client;
            let writes = due.into_iter().map(|(name, mark)| async move {
                let result = write(client, &name, &mark).await;
                (name, mark, result)
            });
            let results: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
            let mut failed = false;
            for (name, mark, result) in results {
                match result {
                    Ok(()) => drop(written.insert(name, mark)),
                    Err(error) => {
                        self.telemetry.metrics.status_errors.inc();
                        let Name { namespace, name } = &name;
                        if failing {
                            debug!(pod = %format_args!("{namespace}/{name}"), %error, "the annotation is still not written");
                        } else {
                            warn!(
                                pod = %format_args!("{namespace}/{name}"), captured = mark.captured, %error,
                                "the annotation {REDIRECTION} is not written, it is tried again: other replicas do not know of the capture"
                            );
                        }
                        failed = true;
                    }
                }
            }
            failing = failed;
            if !failed {
                pause.reset();
            }
            tokio::select! {
                changed = self.marks.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(pause.next()), if failed => {}
            }
        }
    }
}

async fn write(client: &Client, name: &Name, mark: &Mark) -> Result<(), WriteError> {
    let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(client.clone(), &name.namespace);
    let value = mark.captured.then_some(REDIRECTION_ENABLED);
    // The uid is a condition: a later pod of the same name is another matter.
    let patch = json!({ "metadata": { "uid": mark.pod_uid, "annotations": { REDIRECTION: value } } });
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match timeout(PATIENCE, pods.patch(&name.name, &parameters, &Patch::Merge(&patch))).await {
        Ok(Ok(_)) => Ok(()),
        // The pod has ended: the watch will say so too.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => Ok(()),
        Ok(Err(source)) => Err(WriteError::Refused { source }),
        Err(_) => Err(WriteError::Late),
    }
}
