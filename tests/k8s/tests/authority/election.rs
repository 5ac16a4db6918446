//! Two controllers, one of which writes.

use std::time::{Duration, Instant};

use crate::surroundings::Surroundings;

#[tokio::test]
async fn one_leads_and_the_other_follows_it() {
    let found = Surroundings::new().await;
    let first = found.controller("one").await;
    first.is_elected().await;
    let second = found.controller("two").await;
    assert!(first.leads().await && !second.leads().await);

    // Killed: the lease has to run out. It says 6 s; looking takes a little.
    let begun = Instant::now();
    drop(first);
    second.is_elected().await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2), "nobody leads beside another: {took:?}");
    println!("the lease of a killed leader was taken after {took:?}");

    // Told to stop: the lease is given back at once.
    let third = found.controller("three").await;
    let begun = Instant::now();
    second.program.terminate().unwrap();
    third.is_elected().await;
    println!("a lease that was given back was taken after {:?}", begun.elapsed());
    found.remove(&[]).await;
}
