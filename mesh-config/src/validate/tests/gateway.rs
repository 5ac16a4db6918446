//! What the definitions of the Gateway API's kinds refuse.

use super::*;

fn http(spec: &str) -> Vec<String> {
    faults("gateway.networking.k8s.io/v1", "HTTPRoute", spec)
}

fn http_rule(rule: &str) -> Vec<String> {
    let at = "spec.rules[0].";
    http(&format!("{{rules: [{rule}]}}")).into_iter().map(|field| field.strip_prefix(at).unwrap_or(&field).to_owned()).collect()
}

fn filter(filter: &str) -> Vec<String> {
    let at = "filters[0].";
    let fields = http_rule(&format!("{{filters: [{filter}]}}"));
    fields.into_iter().map(|field| field.strip_prefix(at).unwrap_or(&field).to_owned()).collect()
}

fn grpc_rule(rule: &str) -> Vec<String> {
    faults("gateway.networking.k8s.io/v1", "GRPCRoute", &format!("{{rules: [{rule}]}}"))
}

const NONE: [&str; 0] = [];

#[test]
fn routes_and_parents() {
    assert_eq!(http("{}"), NONE);
    assert_eq!(http("{parentRefs: [{group: '', kind: Service, name: s, port: 80, sectionName: http, namespace: n}]}"), NONE);
    assert_eq!(http("{parentRefs: [{name: ''}]}"), ["spec.parentRefs[0].name"]);
    assert_eq!(http("{parentRefs: [{name: a, port: 0}]}"), ["spec.parentRefs[0].port"]);
    assert_eq!(http("{parentRefs: [{name: a, port: 65536}]}"), ["spec.parentRefs[0].port"]);
    assert_eq!(http("{parentRefs: [{name: a}, {name: a}]}"), ["spec.parentRefs[1]"]);
    let rules = ["{}"; 17].join(", ");
    assert_eq!(http(&format!("{{rules: [{rules}]}}")), ["spec.rules"]);
    assert_eq!(http("{rules: [{name: a}, {name: b}, {name: a}]}"), ["spec.rules[2].name"]);
}

#[test]
fn matches() {
    let path = |path: &str| http_rule(&format!("{{matches: [{{path: {path}}}]}}"));
    for good in
        ["{}", "{value: /}", "{value: /a/b.c}", "{type: Exact, value: /a%20b}", "{type: RegularExpression, value: '/a|b'}"]
    {
        assert_eq!(path(good), NONE, "{good}");
    }
    for bad in ["''", "a", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a#b", "/a?b", "/a/..", "/a/."] {
        assert_eq!(path(&format!("{{type: Exact, value: '{}'}}", bad.trim_matches('\''))), ["matches[0].path.value"], "{bad}");
    }
    assert_eq!(path("{type: RegularExpression, value: '/a('}"), ["matches[0].path.value"]);
    assert_eq!(path("{type: Glob, value: /a}"), ["matches[0].path.type"]);
    assert_eq!(http_rule("{matches: [{method: GET}]}"), NONE);
    assert_eq!(http_rule("{matches: [{method: get}]}"), ["matches[0].method"]);
    assert_eq!(http_rule("{matches: [{headers: [{name: 'a b', value: x}]}]}"), ["matches[0].headers[0].name"]);
    assert_eq!(http_rule("{matches: [{headers: [{name: a, value: ''}]}]}"), ["matches[0].headers[0].value"]);
    assert_eq!(
        http_rule("{matches: [{headers: [{name: a, type: RegularExpression, value: '['}]}]}"),
        ["matches[0].headers[0].value"]
    );
    assert_eq!(http_rule("{matches: [{queryParams: [{name: '', value: x}]}]}"), ["matches[0].queryParams[0].name"]);
}

#[test]
fn backends_timeouts_and_retries() {
    assert_eq!(http_rule("{backendRefs: [{name: a}]}"), ["backendRefs[0].port"]);
    assert_eq!(http_rule("{backendRefs: [{group: x.y, kind: Bucket, name: a}]}"), NONE);
    assert_eq!(http_rule("{backendRefs: [{name: a, port: 80, weight: 1000001}]}"), ["backendRefs[0].weight"]);
    assert_eq!(http_rule("{backendRefs: [{name: a, port: 80, weight: -1}]}"), ["backendRefs[0].weight"]);
    assert_eq!(http_rule("{timeouts: {request: 1h2m3s4ms, backendRequest: 10s}}"), NONE);
    for bad in ["1.5s", "1d", "-1s", "123456s", "1s1s1s1s1s", "''"] {
        assert_eq!(http_rule(&format!("{{timeouts: {{request: {bad}}}}}")), ["timeouts.request"], "{bad}");
    }
    assert_eq!(http_rule("{timeouts: {request: 1s, backendRequest: 2s}}"), ["timeouts.backendRequest"]);
    assert_eq!(http_rule("{timeouts: {request: 1s, backendRequest: 0s}}"), ["timeouts.backendRequest"]);
    assert_eq!(http_rule("{timeouts: {request: 0s, backendRequest: 2s}}"), NONE);
    assert_eq!(http_rule("{retry: {codes: [399, 400, 599, 600]}}"), ["retry.codes[0]", "retry.codes[3]"]);
}

#[test]
fn filters() {
    assert_eq!(filter("{type: Lua}"), ["type"]);
    assert_eq!(filter("{type: RequestHeaderModifier}"), ["requestHeaderModifier"]);
    let other = "{type: RequestHeaderModifier, requestHeaderModifier: {}, responseHeaderModifier: {}}";
    assert_eq!(filter(other), ["responseHeaderModifier"]);
    let twice = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [A]}}";
    assert_eq!(filter(twice), ["requestHeaderModifier.remove[0]"]);
    let split = "{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: a, value: \"b\\r\\nc: d\"}]}}";
    assert_eq!(filter(split), ["responseHeaderModifier.add[0].value"]);
    let mirror =
        |share: &str| filter(&format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 80}}{share}}}}}"));
    assert_eq!(mirror(""), NONE);
    assert_eq!(mirror(", percent: 101"), ["requestMirror.percent"]);
    assert_eq!(mirror(", percent: 1, fraction: {numerator: 1}"), ["requestMirror.percent"]);
    assert_eq!(mirror(", fraction: {numerator: 2, denominator: 1}"), ["requestMirror.fraction"]);
    assert_eq!(mirror(", fraction: {numerator: 0, denominator: 0}"), ["requestMirror.fraction"]);
    let redirect = |redirect: &str| filter(&format!("{{type: RequestRedirect, requestRedirect: {redirect}}}"));
    assert_eq!(redirect("{scheme: https, hostname: a.example, port: 443, statusCode: 308}"), NONE);
    assert_eq!(redirect("{scheme: ftp}"), ["requestRedirect.scheme"]);
    assert_eq!(redirect("{statusCode: 304}"), ["requestRedirect.statusCode"]);
    assert_eq!(redirect("{hostname: '*.example'}"), ["requestRedirect.hostname"]);
    assert_eq!(redirect("{hostname: 10.0.0.1}"), ["requestRedirect.hostname"]);
    assert_eq!(redirect("{path: {type: ReplaceFullPath}}"), ["requestRedirect.path.replaceFullPath"]);
    assert_eq!(
        redirect("{path: {type: ReplaceFullPath, replaceFullPath: \"/a\\r\\nb\"}}"),
        ["requestRedirect.path.replaceFullPath"]
    );
    let rewrite = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /a}}}";
    assert_eq!(filter(rewrite), NONE);
    let exact = "matches: [{path: {type: Exact, value: /a}}]";
    assert_eq!(http_rule(&format!("{{{exact}, filters: [{rewrite}]}}")), ["filters[0].urlRewrite.path.replacePrefixMatch"]);
    let both = format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{}}}}, {rewrite}]}}");
    assert_eq!(http_rule(&both), ["filters"]);
    let with_backend = "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 80}]}";
    assert_eq!(http_rule(with_backend), ["backendRefs"]);
    assert_eq!(http_rule(&format!("{{filters: [{rewrite}, {rewrite}]}}")), ["filters[1].type"]);
    let cors = |cors: &str| filter(&format!("{{type: CORS, cors: {cors}}}"));
    assert_eq!(cors("{allowOrigins: ['https://a.b', 'http://*.c:80', 'x-app://d'], allowMethods: ['*'], maxAge: 1}"), NONE);
    assert_eq!(cors("{allowOrigins: [a.b, 'https://a*.b', '*']}").len(), 3);
    assert_eq!(cors("{allowMethods: ['G T'], allowHeaders: ['*', a], maxAge: 0}").len(), 3);
}

#[test]
fn grpc_routes() {
    assert_eq!(grpc_rule("{matches: [{method: {service: a.B_1, method: C}}]}"), NONE);
    assert_eq!(grpc_rule("{matches: [{method: {}}]}"), ["spec.rules[0].matches[0].method"]);
    assert_eq!(grpc_rule("{matches: [{method: {service: a/b}}]}"), ["spec.rules[0].matches[0].method.service"]);
    assert_eq!(grpc_rule("{matches: [{method: {method: 'a.*'}}]}"), ["spec.rules[0].matches[0].method.method"]);
    assert_eq!(
        grpc_rule("{matches: [{method: {type: RegularExpression, method: '('}}]}"),
        ["spec.rules[0].matches[0].method.method"]
    );
    assert_eq!(grpc_rule("{filters: [{type: URLRewrite, urlRewrite: {}}]}"), ["spec.rules[0].filters[0].type"]);
}

#[test]
fn the_others() {
    let other = |kind: &str, spec: &str| faults("gateway.networking.k8s.io/v1", kind, spec);
    assert_eq!(other("TCPRoute", "{rules: [{backendRefs: [{name: a, port: 1}]}]}"), NONE);
    assert_eq!(other("TCPRoute", "{rules: []}"), ["spec.rules"]);
    assert_eq!(other("TLSRoute", "{hostnames: ['*.a.b', a.b], rules: [{backendRefs: [{name: a, port: 1}]}]}"), NONE);
    let names = "{hostnames: ['*', a.*.b, 10.0.0.1, A.b], rules: [{backendRefs: [{name: a, port: 1}]}]}";
    assert_eq!(other("TLSRoute", names).len(), 4);
    assert_eq!(other("ReferenceGrant", "{from: [{group: g, kind: k, namespace: n}], to: [{group: '', kind: Service}]}"), NONE);
    assert_eq!(
        other("ReferenceGrant", "{from: [{group: g, kind: k, namespace: ''}], to: []}"),
        ["spec.to", "spec.from[0].namespace"]
    );
    // What is granted might be narrower than what is understood.
    let narrowed = "{from: [{group: g, kind: k, namespace: n}], to: [{group: '', kind: Service, port: 80}]}";
    assert_eq!(other("ReferenceGrant", narrowed), ["spec.to[0].port"]);
    assert_eq!(other("Gateway", "{listeners: []}"), ["spec.gatewayClassName"]);
}
