//! When to try again, as VirtualService and MeshConfig say it (istio's `retry.ConvertPolicy`).

use mesh_policy::model::{RetryCondition, RetryOn, RetryPolicy};

use crate::kinds::virtual_service::HttpRetry;

pub(super) fn policy(found: &HttpRetry) -> RetryPolicy {
    let HttpRetry { attempts, per_try_timeout, retry_on, retry_remote_localities, retry_ignore_previous_hosts, backoff } = found;
    let attempts = u32::try_from(*attempts).unwrap_or(0);
    if attempts == 0 {
        return RetryPolicy::never();
    }
    let default = RetryPolicy::default();
    RetryPolicy {
        attempts,
        per_try_timeout: per_try_timeout.map(|span| span.0),
        on: if retry_on.is_empty() { default.on.clone() } else { conditions(retry_on) },
        backoff: backoff.map_or(default.backoff, |span| span.0),
        avoid_previous: retry_ignore_previous_hosts.unwrap_or(default.avoid_previous),
        remote_localities: retry_remote_localities.unwrap_or(default.remote_localities),
        ..default
    }
}

/// Names of conditions and bare statuses, separated by commas.
fn conditions(text: &str) -> RetryOn {
    let mut on = RetryOn { conditions: [].into(), statuses: Vec::new(), headers: Vec::new() };
    for part in text.split(',').map(str::trim) {
        if let Some(condition) = RetryCondition::of_name(part) {
            on.conditions.insert(condition);
        } else if let Ok(status) = part.parse() {
            on.statuses.push(status);
            on.conditions.insert(RetryCondition::RetriableStatusCodes);
        }
    }
    on
}
