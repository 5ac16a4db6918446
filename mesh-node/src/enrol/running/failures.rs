//! Pods that belong to the mesh and could not be captured: who, why, and when it is tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mesh_proto::{
    enrol::{EnrolledPod, PodState},
    node::NodePod,
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_mins(1);

/// By workload uid.
#[derive(Debug, Default)]
pub struct Failures(Mutex<BTreeMap<String, Failure>>);

#[derive(Debug)]
struct Failure {
    pod: NodePod,
    message: String,
    pause: Duration,
    due: Instant,
}

impl Failures {
    /// Notes a failure; each of the same pod doubles the pause before the next try. Returns that pause.
    pub fn note(&self, pod: &NodePod, message: String) -> Duration {
        let mut failures = self.lock();
        let before = failures.get(&pod.workload_uid).filter(|before| before.pod.pod_uid == pod.pod_uid);
        let pause = before.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LAST_PAUSE));
        let failure = Failure { pod: pod.clone(), message, pause, due: Instant::now() + pause };
        failures.insert(pod.workload_uid.clone(), failure);
        pause
    }

    pub fn forget(&self, workload_uid: &str) {
        self.lock().remove(workload_uid);
    }

    /// Forgets all that are not among these.
    pub fn keep(&self, workload_uids: &BTreeSet<&str>) {
        self.lock().retain(|uid, _| workload_uids.contains(uid.as_str()));
    }

    /// Whether a pod may be tried.
    pub fn is_due(&self, pod: &NodePod) -> bool {
        let failures = self.lock();
        let before = failures.get(&pod.workload_uid).filter(|before| before.pod.pod_uid == pod.pod_uid);
        before.is_none_or(|before| before.due <= Instant::now())
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.lock().values().map(|failure| failure.due).min()
    }

    pub fn list(&self) -> Vec<EnrolledPod> {
        let row = |Failure { pod, message, .. }: &Failure| EnrolledPod {
            workload_uid: pod.workload_uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: pod.service_account.clone(),
            netns_path: String::new(),
            addresses: pod.addresses.clone(),
            state: PodState::Failed.into(),
            message: message.clone(),
            pod_uid: pod.pod_uid.clone(),
        };
        self.lock().values().map(row).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_makes_the_next_try_later() {
        let failures = Failures::default();
        let pod = NodePod { workload_uid: "w".into(), pod_uid: "1".into(), ..NodePod::default() };
        assert!(failures.is_due(&pod) && failures.next().is_none());
        let pauses: Vec<u64> = (0..8).map(|_| failures.note(&pod, "why".into()).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(!failures.is_due(&pod) && failures.next().is_some());
        assert_eq!(failures.list()[0].message, "why");
        // Another pod of the name has done nothing yet.
        let next = NodePod { pod_uid: "2".into(), ..pod };
        assert!(failures.is_due(&next));
        assert_eq!(failures.note(&next, "why".into()).as_secs(), 1);
        failures.keep(&["other"].into());
        assert!(failures.list().is_empty());
    }
}
