//! The programs that a cluster is made of, built from Go modules whose versions and checksums are committed
//! (`tests/cluster/tools`), and kept in the cache under the version and a hash of the module's files.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::{interrupt, runc};
use crate::{report, workspace};

/// Bump this when the way in which programs are built changes beyond what is hashed.
const RECIPE: &str = "1";

/// A Go module of `tests/cluster/tools`.
struct Module {
    folder: &'static str,
    /// The project whose version is the module's; none for programs of our own.
    project: Option<&'static str>,
    programs: &'static [Program],
    /// For the linker: the variables that hold the program's version, as `-X` has them.
    stamps: fn(&str) -> Vec<String>,
}

struct Program {
    name: &'static str,
    package: &'static str,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

/// In the order in which they are needed, the quick ones first.
const MODULES: &[Module] = &[
    Module { folder: "certificates", project: None, programs: &[program("certificates", ".")], stamps: no_stamps },
    Module { folder: "pause", project: None, programs: &[program("pause", ".")], stamps: no_stamps },
    Module {
        folder: "cni",
        project: Some("github.com/containernetworking/plugins"),
        programs: &[
            program("bridge", "github.com/containernetworking/plugins/plugins/main/bridge"),
            program("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            program("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
            program("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
            program("ptp", "github.com/containernetworking/plugins/plugins/main/ptp"),
        ],
        stamps: no_stamps,
    },
    Module {
        folder: "etcd",
        project: Some("go.etcd.io/etcd/server/v3"),
        programs: &[program("etcd", "go.etcd.io/etcd/server/v3")],
        stamps: no_stamps,
    },
    Module {
        folder: "kubernetes",
        project: Some("k8s.io/kubernetes"),
        programs: &[
            program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
        stamps: kubernetes_stamps,
    },
    Module {
        folder: "containerd",
        project: Some("github.com/containerd/containerd/v2"),
        programs: &[
            program("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            program("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            program("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
        stamps: |version| vec![format!("github.com/containerd/containerd/v2/version.Version={version}")],
    },
    Module {
        folder: "coredns",
        project: Some("github.com/coredns/coredns"),
        programs: &[program("coredns", ".")],
        stamps: no_stamps,
    },
];

fn no_stamps(_: &str) -> Vec<String> {
    Vec::new()
}

/// What Kubernetes says of itself, and what kubelet and API server compare with each other.
fn kubernetes_stamps(version: &str) -> Vec<String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)]
        .map(|(variable, value)| format!("k8s.io/component-base/version.{variable}={value}"))
        .to_vec()
}

/// Where the programs of a cluster are: a folder a module.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folders: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Finds every program in the cache; builds what is not there, one after the other, which takes a quarter of an hour at
    /// the first time.
    pub(crate) fn find(root: &Path) -> Result<Self> {
        let go = go_version()?;
        let mut folders = Vec::new();
        for module in MODULES {
            folders.push((module.folder.to_owned(), module.built(root, &go)?));
        }
        folders.push(("runc".to_owned(), runc::find()?));
        Ok(Self { folders })
    }

    /// Modules by name, and where their programs are.
    pub(crate) fn folders(&self) -> &[(String, PathBuf)] {
        &self.folders
    }

    /// The file of a program.
    pub(crate) fn path(&self, program: &str) -> Result<PathBuf> {
        let files = self.folders.iter().map(|(_, folder)| folder.join(program));
        files.into_iter().find(|file| file.exists()).with_context(|| format!("no program {program} was built"))
    }
}

impl Module {
    /// The folder of its programs; builds what is missing.
    fn built(&self, root: &Path, go: &str) -> Result<PathBuf> {
        let source = root.join("tests/cluster/tools").join(self.folder);
        let version = self.version(&source)?;
        let name = format!("{}-{}-{}", self.folder, version.trim_start_matches('v'), fingerprint(&source, go)?);
        let folder = workspace::cache()?.join("cluster").join(name);
        for program in self.programs {
            let path = folder.join(program.name);
            if path.exists() {
                continue;
            }
            let started = Instant::now();
            report::waiting(&format!("building {} {version}", program.name), || self.build(program, &source, &version, &path))
                .with_context(|| format!("{} can not be built from {}", program.name, source.display()))?;
            report::note(format_args!("{} {version}: {:.0} s", program.name, started.elapsed().as_secs_f64()));
        }
        Ok(folder)
    }

    /// As `go.mod` has it.
    fn version(&self, source: &Path) -> Result<String> {
        let Some(project) = self.project else { return Ok("own".to_owned()) };
        let text = fs::read_to_string(source.join("go.mod")).with_context(|| format!("no module {}", source.display()))?;
        required_version(&text, project)
    }

    fn build(&self, program: &Program, source: &Path, version: &str, to: &Path) -> Result<()> {
        let folder = to.parent().context("a program lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        // Beside its place, so that no half-written program is ever taken for one.
        let scratch = tempfile::tempdir_in(folder)?;
        let draft = scratch.path().join(program.name);
        let stamps = (self.stamps)(version).iter().fold(String::new(), |text, stamp| format!("{text} -X {stamp}"));
        // Others use the machine too.
        let mut command = Command::new("nice");
        command.args(["-n", "15", "go", "build", "-trimpath", "-buildvcs=false", "-p=2"]);
        command.arg(format!("-ldflags=-s -w{stamps}")).arg("-o").arg(&draft).arg(program.package);
        command.current_dir(source).env("CGO_ENABLED", "0").env_remove("GOFLAGS").env_remove("GOOS").env_remove("GOARCH");
        interrupt::output(&mut command)?;
        fs::rename(&draft, to).with_context(|| format!("move {} to {}", program.name, to.display()))
    }
}

/// The version of `project` in the text of a `go.mod`.
fn required_version(text: &str, project: &str) -> Result<String> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("require "));
    let version = lines.filter(|line| !line.contains("=>")).find_map(|line| line.strip_prefix(project)?.strip_prefix(' '));
    let version = version.and_then(|rest| rest.split_whitespace().next());
    version.map(str::to_owned).with_context(|| format!("go.mod requires no {project}"))
}

/// What decides the bytes of a module's programs, in twelve digits.
fn fingerprint(source: &Path, go: &str) -> Result<String> {
    let mut files = fs::read_dir(source)
        .with_context(|| format!("no module {}", source.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut hash = Sha256::new();
    for part in [RECIPE, go] {
        hash.update(part);
        hash.update([0]);
    }
    for file in files {
        let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(format!("{:x}", hash.finalize())[..12].to_owned())
}

fn go_version() -> Result<String> {
    ensure!(
        workspace::on_path("go"),
        "the cluster's programs are built with Go, and there is none on the path: install Go 1.26 or newer (https://go.dev/dl)"
    );
    // Outside any module: the answer is this machine's, not what some go.mod asks for.
    workspace::output(Command::new("go").args(["env", "GOVERSION"]).current_dir(env::temp_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_go_mod() {
        let text = "module x\n\nrequire k8s.io/kubernetes v1.35.3\n\nrequire (\n\tk8s.io/api v0.35.3 // indirect\n)\n\nreplace (\n\tk8s.io/kubelet => k8s.io/kubelet v0.1.0\n)\n";
        assert_eq!(required_version(text, "k8s.io/kubernetes").unwrap(), "v1.35.3");
        assert_eq!(required_version(text, "k8s.io/api").unwrap(), "v0.35.3");
        assert!(required_version(text, "k8s.io/kubelet").is_err());
    }

    #[test]
    fn every_module_is_there_and_pinned() {
        let tools = workspace::root().unwrap().join("tests/cluster/tools");
        for module in MODULES {
            let folder = tools.join(module.folder);
            assert!(!module.version(&folder).unwrap().is_empty(), "{}", module.folder);
            assert_eq!(folder.join("go.sum").exists(), module.project.is_some(), "{}", module.folder);
        }
    }

    #[test]
    fn kubernetes_knows_its_version() {
        let stamps = kubernetes_stamps("v1.35.3");
        assert!(stamps.contains(&"k8s.io/component-base/version.gitMinor=35".to_owned()), "{stamps:?}");
    }
}
