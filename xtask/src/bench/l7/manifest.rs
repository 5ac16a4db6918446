//! What Keelson is told: routes and policies in Istio's words. [`super::envoy`] says the same in Envoy's.

use super::super::setup::{Placement, Port, parties};

/// What is asked for.
pub(super) const PATH: &str = "/details/0";
/// Of the requests that the second route takes.
pub(super) const PREFIX: &str = "/details";
/// Requests with this header take the first route; there are none.
pub(super) const HEADER: (&str, &str) = ("end-user", "jason");
pub(super) const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,5xx";

pub(super) const PORTS: [Port; 2] = [Port::Http, Port::Http2];

pub(super) fn text() -> String {
    let (http, http2) = (Port::Http.number(), Port::Http2.number());
    let containers = format!(
        "
  - {{name: http, command: [shop, details, --quiet, --port, '{http}'], readinessProbe: {{tcpSocket: {{port: {http}}}}}}}
  - {{name: http2, command: [shop, details, --quiet, --http2, --port, '{http2}'], readinessProbe: {{tcpSocket: {{port: {http2}}}}}}}"
    );
    let ports = format!("{{name: http, port: {http}}}, {{name: http2, port: {http2}}}");
    let mut documents = parties(&containers, &ports);
    let (name, value) = HEADER;
    documents.extend(Placement::ALL.map(Placement::pod).map(|host| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {host}, namespace: bench}}
spec:
  hosts: [{host}]
  http:
  - match: [{{headers: {{{name}: {{exact: {value}}}}}}}]
    directResponse: {{status: 404}}
  - match: [{{uri: {{prefix: {PREFIX}}}}}]
    timeout: 15s
    retries: {{attempts: 2, perTryTimeout: 5s, retryOn: '{RETRY_ON}'}}
    route: [{{destination: {{host: {host}}}}}]"
        )
    }));
    documents.push(format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: client, namespace: bench}}
spec:
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/bench/sa/client]}}}}]
    to: [{{operation: {{methods: [GET], paths: ['{PREFIX}/*']}}}}]"
    ));
    documents.join("\n---\n") + "\n"
}
