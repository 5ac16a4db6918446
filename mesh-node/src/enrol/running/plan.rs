//! What has to be done so that the pods which are captured are those that the controller names.

use std::collections::BTreeMap;

use mesh_proto::node::NodePod;

/// A pod that the node has, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Empty when whoever enrolled it did not say.
    pub pod_uid: String,
    pub leaving: bool,
    /// Its network namespace is there.
    pub alive: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step<'a> {
    Enrol(&'a NodePod),
    Release(&'a NodePod),
}

/// The steps for a list, by workload uid of what the node has. A pod that the list does not name is left as it is: the
/// controller may not know it yet. So is one whose name the list has with another `pod_uid`: the list may be older than the
/// pod, and a list that is newer says so again once the old one is gone.
pub fn steps<'a>(list: &'a [NodePod], captured: &BTreeMap<String, Captured>) -> Vec<Step<'a>> {
    let step = |pod: &'a NodePod| {
        let have = captured.get(&pod.workload_uid);
        if !pod.enrolled {
            let same = |have: &&Captured| have.pod_uid.is_empty() || have.pod_uid == pod.pod_uid;
            return have.filter(same).is_some_and(|have| !have.leaving).then_some(Step::Release(pod));
        }
        // Without an address it is still being made; the list comes again when it has one.
        let wanted = !pod.addresses.is_empty() && have.is_none_or(|have| have.pod_uid != pod.pod_uid && !have.alive);
        wanted.then_some(Step::Enrol(pod))
    };
    list.iter().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, pod_uid: &str, enrolled: bool) -> NodePod {
        NodePod {
            workload_uid: format!("Kubernetes//Pod/shop/{name}"),
            namespace: "shop".into(),
            name: name.into(),
            service_account: "default".into(),
            pod_uid: pod_uid.into(),
            addresses: vec!["10.0.0.1".into()],
            enrolled,
        }
    }

    fn check(pod: &NodePod, have: Option<&Captured>, expected: Option<Step>) {
        let captured = have.map(|have| (pod.workload_uid.clone(), have.clone())).into_iter().collect();
        let found = steps(std::slice::from_ref(pod), &captured);
        assert_eq!(found, Vec::from_iter(expected), "{pod:?} {have:?}");
    }

    #[test]
    fn pods_join_and_leave() {
        let (joins, leaves) = (pod("a", "1", true), pod("a", "1", false));
        let have = |pod_uid: &str, leaving, alive| Captured { pod_uid: pod_uid.into(), leaving, alive };
        check(&joins, None, Some(Step::Enrol(&joins)));
        check(&joins, Some(&have("1", false, true)), None);
        check(&leaves, None, None);
        check(&leaves, Some(&have("1", false, true)), Some(Step::Release(&leaves)));
        check(&leaves, Some(&have("", false, true)), Some(Step::Release(&leaves)));
        check(&leaves, Some(&have("1", true, true)), None);
    }

    #[test]
    fn another_pod_of_the_same_name_is_another_pod() {
        let (joins, leaves) = (pod("a", "1", true), pod("a", "1", false));
        let other = |alive| Captured { pod_uid: "2".into(), leaving: false, alive };
        check(&joins, Some(&other(true)), None);
        check(&joins, Some(&other(false)), Some(Step::Enrol(&joins)));
        check(&leaves, Some(&other(true)), None);
        check(&leaves, Some(&other(false)), None);
    }

    #[test]
    fn a_pod_without_an_address_is_waited_for() {
        let made = NodePod { addresses: Vec::new(), ..pod("a", "1", true) };
        check(&made, None, None);
    }
}
