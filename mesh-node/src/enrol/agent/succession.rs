//! From one process of the node to the next: what runs is handed over, and what a crash left is taken up.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::task::AbortHandle;
use tracing::{error, info};

use super::{Agent, EnrolError, Entry, is_alive};
use crate::{
    ebpf,
    enrol::{
        handover::{Taken, wire::Parcel},
        listeners::Listeners,
        pod::Pod,
    },
    state::client::chain,
};

impl Agent {
    /// Takes up what the process before this one hands over, with its listeners.
    pub async fn take_over(self: &Arc<Self>, taken: Vec<Taken>) {
        let mut pods = Vec::new();
        for Taken { parcel: Parcel { pod, running, leaving }, listeners } in taken {
            let uid = pod.pod.workload_uid();
            match self.capture(pod.pod, running, Some(listeners)).await {
                Ok(pod) => pods.push(pod),
                Err(error) => error!(%uid, error = %chain(&error), "a pod could not be taken over; its traffic is refused"),
            }
            if leaving {
                let agent = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = agent.unenrol(&uid, None).await {
                        error!(%uid, error = %chain(&error), "a pod that leaves could not be released");
                    }
                });
            }
        }
        self.serve_all(&pods, "pod taken over");
    }

    /// Once all of them are known: a connection to a neighbor that is not would take it for another node's.
    fn serve_all(&self, pods: &[Arc<Pod>], what: &str) {
        for pod in pods {
            let uid = &pod.uid;
            match self.serve(pod) {
                Ok(()) => info!(%uid, "{what}"),
                Err(error) => error!(%uid, error = %chain(&error), "a captured pod is not served; its traffic is refused"),
            }
        }
    }

    /// Every pod with its listeners, for the process after this one. Nothing may change meanwhile.
    pub fn parcels(&self) -> std::io::Result<Vec<(Parcel, Listeners)>> {
        let parcel = |entry: &Entry| {
            let running = entry.pod.plaintext_passes.load(Relaxed);
            let parcel = Parcel { pod: entry.record.clone(), running, leaving: entry.leaving };
            Ok((parcel, entry.listeners.try_clone()?))
        };
        self.lock().values().map(parcel).collect()
    }

    /// Stops accepting, and changes nothing any more: another process does.
    pub fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.routings.retire();
        self.reporter.retire();
        for entry in self.lock().values() {
            entry.accepting.iter().for_each(AbortHandle::abort);
        }
    }

    pub(super) fn is_serving(&self) -> Result<(), EnrolError> {
        if self.retired.load(Relaxed) { Err(EnrolError::Retired) } else { Ok(()) }
    }

    /// Takes up what was captured when the node ended. What can not be taken up is released.
    pub async fn adopt(self: &Arc<Self>) {
        let remembered = match self.records.load() {
            Ok(records) => records,
            Err(error) => {
                error!(%error, "the records of captured pods can not be read: their traffic is refused until they are enrolled again");
                return;
            }
        };
        let mut pods = Vec::new();
        for remembered in remembered {
            match remembered {
                // Handed over with its listeners.
                Ok(remembered) if self.lock().contains_key(&remembered.pod.workload_uid()) => {}
                Ok(remembered) if is_alive(&remembered) => {
                    let uid = remembered.pod.workload_uid();
                    match self.capture(remembered.pod, remembered.running, None).await {
                        Ok(pod) => pods.push(pod),
                        Err(error) => {
                            error!(%uid, error = %chain(&error), "a captured pod could not be taken up; its traffic is refused");
                        }
                    }
                }
                Ok(gone) => {
                    let _ = self.kernel.release(&gone.pod.uid);
                    let _ = self.records.forget(&gone.pod.uid);
                    info!(uid = gone.pod.uid, "pod is gone: capture released");
                }
                Err(error) => {
                    error!(%error, "the record of a captured pod is damaged; its traffic is refused until it is enrolled again");
                }
            }
        }
        self.serve_all(&pods, "pod taken up again");
        self.release_strays();
    }

    /// What the kernel still captures for pods that nobody remembers.
    fn release_strays(&self) {
        let adopted = match self.kernel.adopted() {
            Ok(adopted) => adopted,
            Err(error) => return error!(error = %chain(&error), "the pinned captures can not be listed"),
        };
        let known: Vec<u64> = self.lock().keys().map(|uid| ebpf::uid_hash(&uid.0)).collect();
        for pod in adopted.into_iter().filter(|pod| pod.netns_inode.is_none() && !known.contains(&pod.uid_hash)) {
            match self.kernel.release_adopted(&pod) {
                Ok(()) => info!(addresses = ?pod.ips, "capture of a pod that is gone released"),
                Err(error) => error!(addresses = ?pod.ips, error = %chain(&error), "a stray capture stays"),
            }
        }
    }
}
