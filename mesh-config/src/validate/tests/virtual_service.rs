use super::faults;

const ROUTE: &str = "route: [{destination: {host: a}}]";

fn check(spec: &str, expected: &[&str]) {
    assert_eq!(faults("networking.istio.io/v1", "VirtualService", spec), expected, "{spec}");
}

/// The fields at fault of an HTTP route, without `spec.http[0].`; a destination is added.
fn route(fields: &str, expected: &[&str]) {
    let spec = format!("{{hosts: [a], http: [{{{ROUTE}, {fields}}}]}}");
    bare(&spec, expected);
}

/// The same of one that brings what it does.
fn alone(fields: &str, expected: &[&str]) {
    bare(&format!("{{hosts: [a], http: [{{{fields}}}]}}"), expected);
}

fn bare(spec: &str, expected: &[&str]) {
    let found = faults("networking.istio.io/v1", "VirtualService", spec);
    let found: Vec<&str> = found.iter().map(|field| field.strip_prefix("spec.http[0].").unwrap_or(field)).collect();
    assert_eq!(found, expected, "{spec}");
}

fn matching(fields: &str, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|field| format!("match[0].{field}")).collect();
    route(&format!("match: [{{{fields}}}]"), &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn hosts_and_scope() {
    let with = |fields: &str, expected: &[&str]| check(&format!("{{http: [{{{ROUTE}}}], {fields}}}"), expected);
    with("hosts: [a, b.example, '*.c.example', '*-d.example', 10.0.0.1]", &[]);
    with("hosts: [a b, 'a.*', '*a*']", &["spec.hosts[0]", "spec.hosts[1]", "spec.hosts[2]"]);
    with("hosts: ['*']", &["spec.hosts[0]"]);
    with("hosts: ['*'], gateways: [mesh]", &["spec.hosts[0]"]);
    with("hosts: ['*'], gateways: [mesh, edge]", &[]);
    with("hosts: [a.example, '*.example']", &["spec.hosts[1]"]);
    with("hosts: [a, a]", &["spec.hosts[1]"]);
    with("hosts: [a], gateways: [a/b/c, a b, A/b, ns/name]", &["spec.gateways[0]", "spec.gateways[1]", "spec.gateways[2]"]);
    with("hosts: [a], exportTo: [., other]", &[]);
    with("hosts: [a], exportTo: [., shop]", &["spec.exportTo[1]"]);
    with("hosts: [a], exportTo: ['*', shop]", &["spec.exportTo[0]"]);
    with("hosts: [a], exportTo: ['~', No]", &["spec.exportTo[0]", "spec.exportTo[1]"]);
    check("{hosts: [a]}", &["spec.http"]);
    with("gateways: [mesh], tls: [], tcp: []", &["spec.gateways"]);
    check("{hosts: [a], http: [{route: [{destination: {host: a}, weight: x}]}]}", &["spec.http[0].route[0].weight"]);
}

#[test]
fn one_thing_is_done_with_a_request() {
    alone("name: x", &["route"]);
    alone("redirect: {uri: /a}, fault: {delay: {fixedDelay: 1s}}, rewrite: {uri: /b}", &["fault", "rewrite"]);
    alone("redirect: {uri: /a}, directResponse: {status: 200}", &["directResponse"]);
    route("redirect: {uri: /a}", &["route"]);
    route("directResponse: {status: 200}", &["route"]);
    alone("delegate: {name: x}", &[]);
    alone("delegate: {namespace: x}", &["delegate.name"]);
    route("delegate: {name: x}", &["route"]);
    check("{http: [{delegate: {name: x}}]}", &["spec.http[0].delegate"]);
    route("mirror: {host: a}, mirrors: [{destination: {host: a}}]", &["mirror"]);
}

#[test]
fn conditions_on_requests() {
    matching("uri: {prefix: ''}", &[]);
    matching("uri: {prefix: /a, exact: /b}", &["uri.prefix"]);
    matching("uri: {regex: '('}", &["uri.regex"]);
    matching("uri: {regex: '(?!a)b'}", &["uri.regex"]);
    matching(&format!("uri: {{regex: '{}'}}", "a".repeat(1025)), &["uri.regex"]);
    matching("uri: {regex: ''}", &["uri.regex"]);
    matching(
        "method: {prefix: ''}, authority: {prefix: ''}, scheme: {prefix: ''}",
        &["scheme.prefix", "method.prefix", "authority.prefix"],
    );
    matching("headers: {x: {regex: '*'}, ':method': {exact: GET}}", &[]);
    matching("headers: {'a b': {exact: x}, ':status': {exact: x}}", &["headers.:status", "headers.a b"]);
    matching("headers: {'@request.auth.claims.group': {exact: x}}", &["headers.@request.auth.claims.group"]);
    matching("headers: {':method': {exact: GET}}, method: {exact: PUT}", &["headers.:method"]);
    matching("withoutHeaders: {x: {}, y: {prefix: ''}}", &["withoutHeaders.y.prefix"]);
    matching("queryParams: {x: {regex: '['}}", &["queryParams.x.regex"]);
    matching("port: 65536", &["port"]);
    matching("sourceLabels: {'a/b/c': x, d: 'e f'}", &["sourceLabels.a/b/c", "sourceLabels.d"]);
    matching("sourceNamespace: A, gateways: ['a b']", &["gateways[0]", "sourceNamespace"]);
}

#[test]
fn destinations_and_headers() {
    alone("route: [{destination: {host: a, subset: v1, port: {number: 80}}, weight: 1}]", &[]);
    alone("route: [{}]", &["route[0].destination"]);
    alone(
        "route: [{destination: {host: '*', subset: V_1, port: {number: 0}}}]",
        &["route[0].destination.host", "route[0].destination.subset", "route[0].destination.port.number"],
    );
    alone("route: [{destination: {host: a}, weight: -1}]", &["route[0].weight"]);
    alone("route: [{destination: {host: a}}, {destination: {host: b}}]", &["route"]);
    route("headers: {request: {set: {host: a}, add: {x: '100%%'}, remove: [y]}}", &[]);
    route("headers: {request: {set: {':authority': a}}}, rewrite: {authority: b}", &["headers.request"]);
    route(
        "headers: {request: {set: {':path': a, x: '50%'}, remove: [host]}}",
        &["headers.request.set.:path", "headers.request.set.x", "headers.request.remove[0]"],
    );
    route("headers: {response: {set: {host: a}, add: {'a b': c}}}", &["headers.response.set.host", "headers.response.add.a b"]);
    route("headers: {response: {set: {x: \"a\\nb\"}}}", &["headers.response.set.x"]);
}

#[test]
fn redirects_responses_and_rewrites() {
    alone("redirect: {}", &["redirect"]);
    alone("redirect: {uri: /a, prefixRewrite: /b}", &["redirect.prefixRewrite"]);
    alone("redirect: {prefixRewrite: /b}, match: [{uri: {exact: /a}}]", &["redirect.prefixRewrite"]);
    alone("redirect: {port: 70000, derivePort: FROM_REQUEST_PORT}", &["redirect.derivePort", "redirect.port"]);
    alone("redirect: {derivePort: SOMEHOW}", &["redirect.derivePort"]);
    alone("redirect: {uri: /a, scheme: ftp, redirectCode: 305}", &["redirect.scheme", "redirect.redirectCode"]);
    alone("directResponse: {}", &["directResponse.status"]);
    alone("directResponse: {status: 600}", &["directResponse.status"]);
    alone("directResponse: {status: 200, body: {string: a, bytes: YQ==}}", &["directResponse.body.bytes"]);
    alone("directResponse: {status: 200, body: {bytes: '?'}}", &["directResponse.body.bytes"]);
    route("rewrite: {}", &["rewrite"]);
    route("rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}", &["rewrite.uriRegexRewrite"]);
    route("rewrite: {uriRegexRewrite: {match: '('}}", &["rewrite.uriRegexRewrite.match", "rewrite.uriRegexRewrite.rewrite"]);
}

#[test]
fn timeouts_retries_and_faults() {
    route("timeout: 1h30m", &[]);
    for bad in ["0s", "1us", "1500us", "ten", "10", "-1s"] {
        route(&format!("timeout: '{bad}'"), &["timeout"]);
    }
    route("retries: {attempts: 3, retryOn: '5xx,gateway-error,503,unavailable', perTryTimeout: 2s}", &[]);
    route("retries: {attempts: -1}", &["retries.attempts"]);
    route("retries: {attempts: 0, retryOn: 5xx, perTryTimeout: 1s}", &["retries.perTryTimeout", "retries.retryOn"]);
    route("retries: {attempts: 1, retryOn: '5xx,sometimes,1000'}", &["retries.retryOn", "retries.retryOn"]);
    route("retries: {attempts: 1, backoff: 0s}", &["retries.backoff"]);
    route("fault: {}", &["fault"]);
    route("fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}", &["fault.delay.percentage"]);
    route("fault: {delay: {fixedDelay: 1s, percent: 101}}", &["fault.delay.percent"]);
    route("fault: {delay: {fixedDelay: 1s, exponentialDelay: 1s}}", &["fault.delay.exponentialDelay"]);
    route("fault: {abort: {httpStatus: 500, grpcStatus: OK}}", &["fault.abort.grpcStatus"]);
    route("fault: {abort: {httpStatus: 100}}", &["fault.abort.httpStatus"]);
    route("fault: {abort: {grpcStatus: NONE}}", &["fault.abort.grpcStatus"]);
    route("fault: {abort: {httpStatus: 500, percentage: {value: 0.00001}}}", &["fault.abort.percentage"]);
}

#[test]
fn mirrors_and_origins() {
    route("mirror: {host: '*'}, mirrorPercentage: {value: -1}", &["mirror.host", "mirrorPercentage"]);
    route("mirror: {host: a}, mirrorPercent: 101", &["mirrorPercent"]);
    route(
        "mirrors: [{}, {destination: {host: a}, percentage: {value: 200}}]",
        &["mirrors[0].destination", "mirrors[1].percentage"],
    );
    route(
        "corsPolicy: {allowOrigins: [{exact: ''}, {regex: '('}, {}]}",
        &["corsPolicy.allowOrigins[0]", "corsPolicy.allowOrigins[1].regex", "corsPolicy.allowOrigins[2]"],
    );
    route(
        "corsPolicy: {allowMethods: [GET, 'a b'], allowHeaders: ['*', 'a b'], maxAge: 1500ms}",
        &["corsPolicy.allowMethods[1]", "corsPolicy.allowHeaders[1]", "corsPolicy.maxAge"],
    );
}

#[test]
fn tls_and_tcp() {
    let tls = |fields: &str, expected: &[&str]| check(&format!("{{hosts: ['*.a.example'], tls: [{{{fields}}}]}}"), expected);
    tls(&format!("match: [{{sniHosts: [b.a.example, '*.c.a.example'], destinationSubnets: [10.0.0.0/8]}}], {ROUTE}"), &[]);
    tls("", &["spec.tls[0].match", "spec.tls[0].route"]);
    tls(&format!("match: [{{}}], {ROUTE}"), &["spec.tls[0].match[0].sniHosts"]);
    tls(
        &format!("match: [{{sniHosts: [b.example, 'a b'], destinationSubnets: [x], port: 99999}}], {ROUTE}"),
        &[
            "spec.tls[0].match[0].sniHosts[0]",
            "spec.tls[0].match[0].sniHosts[1]",
            "spec.tls[0].match[0].destinationSubnets[0]",
            "spec.tls[0].match[0].port",
        ],
    );
    let tcp = |fields: &str, expected: &[&str]| check(&format!("{{hosts: [a], tcp: [{{{fields}}}]}}"), expected);
    tcp(ROUTE, &[]);
    tcp("", &["spec.tcp[0].route"]);
    tcp(
        &format!("match: [{{destinationSubnets: [x], sourceSubnet: y}}], {ROUTE}"),
        &["spec.tcp[0].match[0].destinationSubnets[0]", "spec.tcp[0].match[0].sourceSubnet"],
    );
}
