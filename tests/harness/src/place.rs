//! Where a process of the lab runs, and starting it there.
//!
//! The steps between fork and exec (join the cgroup, enter the namespace, see the pod's hosts file) are the work of the
//! helper program `lab-guard enter`, which then becomes the wanted program: same process id, no unsafe code between.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::setsid,
};
use serde::{Deserialize, Serialize};

use crate::cgroup;

/// A spot in the lab where programs can run: a pod, a node, the controller's host, the fabric.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The network namespace's file.
    pub netns: PathBuf,
    /// The cgroup that programs join.
    pub cgroup: PathBuf,
    /// Shown as `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// The `lab-guard` program.
    pub helper: PathBuf,
}

impl Place {
    /// A command that runs here; the caller says what its standard streams are. It stays in the caller's session.
    pub fn command(&self, argv: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.helper);
        command.env_clear().envs(&self.environment);
        self.arguments(&mut command, &[], argv);
        command
    }

    fn arguments(&self, command: &mut Command, flags: &[&str], argv: &[impl AsRef<OsStr>]) {
        command.arg("enter").args(flags).arg("--netns").arg(&self.netns).arg("--cgroup").arg(&self.cgroup);
        if let Some(hosts) = &self.hosts {
            command.arg("--hosts").arg(hosts);
        }
        command.arg("--").args(argv);
    }

    /// Starts a program in a session of its own, its output appended to `log`.
    pub(crate) fn start(&self, argv: &[impl AsRef<OsStr>], log: &Path, directory: Option<&str>) -> Result<Child> {
        let log = open_log(log)?;
        let mut command = Command::new(&self.helper);
        command.env_clear().envs(&self.environment).current_dir(directory.unwrap_or("/"));
        self.arguments(&mut command, &["--session"], argv);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot run {}", self.helper.display()))
    }
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// The environment that programs of the lab begin with: ours, stripped to what a container would have.
pub(crate) fn base_environment(binaries: &Path, extra: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let inherited = env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let mut environment =
        BTreeMap::from([("PATH".to_owned(), format!("{}:{inherited}", binaries.display())), ("HOME".to_owned(), "/".to_owned())]);
    environment.extend(extra.clone());
    environment
}

/// The other side of [`Place::command`]: what the helper does before it becomes the wanted program.
pub(crate) fn enter(arguments: &[String]) -> Result<()> {
    let mut arguments = arguments.iter();
    let (mut netns, mut group, mut hosts) = (None, None, None);
    let mut session = false;
    while let Some(argument) = arguments.next() {
        let slot = match argument.as_str() {
            "--session" => {
                session = true;
                continue;
            }
            "--netns" => &mut netns,
            "--cgroup" => &mut group,
            "--hosts" => &mut hosts,
            "--" => break,
            other => return Err(anyhow!("unknown argument {other}")),
        };
        *slot = Some(arguments.next().context("an argument lacks its value")?);
    }
    let program = arguments.next().context("no program to run")?;

    if session {
        setsid().context("cannot begin a session")?;
    }
    // First the cgroup: whatever happens next, the process can be found and killed.
    cgroup::join(Path::new(group.context("no --cgroup")?))?;
    let netns = netns.context("no --netns")?;
    let file = File::open(netns).with_context(|| format!("no network namespace {netns}"))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {netns}"))?;
    if let Some(hosts) = hosts {
        show_as_etc_hosts(Path::new(hosts))?;
    }
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}

/// In a mount namespace of our own, so that nobody else sees it. The file may change later, in place.
fn show_as_etc_hosts(hosts: &Path) -> Result<()> {
    let show = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        // A slave hears when the lab unmounts something, and tells nobody of its own mounts.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
        mount(Some(hosts), "/etc/hosts", None::<&str>, MsFlags::MS_BIND, None::<&str>)
    };
    show().with_context(|| format!("cannot show {} as /etc/hosts", hosts.display()))
}

/// Addresses as one comma-separated list.
pub(crate) fn join_addresses(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
