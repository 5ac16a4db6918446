use super::faults;

fn check(spec: &str, expected: &[&str]) {
    assert_eq!(faults("networking.istio.io/v1", "DestinationRule", spec), expected, "{spec}");
}

/// The fields at fault of a traffic policy, without `spec.trafficPolicy.`.
fn policy(fields: &str, expected: &[&str]) {
    let spec = format!("{{host: a, trafficPolicy: {{{fields}}}}}");
    let found = faults("networking.istio.io/v1", "DestinationRule", &spec);
    let found: Vec<&str> = found.iter().map(|field| field.strip_prefix("spec.trafficPolicy.").unwrap_or(field)).collect();
    assert_eq!(found, expected, "{fields}");
}

fn balancer(fields: &str, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|field| format!("loadBalancer.{field}")).collect();
    policy(&format!("loadBalancer: {{{fields}}}"), &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn rules() {
    check("{host: a}", &[]);
    check("{}", &["spec.host"]);
    check("{host: 'a b'}", &["spec.host"]);
    check("{host: a, trafficPolicy: {}}", &["spec.trafficPolicy"]);
    check(
        "{host: a, subsets: [{name: v1}, {name: v1}, {name: V2, labels: {'': x}}]}",
        &["spec.subsets[1].name", "spec.subsets[2].name", "spec.subsets[2].labels."],
    );
    check(
        "{host: a, subsets: [{name: v1, trafficPolicy: {connectionPool: {}}}]}",
        &["spec.subsets[0].trafficPolicy.connectionPool"],
    );
    check("{host: a, exportTo: ['*'], workloadSelector: {matchLabels: {a: b}}}", &["spec.exportTo"]);
    check("{host: a, exportTo: ['.'], workloadSelector: {matchLabels: {a: b}}}", &[]);
}

#[test]
fn ports_of_a_policy() {
    policy("portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]", &[]);
    policy("portLevelSettings: [{loadBalancer: {simple: RANDOM}}]", &["portLevelSettings[0].port"]);
    policy("portLevelSettings: [{port: {number: 80}}]", &["portLevelSettings[0]"]);
    policy(
        "portLevelSettings: [{port: {number: 80}, tls: {}}, {port: {number: 80}, tls: {}}]",
        &["portLevelSettings[1].port.number"],
    );
}

#[test]
fn balancing() {
    balancer("simple: SOMEHOW", &["simple"]);
    balancer("simple: RANDOM, consistentHash: {useSourceIp: true}", &["consistentHash"]);
    balancer("consistentHash: {httpHeaderName: a, useSourceIp: true}", &["consistentHash"]);
    balancer("consistentHash: {httpHeaderName: 'a b'}", &["consistentHash.httpHeaderName"]);
    balancer("consistentHash: {httpQueryParameterName: ''}", &["consistentHash.httpQueryParameterName"]);
    balancer("consistentHash: {httpCookie: {}}", &["consistentHash.httpCookie.name"]);
    balancer(
        "consistentHash: {httpCookie: {name: a, attributes: [{}, {name: b}, {name: b}]}}",
        &["consistentHash.httpCookie.attributes[0].name", "consistentHash.httpCookie.attributes[2].name"],
    );
    balancer("consistentHash: {useSourceIp: true, maglev: {tableSize: 65537}}", &[]);
    for bad in [0, 1, 4, 65536, 5_000_011] {
        balancer(
            &format!("consistentHash: {{useSourceIp: true, maglev: {{tableSize: {bad}}}}}"),
            &["consistentHash.maglev.tableSize"],
        );
    }
    balancer("consistentHash: {useSourceIp: true, minimumRingSize: 1, ringHash: {}}", &["consistentHash"]);
    balancer(
        "consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 9000000}}",
        &["consistentHash.ringHash.minimumRingSize"],
    );
    balancer("warmup: {}", &["warmup.duration"]);
    balancer("warmup: {duration: 1s, minimumPercent: 101, aggression: 0}", &["warmup.minimumPercent", "warmup.aggression"]);
    balancer("warmupDurationSecs: soon", &["warmupDurationSecs"]);
}

#[test]
fn localities() {
    let locality = |fields: &str, expected: &[&str]| {
        let expected: Vec<String> = expected.iter().map(|field| format!("localityLbSetting.{field}")).collect();
        balancer(&format!("localityLbSetting: {{{fields}}}"), &expected.iter().map(String::as_str).collect::<Vec<_>>());
    };
    locality("distribute: [{from: a/b, to: {'a/b/*': 60, 'c': 40}}, {from: 'a/c/*', to: {'*': 100}}]", &[]);
    locality("distribute: [{from: a, to: {a: 60}}]", &["distribute[0].to"]);
    locality("distribute: [{from: a, to: {a: 100, b: 0}}]", &["distribute[0].to"]);
    locality("distribute: [{from: a, to: {'a/*': 50, a/b: 50}}]", &["distribute[0].to"]);
    locality("distribute: [{from: 'a/*', to: {a: 100}}, {from: a/b, to: {a: 100}}]", &["distribute"]);
    locality("distribute: [{from: 'a*b', to: {a//b: 100}}]", &["distribute", "distribute[0].to"]);
    locality("distribute: [{from: a, to: {a: 100}}], failover: [{from: a, to: b}]", &["distribute"]);
    for bad in ["{from: a, to: a}", "{from: a/b, to: c}", "{from: a, to: '*'}", "{from: a}"] {
        locality(&format!("failover: [{bad}]"), &["failover[0]"]);
    }
    locality("failoverPriority: [a, b=c, '']", &["failoverPriority[2]"]);
    locality("failover: [{from: a, to: b}], failoverPriority: [x, topology.kubernetes.io/zone]", &["failoverPriority[1]"]);
    balancer("localityLbSetting: {}, zoneAwareLbSetting: {}", &["zoneAwareLbSetting"]);
    balancer(
        "zoneAwareLbSetting: {failoverPriority: [topology.kubernetes.io/region]}",
        &["zoneAwareLbSetting.failoverPriority[0]"],
    );
}

#[test]
fn limits_ejection_and_the_rest() {
    policy(
        "connectionPool: {tcp: {maxConnections: -1, connectTimeout: 0s, idleTimeout: 0s}}",
        &["connectionPool.tcp.maxConnections", "connectionPool.tcp.connectTimeout"],
    );
    policy(
        "connectionPool: {http: {http1MaxPendingRequests: -1, maxRetries: -1, idleTimeout: 0s}}",
        &["connectionPool.http.http1MaxPendingRequests", "connectionPool.http.maxRetries", "connectionPool.http.idleTimeout"],
    );
    policy(
        "connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true, http2KeepAlive: {}}}",
        &[
            "connectionPool.http.useClientProtocol",
            "connectionPool.http.http2KeepAlive.interval",
            "connectionPool.http.http2KeepAlive.timeout",
        ],
    );
    policy(
        "outlierDetection: {interval: 0s, maxEjectionPercent: 101, minHealthPercent: -1}",
        &["outlierDetection.interval", "outlierDetection.maxEjectionPercent", "outlierDetection.minHealthPercent"],
    );
    policy("outlierDetection: {consecutiveLocalOriginFailures: 1}", &["outlierDetection.consecutiveLocalOriginFailures"]);
    policy("outlierDetection: {outlierDetectionHttpErrorCodes: [99]}", &["outlierDetection.outlierDetectionHttpErrorCodes[0]"]);
    policy("tls: {mode: MUTUAL}", &["tls.clientCertificate", "tls.privateKey"]);
    policy("tls: {mode: SIMPLE, credentialName: a, caCertificates: b}", &["tls.caCertificates"]);
    policy(
        "tunnel: {protocol: GET, targetHost: 'a b', targetPort: 0}, proxyProtocol: {}",
        &["tunnel", "tunnel.protocol", "tunnel.targetHost", "tunnel.targetPort"],
    );
    policy("retryBudget: {percent: 101}", &["retryBudget.percent"]);
}
