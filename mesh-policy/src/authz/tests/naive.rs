//! A second engine, written from the words of the specification and nothing else: everything is collected, written out
//! as text and compared, nothing stops early. On random policies it must agree with the first.

use std::net::{IpAddr, Ipv4Addr};

use proptest::{
    collection::vec,
    option,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof},
    sample::{select, subsequence},
};

use super::{cart, policy_key, texts};
use crate::{
    authz::{Connection, DecidedBy, DenyReason, Outcome, Verdict, decide},
    model::{
        Action, Authorization, Clause, Identity, IpMatch, Match, Model, PolicyKey, RequestMatch, Rule, Scope,
        ServiceAccountMatch, StringMatch, TrustDomain,
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
        let found = decide(&model.snapshot(), &cart, &connection);
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
            let held = clause.matches.iter().filter(|one| naive_match(one, caller)).count();
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

fn naive_match(one: &Match, caller: &Caller) -> bool {
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
    let failed = checks.iter().filter(|(values, not_values)| {
        let wanted = values.is_empty() || values.contains(&true);
        !wanted || not_values.contains(&true)
    });
    written > 0 && failed.count() == 0
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
    )
        .prop_map(move |(who, what)| Match {
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
            request: RequestMatch::default(),
        })
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
    (option::weighted(0.8, identity), address(), address(), select(vec![80u16, 8080, 9090]))
        .prop_map(|(identity, source, destination, port)| Caller { identity, source, destination, port })
}
