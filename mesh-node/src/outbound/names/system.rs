//! Asking the servers of names that the node's `resolv.conf` names.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
    net::{NetError, runtime::TokioRuntimeProvider},
    system_conf::parse_resolv_conf,
};

use super::{Answer, Lookup, LookupError, Resolve};

/// Follows changes of the file with the next lookup.
pub struct SystemResolver {
    path: PathBuf,
    current: Mutex<Option<(SystemTime, TokioResolver)>>,
}

impl SystemResolver {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), current: Mutex::new(None) }
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        let said = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.display());
        let changed = fs::metadata(&self.path).and_then(|found| found.modified()).map_err(|error| said(&error))?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, resolver)) = &*current
            && *since == changed
        {
            return Ok(resolver.clone());
        }
        let text = fs::read(&self.path).map_err(|error| said(&error))?;
        let (config, mut options) = parse_resolv_conf(text).map_err(|error| said(&error))?;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Always;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|error| said(&error))?;
        *current = Some((changed, resolver.clone()));
        Ok(resolver)
    }
}

impl Resolve for SystemResolver {
    fn lookup(&self, hostname: &str) -> Lookup {
        let resolver = self.resolver();
        // A whole name is asked for as it is; one label is completed with the search list.
        let dot = if hostname.contains('.') && !hostname.ends_with('.') { "." } else { "" };
        let name = format!("{hostname}{dot}");
        Box::pin(async move {
            match resolver.map_err(LookupError::Failed)?.lookup_ip(name).await {
                Ok(found) => {
                    let ttl = found.valid_until().saturating_duration_since(Instant::now());
                    Ok(Answer { addresses: found.iter().collect(), ttl })
                }
                Err(error) => Err(refusal(&error)),
            }
        })
    }
}

fn refusal(error: &NetError) -> LookupError {
    if error.is_no_records_found() { LookupError::NoAddress } else { LookupError::Failed(error.to_string()) }
}
