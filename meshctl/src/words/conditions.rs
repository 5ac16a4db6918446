//! What a rule asks of a request.

use mesh_policy::model::{ClientMatch, HttpMatch};

/// All matches of a rule; any of them is enough.
pub(crate) fn conditions(matches: &[HttpMatch]) -> String {
    match matches {
        [] => "any".to_owned(),
        several => several.iter().map(condition).collect::<Vec<_>>().join(" or "),
    }
}

fn condition(one: &HttpMatch) -> String {
    let HttpMatch { name: _, path, ignore_path_case, method, scheme, authority, headers, without_headers, query, clients } = one;
    let mut parts = Vec::new();
    parts.extend(method.as_ref().map(|text| format!("method {text}")));
    parts.extend(scheme.as_ref().map(|text| format!("scheme {text}")));
    parts.extend(authority.as_ref().map(|text| format!("authority {text}")));
    let case = if *ignore_path_case { " (any case)" } else { "" };
    parts.extend(path.as_ref().map(|path| format!("path {path}{case}")));
    parts.extend(headers.iter().map(|header| format!("header {} {}", header.name, header.value)));
    parts.extend(without_headers.iter().map(|header| format!("no header {} {}", header.name, header.value)));
    parts.extend(query.iter().map(|query| format!("query {} {}", query.name, query.value)));
    if !clients.is_empty() {
        parts.push(format!("client {}", clients.iter().map(client).collect::<Vec<_>>().join(" or ")));
    }
    if parts.is_empty() { "any".to_owned() } else { parts.join(" and ") }
}

fn client(client: &ClientMatch) -> String {
    let ClientMatch { namespace, labels } = client;
    let namespace = namespace.as_ref().map(|namespace| format!("in {namespace}"));
    let labels = labels.iter().map(|(name, value)| format!("{name}={value}"));
    namespace.into_iter().chain(labels).collect::<Vec<_>>().join(", ")
}
