//! What a port speaks, as users declare it (`appProtocol`, else the prefix of the port's name), and where HTTP is
//! carried as bytes because they say so.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_policy::model::AppProtocol;

/// An annotation or label of a Service, a ServiceEntry, a namespace or of MeshConfig's ConfigMap.
const HTTP: &str = "keelson.io/http";
const DISABLED: &str = "disabled";

/// The protocol of a Kubernetes Service's port (Istio's `ConvertProtocol`).
pub(super) fn of_port(number: i32, name: &str, app_protocol: Option<&str>) -> AppProtocol {
    // Names that Kubernetes itself defines stand whole.
    match app_protocol {
        Some("kubernetes.io/h2c") => return AppProtocol::Http2,
        Some("kubernetes.io/ws") => return AppProtocol::Http11,
        Some("kubernetes.io/wss") => return AppProtocol::Tls,
        Some(_) | None => {}
    }
    let declared = app_protocol.unwrap_or(name).to_ascii_lowercase();
    // `grpc-web` is a name of its own, not `grpc` with a suffix.
    let prefix = if declared.starts_with("grpc-web") { "grpc-web" } else { declared.split('-').next().unwrap_or_default() };
    match (parse(prefix), number) {
        // Here the server speaks first, so nothing may wait for the client: SMTP, DNS, MySQL, MongoDB.
        (AppProtocol::Unknown, 25 | 53 | 3306 | 27017) => AppProtocol::Tcp,
        (found, _) => found,
    }
}

/// A protocol by its name in any case.
pub(super) fn parse(name: &str) -> AppProtocol {
    match name.to_ascii_lowercase().as_str() {
        // gRPC-Web travels over HTTP/1.1; a proxied request is one too.
        "http" | "grpc-web" | "http_proxy" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" | "mongo" | "mysql" | "redis" => AppProtocol::Tcp,
        "https" | "tls" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}

/// The protocol that the mesh sees: where HTTP is disabled, requests are bytes, and nothing is sniffed.
pub(super) fn seen(declared: AppProtocol, http_enabled: bool) -> AppProtocol {
    use AppProtocol::{Grpc, Http2, Http11, Tcp, Tls, Unknown};
    match declared {
        Http11 | Http2 | Grpc | Unknown if !http_enabled => Tcp,
        Http11 | Http2 | Grpc | Unknown | Tcp | Tls => declared,
    }
}

/// From the object's annotation or label, else from its namespace's; enabled where neither says anything.
pub(super) fn http_enabled(own: Option<&ObjectMeta>, of_namespace: Option<&ObjectMeta>) -> bool {
    let said = |metadata: &ObjectMeta| {
        let of = |values: Option<&std::collections::BTreeMap<String, String>>| values?.get(HTTP).map(|value| value != DISABLED);
        of(metadata.annotations.as_ref()).or_else(|| of(metadata.labels.as_ref()))
    };
    own.and_then(said).or_else(|| of_namespace.and_then(said)).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        use AppProtocol::{Grpc, Http2, Http11, Tcp, Tls, Unknown};
        let cases = [
            (80, "http", None, Http11),
            (80, "http-web", None, Http11),
            (80, "HTTP-web", None, Http11),
            (80, "httpweb", None, Unknown),
            (80, "", None, Unknown),
            (80, "web", None, Unknown),
            (80, "web", Some("http"), Http11),
            (80, "http", Some("tcp"), Tcp),
            (80, "http", Some("unheard-of"), Unknown),
            (80, "x", Some("http2-x"), Http2),
            (80, "http2", None, Http2),
            (80, "grpc-api", None, Grpc),
            (80, "grpc-web", None, Http11),
            (80, "gRPC-Web-api", None, Http11),
            (80, "x", Some("grpc-web"), Http11),
            (80, "x", Some("kubernetes.io/h2c"), Http2),
            (80, "x", Some("kubernetes.io/ws"), Http11),
            (80, "x", Some("kubernetes.io/wss"), Tls),
            (80, "kubernetes.io/h2c", None, Unknown),
            (443, "https", None, Tls),
            (443, "tls-x", None, Tls),
            (3306, "mysql", None, Tcp),
            (6379, "redis", None, Tcp),
            (27017, "mongo-x", None, Tcp),
            (25, "", None, Tcp),
            (53, "dns", None, Tcp),
            (3306, "db", None, Tcp),
            (27017, "", Some("unheard-of"), Tcp),
            (3306, "http", None, Http11),
            (80, "udp-x", None, Unknown),
        ];
        for (number, name, app_protocol, expected) in cases {
            assert_eq!(of_port(number, name, app_protocol), expected, "{number} {name:?} {app_protocol:?}");
        }
    }
}
