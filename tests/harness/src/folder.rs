//! The folder: read again when a file changes, and written to where the kubelet reports.
//!
//! The lab writes `.status/Pod/<namespace>/<name>.yaml` (a document with only `status`, in Kubernetes' form, replaced
//! atomically) and `.status/lab`, the id of the lab that uses the folder. Nothing else in the folder is ever touched.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    layout::{LabId, Layout},
    objects::{Objects, PodName},
};

/// A folder and what was last read of it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    /// As last understood: a file that is being edited does not take its pods away.
    objects: Objects,
    problem: Option<String>,
}

/// Changes whenever a file does: a clock tick can hold two writes, but not two inodes of one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    /// Seconds and nanoseconds, of content and of everything.
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

impl From<&Metadata> for Stamp {
    fn from(data: &Metadata) -> Self {
        let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
        Self { inode: data.ino(), modified, changed, size: data.len() }
    }
}

impl Folder {
    /// Takes the folder for this lab; refused while another lab that is still up has it.
    pub(crate) fn claim(path: &Path, id: &LabId) -> Result<Self> {
        let path = path.canonicalize().with_context(|| format!("no folder {}", path.display()))?;
        let marker = path.join(".status/lab");
        if let Ok(other) = fs::read_to_string(&marker)
            && let Ok(other) = other.trim().parse::<LabId>()
            && other != *id
            && Layout::new(other.clone()).state().exists()
        {
            bail!("{} is in use by lab {other}: take that down first", path.display());
        }
        write_atomically(&marker, &format!("{id}\n"))?;
        Ok(Self { path, files: BTreeMap::new() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at every `*.yaml` and `*.yml` again; `true` if anything is different.
    pub(crate) fn refresh(&mut self) -> Result<bool> {
        let mut found = Vec::new();
        walk(&self.path, &mut found).with_context(|| format!("cannot read {}", self.path.display()))?;
        let before = self.files.len();
        self.files.retain(|path, _| found.iter().any(|(other, _)| other == path));
        let mut changed = self.files.len() != before;
        for (path, stamp) in found {
            if self.files.get(&path).is_none_or(|entry| entry.stamp != stamp) {
                let last = self.files.remove(&path).map(|entry| entry.objects).unwrap_or_default();
                let entry = read(&path, stamp, last);
                self.files.insert(path, entry);
                changed = true;
            }
        }
        Ok(changed)
    }

    /// All objects, in the order of the files' names.
    pub(crate) fn objects(&self) -> Objects {
        let mut all = Objects::default();
        for entry in self.files.values() {
            all.merge(entry.objects.clone());
        }
        all
    }

    /// What is wrong with which file.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.files.values().filter_map(|entry| entry.problem.clone()).collect()
    }

    pub(crate) fn write_status(&self, pod: &PodName, status: &Value) -> Result<()> {
        // JSON is YAML.
        let text = serde_json::to_string_pretty(&serde_json::json!({ "status": status }))?;
        write_atomically(&self.status_file(pod), &(text + "\n"))
    }

    pub(crate) fn remove_status(&self, pod: &PodName) -> Result<()> {
        match fs::remove_file(self.status_file(pod)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| format!("the status of {pod}")),
            _ => Ok(()),
        }
    }

    fn status_file(&self, pod: &PodName) -> PathBuf {
        self.path.join(".status/Pod").join(&pod.namespace).join(format!("{}.yaml", pod.name))
    }
}

/// Removes all status from the folder, if it still belongs to the lab `id`.
pub(crate) fn forget(folder: &Path, id: &LabId) -> Result<()> {
    let status = folder.join(".status");
    match fs::read_to_string(status.join("lab")) {
        Ok(owner) if owner.trim() == id.to_string() => {
            fs::remove_dir_all(&status).with_context(|| format!("cannot remove {}", status.display()))
        }
        _ => Ok(()),
    }
}

/// Writes beside the target and renames: a reader sees the old file or the new one, never a part.
pub(crate) fn write_atomically(path: &Path, text: &str) -> Result<()> {
    let write = || {
        fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
        let draft = path.with_extension("new");
        fs::write(&draft, text)?;
        fs::rename(&draft, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path, stamp: Stamp, last: Objects) -> Entry {
    let parsed = fs::read_to_string(path).map_err(Into::into).and_then(|text| Objects::parse(&text));
    match parsed {
        Ok(objects) => Entry { stamp, objects, problem: None },
        Err(error) => Entry { stamp, objects: last, problem: Some(format!("{}: {error:#}", path.display())) },
    }
}

fn walk(folder: &Path, found: &mut Vec<(PathBuf, Stamp)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // Hidden folders hold status, not wishes; hidden files are editors'.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Follows links; a file that vanished in the meantime is one that is not there.
        let Ok(data) = fs::metadata(&path) else { continue };
        if data.is_dir() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            found.push((path, Stamp::from(&data)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_edit_keeps_the_last_good_objects() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pods.yaml");
        fs::write(&file, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {}}").unwrap();
        let mut view = Folder::claim(folder.path(), &"t1".parse().unwrap()).unwrap();
        assert!(view.refresh().unwrap());
        assert!(!view.refresh().unwrap());
        assert_eq!(view.objects().pods.len(), 1);

        fs::write(&file, "{apiVersion: v1, kind: Pod, metadata").unwrap();
        assert!(view.refresh().unwrap());
        assert_eq!((view.objects().pods.len(), view.problems().len()), (1, 1));

        fs::remove_file(&file).unwrap();
        assert!(view.refresh().unwrap());
        assert_eq!((view.objects().pods.len(), view.problems().len()), (0, 0));
    }

    #[test]
    fn status_goes_with_its_lab_only() {
        let folder = tempfile::tempdir().unwrap();
        let view = Folder::claim(folder.path(), &"t2".parse().unwrap()).unwrap();
        view.write_status(&"shop/page".parse().unwrap(), &serde_json::json!({ "phase": "Running" })).unwrap();
        let file = folder.path().join(".status/Pod/shop/page.yaml");
        assert!(fs::read_to_string(&file).unwrap().contains("Running"));
        forget(folder.path(), &"other".parse().unwrap()).unwrap();
        assert!(file.exists());
        forget(folder.path(), &"t2".parse().unwrap()).unwrap();
        assert!(!folder.path().join(".status").exists());
    }
}
