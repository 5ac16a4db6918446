//! Looks, for ever, whether the plugin is in place.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::{info, warn};

use super::install::{CniError, Installer};
use crate::state::client::chain;

/// Half a dozen small files are read each time.
const PATROL: Duration = Duration::from_secs(1);

/// What the node's readiness says of the plugin.
#[derive(Debug)]
pub struct Standing(Mutex<Option<String>>);

impl Default for Standing {
    fn default() -> Self {
        Self(Mutex::new(Some("the CNI plugin is not installed yet".to_owned())))
    }
}

impl Standing {
    /// Nothing is wrong, also where no plugin is wanted.
    pub fn good() -> Self {
        Self(Mutex::new(None))
    }

    pub fn problem(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether it was another.
    fn set(&self, problem: Option<String>) -> bool {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *now != problem;
        *now = problem;
        changed
    }
}

/// Puts the plugin in place and repairs what others change.
pub async fn keep(mut installer: Installer, standing: Arc<Standing>) {
    loop {
        // A disk may take its time.
        let looked = tokio::task::spawn_blocking(move || {
            let result = installer.ensure();
            (installer, result)
        });
        let Ok((back, result)) = looked.await else { return };
        installer = back;
        tell(&result.map(|changes| changes.iter().for_each(|change| info!(?change, "CNI plugin"))), &standing);
        tokio::time::sleep(PATROL).await;
    }
}

fn tell(result: &Result<(), CniError>, standing: &Standing) {
    match result {
        Ok(()) => {
            if standing.set(None) {
                info!("the CNI plugin is in place");
            }
        }
        Err(error) => {
            let problem = chain(error);
            if standing.set(Some(problem.clone())) {
                warn!(problem, "new pods may start outside of the mesh, or not at all");
            }
        }
    }
}
