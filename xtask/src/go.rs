//! Go, and programs that are built with it from modules whose versions and checksums are committed. They are kept in the cache
//! under the version and a hash of the module's files.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{cluster::interrupt, report, tools, workspace};

/// Bump this when the way in which programs are built changes beyond what is hashed.
const RECIPE: &str = "1";

/// Older ones can not read our modules.
const OLDEST: (u32, u32) = (1, 26);

/// A module of this repository.
pub(crate) struct Module {
    /// Its folder, below the root.
    pub(crate) folder: &'static str,
    /// The project whose version is the module's; none for programs of our own.
    pub(crate) project: Option<&'static str>,
    pub(crate) programs: &'static [Program],
    /// For the linker: the variables that hold the program's version, as `-X` has them.
    pub(crate) stamps: fn(&str) -> Vec<String>,
}

pub(crate) struct Program {
    name: &'static str,
    package: &'static str,
    /// Made of a package's tests.
    tests: bool,
}

pub(crate) const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package, tests: false }
}

/// A program that runs the tests of a package.
pub(crate) const fn test_program(name: &'static str, package: &'static str) -> Program {
    Program { name, package, tests: true }
}

pub(crate) fn no_stamps(_: &str) -> Vec<String> {
    Vec::new()
}

/// What builds modules.
pub(crate) struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    /// The one on the path, if it is new enough, else one in the cache, which is fetched when it is not there.
    pub(crate) fn find() -> Result<Self> {
        let on_path = workspace::find_on_path("go").and_then(|program| Self::of(program).ok());
        match on_path.filter(|go| is_new_enough(&go.version)) {
            Some(go) => Ok(go),
            None => Self::of(tools::go()?),
        }
    }

    fn of(program: PathBuf) -> Result<Self> {
        // Outside any module: the answer is this machine's, not what some go.mod asks for.
        let version = workspace::output(Command::new(&program).args(["env", "GOVERSION"]).current_dir(env::temp_dir()))?;
        Ok(Self { program, version })
    }
}

/// Of `go1.26.8`.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim_start_matches("go").split(['.', ' ', '-']).map_while(|number| number.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).is_some_and(|numbers| numbers >= OLDEST)
}

impl Module {
    /// The last part of its folder.
    pub(crate) fn name(&self) -> &'static str {
        self.folder.rsplit('/').next().unwrap_or(self.folder)
    }

    /// The folder of its programs if none of them has to be built.
    pub(crate) fn cached(&self, root: &Path, go: &Go) -> Result<Option<PathBuf>> {
        let folder = self.place(&root.join(self.folder), go)?;
        Ok(self.programs.iter().all(|program| folder.join(program.name).exists()).then_some(folder))
    }

    fn place(&self, source: &Path, go: &Go) -> Result<PathBuf> {
        let version = self.version(source)?;
        let name = format!("{}-{}-{}", self.name(), version.trim_start_matches('v'), fingerprint(source, &go.version)?);
        Ok(workspace::cache()?.join("go").join(name))
    }

    /// The folder of its programs; builds what is missing.
    pub(crate) fn built(&self, root: &Path, go: &Go) -> Result<PathBuf> {
        let source = root.join(self.folder);
        let (version, folder) = (self.version(&source)?, self.place(&source, go)?);
        for program in self.programs {
            let path = folder.join(program.name);
            if path.exists() {
                continue;
            }
            let started = Instant::now();
            report::waiting(&format!("building {} {version}", program.name), || {
                self.build(go, program, &source, &version, &path)
            })
            .with_context(|| format!("{} can not be built from {}", program.name, source.display()))?;
            report::note(format_args!("{} {version}: {:.0} s", program.name, started.elapsed().as_secs_f64()));
        }
        Ok(folder)
    }

    /// The folder of a module that this one requires, as Go keeps it; fetched when it is not there.
    pub(crate) fn source_of(&self, root: &Path, go: &Go, module: &str) -> Result<PathBuf> {
        let folder = root.join(self.folder);
        let list = || {
            let mut command = Command::new(&go.program);
            command.args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module]).current_dir(&folder).env_remove("GOFLAGS");
            interrupt::output(&mut command)
        };
        let found = list()?;
        if !found.is_empty() {
            return Ok(found.into());
        }
        interrupt::output(Command::new(&go.program).args(["mod", "download", module]).current_dir(&folder))?;
        Ok(list()?.into())
    }

    /// As `go.mod` has it.
    pub(crate) fn version(&self, source: &Path) -> Result<String> {
        let Some(project) = self.project else { return Ok("own".to_owned()) };
        let text = fs::read_to_string(source.join("go.mod")).with_context(|| format!("no module {}", source.display()))?;
        required_version(&text, project)
    }

    fn build(&self, go: &Go, program: &Program, source: &Path, version: &str, to: &Path) -> Result<()> {
        let folder = to.parent().context("a program lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        // Beside its place, so that no half-written program is ever taken for one.
        let scratch = tempfile::tempdir_in(folder)?;
        let draft = scratch.path().join(program.name);
        let stamps = (self.stamps)(version).iter().fold(String::new(), |text, stamp| format!("{text} -X {stamp}"));
        // Others use the machine too.
        let mut command = Command::new("nice");
        let verb: &[&str] = if program.tests { &["test", "-c"] } else { &["build"] };
        command.args(["-n", "15"]).arg(&go.program).args(verb).args(["-trimpath", "-buildvcs=false", "-p=2"]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_go_is_passed_over() {
        let versions = ["go1.26", "go1.26.8", "go1.30.1", "go2.0", "go1.25.9", "go1.19.8", "devel", ""];
        assert_eq!(versions.map(is_new_enough), [true, true, true, true, false, false, false, false]);
    }

    #[test]
    fn versions_are_read_from_go_mod() {
        let text = "module x\n\nrequire k8s.io/kubernetes v1.35.3\n\nrequire (\n\tk8s.io/api v0.35.3 // indirect\n)\n\nreplace (\n\tk8s.io/kubelet => k8s.io/kubelet v0.1.0\n)\n";
        assert_eq!(required_version(text, "k8s.io/kubernetes").unwrap(), "v1.35.3");
        assert_eq!(required_version(text, "k8s.io/api").unwrap(), "v0.35.3");
        assert!(required_version(text, "k8s.io/kubelet").is_err());
    }
}
