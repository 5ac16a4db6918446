//! Keeps the authority and the endpoints' certificate up to date: another key, other addresses of the machine, half of the
//! certificate's life. In a folder the keys are looked for here; in a cluster [`super::Secrets`] brings them.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{error, info};

use super::{
    authority::{Authority, AuthorityError, Serving},
    plugged::{Material, write},
};
use crate::disk::Secrecy;

/// In the state folder: what nodes trust.
pub const ROOT_FILE: &str = "root-cert.pem";
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the endpoint's key is not usable: {0}")]
    Key(rustls::Error),
}

/// The authority of the moment.
pub struct Keeper {
    /// The state folder, where keys are looked for and roots are written; None: keys are brought.
    folder: Option<PathBuf>,
    names: Vec<String>,
    fixed_addresses: Vec<IpAddr>,
    current: ArcSwap<Current>,
    roots: watch::Sender<Arc<str>>,
    /// One change at a time: who renews the certificate must not put back a key that was replaced meanwhile.
    changing: Mutex<()>,
}

struct Current {
    material: Material,
    authority: Arc<Authority>,
    serving: Arc<CertifiedKey>,
    addresses: BTreeSet<IpAddr>,
    renew_at: Instant,
}

/// Makes sure that there is a root, and says where nodes find what they trust.
pub fn prepare_roots(state: &Path) -> Result<PathBuf, AuthorityError> {
    let path = state.join(ROOT_FILE);
    let material = Material::load(state, ORGANISATION)?;
    if std::fs::read_to_string(&path).ok().as_deref() != Some(material.roots()) {
        write(&path, material.roots(), Secrecy::Public)?;
    }
    Ok(path)
}

pub(super) const ORGANISATION: &str = "cluster.local";

impl Keeper {
    /// Loads or makes the authority of a state folder. `sans` are further names and addresses of the endpoints.
    pub fn new(state: &Path, sans: &[String]) -> Result<Arc<Self>, RootsError> {
        let material = Material::load(state, ORGANISATION)?;
        prepare_roots(state)?;
        Self::with(material, sans, Some(state.to_path_buf()))
    }

    pub(super) fn with(material: Material, sans: &[String], folder: Option<PathBuf>) -> Result<Arc<Self>, RootsError> {
        let (fixed_addresses, mut names): (Vec<IpAddr>, Vec<String>) = sans.iter().fold((vec![], vec![]), |mut found, san| {
            match san.parse() {
                Ok(address) => found.0.push(address),
                Err(_) => found.1.push(san.clone()),
            }
            found
        });
        names.extend(["localhost".to_owned(), "mesh-controller".to_owned()]);
        names.extend(hostname());
        names.sort();
        names.dedup();
        let authority = Arc::new(material.authority()?);
        let addresses = addresses(&fixed_addresses);
        let (serving, renew_at) = certify(&authority, &names, &addresses)?;
        let (roots, _) = watch::channel(authority.roots().into());
        let current = Current { material, authority, serving, addresses, renew_at };
        Ok(Arc::new(Self {
            folder,
            names,
            fixed_addresses,
            current: ArcSwap::from_pointee(current),
            roots,
            changing: Mutex::default(),
        }))
    }

    pub fn authority(&self) -> Arc<Authority> {
        self.current.load().authority.clone()
    }

    /// What is trusted, in PEM form, now and whenever it changes.
    pub fn roots(&self) -> watch::Receiver<Arc<str>> {
        self.roots.subscribe()
    }

    /// Looks after everything, for ever. What cannot be loaded leaves what there was in force.
    pub async fn run(self: Arc<Self>) {
        let mut last_failure = String::new();
        loop {
            sleep(LOOK_EVERY).await;
            match self.refresh() {
                Ok(()) => last_failure.clear(),
                Err(error) => {
                    let text = describe(&error);
                    if text != last_failure {
                        error!(error = text, "the authority stays as it was");
                        last_failure = text;
                    }
                }
            }
        }
    }

    /// Looks once.
    pub fn refresh(&self) -> Result<(), RootsError> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let material = match &self.folder {
            Some(state) => Material::load(state, ORGANISATION)?,
            None => self.current.load().material.clone(),
        };
        self.put(material)
    }

    /// Puts keys in force, if they are others, and renews the endpoints' certificate when it is due. Keys that are not
    /// usable change nothing.
    pub(super) fn take(&self, material: Material) -> Result<(), RootsError> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(material)
    }

    fn put(&self, material: Material) -> Result<(), RootsError> {
        let current = self.current.load_full();
        let addresses = addresses(&self.fixed_addresses);
        let replaced = material != current.material;
        if !replaced && addresses == current.addresses && Instant::now() < current.renew_at {
            return Ok(());
        }
        let authority = if replaced { Arc::new(material.authority()?) } else { current.authority.clone() };
        let (serving, renew_at) = certify(&authority, &self.names, &addresses)?;
        if replaced {
            if let Some(state) = &self.folder {
                // Nodes read the file at their next connection, which this very certificate serves.
                write(&state.join(ROOT_FILE), authority.roots(), Secrecy::Public)?;
            }
            info!("another authority is in force");
        }
        let roots: Arc<str> = authority.roots().into();
        self.current.store(Arc::new(Current { material, authority, serving, addresses, renew_at }));
        self.roots.send_if_modified(|before| std::mem::replace(before, roots.clone()) != roots);
        Ok(())
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("folder", &self.folder).field("names", &self.names).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Keeper {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().serving.clone())
    }
}

fn certify(
    authority: &Authority,
    names: &[String],
    addresses: &BTreeSet<IpAddr>,
) -> Result<(Arc<CertifiedKey>, Instant), RootsError> {
    let addresses: Vec<IpAddr> = addresses.iter().copied().collect();
    let Serving { chain, key, renew_after } = authority.serve(names, &addresses)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(RootsError::Key)?;
    Ok((Arc::new(CertifiedKey::new(chain, key)), Instant::now() + renew_after))
}

/// Every address of this machine that a node may dial.
fn addresses(fixed: &[IpAddr]) -> BTreeSet<IpAddr> {
    let own = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::V6(found.ip())))
    });
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    own.filter(|address| !link_local(address)).chain(fixed.iter().copied()).collect()
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_ascii_lowercase();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (!name.is_empty() && name.bytes().all(allowed)).then_some(name)
}

pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
