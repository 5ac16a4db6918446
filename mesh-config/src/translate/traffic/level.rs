//! How the levels of a DestinationRule come together: rule, port, subset, port of a subset.
//!
//! A subset's policy takes what it leaves unsaid from the rule's; settings of a port replace all of theirs (Istio's
//! `MergeSubsetTrafficPolicy`).

use std::collections::BTreeMap;

use crate::kinds::destination_rule::{
    ConnectionPoolSettings, LoadBalancerSettings, OutlierDetection, PortTrafficPolicy, RetryBudget, TrafficPolicy,
};

/// What one level says, of what can be followed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Level<'a> {
    pub(super) balancer: Option<&'a LoadBalancerSettings>,
    pub(super) pool: Option<&'a ConnectionPoolSettings>,
    pub(super) outlier: Option<&'a OutlierDetection>,
    pub(super) budget: Option<&'a RetryBudget>,
}

impl<'a> Level<'a> {
    fn of(policy: &'a TrafficPolicy) -> Self {
        Self {
            balancer: policy.load_balancer.as_ref(),
            pool: policy.connection_pool.as_ref(),
            outlier: policy.outlier_detection.as_ref(),
            budget: policy.retry_budget.as_ref(),
        }
    }

    fn of_port(settings: &'a PortTrafficPolicy) -> Self {
        Self {
            balancer: settings.load_balancer.as_ref(),
            pool: settings.connection_pool.as_ref(),
            outlier: settings.outlier_detection.as_ref(),
            budget: None,
        }
    }

    /// What a subset says over this; `whole`: nothing but the budget is taken from here.
    fn under(self, subset: Self, whole: bool) -> Self {
        let base = if whole { Self { budget: self.budget, ..Self::default() } } else { self };
        Self {
            balancer: subset.balancer.or(base.balancer),
            pool: subset.pool.or(base.pool),
            outlier: subset.outlier.or(base.outlier),
            budget: subset.budget.or(base.budget),
        }
    }
}

/// A policy and those of single ports.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels<'a> {
    pub(super) top: Level<'a>,
    pub(super) ports: BTreeMap<u16, Level<'a>>,
}

impl<'a> Levels<'a> {
    pub(super) fn of(policy: Option<&'a TrafficPolicy>) -> Self {
        let Some(policy) = policy else { return Self::default() };
        let of_port = |settings: &'a PortTrafficPolicy| {
            let number = u16::try_from(settings.port?.number).ok()?;
            Some((number, Level::of_port(settings)))
        };
        Self { top: Level::of(policy), ports: policy.port_level_settings.iter().filter_map(of_port).collect() }
    }

    pub(super) fn with_subset(&self, subset: Option<&'a TrafficPolicy>) -> Self {
        let subset = Self::of(subset);
        let numbers = self.ports.keys().chain(subset.ports.keys());
        let at = |number: &u16| {
            let base = self.ports.get(number).copied().unwrap_or(self.top);
            let own = subset.ports.get(number);
            (*number, base.under(own.copied().unwrap_or(subset.top), own.is_some()))
        };
        Self { top: self.top.under(subset.top, false), ports: numbers.map(at).collect() }
    }
}
