//! What a port speaks, as users declare it: `appProtocol`, else the prefix of the port's name.

use mesh_policy::model::AppProtocol;

/// The protocol of a Kubernetes Service's port.
pub(super) fn of_port(number: i32, name: &str, app_protocol: Option<&str>) -> AppProtocol {
    if let Some(declared) = app_protocol {
        return match declared {
            "kubernetes.io/h2c" => AppProtocol::Http2,
            "kubernetes.io/ws" => AppProtocol::Http11,
            "kubernetes.io/wss" => AppProtocol::Tls,
            other => parse(other),
        };
    }
    // `grpc-web` is a name of its own, not `grpc` with a suffix.
    let prefix = if name.starts_with("grpc-web") { "grpc-web" } else { name.split('-').next().unwrap_or(name) };
    match (parse(prefix), number) {
        // Here the server speaks first, so nothing may wait for the client: SMTP, DNS, MySQL, MongoDB.
        (AppProtocol::Unknown, 25 | 53 | 3306 | 27017) => AppProtocol::Tcp,
        (found, _) => found,
    }
}

/// A protocol by its name in any case.
pub(super) fn parse(name: &str) -> AppProtocol {
    match name.to_ascii_lowercase().as_str() {
        // gRPC-Web travels over HTTP/1.1.
        "http" | "grpc-web" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" | "mongo" | "mysql" | "redis" => AppProtocol::Tcp,
        "https" | "tls" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}
