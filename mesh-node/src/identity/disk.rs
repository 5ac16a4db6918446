//! Certificates on disk, so that a node that restarts while the controller is away still has identities.
//!
//! One file an identity, 0600, written beside and renamed: whoever reads sees the old or the new one whole. The file holds
//! a private key; it is worth no more than its certificate, and what has expired is removed when the folder is opened.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_lc_rs::digest::{SHA256, digest};
use mesh_policy::model::Identity;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};

use super::certificate::{CertificateError, LeafFacts, certificates_in, hex};

/// A certificate with its key, as text.
#[derive(Clone)]
pub struct Stored {
    pub identity: Identity,
    pub key_pem: String,
    /// Leaf first, the root bundle last.
    pub chain: Vec<String>,
}

impl Stored {
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, CertificateError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| CertificateError::Key)
    }
}

/// Where certificates outlive the process.
pub trait Persist: Send + Sync {
    /// What was saved last for `identity`; `None` also for what can not be read.
    fn load(&self, identity: &Identity) -> Option<Stored>;
    fn save(&self, stored: &Stored) -> io::Result<()>;
}

/// A folder of its own.
pub struct Disk {
    folder: PathBuf,
}

/// Between the elements of a chain: an element may hold several certificates, so their borders do not show otherwise.
const BORDER: &str = "-- next --\n";

impl Disk {
    /// Makes the folder (0700) when it is not there, and removes expired and unreadable certificates from it.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let disk = Self { folder };
        disk.sweep(SystemTime::now())?;
        Ok(disk)
    }

    fn sweep(&self, now: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let not_after = || {
                let (_, chain) = read(&path)?;
                let leaf = certificates_in(chain.first()?).ok()?;
                LeafFacts::read(leaf.first()?).ok().map(|facts| facts.not_after)
            };
            if not_after().is_none_or(|not_after| not_after < now) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// The name is a digest: an identity may be longer than a file name, and is not to be trusted as one.
    fn path(&self, identity: &Identity) -> PathBuf {
        let name = hex(digest(&SHA256, identity.to_string().as_bytes()).as_ref());
        self.folder.join(format!("{name}.pem"))
    }
}

fn read(path: &Path) -> Option<(String, Vec<String>)> {
    let text = fs::read_to_string(path).ok()?;
    let mut parts = text.split(BORDER).map(ToOwned::to_owned);
    Some((parts.next()?, parts.collect()))
}

impl Persist for Disk {
    fn load(&self, identity: &Identity) -> Option<Stored> {
        let (key_pem, chain) = read(&self.path(identity))?;
        Some(Stored { identity: identity.clone(), key_pem, chain })
    }

    fn save(&self, stored: &Stored) -> io::Result<()> {
        let path = self.path(&stored.identity);
        let beside = path.with_extension("new");
        // A leftover of a process that died here.
        if let Err(error) = fs::remove_file(&beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let mut text = stored.key_pem.clone();
        for element in &stored.chain {
            text.push_str(BORDER);
            text.push_str(element);
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    }
}

#[cfg(test)]
mod tests;
