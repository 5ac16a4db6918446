use std::fs;

use mesh_policy::model::TunnelProtocol;

use super::*;

const SHOP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  template:
    metadata: {labels: {app: reviews}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: typo, namespace: shop}
spec: {rules: [{from: [{source: {principal: [a]}}]}]}
";

#[test]
fn a_deployment_and_a_service_are_a_mesh() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("shop.yaml"), SHOP).expect("a file");
    fs::write(folder.path().join("broken.yaml"), "a: [").expect("a file");
    let files = Files::load(&[folder.path().to_owned()]).expect("files");
    let service = files.snapshot.services().next().expect("the service");
    let endpoints = files.snapshot.endpoints(&service.key());
    assert_eq!((service.addresses.len(), endpoints.len()), (1, 1));
    assert_eq!(endpoints[0].workload.tunnel, TunnelProtocol::Hbone);
    assert_eq!(files.refused().into_iter().collect::<Vec<_>>(), ["", "AuthorizationPolicy shop/typo"]);
    assert!(files.assumptions.iter().any(|text| text.contains("namespaces without manifest are in the mesh: shop")));
}

#[test]
fn nothing_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Files::load(&[folder.path().to_owned()]).is_err());
    assert!(Files::load(&[folder.path().join("none.yaml")]).is_err());
}
