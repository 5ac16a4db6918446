//! Tables over the state machine, with both clocks in hand.

use super::*;

const HOUR: u64 = 3600;

/// The wall clock at the start of every test.
fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

fn at(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), wall: epoch() + Duration::from_secs(seconds) }
}

fn identity(account: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().expect("an identity")
}

/// A certificate of `hours` that was issued at second `issued`.
fn valid(issued: u64, hours: u64) -> Validity {
    let not_before = epoch() + Duration::from_secs(issued);
    Validity { not_before, not_after: not_before + Duration::from_secs(hours * HOUR) }
}

/// A book with one identity whose certificate of 24 hours came at second 0.
fn ready() -> Book {
    let mut book = Book::default();
    book.apply(Event::Retain(identity("page")), at(0), 0.5);
    assert_eq!(book.select(at(0)), Action::Fetch(identity("page")));
    book.apply(Event::Fetched(identity("page"), valid(0, 24)), at(0), 0.5);
    book
}

#[test]
fn fetched_once_however_many_pods_and_forgotten_with_the_last() {
    let mut book = Book::default();
    let page = identity("page");
    book.apply(Event::Retain(page.clone()), at(0), 0.0);
    book.apply(Event::Retain(page.clone()), at(0), 0.0);
    assert_eq!(book.state(&page), Some(State::Pending));
    assert_eq!(book.select(at(0)), Action::Fetch(page.clone()));
    assert_eq!(book.select(at(0)), Action::Sleep(LOOK));
    book.apply(Event::Fetched(page.clone(), valid(0, 24)), at(1), 0.0);
    assert_eq!(book.state(&page), Some(State::Ready));
    assert!(!book.apply(Event::Release(page.clone()), at(2), 0.0));
    assert!(book.apply(Event::Release(page.clone()), at(2), 0.0));
    assert_eq!(book.state(&page), None);
    assert!(!book.apply(Event::Fetched(page.clone(), valid(0, 24)), at(3), 0.0), "an answer that comes too late");
    assert_eq!(book.state(&page), None);
}

#[test]
fn renewed_at_half_life_give_or_take_a_tenth() {
    for (dice, minutes) in [(0.0, 648), (0.5, 720), (1.0, 792)] {
        let mut book = Book::default();
        book.apply(Event::Retain(identity("page")), at(0), dice);
        book.select(at(0));
        book.apply(Event::Fetched(identity("page"), valid(0, 24)), at(0), dice);
        let due = minutes * 60;
        assert_eq!(book.select(at(due - 60)), Action::Sleep(LOOK), "{dice}");
        assert_eq!(book.select(at(due + 1)), Action::Fetch(identity("page")), "{dice}");
    }
}

#[test]
fn failures_keep_the_certificate_and_back_off_to_150_seconds() {
    let mut book = ready();
    let page = identity("page");
    let mut now = 12 * HOUR + 1;
    for wait in [1, 2, 4, 8, 16, 32, 64, 128, 150, 150] {
        assert_eq!(book.select(at(now)), Action::Fetch(page.clone()));
        book.apply(Event::Failed(page.clone(), "away".into()), at(now), 0.0);
        assert_eq!(book.state(&page), Some(State::Failing));
        assert_eq!(book.last_error(&page), Some("away"));
        assert_eq!(book.select(at(now)), Action::Sleep(Duration::from_secs(wait).min(LOOK)));
        now += wait;
    }
    book.select(at(now));
    book.apply(Event::Fetched(page.clone(), valid(now, 24)), at(now), 0.5);
    assert_eq!((book.state(&page), book.last_error(&page)), (Some(State::Ready), None));
}

#[test]
fn a_clock_that_is_set_makes_nothing_due() {
    let mut book = ready();
    for seconds in [-600_i64, 600] {
        let wall = epoch().checked_add_signed(seconds);
        let now = Now { monotonic: Duration::from_mins(1), wall };
        assert_eq!(book.select(now), Action::Sleep(LOOK), "{seconds}");
    }
    // A clock behind the authority's: the new certificate seems to begin in the future.
    book.apply(Event::Fetched(identity("page"), valid(600, 24)), at(0), 0.5);
    assert_eq!(book.select(at(12 * HOUR - 60)), Action::Sleep(LOOK));
    assert_eq!(book.select(at(12 * HOUR)), Action::Fetch(identity("page")));
}

#[test]
fn what_has_expired_is_fetched_at_once_but_not_hammered_for() {
    let mut book = ready();
    let page = identity("page");
    let late = Now { monotonic: Duration::from_mins(1), wall: epoch() + Duration::from_secs(25 * HOUR) };
    assert_eq!(book.select(late), Action::Fetch(page.clone()));
    book.apply(Event::Failed(page, "away".into()), late, 0.0);
    assert_eq!(book.select(late), Action::Sleep(Duration::from_secs(1)));
}

#[test]
fn a_restored_certificate_is_renewed_by_its_age() {
    for (issued_before, expected) in [(HOUR, Action::Sleep(LOOK)), (13 * HOUR, Action::Fetch(identity("page")))] {
        let mut book = Book::default();
        book.apply(Event::Retain(identity("page")), at(14 * HOUR), 0.5);
        book.select(at(14 * HOUR));
        book.apply(Event::Fetched(identity("page"), valid(14 * HOUR - issued_before, 24)), at(14 * HOUR), 0.5);
        assert_eq!(book.select(at(14 * HOUR)), expected, "{issued_before}");
    }
}

#[test]
fn no_more_than_eight_at_a_time() {
    let mut book = Book::default();
    for index in 0..20 {
        book.apply(Event::Retain(identity(&format!("a{index}"))), at(0), 0.0);
    }
    let mut asked = Vec::new();
    while let Action::Fetch(identity) = book.select(at(0)) {
        asked.push(identity);
    }
    assert_eq!(asked.len(), MAX_FETCHES);
    book.apply(Event::Failed(asked[0].clone(), "away".into()), at(0), 0.0);
    assert!(matches!(book.select(at(0)), Action::Fetch(_)));
}

trait AddSigned {
    fn checked_add_signed(self, seconds: i64) -> SystemTime;
}

impl AddSigned for SystemTime {
    fn checked_add_signed(self, seconds: i64) -> SystemTime {
        let moved = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { self - moved } else { self + moved }
    }
}
