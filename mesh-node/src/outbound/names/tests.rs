//! Names against a server of names that says what the test wants.

use std::{collections::VecDeque, sync::atomic::AtomicUsize};

use tokio::sync::Notify;

use super::*;

/// Gives answers in turn, each once it may; the last for ever.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Result<Answer, LookupError>>>>,
    asked: Arc<AtomicUsize>,
    /// None: at once.
    held: Option<Arc<Notify>>,
}

impl Script {
    fn of(answers: impl IntoIterator<Item = Result<Answer, LookupError>>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

impl Resolve for Script {
    fn lookup(&self, _: &str) -> Lookup {
        self.asked.fetch_add(1, Relaxed);
        let mut answers = self.answers.lock().expect("nobody panics");
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        let held = self.held.clone();
        Box::pin(async move {
            if let Some(held) = held {
                held.notified().await;
            }
            answer.expect("an answer")
        })
    }
}

fn answer(addresses: &[&str], ttl: Duration) -> Answer {
    Answer { addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(), ttl }
}

fn names(script: &Script) -> Arc<Names> {
    Names::new(script.clone(), PATIENCE)
}

async fn ask(names: &Arc<Names>) -> Result<Vec<String>, Reason> {
    let found = names.addresses(&"api.example.com".into(), "10.0.0.1".parse().expect("an address")).await;
    found.map(|found| found.iter().map(ToString::to_string).collect()).map_err(|failure| failure.reason)
}

/// As if `since` had passed: no clock stands still for a test.
fn age(names: &Names, since: Duration) {
    let earlier = |when: Instant| when.checked_sub(since).expect("the machine has run for longer");
    for entry in names.known().values_mut() {
        entry.answer = entry.answer.take().map(|(addresses, until)| (addresses, earlier(until)));
        entry.failed = entry.failed.take().map(|(why, when)| (why, earlier(when)));
    }
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn an_answer_is_used_for_its_time_and_renewed_behind_who_asks() {
    let script = Script::of([Ok(answer(&["192.0.2.1"], LONG)), Ok(answer(&["192.0.2.2"], LONG))]);
    let names = names(&script);
    for _ in 0..3 {
        assert_eq!(ask(&names).await, Ok(vec!["192.0.2.1".into()]));
    }
    assert_eq!(script.asked(), 1);
    age(&names, LONG);
    assert_eq!(ask(&names).await, Ok(vec!["192.0.2.1".into()]), "the old answer serves meanwhile");
    while ask(&names).await != Ok(vec!["192.0.2.2".into()]) {
        tokio::task::yield_now().await;
    }
    assert_eq!(script.asked(), 2);
    age(&names, LONG + GRACE);
    assert_eq!(ask(&names).await, Ok(vec!["192.0.2.2".into()]), "asked anew");
    assert_eq!(script.asked(), 3);
}

#[tokio::test]
async fn who_comes_during_a_lookup_waits_for_the_same() {
    let held = Arc::new(Notify::new());
    let script = Script { held: Some(held.clone()), ..Script::of([Ok(answer(&["192.0.2.1"], LONG))]) };
    let names = names(&script);
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let names = names.clone();
            tokio::spawn(async move { ask(&names).await })
        })
        .collect();
    while script.asked() == 0 {
        tokio::task::yield_now().await;
    }
    held.notify_one();
    for one in asking {
        assert_eq!(one.await.expect("a task"), Ok(vec!["192.0.2.1".into()]));
    }
    assert_eq!(script.asked(), 1);
}

#[tokio::test]
async fn the_last_good_answer_outlives_servers_that_fail_and_no_denial() {
    let lost = || Err(LookupError::Failed("nobody answers".into()));
    let script =
        Script::of([Ok(answer(&["192.0.2.1"], LONG)), lost(), Err(LookupError::NoAddress), Ok(answer(&["192.0.2.3"], LONG))]);
    let names = names(&script);
    assert!(ask(&names).await.is_ok());
    age(&names, LONG + GRACE);
    for _ in 0..3 {
        assert_eq!(ask(&names).await, Ok(vec!["192.0.2.1".into()]));
    }
    assert_eq!(script.asked(), 2, "a failure is not repeated at once");
    age(&names, PAUSE);
    assert_eq!(ask(&names).await, Ok(vec!["192.0.2.1".into()]), "nobody waits for servers that were silent before");
    while ask(&names).await != Err(Reason::NameNotResolved) {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&names).await, Err(Reason::NameNotResolved));
    assert_eq!(script.asked(), 3);
    age(&names, PAUSE);
    assert_eq!(ask(&names).await, Ok(vec!["192.0.2.3".into()]));
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let script = Script { held: Some(Arc::new(Notify::new())), ..Script::of([Ok(answer(&["192.0.2.1"], LONG))]) };
    let names = Names::new(script, Duration::from_millis(10));
    assert_eq!(ask(&names).await, Err(Reason::NameNotResolved));
}

#[tokio::test]
async fn a_name_does_not_point_a_pod_at_itself() {
    let script = Script::of([Ok(answer(&["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1"], LONG))]);
    assert_eq!(ask(&names(&script)).await, Err(Reason::NameNotResolved));
}

#[tokio::test]
async fn names_are_forgotten_beyond_a_bound() {
    let script = Script::of([Ok(answer(&["192.0.2.1"], LONG))]);
    let names = names(&script);
    for at in 0..MOST_NAMES + 10 {
        let name = format!("{at}.example.com").into();
        names.addresses(&name, "10.0.0.1".parse().expect("an address")).await.expect("an answer");
    }
    assert_eq!(names.known().len(), MOST_NAMES);
}

#[test]
fn families_alternate_and_addresses_take_turns() {
    let addresses: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|text| text.parse().expect("an address")).into();
    let order = |turn, like: &str| {
        let found = in_order(&addresses, turn, like.parse().expect("an address"));
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order(0, "10.0.0.1"), "192.0.2.1 2001:db8::1 192.0.2.2");
    assert_eq!(order(1, "10.0.0.1"), "192.0.2.2 2001:db8::1 192.0.2.1");
    assert_eq!(order(2, "::ffff:10.0.0.1"), "192.0.2.1 2001:db8::1 192.0.2.2");
    assert_eq!(order(0, "fd00::1"), "2001:db8::1 192.0.2.1 192.0.2.2");
}
