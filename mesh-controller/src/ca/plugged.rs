//! Where the authority's key comes from: the state folder, or secrets of the cluster ([`super::Secrets`]).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::authority::{Authority, AuthorityError};
use crate::disk::{self, Secrecy};

/// Istio's names of a plugged-in CA.
pub(super) const PLUGGED: &str = "cacerts";
pub(super) const FILES: [&str; 4] = ["ca-key.pem", "ca-cert.pem", "cert-chain.pem", "root-cert.pem"];
pub(super) const OWN_KEY: &str = "ca-key.pem";
pub(super) const OWN_CERTIFICATE: &str = "ca-cert.pem";

/// The PEM texts that an authority is made of, to tell whether they have changed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Material {
    key: String,
    own: String,
    between: String,
    roots: String,
}

impl Material {
    /// The plugged-in files when there are any, else our own root, which is made when it is missing.
    pub(super) fn load(state: &Path, organisation: &str) -> Result<Self, AuthorityError> {
        let plugged = state.join(PLUGGED);
        if FILES.iter().any(|name| plugged.join(name).exists()) {
            let [key, own, between, roots] = FILES.map(|name| read(&plugged.join(name)));
            return Ok(Self::plugged([key?, own?, between?, roots?]));
        }
        let (key_path, own_path) = (state.join(OWN_KEY), state.join(OWN_CERTIFICATE));
        if !key_path.exists() {
            let (key, own) = Authority::generate(organisation)?;
            // The certificate first: a key without one would be an authority that nobody can use.
            write(&own_path, &own, Secrecy::Public)?;
            write(&key_path, &key, Secrecy::Secret)?;
        }
        Ok(Self::root(read(&key_path)?, read(&own_path)?))
    }

    /// In the order of [`FILES`].
    pub(super) fn plugged([key, own, between, roots]: [String; 4]) -> Self {
        Self { key, own, between, roots }
    }

    /// A root of our own.
    pub(super) fn root(key: String, own: String) -> Self {
        Self { key, roots: own.clone(), own, between: String::new() }
    }

    pub(super) fn authority(&self) -> Result<Authority, AuthorityError> {
        Authority::new(&self.key, &self.own, &self.between, &self.roots)
    }

    pub(super) fn roots(&self) -> &str {
        &self.roots
    }
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| failed(path, source))
}

pub(super) fn write(path: &Path, text: &str, secrecy: Secrecy) -> Result<(), AuthorityError> {
    disk::replace(path, text.as_bytes(), secrecy).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> AuthorityError {
    AuthorityError::File { path: PathBuf::from(path), source }
}
