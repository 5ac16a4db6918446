//! Envoy's static configuration, as far as HBONE needs it: envoy.config.bootstrap.v3.Bootstrap in JSON.
//!
//! All limits that would cut a measurement or a test short are lifted; buffers and windows are Envoy's defaults.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// Streams in one tunnel, as ambient's proxies have it.
const STREAMS: u32 = 100;

/// A certificate in PEM files: what one end of a tunnel shows and whom it trusts.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The certificate, then those of intermediate authorities.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Root certificates.
    pub roots: PathBuf,
}

impl Credentials {
    /// The three files in `folder` that belong to `name`.
    pub fn in_folder(folder: &Path, name: &str) -> Self {
        let file = |ending: &str| folder.join(format!("{name}.{ending}.pem"));
        Self { chain: file("chain"), key: file("key"), roots: folder.join("roots.pem") }
    }
}

/// The whole of it.
pub fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } })
}

/// Takes plain TCP and hands it to `cluster`, in a CONNECT for `authority` if there is one.
pub fn tcp_listener(address: SocketAddr, cluster: &str, authority: Option<&str>) -> Value {
    let mut proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
        "idle_timeout": "0s",
    });
    if let Some(authority) = authority {
        proxy["tunneling_config"] = json!({ "hostname": authority });
    }
    listener(address, &json!({ "filters": [{ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy }] }))
}

/// Takes plain HTTP/1.1 and passes its CONNECTs to `cluster` as they are, so that a client sees how each is answered.
pub fn connect_listener(address: SocketAddr, cluster: &str) -> Value {
    let host = json!({
        "name": cluster,
        "domains": ["*"],
        "routes": [{
            "match": { "connect_matcher": {} },
            "route": { "cluster": cluster, "timeout": "0s", "upgrade_configs": [{ "upgrade_type": "CONNECT" }] },
        }],
    });
    listener(address, &json!({ "filters": [connection_manager("HTTP1", &[host])] }))
}

/// Accepts HBONE: TLS 1.3 from peers whose URI name matches `peers` (any of the roots' if empty), and of the CONNECTs
/// those for the authorities in `targets`, each with its cluster. Others are answered with 404.
pub fn hbone_listener(address: SocketAddr, own: &Credentials, peers: &[&str], targets: &[(String, &str)]) -> Value {
    let hosts = targets.iter().map(|(authority, cluster)| {
        json!({
            "name": authority,
            "domains": [authority],
            "routes": [{
                "match": { "connect_matcher": {} },
                "route": {
                    "cluster": cluster,
                    "timeout": "0s",
                    "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
                },
            }],
        })
    });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": tls_context(own, peers),
    });
    listener(
        address,
        &json!({
            "filters": [connection_manager("HTTP2", &hosts.collect::<Vec<_>>())],
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
        }),
    )
}

/// A plain TCP upstream.
pub fn tcp_cluster(name: &str, address: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": { "thresholds": [no_limits()] },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket_address(address) } }] }],
        },
    })
}

/// An HBONE upstream whose certificate must have one of the URI names `peers`.
pub fn hbone_cluster(name: &str, address: SocketAddr, own: &Credentials, peers: &[&str]) -> Value {
    let mut cluster = tcp_cluster(name, address);
    let protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({
        protocol: {
            "@type": format!("type.googleapis.com/{protocol}"),
            "explicit_http_config": { "http2_protocol_options": { "max_concurrent_streams": STREAMS } },
        },
    });
    cluster["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": tls_context(own, peers),
        },
    });
    cluster
}

fn listener(address: SocketAddr, chain: &Value) -> Value {
    json!({ "name": address, "address": socket_address(address), "tcp_backlog_size": 4096, "filter_chains": [chain] })
}

fn connection_manager(codec: &str, hosts: &[Value]) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "connect",
        "codec_type": codec,
        "http2_protocol_options": { "allow_connect": true },
        "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
        "stream_idle_timeout": "0s",
        "route_config": { "virtual_hosts": hosts },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager })
}

fn tls_context(own: &Credentials, peers: &[&str]) -> Value {
    let names: Vec<Value> = peers.iter().map(|name| json!({ "san_type": "URI", "matcher": { "exact": name } })).collect();
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{ "certificate_chain": { "filename": own.chain }, "private_key": { "filename": own.key } }],
        "validation_context": { "trusted_ca": { "filename": own.roots }, "match_typed_subject_alt_names": names },
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

fn no_limits() -> Value {
    const MANY: u32 = 1_000_000;
    json!({ "max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY, "max_retries": MANY })
}
