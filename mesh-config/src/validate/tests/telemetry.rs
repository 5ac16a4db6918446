use super::faults;

fn check(spec: &str, expected: &[&str]) {
    for version in ["telemetry.istio.io/v1", "telemetry.istio.io/v1alpha1"] {
        assert_eq!(faults(version, "Telemetry", spec), expected, "{spec}");
    }
}

#[test]
fn what_a_telemetry_is_for() {
    check("{}", &[]);
    check("{selector: {matchLabels: {app: page}}}", &[]);
    check("{selector: {matchLabels: {app: 'p*'}}}", &["spec.selector.matchLabels"]);
    check("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: page}]}", &["spec.selector"]);
    check("{targetRefs: [{kind: Service, name: page, namespace: other}]}", &["spec.targetRefs[0].namespace"]);
}

#[test]
fn metrics() {
    check("{metrics: [{overrides: [{match: {metric: ALL_METRICS, mode: CLIENT}, disabled: true}]}]}", &[]);
    check("{metrics: [{overrides: [{match: {metric: NOTHING}}]}]}", &["spec.metrics[0].overrides[0].match.metric"]);
    check(
        "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT, customMetric: a}}]}]}",
        &["spec.metrics[0].overrides[0].match.metric"],
    );
    check("{metrics: [{providers: [{}]}]}", &["spec.metrics[0].providers[0].name"]);
    check("{metrics: [{overrides: [{tagOverrides: {a: {value: request.host}, b: {operation: REMOVE}}}]}]}", &[]);
    for (tag, field) in [
        ("a: {}", "a.value"),
        ("a: {operation: REMOVE, value: b}", "a.value"),
        ("a: {value: 'request.host =='}", "a.value"),
        ("a: {value: \"['a'].map(x, x)[0]\"}", "a.value"),
        ("'a-b': {value: request.host}", "a-b"),
        ("'1a': {operation: REMOVE}", "1a"),
        ("__a: {operation: REMOVE}", "__a"),
    ] {
        let spec = format!("{{metrics: [{{overrides: [{{tagOverrides: {{{tag}}}}}]}}]}}");
        check(&spec, &[&format!("spec.metrics[0].overrides[0].tagOverrides.{field}")]);
    }
}

#[test]
fn access_logging() {
    check("{accessLogging: [{providers: [{name: envoy}], filter: {expression: response.code >= 400}}]}", &[]);
    check("{accessLogging: [{filter: {expression: ''}}]}", &["spec.accessLogging[0].filter.expression"]);
    check("{accessLogging: [{filter: {expression: 'response.code >='}}]}", &["spec.accessLogging[0].filter.expression"]);
    check("{accessLogging: [{match: {mode: SIDEWAYS}}]}", &["spec.accessLogging[0].match.mode"]);
}

#[test]
fn tracing() {
    check("{tracing: [{randomSamplingPercentage: 0}, {randomSamplingPercentage: 100.0}]}", &[]);
    check("{tracing: [{randomSamplingPercentage: 100.1}]}", &["spec.tracing[0].randomSamplingPercentage"]);
    check("{tracing: [{providers: [{name: a}, {name: b}]}]}", &["spec.tracing[0].providers"]);
    for (tag, expected) in [
        ("{literal: {value: b}}", ""),
        ("{}", "a"),
        ("{literal: {value: b}, header: {name: c}}", "a"),
        ("{literal: {}}", "a.literal.value"),
        ("{environment: {}}", "a.environment.name"),
        ("{header: {name: 'a b'}}", "a.header.name"),
    ] {
        let field = format!("spec.tracing[0].customTags.{expected}");
        let fields = [&*field];
        check(&format!("{{tracing: [{{customTags: {{a: {tag}}}}}]}}"), if expected.is_empty() { &[] } else { &fields });
    }
}
