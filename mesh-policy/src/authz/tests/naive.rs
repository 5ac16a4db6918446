//! A second engine, written from the words of the specification and nothing else: everything is collected, written out
//! as text and compared, nothing stops early. On random policies it must agree with the first.

use std::net::{IpAddr, Ipv4Addr};

use proptest::{
    collection::vec,
    option,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof},
    sample::{select, subsequence},
};

use super::{cart, paths, policy_key, texts};
use crate::{
    authz::{Connection, DecidedBy, DenyReason, Outcome, Verdict, decide, decide_request},
    http::tests::written::Written,
    model::{
        Action, Authorization, Clause, HeaderCondition, Identity, IpMatch, Match, Model, PathPattern, PolicyKey, RequestMatch,
        Rule, Scope, ServiceAccountMatch, StringMatch, TrustDomain, header::Name,
    },
};

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_agree(world in world(), caller in caller()) {
        let mut model = Model::default();
        world.policies.iter().cloned().for_each(|policy| model.upsert_policy(policy));
        let mut cart = cart();
        cart.policies.clone_from(&world.named);
        let connection = Connection {
            source_identity: caller.identity.as_ref(),
            source_ip: caller.source,
            destination_ip: caller.destination,
            destination_port: caller.port,
        };
        let found = match &caller.request {
            None => decide(&model.snapshot(), &cart, &connection),
            Some(written) => decide_request(&model.snapshot(), &cart, &connection, &written.request()),
        };
        proptest::prop_assert_eq!(found, naive(&world, &caller));
    }
}

fn naive(world: &World, caller: &Caller) -> Verdict {
    let of_scope = |scope| world.policies.iter().filter(move |policy| policy.scope == scope).collect::<Vec<_>>();
    let mut applying = of_scope(Scope::Global);
    applying.extend(of_scope(Scope::Namespace).iter().filter(|policy| &*policy.key.namespace == "shop"));
    for name in &world.named {
        applying.extend(world.policies.iter().filter(|policy| policy.key == *name));
    }
    let missing = world.named.iter().find(|name| !world.policies.iter().any(|policy| policy.key == **name));
    let enforced: Vec<_> = applying.iter().copied().filter(|policy| !policy.dry_run).collect();
    Verdict {
        outcome: naive_outcome(&enforced, missing, caller),
        dry_run: (enforced.len() < applying.len()).then(|| naive_outcome(&applying, missing, caller)),
    }
}

fn naive_outcome(policies: &[&Authorization], missing: Option<&PolicyKey>, caller: &Caller) -> Outcome {
    let matching = |action| {
        let of_action = policies.iter().filter(|policy| policy.action == action);
        let by = |policy: &&Authorization| {
            let rule = naive_policy(policy, caller)?;
            Some(DecidedBy { policy: policy.key.clone(), rule: Some(rule) })
        };
        of_action.filter_map(by).collect::<Vec<_>>()
    };
    let (denies, allows) = (matching(Action::Deny), matching(Action::Allow));
    let allow_count = policies.iter().filter(|policy| policy.action == Action::Allow).count();
    match (denies.first(), missing, allow_count, allows.first()) {
        (Some(by), _, _, _) => Outcome::Deny { reason: DenyReason::PolicyDeny, by: Some(by.clone()) },
        (None, Some(policy), _, _) => {
            let by = DecidedBy { policy: policy.clone(), rule: None };
            Outcome::Deny { reason: DenyReason::PolicyNotLoaded, by: Some(by) }
        }
        (None, None, 0, _) => Outcome::Allow { by: None },
        (None, None, _, Some(by)) => Outcome::Allow { by: Some(by.clone()) },
        (None, None, _, None) => Outcome::Deny { reason: DenyReason::NoAllowMatched, by: None },
    }
}

fn naive_policy(policy: &Authorization, caller: &Caller) -> Option<usize> {
    let mut matching = Vec::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        let mut failed_clauses = 0;
        for clause in &rule.clauses {
            let held = clause.matches.iter().filter(|one| naive_match(one, policy.action, caller)).count();
            if held == 0 && !clause.matches.is_empty() {
                failed_clauses += 1;
            }
        }
        if failed_clauses == 0 {
            matching.push(index);
        }
    }
    matching.first().copied()
}

fn naive_match(one: &Match, action: Action, caller: &Caller) -> bool {
    let (principal, namespace, account) = match &caller.identity {
        Some(id) => {
            let uri = id.to_string();
            let principal = uri.strip_prefix("spiffe://").expect("a SPIFFE identity").to_owned();
            (Some(principal), Some(id.namespace.to_string()), Some(format!("{}/{}", id.namespace, id.service_account)))
        }
        None => (None, None, None),
    };
    let is_text = |value: &Option<String>, text: &StringMatch| match (value, text) {
        (None, _) => false,
        (Some(value), StringMatch::Exact(exact)) => value == &**exact,
        (Some(value), StringMatch::Prefix(prefix)) => value.len() >= prefix.len() && value[..prefix.len()] == **prefix,
        (Some(value), StringMatch::Suffix(suffix)) => {
            value.len() >= suffix.len() && value[value.len() - suffix.len()..] == **suffix
        }
        (Some(_), StringMatch::Presence) => true,
    };
    let is_account = |wanted: &ServiceAccountMatch| account == Some(format!("{}/{}", wanted.namespace, wanted.name));
    // Both families as 128 bits, IPv4 in its mapped form: equal families, then equal leading bits.
    let in_range = |address: IpAddr, range: &IpMatch| {
        let wide = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => u128::from(v6),
        };
        let length = u32::from(range.0.prefix_len()) + if range.0.addr().is_ipv4() { 96 } else { 0 };
        let is_v4 = |bits: u128| bits >> 32 == 0xffff;
        let range_is_v4 = is_v4(wide(range.0.addr())) && length >= 96;
        is_v4(wide(address)) == range_is_v4
            && (0..length).all(|bit| (wide(address) ^ wide(range.0.addr())) >> (127 - bit) & 1 == 0)
    };
    let checks: Vec<(Vec<bool>, Vec<bool>)> = vec![
        (
            one.principals.iter().map(|text| is_text(&principal, text)).collect(),
            one.not_principals.iter().map(|text| is_text(&principal, text)).collect(),
        ),
        (
            one.namespaces.iter().map(|text| is_text(&namespace, text)).collect(),
            one.not_namespaces.iter().map(|text| is_text(&namespace, text)).collect(),
        ),
        (one.service_accounts.iter().map(is_account).collect(), one.not_service_accounts.iter().map(is_account).collect()),
        (
            one.source_ips.iter().map(|range| in_range(caller.source, range)).collect(),
            one.not_source_ips.iter().map(|range| in_range(caller.source, range)).collect(),
        ),
        (
            one.destination_ips.iter().map(|range| in_range(caller.destination, range)).collect(),
            one.not_destination_ips.iter().map(|range| in_range(caller.destination, range)).collect(),
        ),
        (
            one.destination_ports.iter().map(|port| *port == caller.port).collect(),
            one.not_destination_ports.iter().map(|port| *port == caller.port).collect(),
        ),
    ];
    let written: usize = checks.iter().map(|(values, not_values)| values.len() + not_values.len()).sum();
    let failed = checks.iter().filter(|check| !naive_check(check)).count();
    let speaks_of_requests = one.request != RequestMatch::default();
    let request_holds = match (speaks_of_requests, &caller.request, action) {
        (false, _, _) | (true, None, Action::Deny) => true,
        (true, None, Action::Allow) => false,
        (true, Some(written), _) => naive_request(&one.request, action, written, caller),
    };
    (written > 0 || speaks_of_requests) && failed == 0 && request_holds
}

fn naive_check((values, not_values): &(Vec<bool>, Vec<bool>)) -> bool {
    (values.is_empty() || values.contains(&true)) && !not_values.contains(&true)
}

fn naive_request(wanted: &RequestMatch, action: Action, written: &Written, caller: &Caller) -> bool {
    let text_is = |text: &StringMatch, value: &str| match text {
        StringMatch::Exact(exact) => value == &**exact,
        StringMatch::Prefix(prefix) => value.split_at_checked(prefix.len()).is_some_and(|(start, _)| start == &**prefix),
        StringMatch::Suffix(suffix) => {
            let reversed = |text: &str| text.chars().rev().collect::<String>();
            reversed(value).starts_with(&reversed(suffix))
        }
        StringMatch::Presence => true,
    };
    let request = written.request();
    // Templates become regular expressions.
    let path_is = |pattern: &PathPattern| match pattern {
        PathPattern::Text(text) => text_is(text, request.path),
        PathPattern::Template(template) => {
            let pattern = regex::escape(template.as_str()).replace("\\{\\*\\*\\}", ".*").replace("\\{\\*\\}", "[^/]+");
            regex::Regex::new(&format!("^{pattern}$")).expect("a pattern").is_match(request.path)
        }
    };
    let host_is = |text: &StringMatch| {
        let port = request.host_port.unwrap_or(if request.scheme == "https" { 443 } else { 80 });
        text_is(text, request.host) || text_is(text, &format!("{}:{port}", request.host))
    };
    let in_range = |range: &IpMatch| range.0.contains(&caller.source.to_canonical());
    let each = |texts: &[StringMatch], is: &dyn Fn(&StringMatch) -> bool| texts.iter().map(is).collect::<Vec<_>>();
    let method_is = |text: &StringMatch| text_is(text, request.method.as_str());
    let checks = [
        (each(&wanted.methods, &method_is), each(&wanted.not_methods, &method_is)),
        (each(&wanted.hosts, &host_is), each(&wanted.not_hosts, &host_is)),
        (wanted.paths.iter().map(path_is).collect(), wanted.not_paths.iter().map(path_is).collect()),
        (wanted.remote_ips.iter().map(in_range).collect(), wanted.not_remote_ips.iter().map(in_range).collect()),
    ];
    let header_holds = |condition: &HeaderCondition| {
        let values: Vec<&str> =
            request.headers.get_all(&condition.name.0).iter().map(|value| value.to_str().expect("text")).collect();
        let joined = values.join(",");
        let mut forms = values.clone();
        forms.extend((values.len() > 1).then_some(&*joined));
        let among = |texts: &[StringMatch], value: &&str| texts.iter().any(|text| text_is(text, value));
        let has_wanted = condition.values.is_empty() || forms.iter().any(|value| among(&condition.values, value));
        let unwanted = match action {
            Action::Allow => forms.iter().any(|value| among(&condition.not_values, value)),
            Action::Deny => !values.is_empty() && values.iter().all(|value| among(&condition.not_values, value)),
        };
        has_wanted && !unwanted
    };
    checks.iter().all(naive_check) && wanted.headers.iter().all(header_holds)
}

#[derive(Clone, Debug)]
struct World {
    policies: Vec<Authorization>,
    /// The policies that the destination names; some have not arrived.
    named: Vec<PolicyKey>,
}

#[derive(Clone, Debug)]
struct Caller {
    identity: Option<Identity>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    request: Option<Written>,
}

/// In the order of the model's map, which decides what policy is named where several match.
const KEYS: [&str; 6] = ["bank/a", "bank/b", "istio-system/a", "shop/a", "shop/b", "shop/c"];

fn world() -> impl Strategy<Value = World> {
    // Most named policies have arrived; one in eight worlds names one that has not.
    let late = prop_oneof![7 => Just(None), 1 => Just(Some(policy_key("shop/late")))];
    (subsequence(KEYS.to_vec(), 0..=KEYS.len()), late)
        .prop_flat_map(|(keys, late)| {
            let count = keys.len();
            let named = subsequence(keys.clone(), 0..=count);
            (Just(keys), vec(policy(), count), named, Just(late))
        })
        .prop_map(|(keys, policies, named, late)| World {
            policies: keys
                .into_iter()
                .zip(policies)
                .map(|(key, policy)| Authorization { key: policy_key(key), ..policy })
                .collect(),
            named: named.into_iter().map(policy_key).chain(late).collect(),
        })
}

fn policy() -> impl Strategy<Value = Authorization> {
    let scope = select(vec![Scope::Global, Scope::Namespace, Scope::Workload]);
    let action = select(vec![Action::Allow, Action::Deny]);
    (scope, action, proptest::bool::weighted(0.2), vec(rule(), 0..3)).prop_map(|(scope, action, dry_run, rules)| Authorization {
        key: policy_key("shop/unnamed"),
        scope,
        action,
        dry_run,
        rules,
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let clause = vec(one_match(), 0..3).prop_map(|matches| Clause { matches });
    vec(clause, 0..3).prop_map(|clauses| Rule { clauses })
}

/// Every attribute is mostly absent, else one or two of few values, so that matches are common.
fn one_match() -> impl Strategy<Value = Match> {
    let names = || few(&["shop", "sh*", "*op", "*", "bank", "shopping"]);
    let principals = || few(&["t/ns/shop/sa/page", "t/*", "*/sa/page", "*", "u/ns/*", "t/ns/shop/sa/cart"]);
    let text = |values: Vec<&'static str>| texts(&values.into_iter().map(String::from).collect::<Vec<_>>());
    let accounts = || {
        let account = |(namespace, name): (&str, &str)| ServiceAccountMatch { namespace: namespace.into(), name: name.into() };
        few(&[("shop", "page"), ("shop", "cart"), ("bank", "page")])
            .prop_map(move |values| values.into_iter().map(account).collect::<Vec<_>>())
    };
    let ranges = || {
        few(&["10.0.0.0/8", "10.1.0.5/32", "0.0.0.0/0", "::/0", "fd00::/16", "::ffff:10.1.0.0/120", "10.2.0.0/16"])
            .prop_map(|values| values.into_iter().map(|value| IpMatch(value.parse().expect("a range"))).collect::<Vec<_>>())
    };
    let ports = || few(&[80u16, 8080]);
    (
        (names(), names(), accounts(), accounts(), principals(), principals()),
        (ranges(), ranges(), ranges(), ranges(), ports(), ports()),
        request_match(),
    )
        .prop_map(move |(who, what, request)| Match {
            namespaces: text(who.0),
            not_namespaces: text(who.1),
            service_accounts: who.2,
            not_service_accounts: who.3,
            principals: text(who.4),
            not_principals: text(who.5),
            source_ips: what.0,
            not_source_ips: what.1,
            destination_ips: what.2,
            not_destination_ips: what.3,
            destination_ports: what.4,
            not_destination_ports: what.5,
            request,
        })
}

fn request_match() -> impl Strategy<Value = RequestMatch> {
    let text = |values: Vec<&'static str>| texts(&values.into_iter().map(String::from).collect::<Vec<_>>());
    let path = |values: Vec<&'static str>| paths(&values.into_iter().map(String::from).collect::<Vec<_>>());
    let methods = || few(&["GET", "POST", "P*", "*T", "*"]);
    let hosts = || few(&["cart", "cart:80", "ca*", "*rt", "*:8080", "*", "bank"]);
    let of_paths = || few(&["/a", "/a*", "*/b", "*", "/{*}/b", "/a/{**}", "/a/{*}"]);
    let ranges = || {
        few(&["10.0.0.0/8", "10.1.0.5/32", "fd00::/16"])
            .prop_map(|values| values.into_iter().map(|value| IpMatch(value.parse().expect("a range"))).collect::<Vec<_>>())
    };
    let texts_of = || few(&["1", "2", "1*", "*2", "*", "1,2"]);
    let header = (select(vec!["x-a", "x-b"]), texts_of(), texts_of()).prop_map(move |(name, values, not_values)| {
        HeaderCondition { name: Name(name.parse().expect("a header's name")), values: text(values), not_values: text(not_values) }
    });
    let headers = prop_oneof![6 => Just(()).prop_map(|()| Vec::new()), 1 => vec(header, 1..3)];
    let some = ((methods(), methods()), (hosts(), hosts()), (of_paths(), of_paths()), (ranges(), ranges()), headers).prop_map(
        move |(methods, hosts, paths, remote_ips, headers)| RequestMatch {
            hosts: text(hosts.0),
            not_hosts: text(hosts.1),
            methods: text(methods.0),
            not_methods: text(methods.1),
            paths: path(paths.0),
            not_paths: path(paths.1),
            remote_ips: remote_ips.0,
            not_remote_ips: remote_ips.1,
            headers,
        },
    );
    prop_oneof![1 => Just(()).prop_map(|()| RequestMatch::default()), 1 => some]
}

fn few<T: Copy + std::fmt::Debug + 'static>(values: &[T]) -> impl Strategy<Value = Vec<T>> + use<T> {
    prop_oneof![6 => Just(Vec::new()), 1 => vec(select(values.to_vec()), 1..3)]
}

fn caller() -> impl Strategy<Value = Caller> {
    let identity = (select(vec!["t", "u"]), select(vec!["shop", "bank", "shopping"]), select(vec!["page", "cart"])).prop_map(
        |(domain, namespace, account)| Identity::new(TrustDomain::new(domain).expect("a trust domain"), namespace, account),
    );
    let address = || {
        let v4 = select(vec![Ipv4Addr::new(10, 1, 0, 5), Ipv4Addr::new(10, 2, 0, 5), Ipv4Addr::new(192, 168, 0, 5)]);
        (v4, any::<u8>()).prop_map(|(v4, form)| match form % 4 {
            0 => IpAddr::V6(v4.to_ipv6_mapped()),
            1 => IpAddr::V6("fd00::5".parse().expect("an address")),
            _ => IpAddr::V4(v4),
        })
    };
    (option::weighted(0.8, identity), address(), address(), select(vec![80u16, 8080, 9090]), option::weighted(0.7, request()))
        .prop_map(|(identity, source, destination, port, request)| Caller { identity, source, destination, port, request })
}

fn request() -> impl Strategy<Value = Written> {
    let target = (
        select(vec!["GET", "POST", "PUT", "HEAD"]),
        select(vec!["http://cart", "http://cart:8080", "https://cart", "http://bank"]),
        select(vec!["/", "/a", "/a/b", "/ab", "/x/b", "/a/b/c", "/a/"]),
    );
    let headers = vec((select(vec!["x-a", "x-b"]), select(vec!["1", "2", "12", "1,2"])), 0..3);
    (target, headers).prop_map(|((method, origin, path), headers)| {
        let headers = headers.into_iter().map(|(name, value)| format!(" | {name}: {value}"));
        Written::read(&headers.fold(format!("{method} {origin}{path}"), |request, header| request + &header))
    })
}
