//! What a node remembers of its pods across restarts: one JSON file a pod in its runtime directory.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use mesh_policy::model::WorkloadUid;
use serde::{Deserialize, Serialize};

use crate::ebpf;

/// A pod as whoever starts pods describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    pub uid: String,
    /// Kubernetes' metadata.uid, which tells a pod from a later one of the same name; empty where there is none.
    #[serde(default)]
    pub pod_uid: String,
    pub namespace: String,
    pub name: String,
    pub service_account: String,
    pub netns_path: PathBuf,
    pub addresses: Vec<IpAddr>,
}

impl PodRecord {
    pub fn workload_uid(&self) -> WorkloadUid {
        WorkloadUid(self.uid.as_str().into())
    }
}

/// A namespace of the record, told apart from a later one at the same path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remembered {
    #[serde(flatten)]
    pub pod: PodRecord,
    /// `SO_NETNS_COOKIE`: never used twice while the machine runs.
    pub netns_cookie: u64,
    /// It ran before it was enrolled, and not every node was known to reach it by HBONE.
    #[serde(default)]
    pub running: bool,
}

#[derive(Clone, Debug)]
pub struct Records(PathBuf);

impl Records {
    pub fn open(runtime_dir: &Path) -> io::Result<Self> {
        let dir = runtime_dir.join("pods");
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    pub fn save(&self, record: &Remembered) -> io::Result<()> {
        let path = self.path(&record.pod.uid);
        let beside = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        io::Write::write_all(&mut file, &serde_json::to_vec_pretty(record)?)?;
        fs::rename(&beside, &path)
    }

    pub fn forget(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Every record; a damaged one is an error of its own and hides none of the others.
    pub fn load(&self) -> io::Result<Vec<io::Result<Remembered>>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let read = fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
                records.push(read.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))));
            }
        }
        Ok(records)
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.0.join(format!("{:016x}.json", ebpf::uid_hash(uid)))
    }
}
