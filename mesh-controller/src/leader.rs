//! Which replica writes: the holder of a Lease (`coordination.k8s.io/v1`).
//!
//! The holder renews every two seconds. One that could not for two thirds of the lease's time stops writing, before anybody
//! else may begin: others wait until they have seen the same record for all of that time by their own clocks. Clocks of
//! different machines are never compared.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Of one question to the API server.
const PATIENCE: Duration = Duration::from_secs(3);

/// Takes part in an election.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    /// Ours, different from every other replica's.
    identity: String,
    duration: Duration,
    leading: watch::Sender<bool>,
    gauge: Gauge,
}

/// The record of the lease as it was last seen.
struct Observed {
    lease: Lease,
    /// When it was first seen like this.
    since: Instant,
}

/// What to do next.
#[derive(Debug, PartialEq)]
enum Step {
    /// Write this record, made of the one that was seen.
    Write(Box<Lease>),
    Wait,
}

impl Elector {
    /// `duration`: how long a holder counts that nobody hears of; at least 3 s. The receiver says whether this replica leads.
    pub fn new(
        client: Client,
        (namespace, name): (&str, &str),
        identity: String,
        duration: Duration,
        gauge: Gauge,
    ) -> (Self, watch::Receiver<bool>) {
        let (leading, receiver) = watch::channel(false);
        gauge.set(0);
        let api = Api::namespaced(client, namespace);
        (Self { api, name: name.to_owned(), identity, duration, leading, gauge }, receiver)
    }

    /// Takes part until it is told to stop, and gives a held lease back then.
    pub async fn run(self, mut stop: oneshot::Receiver<()>) {
        let mut observed: Option<Observed> = None;
        let mut renewed: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            // An answer may come late; holding on may not.
            let deadline = renewed.map_or(PATIENCE, |at| (at + self.hold()).saturating_duration_since(asked).min(PATIENCE));
            tokio::select! {
                result = timeout(deadline, self.round(&mut observed)) => match result {
                    Ok(Ok(true)) => {
                        renewed = Some(asked);
                        self.set(true);
                    }
                    Ok(Ok(false)) => {
                        renewed = None;
                        self.set(false);
                    }
                    Ok(Err(error)) => self.doubt(&mut renewed, &error.to_string()),
                    Err(_) => self.doubt(&mut renewed, "the API server does not answer"),
                },
                _ = &mut stop => break,
            }
            // Half a second of luck keeps replicas from asking in step.
            let pause = RENEW_EVERY.min(self.duration / 5) + Duration::from_millis(fastrand::u64(..100));
            tokio::select! {
                () = sleep(pause) => {}
                _ = &mut stop => break,
            }
        }
        let led = *self.leading.borrow();
        // Whoever writes stops before anybody else may begin.
        self.set(false);
        if led {
            self.release(observed).await;
        }
    }

    /// How long a holder goes on without having renewed.
    fn hold(&self) -> Duration {
        self.duration * 2 / 3
    }

    /// Reads, and writes if it is our turn; whether we lead.
    async fn round(&self, observed: &mut Option<Observed>) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let Some(found) = found else {
            let mut lease = Lease::default();
            lease.metadata.name = Some(self.name.clone());
            lease.spec = Some(self.held(None));
            let made = self.api.create(&PostParams::default(), &lease).await;
            return Self::written(made, observed);
        };
        let now = Instant::now();
        let unchanged = observed.as_ref().filter(|seen| seen.lease.spec == found.spec).map(|seen| seen.since);
        let seen = Observed { lease: found, since: unchanged.unwrap_or(now) };
        let step = self.step(&seen.lease, now - seen.since);
        *observed = Some(seen);
        match step {
            Step::Wait => Ok(false),
            Step::Write(lease) => {
                // The version that was read goes along: of two who write one is refused.
                let made = self.api.replace(&self.name, &PostParams::default(), &lease).await;
                Self::written(made, observed)
            }
        }
    }

    fn written(made: Result<Lease, kube::Error>, observed: &mut Option<Observed>) -> Result<bool, kube::Error> {
        match made {
            Ok(lease) => {
                *observed = Some(Observed { lease, since: Instant::now() });
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What follows from a record that has been the same for a while.
    fn step(&self, lease: &Lease, unchanged_for: Duration) -> Step {
        let empty = LeaseSpec::default();
        let spec = lease.spec.as_ref().unwrap_or(&empty);
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        let lasts = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        if holder.is_some_and(|holder| holder != self.identity) && unchanged_for < lasts {
            return Step::Wait;
        }
        Step::Write(Box::new(Lease { spec: Some(self.held(Some(spec))), ..lease.clone() }))
    }

    /// The record that says that we hold the lease.
    fn held(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)),
            lease_transitions: Some(if ours.is_some() || before.is_none() { transitions } else { transitions.saturating_add(1) }),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    /// Nobody could be asked: a leader goes on for a while.
    fn doubt(&self, renewed: &mut Option<Instant>, cause: &str) {
        if renewed.is_some_and(|at| at.elapsed() < self.hold()) {
            warn!(cause, "the lease is not renewed yet");
            return;
        }
        if renewed.take().is_some() {
            warn!(cause, "the lease could not be renewed: no longer leading");
        }
        self.set(false);
    }

    fn set(&self, leads: bool) {
        let changed = self.leading.send_if_modified(|before| std::mem::replace(before, leads) != leads);
        if changed {
            self.gauge.set(i64::from(leads));
            info!(lease = self.name, identity = self.identity, leads, "leadership");
        }
    }

    async fn release(&self, observed: Option<Observed>) {
        let Some(Observed { lease, .. }) = observed else { return };
        let Some(spec) = &lease.spec else { return };
        let released = LeaseSpec { holder_identity: None, lease_duration_seconds: Some(1), ..spec.clone() };
        let lease = Lease { spec: Some(released), ..lease };
        match timeout(PATIENCE, self.api.replace(&self.name, &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, "the lease is not given back: it runs out"),
            Err(_) => warn!("the lease is not given back: it runs out"),
        }
    }
}

/// Does work while this replica leads: begun anew at each election, dropped in the very moment in which leadership ends.
/// Ends with the elector.
pub async fn while_leading<W: Future<Output = ()>>(mut leading: watch::Receiver<bool>, work: impl Fn() -> W) {
    loop {
        if leading.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            ended = leading.wait_for(|leads| !*leads) => if ended.is_err() {
                return;
            },
            // Work that ends by itself is begun again, but not at once.
            () = async { work().await; sleep(RENEW_EVERY).await } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elector(identity: &str) -> Elector {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("nobody is there"))
        });
        let client = Client::new(service, "default");
        Elector::new(client, ("system", "lease"), identity.into(), Duration::from_secs(15), Gauge::default()).0
    }

    fn lease(holder: &str, seconds: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(3),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    /// The record that would be written; None: it waits.
    fn written(lease: &Lease, unchanged_for: u64) -> Option<LeaseSpec> {
        match elector("a").step(lease, Duration::from_secs(unchanged_for)) {
            Step::Write(lease) => lease.spec,
            Step::Wait => None,
        }
    }

    #[tokio::test]
    async fn a_held_lease_is_waited_for_and_an_old_one_is_taken() {
        assert_eq!(written(&lease("b", 15), 0), None);
        assert_eq!(written(&lease("b", 15), 14), None);
        let taken = written(&lease("b", 15), 15).unwrap();
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("a"), Some(4)));
        assert_ne!(taken.acquire_time, Some(MicroTime(Timestamp::UNIX_EPOCH)));
        // What counts is the holder's own idea of how long it lasts.
        assert!(written(&lease("b", 1), 1).is_some());
        assert!(written(&lease("", 15), 0).is_some(), "it was given back");
        assert!(written(&Lease::default(), 0).is_some(), "it says nothing");
        assert!(written(&lease("b", -5), 0).is_some());
    }

    #[tokio::test]
    async fn the_holder_renews_at_once_and_keeps_its_record() {
        let renewed = written(&lease("a", 15), 0).unwrap();
        assert_eq!((renewed.holder_identity.as_deref(), renewed.lease_transitions), (Some("a"), Some(3)));
        assert_eq!(renewed.acquire_time, Some(MicroTime(Timestamp::UNIX_EPOCH)));
        assert!(renewed.renew_time.is_some());
    }

    #[tokio::test]
    async fn a_leader_that_hears_nothing_stops_before_its_lease_ends() {
        let elector = elector("a");
        let leading = elector.leading.subscribe();
        elector.set(true);
        let ago = |seconds: u64| Instant::now().checked_sub(Duration::from_secs(seconds));
        let mut renewed = ago(9);
        elector.doubt(&mut renewed, "test");
        assert!(*leading.borrow());
        renewed = ago(10);
        elector.doubt(&mut renewed, "test");
        assert!(!*leading.borrow(), "at 10 of 15 seconds");
    }

    #[tokio::test]
    async fn work_is_dropped_in_the_moment_in_which_leadership_ends() {
        let (sender, leading) = watch::channel(false);
        let (begun, mut beginnings) = watch::channel(0);
        let working = std::sync::Arc::new(());
        let held = working.clone();
        let task = tokio::spawn(while_leading(leading, move || {
            begun.send_modify(|count| *count += 1);
            let held = held.clone();
            async move {
                std::future::pending::<()>().await;
                drop(held);
            }
        }));
        for term in 1..=2 {
            sender.send_replace(true);
            beginnings.wait_for(|count| *count == term).await.unwrap();
            sender.send_replace(false);
            while std::sync::Arc::strong_count(&working) > 2 {
                tokio::task::yield_now().await;
            }
        }
        drop(sender);
        task.await.unwrap();
    }
}
