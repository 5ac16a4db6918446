//! Ejections as tables, and against a model that lives through every interval.

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof},
};

use super::*;
use crate::fixtures::uid;

fn policy() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 3,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection_percent: 100,
        ..OutlierDetection::default()
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Outcomes of one endpoint of ten in turn: a status, `g14` for gRPC, `x` not reached, `t` timed out, `o` opened.
fn check(policy: &OutlierDetection, outcomes: &str, wanted: Option<Cause>) {
    let mut detector = Detector::new(s(0));
    let mut ejected = None;
    for text in outcomes.split_whitespace() {
        assert_eq!(ejected, None, "{outcomes:?}: ejected too early");
        let outcome = match text {
            "x" => Outcome::ConnectFailed,
            "t" => Outcome::TimedOut,
            "o" => Outcome::Opened,
            _ => match text.strip_prefix('g') {
                Some(grpc) => Outcome::Grpc(grpc.parse().unwrap()),
                None => Outcome::Status(text.parse().unwrap()),
            },
        };
        if let Judgement::Ejected(cause) = detector.record(policy, &uid("shop/a"), outcome, 10, s(1)) {
            ejected = Some(cause);
        }
    }
    assert_eq!(ejected, wanted, "{outcomes:?}");
    assert_eq!(detector.is_ejected(&uid("shop/a")), wanted.is_some());
}

#[test]
fn what_counts_in_a_row() {
    use Cause::{Consecutive5xx as Any, ConsecutiveGatewayErrors as Gateway, ConsecutiveLocalFailures as Local};
    let plain = policy();
    check(&plain, "500 500", None);
    check(&plain, "500 501 599", Some(Any));
    check(&plain, "500 500 200 500 500", None);
    check(&plain, "500 500 404 500 500 500", Some(Any));
    check(&plain, "x t 503", Some(Any));
    check(&plain, "x x o x x", None);
    check(&plain, "g14 g13 g2", Some(Any));
    check(&plain, "g14 g14 g5 g14", None);
    check(&plain, "g0 g1 g3 g7 g8 g16 g5 g6 g9 g11 g10", None);

    let gateway = OutlierDetection { consecutive_5xx: 0, consecutive_gateway_errors: 2, ..policy() };
    check(&gateway, "500 500 500 501", None);
    check(&gateway, "502 504", Some(Gateway));
    check(&gateway, "502 500 504 501 503", None);
    check(&gateway, "x t", Some(Gateway));
    let both = OutlierDetection { consecutive_gateway_errors: 2, ..policy() };
    check(&both, "500 503 503", Some(Gateway));
    check(&both, "503 500 503", Some(Any));

    let split = OutlierDetection { split_local_errors: true, consecutive_local_failures: 2, ..policy() };
    check(&split, "x 200 t 503 x", None);
    check(&split, "x t", Some(Local));
    check(&split, "500 500 x 500", Some(Any));
    check(&split, "x o x 404 x", None);
    let split_off = OutlierDetection { consecutive_local_failures: 0, ..split };
    check(&split_off, "x x x x x x", None);

    let named = OutlierDetection { error_statuses: vec![429, 503], consecutive_gateway_errors: 1, ..policy() };
    check(&named, "500 500 500 502 504", None);
    check(&named, "429 503 429", Some(Any));
    check(&named, "429 503 500 429", None);
    check(&named, "g8 g8 g8", Some(Any));
    check(&named, "x", Some(Gateway));

    let off = OutlierDetection { consecutive_5xx: 0, ..policy() };
    check(&off, "500 500 500 x x x t t t", None);
}

#[test]
fn the_share_of_the_ejected_is_bounded() {
    // percent, endpoints, how many can be ejected
    for (percent, endpoints, wanted) in [
        (10, 3, 0),
        (10, 9, 0),
        (10, 10, 1),
        (10, 19, 1),
        (10, 20, 2),
        (50, 3, 1),
        (34, 3, 1),
        (100, 3, 3),
        (250, 3, 3),
        (0, 100, 0),
    ] {
        let policy = OutlierDetection { max_ejection_percent: percent, ..policy() };
        let mut detector = Detector::new(s(0));
        for number in 0..endpoints {
            for _ in 0..3 {
                detector.record(&policy, &uid(&format!("shop/{number}")), Outcome::Status(500), endpoints, s(1));
            }
        }
        assert_eq!(detector.ejected_count(), wanted, "{percent} % of {endpoints}");
        assert_eq!(detector.ejected().count(), wanted);
    }
}

#[test]
fn one_that_was_spared_must_fail_as_often_again() {
    let policy = OutlierDetection { max_ejection_percent: 50, ..policy() };
    let mut detector = Detector::new(s(0));
    let mut fail = |name, times: usize| {
        (0..times).map(|_| detector.record(&policy, &uid(name), Outcome::Status(500), 2, s(1))).collect::<Vec<_>>()
    };
    assert_eq!(fail("shop/a", 3)[2], Judgement::Ejected(Cause::Consecutive5xx));
    let b = fail("shop/b", 6);
    let spared = Judgement::Spared(Cause::Consecutive5xx);
    assert_eq!(b, [Judgement::Nothing, Judgement::Nothing, spared, Judgement::Nothing, Judgement::Nothing, spared]);
}

/// When an endpoint comes back: at a tick, later with each ejection, sooner after good behavior.
#[test]
fn ejections_grow_and_shrink() {
    let policy = policy();
    let a = uid("shop/a");
    let mut detector = Detector::new(s(0));
    let eject = |detector: &mut Detector, now| {
        for _ in 0..3 {
            detector.record(&policy, &a, Outcome::Status(500), 1, now);
        }
        assert!(detector.is_ejected(&a));
    };
    let returns = |detector: &mut Detector, from: u64| {
        (from..from + 10_000).find(|now| detector.advance(&policy, s(*now))).expect("some day")
    };
    eject(&mut detector, s(4));
    assert_eq!(returns(&mut detector, 4), 40, "the first tick after 34");
    eject(&mut detector, s(41));
    assert_eq!(returns(&mut detector, 41), 110, "twice as long: the first tick after 101");
    eject(&mut detector, s(110));
    assert_eq!(returns(&mut detector, 110), 200, "thrice, on the tick itself");
    // 300 s are the longest.
    let mut now = 200;
    for _ in 0..12 {
        eject(&mut detector, s(now));
        let back = returns(&mut detector, now);
        assert!(back - now <= 300, "{now} to {back}");
        now = back;
    }
    // Two intervals out of trouble take two off eleven times 30 s, which is cut to 300 s; nine more leave nothing.
    detector.advance(&policy, s(now + 500));
    assert_eq!(detector.remembered(), 0);
    eject(&mut detector, s(now + 500));
    assert_eq!(returns(&mut detector, now + 500), now + 530);
}

#[test]
fn an_ejected_endpoint_is_not_counted_and_starts_anew() {
    let policy = OutlierDetection { consecutive_gateway_errors: 4, ..policy() };
    let a = uid("shop/a");
    let mut detector = Detector::new(s(0));
    for _ in 0..10 {
        detector.record(&policy, &a, Outcome::Status(503), 1, s(0));
    }
    assert!(detector.advance(&policy, s(30)));
    assert_eq!(detector.record(&policy, &a, Outcome::Status(503), 1, s(30)), Judgement::Nothing);
    assert!(!detector.is_ejected(&a));
}

#[test]
fn whoever_left_is_forgotten() {
    let policy = policy();
    let mut detector = Detector::new(s(0));
    for name in ["shop/a", "shop/b"] {
        for _ in 0..3 {
            detector.record(&policy, &uid(name), Outcome::Status(500), 2, s(0));
        }
    }
    detector.retain(|kept| *kept == uid("shop/b"));
    assert_eq!((detector.ejected_count(), detector.remembered()), (1, 1));
    assert_eq!(detector.next_tick(&policy), Some(s(10)));
}

#[derive(Clone, Debug)]
enum Step {
    Record { host: u8, outcome: Outcome },
    Pass { milliseconds: u64 },
    Leave { host: u8 },
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The detector, which works intervals off when it is asked, agrees with one that lives through each of them; the
    /// bound holds; and nothing is remembered for ever.
    #[test]
    fn agrees_with_a_model_that_ticks(policy in policies(), steps in vec(step(), 0..120)) {
        let mut now = Duration::ZERO;
        let mut detector = Detector::new(now);
        let mut model = Model { hosts: HashMap::new(), next_tick: policy.interval };
        for step in steps {
            match step {
                Step::Pass { milliseconds } => now += Duration::from_millis(milliseconds),
                Step::Record { host, outcome } => {
                    let host = uid(&format!("shop/{host}"));
                    model.pass(&policy, now);
                    let wanted = model.record(&policy, &host, outcome, now);
                    proptest::prop_assert_eq!(detector.record(&policy, &host, outcome, HOSTS, now), wanted);
                }
                Step::Leave { host } => {
                    let host = uid(&format!("shop/{host}"));
                    model.hosts.remove(&host);
                    detector.retain(|kept| *kept != host);
                }
            }
            model.pass(&policy, now);
            detector.advance(&policy, now);
            let mut ejected: Vec<_> = detector.ejected().cloned().collect();
            ejected.sort_unstable();
            let mut wanted: Vec<_> = model.hosts.iter().filter(|(_, host)| host.out.is_some()).map(|(uid, _)| uid.clone()).collect();
            wanted.sort_unstable();
            proptest::prop_assert_eq!(&ejected, &wanted);
            proptest::prop_assert_eq!(detector.ejected_count(), ejected.len());
            proptest::prop_assert!(100 * ejected.len() <= policy.max_ejection_percent.min(100) as usize * HOSTS);
        }
        // Enough for every ejection and every count of them; what stays is failures in a row.
        detector.advance(&policy, now + s(100_000));
        proptest::prop_assert_eq!(detector.ejected_count(), 0);
    }
}

const HOSTS: usize = 4;

/// Each rule as it is told, one tick after the other.
struct Model {
    hosts: HashMap<WorkloadUid, Told>,
    next_tick: Duration,
}

#[derive(Default)]
struct Told {
    any: u32,
    gateway: u32,
    local: u32,
    out: Option<Duration>,
    times: u32,
}

impl Model {
    fn pass(&mut self, policy: &OutlierDetection, now: Duration) {
        while self.next_tick <= now {
            let tick = self.next_tick;
            for host in self.hosts.values_mut() {
                match host.out {
                    None => host.times = host.times.saturating_sub(1),
                    Some(since) => {
                        let long = (policy.base_ejection * host.times).min(s(300).max(policy.base_ejection));
                        if since + long <= tick {
                            *host = Told { times: host.times, ..Told::default() };
                        }
                    }
                }
            }
            self.next_tick += policy.interval;
        }
    }

    fn record(&mut self, policy: &OutlierDetection, uid: &WorkloadUid, outcome: Outcome, now: Duration) -> Judgement {
        let out = self.hosts.values().filter(|host| host.out.is_some()).count();
        let host = self.hosts.entry(uid.clone()).or_default();
        if host.out.is_some() {
            return Judgement::Nothing;
        }
        let status = match outcome {
            Outcome::Status(status) => status,
            Outcome::Grpc(status) => http_of_grpc(status),
            Outcome::ConnectFailed if !policy.split_local_errors => 503,
            Outcome::TimedOut if !policy.split_local_errors => 504,
            Outcome::Opened => 200,
            Outcome::ConnectFailed | Outcome::TimedOut => {
                host.local += u32::from(policy.consecutive_local_failures > 0);
                if policy.consecutive_local_failures == 0 || host.local < policy.consecutive_local_failures {
                    return Judgement::Nothing;
                }
                host.local = 0;
                return Self::eject(policy, host, out, Cause::ConsecutiveLocalFailures, now);
            }
        };
        host.local = 0;
        if status < 500 {
            (host.any, host.gateway) = (0, 0);
            return Judgement::Nothing;
        }
        host.gateway = if (502..=504).contains(&status) { host.gateway + 1 } else { 0 };
        host.any += 1;
        let by_gateway = policy.consecutive_gateway_errors > 0 && host.gateway == policy.consecutive_gateway_errors;
        let by_any = policy.consecutive_5xx > 0 && host.any == policy.consecutive_5xx;
        host.gateway = if by_gateway { 0 } else { host.gateway };
        host.any = if by_any { 0 } else { host.any };
        match (by_gateway, by_any) {
            (true, _) => Self::eject(policy, host, out, Cause::ConsecutiveGatewayErrors, now),
            (false, true) => Self::eject(policy, host, out, Cause::Consecutive5xx, now),
            (false, false) => Judgement::Nothing,
        }
    }

    fn eject(policy: &OutlierDetection, host: &mut Told, out: usize, cause: Cause, now: Duration) -> Judgement {
        if (out + 1) as f64 * 100.0 / HOSTS as f64 > f64::from(policy.max_ejection_percent.min(100)) {
            return Judgement::Spared(cause);
        }
        if policy.base_ejection * host.times < s(300).max(policy.base_ejection) + policy.base_ejection {
            host.times += 1;
        }
        host.out = Some(now);
        Judgement::Ejected(cause)
    }
}

fn policies() -> impl Strategy<Value = OutlierDetection> {
    let counts = (0..4_u32, 0..4_u32, any::<bool>(), 0..4_u32);
    let times = (1..20_u64, 1..400_u64, prop_oneof![Just(25), Just(50), Just(100), 0..=100_u32]);
    (counts, times).prop_map(|((any, gateway, split, local), (interval, base, percent))| OutlierDetection {
        consecutive_5xx: any,
        consecutive_gateway_errors: gateway,
        split_local_errors: split,
        consecutive_local_failures: local,
        interval: s(interval),
        base_ejection: s(base),
        max_ejection_percent: percent,
        min_health_percent: 0,
        error_statuses: Vec::new(),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        1 => Just(Outcome::Status(200)),
        1 => Just(Outcome::Status(404)),
        1 => Just(Outcome::Opened),
        5 => prop_oneof![
            Just(Outcome::Status(500)),
            Just(Outcome::Status(503)),
            Just(Outcome::Grpc(14)),
            Just(Outcome::ConnectFailed),
            Just(Outcome::TimedOut),
        ],
    ];
    prop_oneof![
        8 => (0..HOSTS as u8, outcome).prop_map(|(host, outcome)| Step::Record { host, outcome }),
        2 => prop_oneof![0..3_000_u64, 0..200_000_u64].prop_map(|milliseconds| Step::Pass { milliseconds }),
        1 => (0..HOSTS as u8).prop_map(|host| Step::Leave { host }),
    ]
}
