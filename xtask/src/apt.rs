//! Debian packages: installed when a tool is missing, or downloaded and unpacked without being installed.
//!
//! Packages of another release are reached through a scratch configuration beside the machine's own; its mirror is the one
//! that the machine uses already, and apt verifies signatures as always.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{report, workspace};

/// Debian's own keys, for machines whose sources do not name a key file.
const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Installs packages. Needs root; nothing is asked.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    report::note(format_args!("apt-get install {}", packages.join(" ")));
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--no-install-recommends"]).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
        report::waiting("apt-get install", || workspace::output(&mut apt))
    };
    // The machine's package lists may be old or absent: then once more with fresh ones.
    install().or_else(|_| {
        report::waiting("apt-get update", || workspace::output(Command::new("apt-get").arg("update")))?;
        install()
    })?;
    Ok(())
}

/// Downloads a package of the machine's own release into `folder` without installing it.
pub(crate) fn download(package: &str, folder: &Path) -> Result<PathBuf> {
    let download = || {
        let mut apt = Command::new("apt-get");
        // The folder may be ours alone, which the unprivileged user of apt can not read.
        apt.args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(folder);
        report::waiting(&format!("downloading {package}"), || workspace::output(&mut apt))
    };
    // The machine's package lists may be old or absent: then once more with fresh ones.
    download().or_else(|_| {
        report::waiting("apt-get update", || workspace::output(Command::new("apt-get").arg("update")))?;
        download()
    })?;
    let found = packages_in(folder)?.into_iter().next();
    found.with_context(|| format!("apt-get downloaded {package} and left no file"))
}

/// Unpacks a package into `folder` without installing it.
pub(crate) fn unpack(package: &Path, folder: &Path) -> Result<()> {
    workspace::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder))
}

/// The packages of one Debian release, which need not be the machine's.
pub(crate) struct Suite {
    scratch: TempDir,
}

impl Suite {
    /// Fetches the package lists of this suite (`trixie`, `trixie-backports`) from the machine's own mirror.
    pub(crate) fn other(name: &str) -> Result<Self> {
        let scratch = tempfile::tempdir().context("make a folder for package lists")?;
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(scratch.path().join(folder))?;
        }
        let Mirror { address, keys } = mirror()?;
        fs::write(scratch.path().join("sources.list"), format!("deb [signed-by={keys}] {address} {name} main\n"))?;
        let suite = Self { scratch };
        report::waiting(&format!("fetching the package lists of {name}"), || {
            workspace::output(suite.apt("apt-get").arg("update"))
        })
        .with_context(|| format!("the packages of {name} cannot be reached"))?;
        Ok(suite)
    }

    /// Downloads one package into `folder`. With `version`, the newest whose version starts with it.
    pub(crate) fn download(&self, package: &str, version: Option<&str>, folder: &Path) -> Result<PathBuf> {
        let wanted = match version {
            None => package.to_owned(),
            Some(version) => format!("{package}={}", self.version(package, version)?),
        };
        let before = packages_in(folder)?;
        report::waiting(&format!("downloading {wanted}"), || {
            workspace::output(self.apt("apt-get").args(["download", &wanted]).current_dir(folder))
        })?;
        let new = packages_in(folder)?.into_iter().find(|file| !before.contains(file));
        new.with_context(|| format!("apt-get downloaded {wanted} and left no file"))
    }

    /// The first package that `package` depends on: what a meta-package stands for.
    pub(crate) fn first_dependency(&self, package: &str) -> Result<String> {
        let text = workspace::output(self.apt("apt-cache").args(["depends", package]))?;
        let dependency = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        dependency.map(str::to_owned).with_context(|| format!("{package} depends on nothing"))
    }

    fn version(&self, package: &str, prefix: &str) -> Result<String> {
        let text = workspace::output(self.apt("apt-cache").args(["madison", package]))?;
        let mut versions = text.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
        let found = versions.find(|version| version.starts_with(prefix));
        found.map(str::to_owned).with_context(|| format!("no version {prefix} of {package} in this suite"))
    }

    fn apt(&self, program: &str) -> Command {
        let scratch = self.scratch.path();
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::Etc::sourcelist", scratch.join("sources.list").as_os_str()),
            ("Dir::Etc::sourceparts", OsStr::new("-")),
            ("Dir::State::lists", scratch.join("lists").as_os_str()),
            ("Dir::State::status", OsStr::new("/dev/null")),
            ("Dir::Cache", scratch.join("cache").as_os_str()),
            // The scratch folder is ours alone, which the unprivileged user of apt can not read.
            ("APT::Sandbox::User", OsStr::new("root")),
            ("Acquire::Languages", OsStr::new("none")),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", OsStr::new("false")),
        ] {
            let mut setting = std::ffi::OsString::from(format!("{option}="));
            setting.push(value);
            command.arg("-o").arg(setting);
        }
        command
    }
}

struct Mirror {
    address: String,
    keys: String,
}

/// The Debian mirror that this machine already uses.
fn mirror() -> Result<Mirror> {
    let targets = || {
        workspace::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)|$(SIGNED_BY)",
            "Created-By: Packages",
            "Label: Debian",
            "Component: main",
        ]))
    };
    let mut found = targets().context("packages of another Debian release need a Debian machine with apt")?;
    if found.is_empty() {
        report::waiting("apt-get update", || workspace::output(Command::new("apt-get").arg("update")))?;
        found = targets()?;
    }
    parse_mirror(&found)
}

fn parse_mirror(targets: &str) -> Result<Mirror> {
    let Some((address, keys)) = targets.lines().find_map(|line| line.split_once('|')) else {
        bail!("this machine has no source of Debian packages: packages of another Debian release cannot be reached")
    };
    ensure!(!address.is_empty(), "apt names a Debian source without an address");
    // Old versions of apt do not know the field and print its name; a source without a key file prints nothing.
    let keys = if keys.starts_with('/') { keys } else { DEBIAN_KEYS };
    Ok(Mirror { address: address.to_owned(), keys: keys.to_owned() })
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(files.into_iter().filter(|file| file.extension() == Some(OsStr::new("deb"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mirror_with_and_without_a_key_file() {
        for (targets, address, keys) in [
            ("http://a/debian/|$(SIGNED_BY)\nhttp://b/|/k.gpg", "http://a/debian/", DEBIAN_KEYS),
            ("http://b/|/k.gpg", "http://b/", "/k.gpg"),
            ("http://b/|", "http://b/", DEBIAN_KEYS),
        ] {
            let mirror = parse_mirror(targets).unwrap();
            assert_eq!((mirror.address.as_str(), mirror.keys.as_str()), (address, keys));
        }
        assert!(parse_mirror("").is_err());
    }
}
