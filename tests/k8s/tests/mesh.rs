//! The shop in the mesh: mutual TLS between nodes, policies, live enrolment.

use anyhow::{Result, ensure};
use k8s_tests::{Cluster, Shop};

const REQUESTS: &str = "istio_requests_total";

/// Requests to ratings, which is on the other node than the client.
const TO_RATINGS: &[(&str, &str)] =
    &[("reporter", "destination"), ("destination_workload_namespace", "shop"), ("destination_app", "ratings")];

#[test]
fn requests_between_nodes_are_under_mutual_tls() -> Result<()> {
    let cluster = Cluster::find()?;
    let shop = Shop::deploy(&cluster, Some("ambient"))?;
    let secured = [TO_RATINGS, &[("connection_security_policy", "mutual_tls")]].concat();
    let before = cluster.metrics()?;
    let asked = shop.ask("http://ratings:9080/whoami", 50)?;
    ensure!(asked.len() == 50 && asked.iter().all(k8s_tests::Asked::is_ok), "{asked:?}");
    let after = cluster.metrics()?;
    let (all, under_tls) = (
        after.sum(REQUESTS, TO_RATINGS) - before.sum(REQUESTS, TO_RATINGS),
        after.sum(REQUESTS, &secured) - before.sum(REQUESTS, &secured),
    );
    ensure!(all == 50 && under_tls == 50, "{under_tls} of {all} requests were counted under mutual TLS");
    let status = cluster.meshctl_text(&["status"])?;
    ensure!(cluster.nodes().iter().all(|node| status.contains(&node.name)), "{status}");
    Ok(())
}

#[test]
fn a_policy_is_enforced_and_lifted() -> Result<()> {
    let cluster = Cluster::find()?;
    let shop = Shop::deploy(&cluster, Some("ambient"))?;
    let refused = |status| {
        cluster.wait(&format!("answer {status:?}"), || {
            let asked = shop.ask("http://ratings:9080/whoami", 1)?;
            Ok(asked.iter().all(|asked| asked.status == status))
        })
    };
    refused(Some(200))?;
    cluster.apply(
        r#"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: only-page, namespace: shop},
            spec: {selector: {matchLabels: {app: ratings}}, action: ALLOW,
                   rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/shop-reviews"]}}], to: [{operation: {methods: [GET]}}]}]}}"#,
    )?;
    refused(Some(403))?;
    cluster.kubectl(&["delete", "authorizationpolicy", "--namespace=shop", "only-page"])?;
    refused(Some(200))
}

#[test]
fn a_namespace_joins_and_leaves_while_it_runs() -> Result<()> {
    let cluster = Cluster::find()?;
    let shop = Shop::deploy(&cluster, None)?;
    let all_well = || {
        let asked = shop.ask("http://page:9080/", 10)?;
        ensure!(asked.iter().all(k8s_tests::Asked::is_ok), "{asked:?}");
        Ok(())
    };
    all_well()?;
    cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode=keelson"])?;
    cluster.await_pods("shop", true)?;
    all_well()?;
    let pods = cluster.meshctl_text(&["pods", "-n", "shop"])?;
    ensure!(pods.contains("ratings"), "{pods}");
    cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode-"])?;
    cluster.await_pods("shop", false)?;
    all_well()
}
