//! The life cycle of captured pods, owned by one object: joining, leaving, dying, being taken up again.
//!
//! **Joining.** Namespace, listeners, routes for deliveries, capture in the kernel, accept loops, report to the controller:
//! the workload is advertised as HBONE only after that report. **Leaving.** HBONE is withdrawn and the withdrawal
//! acknowledged by every node, then the capture is released; listeners stay open a little longer for connections that
//! were under way, and established ones live until they end by themselves.
//!
//! A pod whose processes run already is not cut off while the word spreads: until every node knows that it speaks HBONE
//! (and again from the moment that is withdrawn), plaintext reaches it as it did outside the mesh. A pod that is
//! enrolled before its processes start has nothing to lose and is protected from the first byte.

mod succession;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use mesh_policy::model::{Identity, WorkloadUid};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::{
    listeners::Listeners,
    netns::{Netns, NetnsError},
    pod::{ConnectionCount, EndpointsInFlight, Lane, LocalPods, Pod, PodDial},
    record::{PodRecord, Records, Remembered},
    routing::{DeliveryRouting, RoutingError, Routings},
};
use crate::{
    balance::PodBalance,
    ebpf::{self, Bounds, Kernel, PodCapture},
    hbone, http, identity,
    inbound::{self, Inbound, ports::DeliveryPorts},
    metered::Metered,
    outbound::{self, Outbound},
    state::{Reporter, Store, client::chain},
    telemetry::Telemetry,
    worker::{WorkerId, Workers},
};

/// Listeners outlive the capture by this: a connection whose SYN was steered to them is still accepted.
const LINGER: Duration = Duration::from_secs(2);
/// Plaintext that another node planned before it acknowledged HBONE has arrived by then.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// How often the namespaces of captured pods are looked for.
const PATROL: Duration = Duration::from_secs(1);

/// Why a pod is not captured.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("{field} {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("the proxy's listeners could not be opened in the pod")]
    Listen(#[source] std::io::Error),
    #[error("no interface of the pod has the address {address}")]
    NoInterface { address: IpAddr },
    #[error(transparent)]
    Routing(#[from] RoutingError),
    #[error(transparent)]
    Kernel(#[from] ebpf::EbpfError),
    #[error("the pod could not be recorded on disk")]
    Record(#[source] std::io::Error),
    #[error("address {address} belongs to {holder}, which is captured on this node")]
    AddressTaken { address: IpAddr, holder: WorkloadUid },
    #[error("another process serves this node's pods now")]
    Retired,
}

/// Limits that one pod may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct PodLimits {
    /// Open connections, in and out together.
    pub connections: usize,
    /// Bytes that its tunnels may hold unread.
    pub tunnel_bytes: usize,
}

pub struct Agent {
    pub kernel: Kernel,
    pub records: Records,
    pub pods: Arc<LocalPods>,
    pub workers: Arc<Workers>,
    pub store: Arc<Store>,
    pub certificates: Arc<identity::Certificates>,
    /// Follow the mesh's settings.
    pub aliases: identity::Aliases,
    pub reporter: Arc<Reporter>,
    pub telemetry: Arc<Telemetry>,
    pub outbound: Arc<Outbound>,
    pub inbound: Arc<Inbound>,
    pub hbone: hbone::Settings,
    pub limits: PodLimits,
    pub routings: Arc<Routings>,
    /// One change at a time: enrolling costs milliseconds.
    pub changes: tokio::sync::Mutex<()>,
    /// Another process has taken over: no pod joins or leaves here any more.
    pub retired: AtomicBool,
    pub entries: Mutex<BTreeMap<WorkloadUid, Entry>>,
}

/// What the agent holds of a captured pod, beside what the data path sees.
pub struct Entry {
    record: Remembered,
    pod: Arc<Pod>,
    /// For the process after this one.
    listeners: Listeners,
    accepting: Vec<AbortHandle>,
    /// Keeps the certificate of the pod's identity; the identity follows the mesh's trust domain.
    certificate: Option<(Identity, identity::Guard)>,
    leaving: bool,
}

/// A row of `meshctl` and of the enrolment service.
pub struct PodStatus {
    pub record: PodRecord,
    pub leaving: bool,
    /// Its network namespace is there.
    pub alive: bool,
    pub connections: usize,
    pub cpu: Duration,
}

impl Agent {
    /// Captures a pod. Repeating it is harmless; a changed description replaces the one before.
    ///
    /// `running`: its processes have started, so that traffic may be under way.
    pub async fn enrol(self: &Arc<Self>, record: PodRecord, running: bool) -> Result<(), EnrolError> {
        validate(&record)?;
        let _one_at_a_time = self.changes.lock().await;
        self.is_serving()?;
        let uid = record.workload_uid();
        if self.lock().get(&uid).is_some_and(|entry| entry.record.pod == record && !entry.leaving && is_alive(&entry.record)) {
            return Ok(());
        }
        if self.lock().contains_key(&uid) {
            self.drop_pod(&uid)?;
        }
        self.refuse_taken_addresses(&record)?;
        let pod = self.capture(record, running, None).await?;
        // What is not served must not count as captured when it is asked for again.
        self.serve(&pod).or_else(|error| self.drop_pod(&uid).and(Err(error)))
    }

    /// Lets a pod go. Unknown pods are gone already, and so is one that was enrolled with another `pod_uid`.
    pub async fn unenrol(&self, uid: &WorkloadUid, pod_uid: Option<&str>) -> Result<(), EnrolError> {
        let pod = {
            let mut entries = self.lock();
            let Some(entry) = entries.get_mut(uid) else { return Ok(()) };
            if pod_uid.is_some_and(|pod_uid| pod_uid != entry.record.pod.pod_uid) {
                return Ok(());
            }
            entry.leaving = true;
            entry.pod.clone()
        };
        if netns_exists(&pod) {
            pod.leaving.store(true, Relaxed);
            if let Err(error) = self.reporter.release(uid).await {
                warn!(%uid, error = %chain(&error), "HBONE may still be tried for a pod that leaves; it is refused then");
            }
        } else {
            // Nobody can reach it any more: nothing to withdraw in order.
            let (reporter, uid) = (self.reporter.clone(), uid.clone());
            tokio::spawn(async move { drop(reporter.release(&uid).await) });
        }
        let _one_at_a_time = self.changes.lock().await;
        self.is_serving()?;
        // Meanwhile another pod of that name may have joined.
        let replaced = self.lock().get(uid).is_some_and(|entry| !Arc::ptr_eq(&entry.pod, &pod));
        if replaced { Ok(()) } else { self.drop_pod(uid) }
    }

    /// Looks after what changes by itself, for ever: pods that die without a word, and the mesh's trust domain.
    pub async fn patrol(self: Arc<Self>) {
        let mut snapshots = self.store.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(PATROL) => self.bury_the_dead().await,
                changed = snapshots.changed() => {
                    if changed.is_err() { return }
                    self.follow_snapshot();
                }
            }
        }
    }

    pub fn status(&self) -> Vec<PodStatus> {
        let row = |entry: &Entry| PodStatus {
            record: entry.record.pod.clone(),
            leaving: entry.leaving,
            alive: netns_exists(&entry.pod),
            connections: entry.pod.connections.open(),
            cpu: entry.pod.lanes.iter().map(|lane| lane.cost.total()).sum(),
        };
        self.lock().values().map(row).collect()
    }

    /// Everything but accepting. `handed`: the listeners of the process before this one; without, they are opened.
    async fn capture(
        self: &Arc<Self>,
        record: PodRecord,
        running: bool,
        handed: Option<Listeners>,
    ) -> Result<Arc<Pod>, EnrolError> {
        let netns = Arc::new(Netns::open(&record.netns_path)?);
        let cookie = netns.cookie()?;
        let primary = record.addresses[0];
        let (listeners, ifindex) = netns.run(|| {
            let listeners = handed.map_or_else(Listeners::open, Ok).map_err(EnrolError::Listen)?;
            Ok::<_, EnrolError>((listeners, interface_of(primary).ok_or(EnrolError::NoInterface { address: primary })?))
        })??;
        let routing = self.routings.set_up(cookie, &netns).await?;
        let pod = Arc::new(self.pod(&record, netns, &listeners, routing, running).map_err(EnrolError::Listen)?);
        let remembered = Remembered { pod: record, netns_cookie: cookie, running };
        self.records.save(&remembered).map_err(EnrolError::Record)?;
        self.kernel.enrol(&PodCapture {
            uid: &remembered.pod.uid,
            netns: pod.netns.as_fd(),
            cookie,
            ips: &remembered.pod.addresses,
            ifindex,
            outbound_ports: &listeners.outbound_ports().map_err(EnrolError::Listen)?,
            plaintext: listeners.plaintext.as_fd(),
            hbone: listeners.hbone.as_fd(),
            bounds: Bounds::default(),
        })?;
        self.pods.insert(&pod);
        let uid = pod.uid.clone();
        let accepting = Vec::new();
        let entry =
            Entry { record: remembered.clone(), pod: pod.clone(), listeners, accepting, certificate: None, leaving: false };
        self.lock().insert(uid.clone(), entry);
        self.follow_snapshot();
        self.telemetry.metrics.pods.set(i64::try_from(self.lock().len()).unwrap_or(i64::MAX));
        self.announce(pod.clone(), remembered);
        info!(%uid, "pod captured");
        Ok(pod)
    }

    /// Accepts what arrives at a captured pod: last, when it is known here and its certificate is asked for.
    fn serve(&self, pod: &Arc<Pod>) -> Result<(), EnrolError> {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&pod.uid).filter(|entry| Arc::ptr_eq(&entry.pod, pod)) else { return Ok(()) };
        let listeners = entry.listeners.try_clone().map_err(EnrolError::Listen)?;
        entry.accepting = self.accept(pod, listeners);
        Ok(())
    }

    fn pod(
        &self,
        record: &PodRecord,
        netns: Arc<Netns>,
        listeners: &Listeners,
        routing: DeliveryRouting,
        running: bool,
    ) -> std::io::Result<Pod> {
        let budget = hbone::Budget::new(self.limits.tunnel_bytes);
        let lane = |worker| self.lane(worker, &netns, &budget);
        Ok(Pod {
            uid: record.workload_uid(),
            namespace: record.namespace.as_str().into(),
            name: record.name.as_str().into(),
            service_account: record.service_account.as_str().into(),
            addresses: record.addresses.clone(),
            home: self.workers.home(),
            lanes: self.workers.ids().map(lane).collect(),
            netns,
            own_ports: listeners.own_ports()?,
            delivery_ports: DeliveryPorts::default(),
            budget,
            connections: ConnectionCount::new(self.limits.connections),
            in_flight: EndpointsInFlight::default(),
            balance: PodBalance::default(),
            mirrors: self.outbound.mirrors.pod(http::mirror::POD_LIMIT),
            plaintext_passes: AtomicBool::new(running),
            leaving: AtomicBool::new(false),
            routing,
            last_known: ArcSwapOption::default(),
        })
    }

    fn lane(&self, worker: WorkerId, netns: &Arc<Netns>, budget: &Arc<hbone::Budget>) -> Lane {
        let cost = self.workers.account(worker);
        let charged = cost.clone();
        let spawner = hbone::Spawner::new(move |task| drop(tokio::spawn(Metered::new(charged.clone(), task))));
        let idle_timeout = Duration::from_secs(self.store.load().mesh().hbone_idle_timeout_s);
        let settings = hbone::Settings { idle_timeout, spawner, ..self.hbone.clone() };
        let dial = PodDial { dialer: self.outbound.dialer.clone(), netns: netns.clone() };
        let upstreams = http::upstream::Pool::new(cost.clone(), http::upstream::Settings::default());
        Lane { cost, tunnels: hbone::Pool::new(dial, settings, budget.clone()), upstreams }
    }

    fn accept(&self, pod: &Arc<Pod>, listeners: Listeners) -> Vec<AbortHandle> {
        let home = self.workers.runtime(pod.home);
        let Listeners { outbound, plaintext, hbone } = listeners;
        let mut accepting = Vec::new();
        for listener in outbound {
            let serve = outbound::accept(self.outbound.clone(), pod.clone(), listener);
            accepting.push(home.spawn(serve).abort_handle());
        }
        for (listener, arrival) in [(plaintext, inbound::Arrival::Plaintext), (hbone, inbound::Arrival::Hbone)] {
            let serve = inbound::accept(self.inbound.clone(), pod.clone(), listener, arrival);
            accepting.push(home.spawn(serve).abort_handle());
        }
        accepting
    }

    /// Tells the controller that the capture stands; from its acknowledgement by all nodes on, plaintext is judged, and by whoever
    /// takes the pod up after this process, too.
    fn announce(self: &Arc<Self>, pod: Arc<Pod>, remembered: Remembered) {
        self.reporter.captured(&pod.uid);
        if !remembered.running {
            return;
        }
        let agent = self.clone();
        tokio::spawn(async move {
            agent.reporter.advertised(&pod.uid).await;
            tokio::time::sleep(UNDER_WAY).await;
            pod.plaintext_passes.store(false, Relaxed);
            let _one_at_a_time = agent.changes.lock().await;
            let is_there = agent.pods.get(&pod.uid).is_some_and(|there| Arc::ptr_eq(&there, &pod));
            if is_there
                && agent.is_serving().is_ok()
                && let Err(error) = agent.records.save(&Remembered { running: false, ..remembered })
            {
                warn!(uid = %pod.uid, %error, "the pod's record still has it as one that is joining");
            }
        });
    }

    /// Releases the capture and forgets the pod; its open connections go on.
    fn drop_pod(&self, uid: &WorkloadUid) -> Result<(), EnrolError> {
        self.kernel.release(&uid.0)?;
        let Some(entry) = self.lock().remove(uid) else { return Ok(()) };
        self.pods.remove(uid);
        self.telemetry.metrics.pods.set(i64::try_from(self.lock().len()).unwrap_or(i64::MAX));
        self.telemetry.metrics.forget_pod(&entry.pod.namespace, &entry.pod.name);
        self.records.forget(&uid.0).map_err(EnrolError::Record)?;
        tokio::spawn(async move {
            let Entry { record: _, pod: _, listeners, accepting, certificate, leaving: _ } = entry;
            tokio::time::sleep(LINGER).await;
            accepting.iter().for_each(AbortHandle::abort);
            drop((listeners, certificate));
        });
        info!(%uid, "pod released");
        Ok(())
    }

    async fn bury_the_dead(&self) {
        if self.retired.load(Relaxed) {
            return;
        }
        let dead: Vec<WorkloadUid> = {
            let entries = self.lock();
            entries.iter().filter(|(_, entry)| !netns_exists(&entry.pod)).map(|(uid, _)| uid.clone()).collect()
        };
        for uid in dead {
            warn!(%uid, "the pod's network namespace is gone: un-enrolling it");
            if let Err(error) = self.unenrol(&uid, None).await {
                error!(%uid, error = %chain(&error), "a dead pod could not be un-enrolled");
            }
        }
    }

    /// What the mesh says now: every captured pod's identity has its certificate asked for, in the mesh's present trust domain,
    /// and what is said of the pod is remembered.
    fn follow_snapshot(&self) {
        if self.store.generation() == 0 {
            // The trust domain is not known yet.
            return;
        }
        let snapshot = self.store.load();
        self.aliases.set(snapshot.mesh().trust_domain_aliases.clone());
        for entry in self.lock().values_mut() {
            entry.pod.remember(&snapshot);
            let identity = entry.pod.identity(&snapshot);
            if entry.certificate.as_ref().is_none_or(|(kept, _)| *kept != identity) {
                entry.certificate = Some((identity.clone(), self.certificates.retain(identity)));
            }
        }
    }

    fn refuse_taken_addresses(&self, record: &PodRecord) -> Result<(), EnrolError> {
        for (uid, entry) in self.lock().iter() {
            if let Some(address) = record.addresses.iter().find(|address| entry.pod.addresses.contains(address))
                && !entry.leaving
                && netns_exists(&entry.pod)
            {
                return Err(EnrolError::AddressTaken { address: *address, holder: uid.clone() });
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkloadUid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path still leads to the namespace that we hold.
fn netns_exists(pod: &Pod) -> bool {
    let ours = pod.netns.inode().ok();
    let there = std::fs::metadata(pod.netns.path()).ok().map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
    ours.is_some() && ours == there
}

fn is_alive(remembered: &Remembered) -> bool {
    let cookie = Netns::open(&remembered.pod.netns_path).and_then(|netns| netns.cookie());
    cookie.is_ok_and(|cookie| cookie == remembered.netns_cookie)
}

/// The index of the interface that carries an address, in the namespace that this thread is in.
fn interface_of(address: IpAddr) -> Option<u32> {
    let carries = |interface: &nix::ifaddrs::InterfaceAddress| {
        let Some(storage) = interface.address else { return false };
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        v4.or(v6) == Some(address)
    };
    let name = getifaddrs().ok()?.find(carries)?.interface_name;
    if_nametoindex(name.as_str()).ok()
}

fn validate(record: &PodRecord) -> Result<(), EnrolError> {
    let invalid = |field, problem: &str| Err(EnrolError::Invalid { field, problem: problem.into() });
    for (field, value) in [
        ("workload_uid", &record.uid),
        ("namespace", &record.namespace),
        ("name", &record.name),
        ("service_account", &record.service_account),
    ] {
        if value.is_empty() {
            return invalid(field, "is empty");
        }
        if value.len() > 1024 || value.chars().any(char::is_control) {
            return invalid(field, "is longer than 1024 bytes or has control characters");
        }
    }
    if record.addresses.is_empty() {
        return invalid("addresses", "names none");
    }
    let own = |address: &&IpAddr| address.is_loopback() || address.is_unspecified() || address.is_multicast();
    if let Some(address) = record.addresses.iter().find(own) {
        return invalid("addresses", &format!("has {address}, which is no address of a pod"));
    }
    Ok(())
}
