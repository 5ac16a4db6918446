//! What the node proxies say of themselves.

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use super::Finding;
use crate::{
    answer::Status,
    client::{ask_all, get},
    discover::Node,
};

pub(crate) async fn nodes(nodes: &[Node]) -> Result<Vec<Finding>> {
    let answers = match ask_all(nodes, |node| async move { get::<Value>(&node, "/status").await }).await {
        Ok(answers) => answers,
        Err(error) => return Ok(vec![Finding::bad("nodes", format!("{error:#}"), "see the node proxies above")]),
    };
    let mut findings: Vec<_> = answers.given.iter().map(|(node, status)| judge(node, status)).collect();
    for (node, error) in &answers.missing {
        findings.push(Finding::bad(
            format!("node {node}"),
            format!("no answer: {error:#}"),
            "kubectl logs of its keelson-node pod says more",
        ));
    }
    Ok(findings)
}

fn judge(node: &str, raw: &Value) -> Finding {
    let what = format!("node {node}");
    let Ok(status) = Status::deserialize(raw) else {
        return Finding::warning(
            what,
            "its status is not what this meshctl understands",
            "use the meshctl of the mesh's version",
        );
    };
    if !status.ready {
        let remedies: Vec<_> = status.reasons.iter().map(|reason| remedy(reason)).collect();
        let mut remedies: Vec<_> = remedies.into_iter().filter(|remedy| !remedy.is_empty()).collect();
        remedies.dedup();
        return Finding::bad(what, status.reasons.join("; "), remedies.join("; "));
    }
    if !status.controller_connected {
        return Finding::warning(
            what,
            "its controller is away: it goes on with what it has, new pods get no certificate",
            "see the controller above; can the node reach port 15012 of its pods?",
        );
    }
    Finding::good(what, format!("ready, {} pods captured, {} connections", status.pods, status.connections))
}

/// By the words of the node's own reasons.
fn remedy(reason: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| reason.to_lowercase().contains(word));
    if says(&["foreign", "connect4", "another program"]) {
        "another agent's program runs before the mesh's at connect(): turn its socket load balancing off for pods (Cilium: \
         socketLB.hostNamespaceOnly=true; Calico: bpfConnectTimeLoadBalancing=Disabled)"
    } else if says(&["cni"]) {
        "the node must be able to write the CNI folders: node.cni.binDir and node.cni.confDir of the chart say which they are"
    } else if says(&["configuration", "controller"]) {
        "the controller gives it: see the controller above, and whether the node reaches its port 15012"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::Verdict, *};

    #[test]
    fn a_node_says_what_it_lacks_and_gets_a_remedy() {
        let status = |ready: bool, reasons: &[&str], connected: bool| {
            json!({ "node": "a", "version": "1", "ready": ready, "reasons": reasons, "controllerConnected": connected, "workloads": 1,
                    "services": 1, "policies": 0, "connections": 2, "pods": 3, "workerBusyPermille": [], "uptimeSeconds": 1 })
        };
        assert_eq!(judge("a", &status(true, &[], true)), Finding::good("node a", "ready, 3 pods captured, 2 connections"));
        assert_eq!(judge("a", &status(true, &[], false)).verdict, Verdict::Warning);
        let found = judge("a", &status(false, &["a foreign program is attached before ours"], true));
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.remedy.contains("socketLB"), "{}", found.remedy);
        assert_eq!(judge("a", &json!({})).verdict, Verdict::Warning);
    }
}
