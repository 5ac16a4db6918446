//! Labs that another process owns: found by id, looked at, used, ended.

use std::{ffi::OsStr, fs, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    layout::{LABS, Layout},
    objects::PodName,
    reaper,
    status::{self, LabStatus},
    wait::wait_until,
};

/// The ids of all labs on this machine, also of those that are only half gone.
pub fn list() -> Vec<String> {
    let Ok(entries) = fs::read_dir(LABS) else { return Vec::new() };
    let mut ids: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    ids.sort();
    ids
}

/// What the lab `id` is at the moment; an error if there is none.
pub fn status(id: &str) -> Result<LabStatus> {
    let layout = Layout::new(id.parse()?);
    status::read(&layout).with_context(|| format!("there is no lab {id}{}", hint()))
}

/// A command that runs in the pod `namespace/name` of the lab `id`, on the caller's standard streams.
pub fn exec(id: &str, pod: &str, argv: &[impl AsRef<OsStr>]) -> Result<Command> {
    let name: PodName = pod.parse()?;
    let lab = status(id)?;
    let Some(pod) = lab.pods.get(&name) else {
        let names: Vec<String> = lab.pods().map(|(name, _)| name).collect();
        bail!("no pod {name} in lab {id}; there are: {}", names.join(", "));
    };
    Ok(pod.place.command(argv))
}

/// Ends the lab `id`, whatever state it is in, and returns when nothing of it is left.
pub fn down(id: &str) -> Result<()> {
    let layout = Layout::new(id.parse()?);
    if reaper::leftovers(id)?.is_empty() {
        bail!("there is no lab {id}{}", hint());
    }
    // An owner that lives ends its lab itself; its guard does, if it does not live.
    if let Some(lab) = status::read(&layout).filter(|lab| lab.owner.alive()) {
        kill(Pid::from_raw(lab.owner.pid.cast_signed()), Signal::SIGTERM)?;
        let gone = wait_until("the lab's owner to end it", Duration::from_secs(20), || {
            Ok(!lab.owner.alive() && reaper::leftovers(id)?.is_empty())
        });
        if gone.is_ok() {
            return Ok(());
        }
    }
    reaper::reap(&layout)
}

fn hint() -> String {
    match list().as_slice() {
        [] => "; no lab is up".to_owned(),
        ids => format!("; there are: {}", ids.join(", ")),
    }
}
