//! What every namespace trusts, and keys that are plugged in.

use crate::wait::eventually;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use crate::surroundings::Surroundings;

const EVERYWHERE: &str = "istio-ca-root-cert";

/// A root and an intermediate, in the form of Istio's `cacerts`.
fn plugged() -> (Secret, String) {
    let of = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    };
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = of("a plugged root").self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&root, root_key).unwrap();
    let own = of("a plugged intermediate").signed_by(&key, &issuer).unwrap().pem();
    let data = json!({
        "ca-key.pem": key.serialize_pem(), "ca-cert.pem": own, "cert-chain.pem": format!("{own}{root}"), "root-cert.pem": root,
    });
    (serde_json::from_value(json!({ "metadata": { "name": "cacerts" }, "stringData": data })).unwrap(), root)
}

#[tokio::test]
async fn every_namespace_is_told_what_to_trust() {
    let found = Surroundings::new().await;
    let (early, late, foreign) =
        (format!("{}-a", found.namespace), format!("{}-b", found.namespace), format!("{}-c", found.namespace));
    found.make_namespace(&early).await;
    found.make_namespace(&foreign).await;
    let theirs: ConfigMap =
        serde_json::from_value(json!({ "metadata": { "name": EVERYWHERE }, "data": { "root-cert.pem": "theirs" } })).unwrap();
    Api::namespaced(found.client.clone(), &foreign).create(&PostParams::default(), &theirs).await.unwrap();
    let controller = found.controller("one").await;
    controller.is_elected().await;
    let roots = found.roots().await;
    assert_eq!(found.roots_of(&early, EVERYWHERE).await, roots);
    found.make_namespace(&late).await;
    assert_eq!(found.roots_of(&late, EVERYWHERE).await, roots, "a new namespace too");

    let maps = Api::<ConfigMap>::namespaced(found.client.clone(), &early);
    let reads = async |wanted: &str| {
        eventually("the ConfigMap is right", || async {
            maps.get_opt(EVERYWHERE).await.unwrap()?.data?.get("root-cert.pem").filter(|text| *text == wanted).map(drop)
        })
        .await;
    };
    maps.patch(EVERYWHERE, &PatchParams::default(), &Patch::Merge(json!({ "data": { "root-cert.pem": "x" } }))).await.unwrap();
    reads(&roots).await;
    maps.delete(EVERYWHERE, &DeleteParams::default()).await.unwrap();
    reads(&roots).await;

    // Another authority while everything runs.
    let secrets = Api::<Secret>::namespaced(found.client.clone(), &found.namespace);
    let (secret, root) = plugged();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    reads(&root).await;
    eventually("the nodes are told", || async { (found.roots().await == root).then_some(()) }).await;
    drop(found.channel(&controller).await);

    // Keys that are of no use change nothing.
    let broken = json!({ "stringData": { "ca-key.pem": "no key" } });
    secrets.patch("cacerts", &PatchParams::default(), &Patch::Merge(broken)).await.unwrap();
    eventually("it says so", || async { controller.program.text().contains("the authority stays as it was").then_some(()) })
        .await;
    reads(&root).await;
    assert_eq!(found.roots_of(&foreign, EVERYWHERE).await, "theirs", "nobody else's is touched");
    found.remove(&[&early, &late, &foreign]).await;
}
