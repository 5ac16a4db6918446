//! One run of the plugin.

use std::{fs, io, path::Path};

use mesh_proto::cni::PluginConfig;
use serde_json::Value;

use crate::{
    add,
    answer::{self, Failure},
    invocation::{Command, Environment},
    journal::Journal,
    netconf::NetConf,
};

/// Carries a command out; what goes to standard output, if anything.
pub fn run(environment: &Environment, input: &[u8]) -> Result<Option<Value>, Failure> {
    match environment.command()? {
        Command::Add => add(environment, input).map(Some),
        // The node proxy releases a capture when the namespace ends. Nothing may keep a pod from ending.
        Command::Del | Command::Gc => Ok(None),
        Command::Check => check(environment, input).map(|()| None),
        Command::Status => status(input).map(|()| None),
        Command::Version => Ok(Some(answer::version(input))),
    }
}

fn add(environment: &Environment, input: &[u8]) -> Result<Value, Failure> {
    let conf = NetConf::parse(input)?;
    let result = conf.prev_result()?.clone();
    let Some(pod) = environment.pod() else { return Ok(result) };
    let config = configuration(conf.configuration()?)?;
    if config.exempt_namespaces.contains(&pod.namespace) {
        return Ok(result);
    }
    let journal = Journal::new(&config.log);
    let added = (|| {
        let (netns, addresses) = (environment.netns()?, conf.addresses()?);
        runtime()?.block_on(add::add(&config, &pod, &netns, &addresses))
    })();
    match added {
        Ok(outcome) => journal.note(&format!("{}/{}: {outcome}", pod.namespace, pod.name)),
        Err(failure) => {
            journal.note(&format!("{}/{}: {}", pod.namespace, pod.name, failure.chain()));
            return Err(failure);
        }
    }
    Ok(result)
}

/// Whether a pod that belongs to the mesh is captured.
fn check(environment: &Environment, input: &[u8]) -> Result<(), Failure> {
    let conf = NetConf::parse(input)?;
    conf.prev_result()?;
    let Some(pod) = environment.pod() else { return Ok(()) };
    let config = configuration(conf.configuration()?)?;
    if config.exempt_namespaces.contains(&pod.namespace) {
        return Ok(());
    }
    runtime()?.block_on(add::check(&config, &pod))
}

/// Ready as soon as the configuration is there: pods of exempt namespaces start while the node proxy is away, and others wait
/// for it. A node that called itself unready meanwhile would start neither.
fn status(input: &[u8]) -> Result<(), Failure> {
    let conf = NetConf::parse(input)?;
    configuration(conf.configuration()?).map(drop)
}

fn configuration(path: &Path) -> Result<PluginConfig, Failure> {
    let read = || serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from);
    read().map_err(|source| Failure::Configuration { path: path.to_owned(), source })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| Failure::Runtime { source })
}

#[cfg(test)]
mod tests;
