//! Where things are pinned, and what is found there.

use std::{
    fmt::Write,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use mesh_common::names::{CONNECT4, CONNECT6, LAYOUT, PIN_LINKS, PIN_MAPS, PIN_PODS, PIN_ROOT};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs},
};

use super::{EbpfError, sys};

/// The folders of one instance: `<bpffs>/keelson/<instance>/v<LAYOUT>/`.
#[derive(Debug)]
pub(super) struct Pins {
    instance: PathBuf,
    layout: PathBuf,
}

/// A pod's pinned link. Its name is all that is known of a pod whose node has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodPin {
    pub(super) uid_hash: u64,
    pub(super) cookie: u64,
}

impl Pins {
    /// Makes the folders, and mounts a BPF file system at `bpffs` if none is there.
    pub(super) fn prepare(bpffs: &Path, instance: &str) -> Result<Self, EbpfError> {
        mount_bpffs(bpffs).map_err(|source| EbpfError::Bpffs { path: bpffs.to_owned(), source })?;
        let instance = bpffs.join(PIN_ROOT).join(escape(instance));
        let layout = instance.join(format!("v{LAYOUT}"));
        for folder in [PIN_MAPS, PIN_LINKS, PIN_PODS] {
            let path = layout.join(folder);
            fs::create_dir_all(&path).map_err(|source| EbpfError::Pin { doing: "make the folder of", path, source })?;
        }
        Ok(Self { instance, layout })
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.layout.join(PIN_MAPS).join(name)
    }

    pub(super) fn link(&self, program: &str) -> PathBuf {
        self.layout.join(PIN_LINKS).join(program)
    }

    pub(super) fn pod(&self, pin: PodPin) -> PathBuf {
        self.layout.join(PIN_PODS).join(pin.file_name())
    }

    /// Every pod's pin. Foreign files are left alone.
    pub(super) fn pods(&self) -> Result<Vec<PodPin>, EbpfError> {
        let folder = self.layout.join(PIN_PODS);
        let names = list(&folder).map_err(|source| EbpfError::Pin { doing: "list", path: folder, source })?;
        Ok(names.iter().filter_map(|path| PodPin::parse(path.file_name()?.to_str()?)).collect())
    }

    /// Detaches every link and removes every file of the instance, of all layouts: capture first, then what serves it.
    pub(super) fn remove_all(&self) -> Result<(), EbpfError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| EbpfError::Pin { doing: "remove", path, source }
        };
        for layout in list(&self.instance).map_err(error(&self.instance))? {
            for first in [CONNECT4, CONNECT6] {
                let path = layout.join(PIN_LINKS).join(first);
                remove_link(&path).map_err(error(&path))?;
            }
            for folder in [PIN_LINKS, PIN_PODS] {
                for path in list(&layout.join(folder)).map_err(error(&layout))? {
                    remove_link(&path).map_err(error(&path))?;
                }
            }
        }
        fs::remove_dir_all(&self.instance).map_err(error(&self.instance))?;
        // Kept as long as another instance lives there.
        let _ = self.instance.parent().map(fs::remove_dir);
        Ok(())
    }
}

impl PodPin {
    fn file_name(self) -> String {
        format!("{:016x}-{:x}", self.uid_hash, self.cookie)
    }

    fn parse(name: &str) -> Option<Self> {
        let (uid_hash, cookie) = name.split_once('-')?;
        Some(Self { uid_hash: u64::from_str_radix(uid_hash, 16).ok()?, cookie: u64::from_str_radix(cookie, 16).ok()? })
    }
}

/// Opens a pin; `None` when there is none.
pub(super) fn open(path: &Path) -> Result<Option<OwnedFd>, EbpfError> {
    sys::open_pin(path).map_err(|source| EbpfError::Pin { doing: "open", path: path.to_owned(), source })
}

/// Detaches a pinned link at once, although others may hold it, and removes its pin. Missing ones are no error.
pub(super) fn remove_link(path: &Path) -> io::Result<()> {
    use std::os::fd::AsFd;
    if let Some(link) = sys::open_pin(path)? {
        match sys::detach_link(link.as_fd()) {
            // Its cgroup or namespace is gone, and the attachment with it.
            Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => return Err(error),
            _ => fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// The root of cgroup2 in a folder that holds the control groups of a host: the folder itself, or `unified` in it where v1 is in use
/// as well.
pub fn cgroup2_in(folder: &Path) -> PathBuf {
    let unified = folder.join("unified");
    if is_mounted(&unified, CGROUP2_SUPER_MAGIC).unwrap_or(false) && !is_mounted(folder, CGROUP2_SUPER_MAGIC).unwrap_or(false) {
        return unified;
    }
    folder.to_owned()
}

/// Where cgroup2 is mounted in this mount namespace: the first such mount, `None` without one.
pub fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    cgroup2_mount(&mounts)
}

/// The format of proc_pid_mountinfo(5): the mount point is field 5, the type follows the `-`.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        (kind.split(' ').next()? == "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Opens the cgroup2 root.
pub(super) fn open_cgroup2(path: &Path) -> Result<fs::File, EbpfError> {
    let error = |source| EbpfError::Cgroup { path: path.to_owned(), source };
    let cgroup = fs::File::open(path).map_err(error)?;
    if !is_mounted(path, CGROUP2_SUPER_MAGIC).map_err(error)? {
        return Err(EbpfError::NotCgroup2 { path: path.to_owned() });
    }
    Ok(cgroup)
}

fn mount_bpffs(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if is_mounted(path, BPF_FS_MAGIC)? {
        return Ok(());
    }
    mount(Some("bpf"), path, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, Some("mode=0700"))?;
    Ok(())
}

fn is_mounted(path: &Path, kind: FsType) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == kind)
}

/// The paths in a folder; none when it does not exist.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// As a file name of a BPF file system, which reserves dots: what is not alphanumeric, `-` or `_` becomes `%` and two digits.
fn escape(instance: &str) -> String {
    let mut name = String::with_capacity(instance.len());
    for byte in instance.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => write!(name, "%{byte:02x}").expect("a String takes everything"),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_pins_round_trip() {
        let pin = PodPin { uid_hash: 0x12, cookie: 0xabc };
        assert_eq!(pin.file_name(), "0000000000000012-abc");
        assert_eq!(PodPin::parse(&pin.file_name()), Some(pin));
        for foreign in ["", "x-y", "12", "zz-1"] {
            assert_eq!(PodPin::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn instances_become_file_names() {
        for (instance, name) in [("node-1", "node-1"), ("a.b", "a%2eb"), ("../x", "%2e%2e%2fx"), ("a%2eb", "a%252eb")] {
            assert_eq!(escape(instance), name);
        }
    }

    #[test]
    fn cgroup2_is_found_in_pure_and_hybrid_hosts() {
        let hybrid = "24 23 0:21 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n\
                      25 24 0:22 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                      26 24 0:23 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("24 23 0:21 / /sys/fs/cgroup rw - cgroup2 none rw\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount("24 23 0:21 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
