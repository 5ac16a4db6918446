//! The plugin's files on the host.
//!
//! | file | what |
//! |---|---|
//! | `<bin>/keelson-cni` | the program |
//! | `<conf>/keelson-cni/plugin.json` | its configuration |
//! | `<conf>/keelson-cni/{ca.crt,token}` | how it asks the API server: copies of what the kubelet renews for the node |
//! | `<conf>/<first>.conflist` | the pod network's configuration, with our entry last |
//! | `<conf>/keelson-cni/record.json` | which file that is, what it was made of, and the bytes of both |
//!
//! Container runtimes do not look into folders, so that nothing of ours is taken for a network.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use mesh_proto::cni::{ApiServer, PLUGIN, PluginConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    chain::{self, Form, Unfit},
    files,
};

/// The other plugin that owns the label's value `ambient`.
const ISTIO: &str = "istio-cni";
const PROGRAM_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o600;

/// Where everything is. Host folders have the same path here as on the host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program to install.
    pub plugin: PathBuf,
    pub bin_dir: PathBuf,
    pub conf_dir: PathBuf,
    /// `token` and `ca.crt` of the node's service account.
    pub service_account: PathBuf,
    /// `https://host:port`.
    pub api_server: String,
    pub cluster: String,
    pub socket: PathBuf,
    pub exempt_namespaces: BTreeSet<String>,
    pub wait_seconds: u64,
    pub log: PathBuf,
}

/// Why the plugin is not in place.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("the CNI plugin: {path:?} can not be {doing}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the CNI plugin is not chained: there is no network configuration in {folder:?} yet; is a pod network installed?")]
    NoNetwork { folder: PathBuf },
    #[error("the CNI plugin is not chained: {path:?} can not be used")]
    Unfit {
        path: PathBuf,
        #[source]
        source: Unfit,
    },
}

/// What was changed on disk, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Program(PathBuf),
    Configuration(PathBuf),
    Chained(PathBuf),
    Restored(PathBuf),
}

/// What became of a network configuration, and how to undo it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// File names in the folder; they differ where a single plugin became a list.
    source: String,
    target: String,
    original: String,
    mode: u32,
    written: String,
}

#[derive(Clone, Debug)]
pub struct Installer {
    settings: Settings,
    program: Option<(Stamp, Vec<u8>)>,
}

/// Tells whether a file was touched since.
type Stamp = (u64, i64, i64, u64);

impl Installer {
    pub fn new(settings: Settings) -> Self {
        Self { settings, program: None }
    }

    /// Puts everything in place that is not. Returns what was changed.
    pub fn ensure(&mut self) -> Result<Vec<Change>, CniError> {
        let mut changes = Vec::new();
        self.folder()?;
        // Before the program that reads it, and both before anybody is told to run it.
        self.ensure_configuration(&mut changes)?;
        self.ensure_program(&mut changes)?;
        self.ensure_chained(&mut changes)?;
        Ok(changes)
    }

    /// Takes everything away. Repeating it is harmless.
    pub fn uninstall(&self) -> Result<Vec<Change>, CniError> {
        let mut changes = Vec::new();
        if let Some(record) = self.record()? {
            changes.push(self.restore(&record)?);
        }
        // Whatever else names the plugin would hold every pod once the program is gone.
        for path in self.networks()? {
            let text = read(&path)?;
            if let Some(without) = text.as_deref().and_then(chain::unchained) {
                rewrite(&path, without.as_bytes())?;
                changes.push(Change::Restored(path));
            }
        }
        let folder = self.settings.conf_dir.join(PLUGIN);
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(CniError::File { doing: "removed", path: folder, source });
            }
            _ => {}
        }
        let program = self.settings.bin_dir.join(PLUGIN);
        files::remove(&program).map_err(failed("removed", &program))?;
        Ok(changes)
    }

    fn ensure_configuration(&self, changes: &mut Vec<Change>) -> Result<(), CniError> {
        let Settings { service_account, api_server, cluster, socket, exempt_namespaces, wait_seconds, log, .. } = &self.settings;
        let (ca, token) = (self.file("ca.crt"), self.file("token"));
        for (name, copy) in [("ca.crt", &ca), ("token", &token)] {
            let from = service_account.join(name);
            let content = fs::read(&from).map_err(failed("read", &from))?;
            // Renewed every hour: nothing to tell.
            files::ensure(copy, &content, SECRET_MODE).map_err(failed("written", copy))?;
        }
        let config = PluginConfig {
            cluster: cluster.clone(),
            socket: socket.clone(),
            exempt_namespaces: exempt_namespaces.clone(),
            api: ApiServer { server: api_server.clone(), ca, token },
            ambient: !self.istio_is_here()?,
            wait_seconds: *wait_seconds,
            log: log.clone(),
        };
        let path = self.plugin_config();
        let text = serde_json::to_string_pretty(&config).map_err(io::Error::from).map_err(failed("written", &path))?;
        if files::ensure(&path, format!("{text}\n").as_bytes(), SECRET_MODE).map_err(failed("written", &path))? {
            changes.push(Change::Configuration(path));
        }
        Ok(())
    }

    fn ensure_program(&mut self, changes: &mut Vec<Change>) -> Result<(), CniError> {
        let path = self.settings.bin_dir.join(PLUGIN);
        if self.program.as_ref().is_some_and(|(stamp, _)| self::stamp(&path).is_ok_and(|found| found == *stamp)) {
            return Ok(());
        }
        let content = match self.program.take() {
            Some((_, content)) => content,
            None => fs::read(&self.settings.plugin).map_err(failed("read", &self.settings.plugin))?,
        };
        if files::ensure(&path, &content, PROGRAM_MODE).map_err(failed("written", &path))? {
            changes.push(Change::Program(path.clone()));
        }
        self.program = Some((stamp(&path).map_err(failed("read", &path))?, content));
        Ok(())
    }

    fn ensure_chained(&self, changes: &mut Vec<Change>) -> Result<(), CniError> {
        let entry = chain::entry(&self.plugin_config());
        let mut record = self.record()?;
        let mut first = self.first()?;
        if let Some(old) = record.as_ref().filter(|old| old.target != file_name(&first)) {
            // Another network comes first now.
            changes.push(self.restore(old)?);
            record = None;
            first = self.first()?;
        }
        let text = read(&first)?.unwrap_or_default();
        let form = Form::of(&first).unwrap_or(Form::List);
        if record.is_some() && chain::is_chained(&text, form, &entry) {
            return Ok(());
        }
        self.chain(&first, &text, form, &entry)?;
        changes.push(Change::Chained(first));
        Ok(())
    }

    fn chain(&self, first: &Path, text: &[u8], form: Form, entry: &Value) -> Result<(), CniError> {
        let written = chain::chained(text, form, entry).map_err(|source| CniError::Unfit { path: first.to_owned(), source })?;
        let target = first.with_extension("conflist");
        let record = Record {
            source: file_name(first),
            target: file_name(&target),
            // One that has our entry without a record is not as it was before us.
            original: chain::unchained(text).unwrap_or_else(|| String::from_utf8_lossy(text).into_owned()),
            mode: files::mode(first).map_err(failed("read", first))?,
            written: written.clone(),
        };
        // What undoes it is on disk before it is done.
        let path = self.file("record.json");
        let bytes = serde_json::to_vec(&record).map_err(io::Error::from).map_err(failed("written", &path))?;
        files::write(&path, &bytes, SECRET_MODE).map_err(failed("written", &path))?;
        files::write(&target, written.as_bytes(), record.mode).map_err(failed("written", &target))?;
        if target != first {
            // By its name it comes before the list.
            files::remove(first).map_err(failed("removed", first))?;
        }
        Ok(())
    }

    /// As it was, byte for byte, unless somebody has changed it since: then without our entry.
    fn restore(&self, record: &Record) -> Result<Change, CniError> {
        let folder = &self.settings.conf_dir;
        let (source, target) = (folder.join(&record.source), folder.join(&record.target));
        let found = read(&target)?;
        if found.as_deref() == Some(record.written.as_bytes()) {
            if source == target || read(&source)?.is_none() {
                files::write(&source, record.original.as_bytes(), record.mode).map_err(failed("written", &source))?;
            }
            if source != target {
                files::remove(&target).map_err(failed("removed", &target))?;
            }
        } else if let Some(without) = found.as_deref().and_then(chain::unchained) {
            rewrite(&target, without.as_bytes())?;
        }
        let path = self.file("record.json");
        files::remove(&path).map_err(failed("removed", &path))?;
        Ok(Change::Restored(source))
    }

    /// A record that can not be read is none: the configuration is then taken apart by its content.
    fn record(&self) -> Result<Option<Record>, CniError> {
        let text = read(&self.file("record.json"))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// The configuration that container runtimes use.
    fn first(&self) -> Result<PathBuf, CniError> {
        let folder = self.settings.conf_dir.clone();
        self.networks()?.into_iter().next().ok_or(CniError::NoNetwork { folder })
    }

    /// Every network configuration, in the order in which container runtimes look for one.
    fn networks(&self) -> Result<Vec<PathBuf>, CniError> {
        let folder = &self.settings.conf_dir;
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(CniError::File { doing: "listed", path: folder.clone(), source }),
        };
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("listed", folder))?;
        paths.retain(|path| Form::of(path).is_some() && path.is_file());
        paths.sort();
        Ok(paths)
    }

    fn istio_is_here(&self) -> Result<bool, CniError> {
        for path in self.networks()? {
            if read(&path)?.is_some_and(|text| chain::has_plugin(&text, ISTIO)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn folder(&self) -> Result<(), CniError> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = self.settings.conf_dir.join(PLUGIN);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed("made", &folder))
    }

    fn plugin_config(&self) -> PathBuf {
        self.file("plugin.json")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.settings.conf_dir.join(PLUGIN).join(name)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, CniError> {
    files::read(path).map_err(failed("read", path))
}

fn rewrite(path: &Path, text: &[u8]) -> Result<(), CniError> {
    let mode = files::mode(path).map_err(failed("read", path))?;
    files::write(path, text, mode).map_err(failed("written", path))
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|found| (found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CniError + use<> {
    let path = path.to_owned();
    move |source| CniError::File { doing, path, source }
}

#[cfg(test)]
mod tests;
