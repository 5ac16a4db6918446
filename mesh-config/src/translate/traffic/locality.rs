//! Which endpoints come first by where they are (Istio's `GetEffectiveLbSetting`): the rule's setting, else the
//! service's `trafficDistribution`, else the mesh's.

use mesh_policy::model::{Distribution, LocalityPolicy, RoutingMode};

use crate::kinds::destination_rule::LocalityLbSetting;

/// `outlier`: endpoints can be found to be bad, without which nothing ever fails over.
pub(super) fn policy(
    own: Option<&LocalityLbSetting>,
    of_mesh: Option<&LocalityLbSetting>,
    outlier: bool,
    mode: RoutingMode,
) -> LocalityPolicy {
    match (mode, own) {
        // Only local endpoints, or the very address: there is nothing to choose. Or the service has chosen.
        (RoutingMode::Strict | RoutingMode::Passthrough, _) | (RoutingMode::Failover, None) => LocalityPolicy::OfService,
        (_, Some(own)) if own.enabled == Some(false) => LocalityPolicy::Off,
        (_, Some(own)) => applied(own, outlier).unwrap_or(LocalityPolicy::Off),
        (RoutingMode::Unspecified, None) => {
            // Enabled unless the mesh says otherwise, with nothing more in it.
            let default = LocalityLbSetting::default();
            let setting = of_mesh.unwrap_or(&default);
            let enabled = setting.enabled != Some(false);
            enabled.then(|| applied(setting, outlier)).flatten().unwrap_or(LocalityPolicy::OfService)
        }
    }
}

fn applied(setting: &LocalityLbSetting, outlier: bool) -> Option<LocalityPolicy> {
    let LocalityLbSetting { distribute, failover, failover_priority, enabled: _ } = setting;
    if !distribute.is_empty() {
        let share = |found: &crate::kinds::destination_rule::Distribute| Distribution {
            from: found.from.as_str().into(),
            to: found.to.iter().map(|(locality, percent)| (locality.as_str().into(), *percent)).collect(),
        };
        return Some(LocalityPolicy::Distribute { from: distribute.iter().map(share).collect() });
    }
    if !outlier {
        return None;
    }
    if !failover_priority.is_empty() {
        let label = |text: &String| match text.split_once('=') {
            Some((label, value)) => (label.into(), Some(value.into())),
            None => (text.as_str().into(), None),
        };
        return Some(LocalityPolicy::Priority { labels: failover_priority.iter().map(label).collect() });
    }
    let to = failover.iter().map(|found| (found.from.as_str().into(), found.to.as_str().into())).collect();
    Some(LocalityPolicy::Failover { to })
}
