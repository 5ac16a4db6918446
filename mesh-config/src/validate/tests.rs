use serde_json::{Value, json};

use super::*;

mod destination_rule;
mod gateway;
mod telemetry;
mod virtual_service;

fn parse(yaml: &str) -> Value {
    use crate::document::{Format, Limits, documents};
    documents(yaml.as_bytes(), Format::Yaml, Limits::default()).unwrap().remove(0)
}

/// The fields at fault of an object of this kind with this spec; none: it was taken.
fn faults(api_version: &str, kind: &str, spec: &str) -> Vec<String> {
    let metadata = json!({ "name": "x", "namespace": "shop" });
    let document = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": parse(spec) });
    match admit(&document) {
        Verdict::Admitted(_) => Vec::new(),
        Verdict::Rejected(rejection) => {
            assert_eq!(rejection.key, key_of(&document), "the refusal names the object");
            rejection.problems.into_iter().map(|problem| problem.field).collect()
        }
        Verdict::Ignored(ignored) => panic!("{ignored:?}"),
    }
}

fn policy(spec: &str) -> Vec<String> {
    faults("security.istio.io/v1", "AuthorizationPolicy", spec)
}

fn rule(rule: &str) -> Vec<String> {
    policy(&format!("{{rules: [{rule}]}}"))
}

#[test]
fn authorization_policies_that_cannot_be_meant_are_refused_by_field() {
    let none: [&str; 0] = [];
    assert_eq!(policy("{}"), none);
    assert_eq!(policy("{action: DENY}"), ["spec.rules"]);
    assert_eq!(policy("{action: MAYBE}"), ["spec.action"]);
    assert_eq!(policy("{action: CUSTOM, rules: [{}]}"), ["spec.provider.name"]);
    assert_eq!(policy("{action: CUSTOM, provider: {name: p}, rules: [{}]}"), none);
    assert_eq!(policy("{provider: {name: p}}"), ["spec.provider"]);
    assert_eq!(policy("{selector: {matchLabels: {a: 'b*'}}}"), ["spec.selector.matchLabels"]);
    assert_eq!(policy("{selector: {}, targetRefs: [{kind: Service, name: x}]}"), ["spec.selector"]);
    assert_eq!(policy("{targetRefs: [{kind: Service}]}"), ["spec.targetRefs[0].name"]);
    assert_eq!(policy("{targetRefs: [{kind: Service, name: x, namespace: other}]}"), ["spec.targetRefs[0].namespace"]);
    assert_eq!(rule("{from: []}"), ["spec.rules[0].from"]);
    assert_eq!(rule("{from: [{}]}"), ["spec.rules[0].from[0].source"]);
    assert_eq!(rule("{from: [{source: {}}]}"), ["spec.rules[0].from[0].source"]);
    assert_eq!(rule("{to: [{operation: {}}]}"), ["spec.rules[0].to[0].operation"]);
    assert_eq!(rule("{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}"), ["spec.rules[0].from[0].source.ipBlocks[0]"]);
    assert_eq!(rule("{from: [{source: {ipBlocks: ['::ffff:10.0.0.1']}}]}"), ["spec.rules[0].from[0].source.ipBlocks[0]"]);
    assert_eq!(rule("{from: [{source: {principals: ['']}}]}"), ["spec.rules[0].from[0].source.principals[0]"]);
    assert_eq!(
        rule("{from: [{source: {serviceAccounts: [a/b/c, 'x*', ok]}}]}"),
        ["spec.rules[0].from[0].source.serviceAccounts[0]", "spec.rules[0].from[0].source.serviceAccounts[1]"]
    );
    assert_eq!(
        rule("{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}"),
        ["spec.rules[0].from[0].source.serviceAccounts"]
    );
    assert_eq!(rule("{to: [{operation: {ports: ['0', '65536', '+80', '80']}}]}").len(), 3);
    assert_eq!(rule("{when: [{key: source.ip}]}"), ["spec.rules[0].when[0].values"]);
    assert_eq!(rule("{when: [{values: [a]}]}"), ["spec.rules[0].when[0].key"]);
    assert_eq!(rule("{when: [{key: destination.port, notValues: [http]}]}"), ["spec.rules[0].when[0].notValues[0]"]);
    assert_eq!(
        rule("{to: [{operation: {paths: ['/a/{*}', '/{**}/b', '/a{b}', '/{**}/{*}']}}]}"),
        ["spec.rules[0].to[0].operation.paths[3]"]
    );
    assert_eq!(rule("{when: [{key: 'request.headers[a b]', values: [a]}]}"), ["spec.rules[0].when[0].key"]);
    assert_eq!(rule("{when: [{key: 'request.headers[a]', values: [a]}]}"), none);
}

#[test]
fn an_unknown_field_refuses_a_policy() {
    assert_eq!(policy("{acton: DENY}"), ["spec.acton"]);
    assert_eq!(rule("{from: [{source: {principal: [a], namespaces: [b]}}]}"), ["spec.rules[0].from[0].source.principal"]);
    assert_eq!(rule("{too: [{operation: {ports: ['80']}}]}"), ["spec.rules[0].too"]);
    let document = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": { "name": "x" }, "specc": {}
    });
    assert!(matches!(admit(&document), Verdict::Rejected(_)));
    assert_eq!(faults("security.istio.io/v1", "PeerAuthentication", "{mtls: {mod: STRICT}}"), ["spec.mtls.mod"]);
}

#[test]
fn an_unknown_field_elsewhere_is_reported() {
    let documents = [
        "{apiVersion: v1, kind: Pod, metadata: {name: p, label: {a: b}}, spec: {containers: [], nodename: n}}",
        "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: p}, spec: {hosts: [a.b], port: []}}",
    ];
    let expected: [&[&str]; 2] = [&["metadata.label", "spec.nodename"], &["spec.port"]];
    for (document, expected) in documents.into_iter().zip(expected) {
        let Verdict::Admitted(admitted) = admit(&parse(document)) else { panic!("{document}") };
        let fields: Vec<&str> = admitted.warnings.iter().map(|message| message.field.as_str()).collect();
        assert_eq!(fields, expected);
    }
}

#[test]
fn peer_authentications() {
    let check = |spec: &str, expected: &[&str]| assert_eq!(faults("security.istio.io/v1", "PeerAuthentication", spec), expected);
    check("{mtls: {mode: STRICT}}", &[]);
    check("{mtls: {mode: STRICKT}}", &["spec.mtls.mode"]);
    check("{portLevelMtls: {80: {mode: STRICT}}}", &["spec.portLevelMtls"]);
    check("{selector: {matchLabels: {a: b}}, portLevelMtls: {}}", &["spec.portLevelMtls"]);
    check("{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}", &["spec.portLevelMtls.0"]);
    check("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT}}}", &[]);
}

#[test]
fn service_and_workload_entries() {
    let entry =
        |spec: &str, expected: &[&str]| assert_eq!(faults("networking.istio.io/v1", "ServiceEntry", spec), expected, "{spec}");
    entry("{hosts: [a.example, '*.b.example']}", &[]);
    entry("{}", &["spec.hosts"]);
    entry("{hosts: ['*', 'a b', 'a.*']}", &["spec.hosts[0]", "spec.hosts[1]", "spec.hosts[2]"]);
    entry("{hosts: [a], addresses: [nonsense]}", &["spec.addresses[0]"]);
    entry("{hosts: [a], addresses: [10.0.0.0/8], resolution: DNS}", &["spec.addresses"]);
    entry("{hosts: [a], resolution: LATER}", &["spec.resolution"]);
    entry("{hosts: [a], endpoints: [{address: 10.0.0.1}]}", &["spec.endpoints"]);
    entry("{hosts: [a], resolution: STATIC, endpoints: [{address: b.example}]}", &["spec.endpoints[0].address"]);
    entry(
        "{hosts: [a], resolution: STATIC, workloadSelector: {labels: {a: b}}, endpoints: [{address: 10.0.0.1}]}",
        &["spec.endpoints"],
    );
    entry("{hosts: [a], ports: [{number: 0, name: x}]}", &["spec.ports[0].number"]);
    entry("{hosts: [a], ports: [{number: 80, name: x}, {number: 80, name: x}]}", &["spec.ports[1].name", "spec.ports[1].number"]);
    let port =
        "{hosts: [a], resolution: STATIC, ports: [{number: 80, name: x}], endpoints: [{address: 10.0.0.1, ports: {y: 1}}]}";
    entry(port, &["spec.endpoints[0].ports.y"]);
    assert_eq!(faults("networking.istio.io/v1", "WorkloadEntry", "{address: 'unix:///tmp/x'}"), ["spec.address"]);
    assert_eq!(faults("networking.istio.io/v1", "WorkloadEntry", "{address: 10.0.0.1, ports: {a: 70000}}"), ["spec.ports.a"]);
}

#[test]
fn core_kinds() {
    let service = |spec: &str, expected: &[&str]| assert_eq!(faults("v1", "Service", spec), expected, "{spec}");
    service("{clusterIP: None, ports: [{port: 80}, {port: 80, protocol: UDP}]}", &[]);
    service("{clusterIP: here}", &["spec.clusterIPs"]);
    service("{ports: [{port: 0}]}", &["spec.ports[0].port"]);
    service("{ports: [{port: 80, targetPort: 70000}]}", &["spec.ports[0].targetPort"]);
    service("{ports: [{port: 80}, {port: 80}]}", &["spec.ports[1].port"]);
    service("{ports: [{port: eighty}]}", &["spec.ports[0].port"]);
    assert_eq!(faults("v1", "Node", "{podCIDR: 10.0.0.0/99}"), ["spec.podCIDRs"]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x" }, "spec": { "containers": [] },
        "status": { "podIPs": [{ "ip": "not one" }] }
    });
    assert!(matches!(admit(&pod), Verdict::Rejected(Rejection { problems, .. }) if problems[0].field == "status.podIPs"));
}

#[test]
fn a_mesh_config_that_is_not_understood_refuses_its_config_map() {
    let check = |mesh: &str, expected: &str| {
        let metadata = json!({ "name": "istio", "namespace": "istio-system" });
        let document = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "mesh": mesh } });
        match admit(&document) {
            Verdict::Admitted(_) => assert_eq!("", expected, "{mesh}"),
            Verdict::Rejected(rejection) => assert_eq!(rejection.problems[0].field, expected, "{mesh}"),
            Verdict::Ignored(ignored) => panic!("{ignored:?}"),
        }
    };
    check("{}", "");
    check("", "");
    check("trustDomain: ok.example\nanything: else", "");
    check("trustDomain: Not_OK!", "data.mesh: trustDomain");
    check("trustDomainAliases: ['']", "data.mesh: trustDomainAliases");
    check("outboundTrafficPolicy: {mode: SOME}", "data.mesh: outboundTrafficPolicy.mode");
    check("hboneIdleTimeout: soon", "data.mesh: hboneIdleTimeout");
    check("a: [", "data.mesh: ");
}

#[test]
fn names_that_are_none_are_never_keys() {
    for (namespace, name) in
        [("shop", "../x"), ("shop", ""), ("a/b", "x"), ("shop", "X"), ("..", "x"), ("shop", "x_y"), ("a.b", "x")]
    {
        let metadata = json!({ "name": name, "namespace": namespace });
        let document = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": { "containers": [] } });
        assert_eq!(key_of(&document), None, "{namespace}/{name}");
        assert!(matches!(admit(&document), Verdict::Rejected(Rejection { key: None, .. })), "{namespace}/{name}");
    }
    for document in [json!({}), json!({ "kind": "Pod" }), json!({ "apiVersion": "v1", "kind": "Pod" })] {
        assert!(matches!(admit(&document), Verdict::Rejected(Rejection { key: None, .. })), "{document}");
    }
}

#[test]
fn other_kinds_are_told_apart() {
    let ignored = |api_version: &str, kind: &str| match admit(
        &json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "x" } }),
    ) {
        Verdict::Ignored(ignored) => ignored.message.map(|message| message.code),
        other => panic!("{other:?}"),
    };
    assert_eq!(ignored("networking.istio.io/v1alpha3", "EnvoyFilter"), Some(Code::UnsupportedKind));
    assert_eq!(ignored("gateway.networking.k8s.io/v1", "UDPRoute"), Some(Code::UnsupportedKind));
    assert_eq!(ignored("apps/v1", "Deployment"), None);
    assert_eq!(ignored("example.com/v1", "Service"), None);
}

#[test]
fn durations() {
    let cases = [
        ("300s", Some(300)),
        ("1h30m", Some(5400)),
        ("1.5s", Some(1)),
        ("500ms", Some(0)),
        ("", None),
        ("5", None),
        ("s", None),
        ("1y", None),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_duration(text), expected, "{text}");
    }
}
