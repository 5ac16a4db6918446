//! An answer as people read it: the outcome first, then why, in the order in which a node decides.

use mesh_policy::explain::{Authorization, Backend, BoundTo, Endpoint, Explanation, PassedOver, Route, Transport, Treatment};

use super::{Answer, outcome::denier};
use crate::{
    table::printable,
    words::{fault, headers, limit, mirror, path_change, percent, place, policy, retry, service},
};

/// Where the values of the outermost level begin.
const COLUMN: usize = 15;

/// Lines of a label and a value.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, value: &str) {
        self.0 += printable(&format!("{label:COLUMN$}{value}")).trim_end();
        self.0.push('\n');
    }

    fn below(&mut self, label: &str, value: &str) {
        self.add(&format!("  {label}"), value);
    }
}

impl Answer {
    /// Lines that end with a newline each.
    pub(crate) fn text(&self) -> String {
        let Self { outcome, request, remarks, explanation } = self;
        let Explanation { source, source_identity, dialled, bound, http, route, answer: _, treatment, backends } = explanation;
        let mut lines = Lines::default();
        lines.add(&outcome.summary, "");
        lines.0.push('\n');
        let identity = source_identity.as_deref().unwrap_or("without identity");
        lines.add("from", &format!("{source} ({identity})"));
        lines.add("request", &if *http { format!("{request} to {dialled}") } else { format!("a connection to {dialled}") });
        lines.add("bound to", &bound_to(bound));
        let protocol =
            if *http { "HTTP: requests are told apart" } else { "not HTTP: routes, policies and limits of connections" };
        lines.add("protocol", protocol);
        for remark in remarks {
            lines.add("note", remark);
        }
        self::route(&mut lines, route, *http);
        if let Some(treatment) = treatment {
            self::treatment(&mut lines, treatment);
        }
        for backend in backends {
            self::backend(&mut lines, backend);
        }
        lines.0
    }
}

fn bound_to(bound: &BoundTo) -> String {
    match bound {
        BoundTo::Service { service: key, port } => format!("service {}, port {port}, by its address", service(key)),
        BoundTo::Entry { service: key, port } => {
            format!("service {}, port {port}, by the name that is asked for: the address is nobody's", service(key))
        }
        BoundTo::Workload { workload, service: None } => format!("workload {workload}, by its own address: no routes"),
        BoundTo::Workload { workload, service: Some(key) } => {
            format!("workload {workload}, by its own address; the host names headless service {}", service(key))
        }
        BoundTo::Passthrough { service: None } => "nothing in the mesh: passed on as it is".to_owned(),
        BoundTo::Passthrough { service: Some(key) } => format!("service {}, whose traffic is passed on as it is", service(key)),
        BoundTo::Unknown { code } => format!("nothing: the address lies in the mesh and nobody has it ({code})"),
        BoundTo::Refused { code } => format!("nothing ({code})"),
    }
}

fn route(lines: &mut Lines, route: &Route, http: bool) {
    let passed = |lines: &mut Lines, passed_over: &[PassedOver]| {
        for PassedOver { origin, name: _, failed } in passed_over {
            lines.below("passed over", &format!("{origin}: not so: {}", failed.join("; ")));
        }
    };
    match route {
        Route::None => lines.add("route", "none: to what is addressed"),
        Route::NoRule { routes, passed_over } => {
            lines.add("route", &format!("of the rules for {routes} none matches"));
            passed(lines, passed_over);
        }
        Route::Rule { routes, origin, name, matched, passed_over } => {
            let name = if name.is_empty() { String::new() } else { format!(" {name:?}") };
            lines.add("route", &format!("{origin}{name}, of the rules for {routes}"));
            let matched = match matched {
                Some(at) => format!("its match[{at}] holds"),
                None if http => "it is for all".to_owned(),
                None => "the first whose conditions hold".to_owned(),
            };
            passed(lines, passed_over);
            lines.below("why", &matched);
        }
    }
}

fn treatment(lines: &mut Lines, treatment: &Treatment) {
    let Treatment { timeout, retry: retries, retry_is_default, fault: faults, request_headers, response_headers, mirrors, cors } =
        treatment;
    lines.below("timeout", &limit(*timeout));
    let default = if *retry_is_default { " (the mesh's default)" } else { "" };
    lines.below("retries", &format!("{}{default}", retry(retries)));
    for fault in fault(faults) {
        lines.below("fault", &fault);
    }
    for one in mirrors {
        lines.below("mirror", &mirror(one));
    }
    let changes = headers("request", request_headers).into_iter().chain(headers("response", response_headers));
    changes.for_each(|change| lines.below("headers", &change));
    if cors.is_some() {
        lines.below("CORS", "cross-origin requests are judged before all else");
    }
}

fn backend(lines: &mut Lines, backend: &Backend) {
    let Backend {
        service,
        port,
        subset,
        weight,
        percent: share,
        path,
        host,
        path_change: change,
        destination_rule,
        policy: traffic,
        unavailable,
        endpoints,
    } = backend;
    let to = match (service, endpoints.as_slice()) {
        (None, [one]) => one.workload.clone(),
        _ => place(service.as_deref(), *port, subset.as_deref()),
    };
    lines.add("backend", &format!("{to}, {} (weight {weight})", percent(*share)));
    if let Some(why) = unavailable {
        lines.below("unavailable", why);
    }
    if let (Some(path), Some(host)) = (path, host) {
        let change = change.as_ref().map(|change| format!(", path {}", path_change(change))).unwrap_or_default();
        lines.below("arrives as", &format!("{host} {path}{change}"));
    }
    let rule =
        destination_rule.as_ref().map_or_else(|| "no DestinationRule".to_owned(), |rule| format!("DestinationRule {rule}"));
    lines.below("policy", &format!("{rule}: {}", policy(traffic).join("; ")));
    for endpoint in endpoints {
        self::endpoint(lines, endpoint);
    }
}

fn endpoint(lines: &mut Lines, endpoint: &Endpoint) {
    let Endpoint { workload, address, healthy, tier, locality, node, transport, authorization } = endpoint;
    let tier = tier.map_or_else(|| "not picked".to_owned(), |tier| format!("tier {tier}"));
    let address = address.map_or_else(|| "looked up".to_owned(), |address| address.to_string());
    let health = if *healthy { "healthy" } else { "unhealthy" };
    let locality = if locality.chars().all(|c| c == '/') { String::new() } else { format!(" in {locality}") };
    let node = if node.is_empty() { String::new() } else { format!(" on {node}") };
    lines.below("endpoint", &format!("{workload} {address}{node}{locality}: {health}, {tier}, {}", transport_text(transport)));
    lines.below("  policies", &verdict(authorization));
}

fn transport_text(transport: &Transport) -> String {
    match transport {
        Transport::Hbone { expected } => format!("mutual TLS, must be {}", expected.join(" or ")),
        Transport::SameNode => "mutual identity on the same node".to_owned(),
        Transport::Plaintext => "plain".to_owned(),
    }
}

fn verdict(authorization: &Authorization) -> String {
    let Authorization::Judged { outcome, dry_run } = authorization else {
        return "not enforced: it is not captured".to_owned();
    };
    let said = |outcome: &mesh_policy::explain::Judgement| match (outcome.allowed, &outcome.policy) {
        (true, None) => "allowed: no policy is against it".to_owned(),
        (true, Some(_)) => format!("allowed {}", denier(outcome)),
        (false, _) => format!("denied {}", denier(outcome)),
    };
    let dry = dry_run.as_ref().map(|dry| format!("; with dry-run policies it would be {}", said(dry))).unwrap_or_default();
    format!("{}{dry}", said(outcome))
}
