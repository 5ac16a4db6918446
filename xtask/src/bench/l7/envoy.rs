//! Envoy on both nodes as sidecars have it: routes and retries at the client, mutual TLS between them, RBAC at the server.
//!
//! On the same node one Envoy does it all; there is no TLS, and the client is known by its address. Nothing captures for
//! them: clients dial them. What is said here, [`super::manifest`] says to Keelson.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use harness::envoy::config::{bootstrap, hbone_cluster, hbone_listener, tcp_cluster, tcp_listener};
use serde_json::{Value, json};

use super::{
    super::{
        envoy::{Envoys, Parties, entrance, name, node},
        setup::{CLIENT, Placement, Port, Setup},
    },
    manifest::{HEADER, PORTS, PREFIX, RETRY_ON},
};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) fn start(program: &Path, setup: &Setup) -> Result<Envoys> {
    let parties = Parties::mint(setup)?;
    let client_address = setup.lab.pod(CLIENT)?.v4().context("the pods have IPv4 addresses")?;
    let known_by_address = rbac(&json!({
        "direct_remote_ip": { "address_prefix": client_address, "prefix_len": 32 },
    }));
    let known_by_name = rbac(&json!({ "authenticated": { "principal_name": { "exact": parties.client_name } } }));

    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    let (mut inbound, mut applications) = (Vec::new(), Vec::new());
    for port in PORTS {
        // One hop.
        let near = format!("near-{}", name(port));
        clusters.push(speaking(tcp_cluster(&near, setup.address(Placement::SameNode, port)?), port));
        let only = manager(port, &routes(&near), &[&known_by_address], false);
        listeners.push(with(tcp_listener(entrance(&setup.lab, Placement::SameNode, port)?, &near, None), &only));
        // Two.
        let (far, between) = (format!("far-{}", name(port)), between(setup, port)?);
        clusters.push(speaking(hbone_cluster(&far, between, &parties.client, &[&parties.far_name]), port));
        let source = manager(port, &routes(&far), &[], false);
        listeners.push(with(tcp_listener(entrance(&setup.lab, Placement::OtherNode, port)?, &far, None), &source));
        let application = format!("application-{}", name(port));
        applications.push(speaking(tcp_cluster(&application, setup.address(Placement::OtherNode, port)?), port));
        let destination = manager(port, &json!([forward(&application)]), &[&known_by_name], true);
        let mut listener = with(hbone_listener(between, &parties.far, &[&parties.client_name], &[]), &destination);
        offer(listener.pointer_mut("/filter_chains/0/transport_socket"), port);
        inbound.push(listener);
    }
    Envoys::start(program, setup, bootstrap(&listeners, &clusters), bootstrap(&inbound, &applications))
}

/// Where the server's Envoy listens for the client's.
fn between(setup: &Setup, port: Port) -> Result<SocketAddr> {
    Ok((node(&setup.lab, "node-2")?, 40_000 + port.number()).into())
}

/// The listener with `manager` for its only filter.
fn with(mut listener: Value, manager: &Value) -> Value {
    listener["filter_chains"][0]["filters"] = json!([manager]);
    listener
}

/// The cluster, speaking the protocol of `port` and no other.
fn speaking(mut cluster: Value, port: Port) -> Value {
    let protocol = if port == Port::Http2 { "http2_protocol_options" } else { "http_protocol_options" };
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({
        options: { "@type": format!("type.googleapis.com/{options}"), "explicit_http_config": { protocol: {} } },
    });
    offer(cluster.pointer_mut("/transport_socket"), port);
    cluster
}

/// Lets TLS, if there is any, name the protocol of `port` (ALPN).
fn offer(socket: Option<&mut Value>, port: Port) {
    if let Some(socket) = socket {
        let name = if port == Port::Http2 { "h2" } else { "http/1.1" };
        socket["typed_config"]["common_tls_context"]["alpn_protocols"] = json!([name]);
    }
}

/// The first route takes nobody, the second all.
fn routes(cluster: &str) -> Value {
    let (name, value) = HEADER;
    let mut second = forward(cluster);
    second["route"]["timeout"] = json!("15s");
    second["route"]["retry_policy"] = json!({
        "num_retries": 2,
        "per_try_timeout": "5s",
        "retry_on": RETRY_ON,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": { "@type": format!("{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate") },
        }],
        "host_selection_retry_max_attempts": "5",
    });
    json!([
        {
            "match": { "prefix": "/", "headers": [{ "name": name, "string_match": { "exact": value } }] },
            "direct_response": { "status": 404 },
        },
        second,
    ])
}

fn forward(cluster: &str) -> Value {
    json!({ "match": { "prefix": PREFIX }, "route": { "cluster": cluster } })
}

/// Lets `principal` ask for what the benchmark asks for.
fn rbac(principal: &Value) -> Value {
    let methods = json!({ "header": { "name": ":method", "string_match": { "exact": "GET" } } });
    let paths = json!({ "url_path": { "path": { "prefix": format!("{PREFIX}/") } } });
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.rbac.v3.RBAC"),
            "rules": {
                "action": "ALLOW",
                "policies": {
                    "client": {
                        "permissions": [{ "and_rules": { "rules": [methods, paths] } }],
                        "principals": [principal],
                    },
                },
            },
        },
    })
}

/// `last`: behind it is the application, which is told who asked.
fn manager(port: Port, routes: &Value, filters: &[&Value], last: bool) -> Value {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
    });
    let filters: Vec<&Value> = filters.iter().copied().chain([&router]).collect();
    let mut manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name(port),
        "codec_type": if port == Port::Http2 { "HTTP2" } else { "HTTP1" },
        "normalize_path": true,
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
        "http_filters": filters,
        // To its own log, as Keelson does.
        "access_log": [{
            "name": "envoy.access_loggers.file",
            "typed_config": { "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"), "path": "/dev/stdout" },
        }],
    });
    if last {
        manager["forward_client_cert_details"] = json!("SANITIZE_SET");
        manager["set_current_client_cert_details"] = json!({ "uri": true });
    }
    json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager })
}
