//! The kubelet of all nodes: at every tick it compares what the folder wants with what runs, and does the next step of each pod.
//!
//! `decide` is pure; the order of a pod's life is nowhere else: network, enrolment, application; and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    address::{self, Family},
    cgroup, enrol,
    folder::Folder,
    hosts,
    lab::Shared,
    netns, network,
    objects::{Objects, Pod, PodName},
    place::Place,
    pod::{LivePod, Wiring, backoff},
    status::{NodeStatus, Phase, PodStatus},
};

/// How often the folder is looked at when nothing is going on.
const IDLE: Duration = Duration::from_millis(200);
/// How often while a pod starts or ends.
const BUSY: Duration = Duration::from_millis(20);

/// Owns the pods.
pub(crate) struct Kubelet<'a> {
    shared: &'a Shared,
    folder: Folder,
    objects: Objects,
    pods: BTreeMap<PodName, LivePod>,
    /// Steps that failed: how often, why, and when to try again.
    failures: BTreeMap<PodName, Failure>,
    /// Counts pods ever made per node; gives each its addresses and link name.
    ordinals: BTreeMap<String, u32>,
    /// What the folder was last told of each pod.
    reported: BTreeMap<PodName, Value>,
    /// Pods of which the folder may have to be told something new.
    stale: BTreeSet<PodName>,
    /// Whether the published status is out of date.
    dirty: bool,
}

#[derive(Debug)]
struct Failure {
    count: u32,
    retry: Instant,
    message: String,
}

/// What a pod needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Give it a network.
    Create,
    /// Have it captured.
    Enrol,
    /// Let it out of the mesh.
    Unenrol,
    /// Start its containers.
    Start,
    /// Look after its containers.
    Look,
    /// Ask its containers to end.
    Terminate,
    /// Take it away when they have.
    Remove,
    /// It has no node: nothing can be done.
    Unscheduled,
}

/// What the folder wants of a pod.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    scheduled: bool,
    enrolled: bool,
}

/// What there is of it.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Whether it was made of what the folder says now.
    current: bool,
    stage: Stage,
    enrolled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has a network.
    Made,
    /// Its containers were started.
    Started,
    /// Its containers were asked to end.
    Terminating,
}

fn decide(wanted: Option<Wanted>, found: Option<Found>) -> Step {
    match (wanted, found) {
        (_, Some(found)) if found.stage == Stage::Terminating => Step::Remove,
        (None, _) => Step::Terminate,
        (Some(wanted), None) if wanted.scheduled => Step::Create,
        (Some(_), None) => Step::Unscheduled,
        (Some(_), Some(found)) if !found.current => Step::Terminate,
        (Some(wanted), Some(found)) => match (wanted.enrolled, found.enrolled) {
            (true, false) => Step::Enrol,
            (false, true) => Step::Unenrol,
            _ if found.stage == Stage::Made => Step::Start,
            _ => Step::Look,
        },
    }
}

impl<'a> Kubelet<'a> {
    pub(crate) fn new(shared: &'a Shared, folder: Folder, objects: Objects) -> Self {
        Self {
            shared,
            folder,
            objects,
            pods: BTreeMap::new(),
            failures: BTreeMap::new(),
            ordinals: BTreeMap::new(),
            reported: BTreeMap::new(),
            stale: BTreeSet::new(),
            dirty: true,
        }
    }

    /// Ticks until the lab is stopped.
    pub(crate) fn run(mut self) {
        loop {
            let settled = self.tick();
            if self.shared.rest(if settled { IDLE } else { BUSY }, settled) {
                return;
            }
        }
    }

    /// One round over all pods; `true` if there is nothing left to do.
    fn tick(&mut self) -> bool {
        let mut problems = Vec::new();
        match self.folder.refresh() {
            Ok(true) => {
                self.objects = self.folder.objects();
                self.dirty = true;
                problems.extend(self.update_hosts().err().map(|error| format!("{error:#}")));
            }
            Ok(false) => {}
            Err(error) => problems.push(format!("{error:#}")),
        }
        let names: BTreeSet<PodName> = self.objects.pods.keys().chain(self.pods.keys()).cloned().collect();
        let mut settled = true;
        for name in &names {
            match self.advance(name) {
                Ok(done) => settled &= done,
                Err(error) => {
                    settled = false;
                    let count = self.failures.get(name).map_or(0, |failure| failure.count + 1);
                    let retry = Instant::now() + backoff(count);
                    self.failures.insert(name.clone(), Failure { count, retry, message: format!("{error:#}") });
                    self.dirty = true;
                }
            }
        }
        self.failures.retain(|name, _| names.contains(name));
        problems.extend(self.folder.problems());
        problems.extend(self.failures.iter().map(|(name, failure)| format!("{name}: {}", failure.message)));
        let pods = self.dirty.then(|| self.pods.iter().map(|(name, pod)| (name.clone(), pod.status.clone())).collect());
        match self.shared.publish(pods, problems) {
            Ok(()) => self.dirty = false,
            Err(error) => eprintln!("lab: {error:#}"),
        }
        settled
    }

    /// Does the pod's steps as far as they go; `true` if it has come to rest.
    fn advance(&mut self, name: &PodName) -> Result<bool> {
        if self.failures.get(name).is_some_and(|failure| failure.retry > Instant::now()) {
            return Ok(false);
        }
        loop {
            let step = self.next_step(name);
            match step {
                Step::Create => self.create(name)?,
                Step::Enrol => self.enrol(name)?,
                Step::Unenrol => self.unenrol(name)?,
                Step::Start => self.pod(name).start()?,
                Step::Look => return self.look(name),
                Step::Terminate => {
                    let Some(pod) = self.pods.get_mut(name) else { return Ok(true) };
                    pod.begin_termination();
                    self.folder.remove_status(name)?;
                    self.reported.remove(name);
                }
                Step::Remove => {
                    if !self.pod(name).may_be_removed() {
                        return Ok(false);
                    }
                    self.remove(name)?;
                    if !self.objects.pods.contains_key(name) {
                        return Ok(true);
                    }
                }
                Step::Unscheduled => {
                    bail!("spec.nodeName names no node of this lab: there is no scheduler here");
                }
            }
            self.failures.remove(name);
            self.stale.insert(name.clone());
            self.dirty = true;
        }
    }

    fn next_step(&self, name: &PodName) -> Step {
        let desired = self.objects.pods.get(name);
        let wanted = desired.map(|pod| Wanted {
            scheduled: self.node_of(pod).is_some(),
            enrolled: self.shared.options.mesh && self.objects.enrolled(pod),
        });
        let found = self.pods.get(name).map(|pod| Found {
            current: desired.is_some_and(|desired| self.is_current(pod, desired)),
            stage: match (pod.terminating(), pod.started()) {
                (true, _) => Stage::Terminating,
                (false, true) => Stage::Started,
                (false, false) => Stage::Made,
            },
            enrolled: pod.status.enrolled,
        });
        decide(wanted, found)
    }

    /// Labels and annotations of a pod may change as it runs; what it was made of may not.
    fn is_current(&self, pod: &LivePod, desired: &Pod) -> bool {
        let families = pod.status.addresses.iter().copied().map(Family::of);
        pod.spec.spec == desired.spec
            && desired.metadata.uid.as_ref().is_none_or(|uid| *uid == pod.status.uid)
            && self.objects.families(desired).is_ok_and(|desired| families.eq(desired))
    }

    fn create(&mut self, name: &PodName) -> Result<()> {
        let spec = self.objects.pods[name].clone();
        let families = self.objects.families(&spec)?;
        let node_name = spec.spec.node_name.clone().context("the pod has a node")?;
        let slot = spec.address_slot()?;
        let counter = self.ordinals.entry(node_name.clone()).or_default();
        let ordinal = *counter;
        *counter += 1;
        let node = self.node_of(&spec).context("the pod has a node")?;

        let layout = &self.shared.layout;
        let wiring = Wiring {
            netns: layout.pod_netns(&name.namespace, &name.name),
            node: layout.node_netns(&node_name),
            link: format!("veth{ordinal}"),
        };
        let group = node.cgroup.join("kubepods").join(format!("{}.{}", name.namespace, name.name));
        let status = PodStatus {
            addresses: families.into_iter().map(|family| address::pod(family, node.index, slot.unwrap_or(ordinal))).collect(),
            uid: spec.metadata.uid.clone().unwrap_or_else(made_up_uid),
            place: Place {
                netns: netns::path(&wiring.netns),
                cgroup: group,
                hosts: Some(layout.hosts(&name.namespace)),
                environment: self.shared.environment(),
                helper: node.place.helper.clone(),
            },
            service_account: spec.spec.service_account_name.clone(),
            log: self.shared.logs.join(format!("{}.{}.log", name.namespace, name.name)),
            node: node_name,
            enrolled: false,
            phase: Phase::Pending,
            ready: false,
            processes: BTreeMap::new(),
            restarts: 0,
            message: None,
        };
        let (group, node_netns) = (status.place.cgroup.clone(), wiring.node.clone());
        let (netns, link) = (wiring.netns.clone(), wiring.link.clone());
        match LivePod::create(spec, wiring, status) {
            Ok(pod) => {
                self.pods.insert(name.clone(), pod);
                self.update_hosts()?;
                self.report(name)
            }
            Err(error) => {
                // The half of it that was made; the error that matters is the one above.
                let _ = network::remove_pod(&node_netns, &link, &netns);
                let _ = netns::remove(&netns);
                let _ = cgroup::destroy(&group);
                Err(error)
            }
        }
    }

    fn enrol(&mut self, name: &PodName) -> Result<()> {
        let node = self.node(name).clone();
        enrol::enrol(&self.shared.options.binaries, &node, name, &self.pods[name].status)?;
        self.pod(name).status.enrolled = true;
        Ok(())
    }

    fn unenrol(&mut self, name: &PodName) -> Result<()> {
        enrol::unenrol(&self.shared.options.binaries, self.node(name), name)?;
        self.pod(name).status.enrolled = false;
        Ok(())
    }

    fn look(&mut self, name: &PodName) -> Result<bool> {
        let node = &self.shared.nodes[&self.pods[name].status.node];
        let metadata = &self.objects.pods[name].metadata;
        let pod = self.pods.get_mut(name).expect("decide says so only of pods that exist");
        if pod.spec.metadata != *metadata {
            pod.spec.metadata = metadata.clone();
        }
        let changed = pod.look(node)?;
        let rests = pod.status.ready || matches!(pod.status.phase, Phase::Succeeded | Phase::Failed);
        self.dirty |= changed;
        if changed || self.stale.contains(name) {
            self.report(name)?;
        }
        Ok(rests)
    }

    fn remove(&mut self, name: &PodName) -> Result<()> {
        if self.pods[name].status.enrolled {
            // A proxy that is down holds nothing; the pod goes in any case.
            if let Err(error) = self.unenrol(name) {
                eprintln!("lab: {error:#}");
            }
        }
        self.pod(name).remove()?;
        self.pods.remove(name);
        self.stale.remove(name);
        self.dirty = true;
        self.update_hosts()
    }

    /// Tells the folder, if there is news.
    fn report(&mut self, name: &PodName) -> Result<()> {
        let status = self.pods[name].kubernetes_status(self.node(name));
        if self.reported.get(name) != Some(&status) {
            self.folder.write_status(name, &status)?;
            self.reported.insert(name.clone(), status);
        }
        self.stale.remove(name);
        Ok(())
    }

    fn update_hosts(&self) -> Result<()> {
        let addresses: BTreeMap<_, _> =
            self.pods.iter().map(|(name, pod)| (name.clone(), pod.status.addresses.clone())).collect();
        let namespaces: BTreeSet<&String> = self.pods.keys().map(|name| &name.namespace).collect();
        for namespace in namespaces {
            hosts::update(&self.shared.layout.hosts(namespace), &hosts::render(&self.objects, &addresses, namespace))?;
        }
        Ok(())
    }

    fn pod(&mut self, name: &PodName) -> &mut LivePod {
        self.pods.get_mut(name).expect("decide says so only of pods that exist")
    }

    fn node_of(&self, pod: &Pod) -> Option<&NodeStatus> {
        self.shared.nodes.get(pod.spec.node_name.as_ref()?)
    }

    fn node(&self, name: &PodName) -> &NodeStatus {
        &self.shared.nodes[&self.pods[name].status.node]
    }
}

/// A random UUID, version 4 (RFC 9562).
fn made_up_uid() -> String {
    let bits = fastrand::u128(..) & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let text = format!("{bits:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_goes_through_its_life_in_order() {
        let outside = Some(Wanted { scheduled: true, enrolled: false });
        let meshed = Some(Wanted { scheduled: true, enrolled: true });
        let new = Found { current: true, stage: Stage::Made, enrolled: false };
        let check = |wanted, found, expected| assert_eq!(decide(wanted, found), expected, "{wanted:?} {found:?}");

        check(meshed, None, Step::Create);
        check(meshed, Some(new), Step::Enrol);
        check(meshed, Some(Found { enrolled: true, ..new }), Step::Start);
        check(meshed, Some(Found { enrolled: true, stage: Stage::Started, ..new }), Step::Look);
        check(outside, Some(new), Step::Start);
        // The label of its namespace changes while it runs.
        check(outside, Some(Found { enrolled: true, stage: Stage::Started, ..new }), Step::Unenrol);
        check(meshed, Some(Found { stage: Stage::Started, ..new }), Step::Enrol);
        // Another command line: it goes and comes back.
        check(meshed, Some(Found { current: false, ..new }), Step::Terminate);
        check(meshed, Some(Found { stage: Stage::Terminating, ..new }), Step::Remove);
        check(None, Some(new), Step::Terminate);
        check(None, Some(Found { stage: Stage::Terminating, ..new }), Step::Remove);
        check(Some(Wanted { scheduled: false, enrolled: false }), None, Step::Unscheduled);
    }

    #[test]
    fn a_uid_is_a_uuid() {
        let uid = made_up_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!("89ab".contains(&uid[19..20]), "{uid}");
    }
}
