//! The headers, as tables and against arbitrary text.

use http::HeaderMap;
use mesh_policy::model::WorkloadKind;
use proptest::prelude::*;

use super::*;

#[test]
fn only_an_address_or_a_host_with_a_port_is_a_target() {
    for good in ["10.0.0.1:80", "[2001:db8::1]:65535", "reviews.shop.svc.cluster.local:9080", "a:1", "_x.y-z:443"] {
        assert_eq!(good.parse::<Target>().expect(good).to_string(), good);
    }
    assert_eq!("Reviews.Shop.:80".parse(), Ok(Target::Host { name: "reviews.shop".into(), port: 80 }));
    for bad in [
        "",
        ":",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:080",
        "10.0.0.1:65536",
        "10.0.0.1:+80",
        "10.0.0:80",
        "1.2.3.4.5:80",
        "2001:db8::1:80",
        "[2001:db8::1%1]:80",
        "[::1]",
        "a b:80",
        "user@host:80",
        "http://a:80",
        "a..b:80",
        ".:80",
        "a/b:80",
        "a:80\0",
        "é.example:80",
        "10.0.0.256:80",
    ] {
        assert_eq!(bad.parse::<Target>(), Err(BadTarget), "{bad:?}");
    }
}

#[test]
fn baggage_reads_what_it_writes() {
    let baggage = Baggage {
        cluster: "Kubernetes".into(),
        namespace: "shop".into(),
        workload_kind: WorkloadKind::Deployment,
        workload: "page-v1".into(),
        service: "page".into(),
        revision: "v1".into(),
        region: String::new(),
        zone: "zone a,b;\"é\"%".into(),
    };
    let text = baggage.to_string();
    assert_eq!(
        text,
        "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=page-v1,service.name=page,service.version=v1,\
         cloud.availability_zone=zone%20a%2Cb%3B%22%C3%A9%22%25"
    );
    assert_eq!(read_baggage(&[&text]), baggage);
}

#[test]
fn baggage_takes_the_first_of_two_and_passes_over_the_rest() {
    let read = read_baggage(&[
        " k8s.namespace.name = a ; property=1 , k8s.namespace.name=b, nonsense, k8s.job.name=j, k8s.pod.name=p",
        "service.name=%zz, service.name=ok, service.version=%0Aline, other=1",
    ]);
    let expected = Baggage {
        namespace: "a".into(),
        workload_kind: WorkloadKind::Job,
        workload: "j".into(),
        service: "ok".into(),
        ..Baggage::default()
    };
    assert_eq!(read, expected);
    assert_eq!(read_baggage(&[&format!("service.name={}", "x".repeat(MAX_VALUE))]), Baggage::default());
}

#[test]
fn forwarded_reads_the_first_hop() {
    let of = |address: &str, port| Some(ForwardedFor { address: address.parse().expect("address"), port });
    let cases = [
        (r#"for="10.0.0.1:4000";host=page.shop.svc"#, of("10.0.0.1", Some(4000)), "page.shop.svc"),
        (r#"for="[2001:db8::1]:4000""#, of("2001:db8::1", Some(4000)), ""),
        ("for=10.0.0.1", of("10.0.0.1", None), ""),
        (r#"Host=a;FOR="[::1]", for=10.9.9.9"#, of("::1", None), "a"),
        (r#"proto=http;for="\1\0.0.0.1";host=b"#, of("10.0.0.1", None), "b"),
        ("for=_hidden;host=c", None, "c"),
    ];
    for (text, by_for, host) in cases {
        let expected = Forwarded { by_for, host: host.into() };
        assert_eq!(Forwarded::parse(text), Some(expected.clone()), "{text}");
        assert_eq!(Forwarded::parse(&expected.to_string()), Some(expected));
    }
    for nothing in ["", "for", "for=", "for=\"10.0.0.1", "host=\"a b\"", "host=a@b", "=;=", "for=unknown"] {
        assert_eq!(Forwarded::parse(nothing), None, "{nothing:?}");
    }
}

#[test]
fn a_traceparent_is_of_version_00_and_not_zero() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(good.parse::<TraceParent>().map(|parent| parent.to_string()), Ok(good.into()));
    for bad in [
        "",
        "00",
        &good.to_uppercase(),
        &good.replace("00-4", "01-4"),
        &good.replace("-01", "-01-x"),
        &good.replace('4', "g"),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ] {
        assert!(bad.parse::<TraceParent>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_request_carries_all_of_it() {
    let request = ConnectRequest {
        authority: "10.0.0.2:80".parse().expect("target"),
        baggage: Baggage { service: "page".into(), ..Baggage::default() },
        forwarded: Forwarded::parse("for=10.0.0.1"),
        traceparent: None,
    };
    let http = request.to_http().expect("request");
    assert_eq!((http.method(), http.uri().to_string().as_str()), (&http::Method::CONNECT, "10.0.0.2:80"));
    assert_eq!(http.headers()[BAGGAGE], "service.name=page");
    assert_eq!(http.headers()[FORWARDED], "for=\"10.0.0.1\"");
    assert!(!http.headers().contains_key(TRACEPARENT));
}

#[test]
fn an_empty_value_of_baggage_says_nothing() {
    assert_eq!(read_baggage(&["k8s.job.name=,service.name="]), Baggage::default());
}

fn read_baggage(lines: &[&str]) -> Baggage {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(BAGGAGE, line.parse().expect("a header value"));
    }
    Baggage::read(&headers)
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = text.parse::<Target>();
        let _ = text.parse::<TraceParent>();
        let _ = Forwarded::parse(&text);
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            let mut headers = HeaderMap::new();
            headers.append(BAGGAGE, value);
            Baggage::read(&headers);
        }
    }

    #[test]
    fn every_baggage_survives(values in prop::collection::vec("[^\\p{C}]{0,60}", 4)) {
        let baggage = Baggage {
            cluster: values[0].clone(), namespace: values[1].clone(), service: values[2].clone(), zone: values[3].clone(),
            ..Baggage::default()
        };
        prop_assert_eq!(read_baggage(&[&baggage.to_string()]), baggage);
    }

    #[test]
    fn every_target_survives(address: std::net::SocketAddr) {
        prop_assume!(address.port() != 0);
        let target = Target::from(match address {
            std::net::SocketAddr::V6(v6) => std::net::SocketAddr::new((*v6.ip()).into(), v6.port()),
            v4 @ std::net::SocketAddr::V4(_) => v4,
        });
        prop_assert_eq!(target.to_string().parse(), Ok(target));
    }

    #[test]
    fn what_forwarded_reads_it_writes(text in "(for=|host=|FOR=\"|;|,|\"|\\\\|\\[|\\]|10.0.0.1|::1|:80|a|-| ){0,12}") {
        if let Some(forwarded) = Forwarded::parse(&text) {
            prop_assert_eq!(Forwarded::parse(&forwarded.to_string()), Some(forwarded));
        }
    }
}
