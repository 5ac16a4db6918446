//! Why pods do not run: what their containers, their events and their last words say.

use anyhow::Result;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::{
    Api,
    api::{ListParams, LogParams},
};

use super::Cluster;

/// Of a container's log.
const LINES: i64 = 8;

/// One line a container of the pod that is not ready; empty if all are.
pub(crate) fn containers(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut told = Vec::new();
    let conditions = status.conditions.iter().flatten();
    for condition in conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False") {
        told.push(format!("not scheduled: {}", condition.message.as_deref().unwrap_or("no reason given")));
    }
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    told.extend(all.filter_map(|container| state(container).map(|state| format!("container {}: {state}", container.name))));
    told
}

fn state(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let ended = |exit: i32, reason: Option<&String>, message: Option<&String>| {
        let reason = reason.map_or("ended", String::as_str);
        let message = message.map(|message| format!(": {}", message.trim())).unwrap_or_default();
        format!("{reason} with exit code {exit}{message}")
    };
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let last = last.map(|last| format!("; before: {}", ended(last.exit_code, last.reason.as_ref(), last.message.as_ref())));
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        return Some(format!("{reason}{message}{}", last.unwrap_or_default()));
    }
    if let Some(end) = &state.terminated {
        // An init container that did its work.
        return (end.exit_code != 0).then(|| ended(end.exit_code, end.reason.as_ref(), end.message.as_ref()));
    }
    (!container.ready).then(|| format!("runs, and is not ready{}", last.unwrap_or_default()))
}

/// Everything that is known of the pods (by a label) that are not ready, in lines for people.
pub(crate) async fn of_pods(cluster: &Cluster, label: &str) -> Result<Vec<String>> {
    let pods: Api<Pod> = cluster.own();
    let list = pods.list(&ListParams::default().labels(label)).await.map_err(|error| cluster.told(error))?;
    let events = cluster.own::<Event>().list(&ListParams::default().fields("type=Warning")).await;
    let events = events.map(|events| events.items).unwrap_or_default();
    let mut told = Vec::new();
    for pod in &list {
        let found = containers(pod);
        if found.is_empty() {
            continue;
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        told.push(format!("pod {name}{}", node.map(|node| format!(" on {node}")).unwrap_or_default()));
        told.extend(found.into_iter().map(|line| format!("  {line}")));
        let uid = pod.metadata.uid.as_deref();
        told.extend(last_events(&events, |event| event.involved_object.uid.as_deref() == uid));
        let log = LogParams { tail_lines: Some(LINES), ..LogParams::default() };
        // A container that never ran has no log, and the reason is told by then.
        if let Ok(log) = pods.logs(name, &log).await {
            told.extend(log.lines().map(|line| format!("  log: {line}")));
        }
    }
    if told.is_empty() {
        // Nobody could make the pods: then their maker's events say why.
        told.extend(last_events(&events, |event| {
            event.involved_object.name.as_deref().is_some_and(|name| name.starts_with("keelson-"))
        }));
    }
    Ok(told)
}

/// The newest of each reason.
fn last_events(events: &[Event], concerns: impl Fn(&Event) -> bool) -> Vec<String> {
    let mut told: Vec<(String, String)> = Vec::new();
    for event in events.iter().filter(|event| concerns(event)) {
        let reason = event.reason.clone().unwrap_or_default();
        let line = format!("  event {reason}: {}", event.message.as_deref().unwrap_or_default().trim());
        told.retain(|(other, _)| *other != reason);
        told.push((reason, line));
    }
    told.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_says_why_it_does_not_run() {
        let check = |state: serde_json::Value, expected: &[&str]| {
            let mut container = json!({ "name": "node", "image": "i", "imageID": "", "ready": false, "restartCount": 0 });
            container.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
            let pod: Pod = serde_json::from_value(json!({ "status": { "containerStatuses": [container] } })).unwrap();
            assert_eq!(containers(&pod), expected);
        };
        check(
            json!({ "state": { "waiting": { "reason": "ErrImageNeverPull", "message": "not here" } } }),
            &["container node: ErrImageNeverPull: not here"],
        );
        check(
            json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                    "lastState": { "terminated": { "exitCode": 1, "reason": "Error" } } }),
            &["container node: CrashLoopBackOff; before: Error with exit code 1"],
        );
        check(json!({ "state": { "running": {} } }), &["container node: runs, and is not ready"]);
        check(json!({ "state": { "running": {} }, "ready": true }), &[]);
        check(json!({ "state": { "terminated": { "exitCode": 0 } } }), &[]);
    }
}
