//! What the container runtime asks for: the environment of the CNI specification (1.1, section 2).

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::answer::Failure;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// The variables as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub command: Option<String>,
    pub netns: Option<String>,
    /// `KEY=VALUE;KEY=VALUE`.
    pub args: Option<String>,
}

/// The pod that the kubelet starts, as `CNI_ARGS` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReference {
    pub namespace: String,
    pub name: String,
    /// `metadata.uid`; older runtimes do not say it.
    pub uid: Option<String>,
}

impl Environment {
    pub fn of_process() -> Self {
        let variable = |name| env::var(name).ok();
        Self { command: variable("CNI_COMMAND"), netns: variable("CNI_NETNS"), args: variable("CNI_ARGS") }
    }

    pub fn command(&self) -> Result<Command, Failure> {
        match self.command.as_deref() {
            Some("ADD") => Ok(Command::Add),
            Some("DEL") => Ok(Command::Del),
            Some("CHECK") => Ok(Command::Check),
            Some("STATUS") => Ok(Command::Status),
            Some("GC") => Ok(Command::Gc),
            Some("VERSION") => Ok(Command::Version),
            other => {
                let problem = format!("is {:?}, which is no command", other.unwrap_or_default());
                Err(Failure::Environment { variable: "CNI_COMMAND", problem })
            }
        }
    }

    /// The pod's network namespace, by a path without symbolic links: `/var/run` is one on most hosts, and the node proxy's
    /// container has none.
    pub fn netns(&self) -> Result<PathBuf, Failure> {
        let path = self.netns.as_deref().filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| Failure::Environment { variable: "CNI_NETNS", problem: "is not set".to_owned() })?;
        let failed = |source| Failure::Netns { path: Path::new(path).to_owned(), source };
        // The file itself may be a link of `/proc`, which leads to no path.
        let (Some(folder), Some(name)) = (Path::new(path).parent(), Path::new(path).file_name()) else {
            return Err(Failure::Environment { variable: "CNI_NETNS", problem: format!("is {path:?}, which is no file") });
        };
        let whole = folder.canonicalize().map_err(failed)?.join(name);
        whole.metadata().map_err(failed)?;
        Ok(whole)
    }

    /// `None` when this is no pod of Kubernetes: nothing says who it is, and nobody asked for it to be in the mesh.
    pub fn pod(&self) -> Option<PodReference> {
        let value = |name: &str| {
            let pairs = self.args.as_deref()?.split(';').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value.to_owned()).next_back()
        };
        Some(PodReference { namespace: value("K8S_POD_NAMESPACE")?, name: value("K8S_POD_NAME")?, uid: value("K8S_POD_UID") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_by_the_arguments() {
        let pod = |args: &str| Environment { args: Some(args.to_owned()), ..Environment::default() }.pod();
        let page = PodReference { namespace: "shop".into(), name: "page".into(), uid: None };
        assert_eq!(pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=page"), Some(page.clone()));
        let with_uid = PodReference { uid: Some("u-1".into()), ..page };
        assert_eq!(pod("K8S_POD_UID=u-1;K8S_POD_NAME=page;K8S_POD_NAMESPACE=shop;"), Some(with_uid));
        for other in ["", "IgnoreUnknown=1", "K8S_POD_NAME=page", "K8S_POD_NAMESPACE=;K8S_POD_NAME=page"] {
            assert_eq!(pod(other), None, "{other}");
        }
    }

    #[test]
    fn a_namespaces_path_has_no_links_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir(at("run")).unwrap();
        std::fs::write(at("run/cni-1"), "").unwrap();
        std::os::unix::fs::symlink(at("run"), at("var-run")).unwrap();
        let netns = |path: PathBuf| Environment { netns: Some(path.display().to_string()), ..Environment::default() }.netns();
        assert_eq!(netns(at("var-run/cni-1")).unwrap(), at("run/cni-1"));
        assert!(netns("/proc/self/ns/net".into()).unwrap().ends_with("ns/net"));
        assert_eq!(netns(at("run/cni-2")).unwrap_err().code(), 4);
        assert_eq!(Environment::default().netns().unwrap_err().code(), 4);
    }

    #[test]
    fn commands_are_the_specifications() {
        let command = |text: &str| Environment { command: Some(text.to_owned()), ..Environment::default() }.command();
        assert_eq!(command("ADD").unwrap(), Command::Add);
        assert_eq!(command("GC").unwrap(), Command::Gc);
        assert_eq!(command("add").unwrap_err().code(), 4);
        assert_eq!(Environment::default().command().unwrap_err().code(), 4);
    }
}
