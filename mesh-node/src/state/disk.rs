//! The last good state on disk, so that a node serves after a restart with the controller away.
//!
//! One file: length-delimited `DeltaDiscoveryResponse` messages, one a type, holding the resources as received. It is
//! written beside and renamed, so that a crash leaves the old file or the new one.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use mesh_proto::xds;
use prost::Message;

use super::resources::{Rejected, Resources};

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("the state file {} could not be {action}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the state file {} is damaged; the node waits for the controller instead", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: prost::DecodeError,
    },
}

/// Where the state of one node lives.
#[derive(Clone, Debug)]
pub struct StateFile(PathBuf);

impl StateFile {
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("resources.pb"))
    }

    /// Replays what is on disk; nothing there is an empty state. Resources that are refused now are returned.
    pub fn load(&self, into: &mut Resources) -> Result<Vec<Rejected>, DiskError> {
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.io("read", source)),
        };
        replay(&bytes, into).map_err(|source| DiskError::Damaged { path: self.0.clone(), source })
    }

    pub fn save(&self, encoded: &[u8]) -> Result<(), DiskError> {
        // Two processes of the node may run for a while.
        let beside = self.0.with_extension(format!("{}.new", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            io::Write::write_all(&mut file, encoded)?;
            file.sync_all()?;
            fs::rename(&beside, &self.0)
        };
        write().map_err(|source| self.io("written", source))
    }

    fn io(&self, action: &'static str, source: io::Error) -> DiskError {
        DiskError::Io { path: self.0.clone(), action, source }
    }
}

/// Takes the content of a state file, or nothing of it when it is damaged. Resources that are refused now are returned.
pub fn replay(bytes: &[u8], into: &mut Resources) -> Result<Vec<Rejected>, prost::DecodeError> {
    let mut rest = bytes;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        messages.push(xds::DeltaDiscoveryResponse::decode_length_delimited(&mut rest)?);
    }
    let mut rejected = Vec::new();
    for message in messages {
        for resource in message.resources {
            rejected.extend(into.upsert(&message.type_url, resource).err());
        }
    }
    Ok(rejected)
}

/// The file's content for a state.
pub fn encode(resources: &Resources) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (type_url, of_type) in resources.received() {
        let message = xds::DeltaDiscoveryResponse {
            type_url: type_url.into(),
            resources: of_type.cloned().collect(),
            ..xds::DeltaDiscoveryResponse::default()
        };
        bytes.extend(message.encode_length_delimited_to_vec());
    }
    bytes
}
