//! What pods are told that ask to be captured and cannot be: a condition and an event.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use mesh_config::kinds::Name;
use serde_json::{Value, json};

use super::form::short;
use crate::status::desired::PodNews;

/// The type of the condition on pods. Nobody else writes it; the kubelet keeps conditions that are not its own.
pub const POD_CONDITION: &str = "keelson.io/Captured";
/// A note has at most 1 KiB.
const LONGEST_NOTE: usize = 1000;

/// Tells pods.
#[derive(Clone)]
pub(super) struct Pods {
    client: Client,
    recorder: Recorder,
}

impl Pods {
    /// `instance`: this replica, as events name it.
    pub(super) fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: mesh_config::status::CONTROLLER.into(), instance: Some(instance) };
        Self { recorder: Recorder::new(client.clone(), reporter), client }
    }

    pub(super) async fn tell(&self, name: &Name, news: &PodNews, now: &str) -> Result<(), kube::Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &name.namespace);
        let result = api.patch_status(&name.name, &PatchParams::default(), &Patch::Strategic(patch(news, now))).await;
        match result {
            Ok(_) => {}
            // It is gone, or another pod has its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
            Err(error) => return Err(error),
        }
        let Some((reason, message)) = &news.refused else { return Ok(()) };
        let mut note = format!("not captured by the mesh: {message}");
        note.truncate((0..=LONGEST_NOTE.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0));
        let event = Event {
            type_: EventType::Warning,
            reason: (*reason).to_owned(),
            note: Some(note),
            action: "Capture".into(),
            secondary: None,
        };
        let pod = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(name.name.to_string()),
            namespace: Some(name.namespace.to_string()),
            uid: Some(news.uid.clone()),
            ..ObjectReference::default()
        };
        self.recorder.publish(&event, &pod).await
    }
}

/// Conditions are merged by their type; the pod has to be the one that was judged.
pub(super) fn patch(news: &PodNews, now: &str) -> Value {
    let condition = match &news.refused {
        Some((reason, message)) => json!({
            "type": POD_CONDITION, "status": "False", "reason": reason, "message": short(message), "lastTransitionTime": now,
        }),
        None => json!({ "type": POD_CONDITION, "$patch": "delete" }),
    };
    json!({ "metadata": { "uid": news.uid }, "status": { "conditions": [condition] } })
}
