//! Settings of the CNI plugin that the node installs.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::duration;
use crate::enrol::cni::Settings;

/// Off unless both folders are named.
#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_field_names, reason = "the flags' names on the command line")]
pub struct CniArguments {
    /// Folder of the host's CNI plugins, at the path that it has there; new pods are captured before they start
    #[arg(long, env = "KEELSON_CNI_BIN_DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,

    /// Folder of the host's network configurations, at the path that it has there
    #[arg(long, env = "KEELSON_CNI_CONF_DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,

    /// The CNI plugin to install
    #[arg(long, env = "KEELSON_CNI_PLUGIN", default_value = "/usr/local/bin/keelson-cni")]
    pub cni_plugin: PathBuf,

    /// Namespaces whose pods start without anybody being asked whether they belong to the mesh
    #[arg(long, env = "KEELSON_CNI_EXEMPT", value_delimiter = ',', default_value = "keelson-system,kube-system")]
    pub cni_exempt: Vec<String>,

    /// How long a pod's start waits for the API server and the node proxy before it fails and is tried again
    #[arg(long, env = "KEELSON_CNI_WAIT", default_value = "30s", value_parser = duration)]
    pub cni_wait: Duration,

    /// The API server as the host reaches it, such as https://10.96.0.1:443 [default: from KUBERNETES_SERVICE_HOST and _PORT]
    #[arg(long, env = "KEELSON_CNI_API_SERVER")]
    pub cni_api_server: Option<String>,

    /// Folder with the token and ca.crt that the CNI plugin asks the API server with
    #[arg(long, env = "KEELSON_CNI_SERVICE_ACCOUNT", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub cni_service_account: PathBuf,
}

impl CniArguments {
    /// What is to be installed, if anything. `variable` reads the environment.
    pub fn settings(
        &self,
        cluster: &str,
        runtime_dir: &std::path::Path,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Settings>, String> {
        let (Some(bin_dir), Some(conf_dir)) = (&self.cni_bin_dir, &self.cni_conf_dir) else { return Ok(None) };
        let of_environment = || {
            let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
            // An IPv6 address has brackets in a URL.
            Some(if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
        };
        let api_server = self.cni_api_server.clone().or_else(of_environment);
        Ok(Some(Settings {
            plugin: self.cni_plugin.clone(),
            bin_dir: bin_dir.clone(),
            conf_dir: conf_dir.clone(),
            service_account: self.cni_service_account.clone(),
            api_server: api_server.ok_or("--cni-api-server is missing, and this is no pod of Kubernetes")?,
            cluster: cluster.to_owned(),
            socket: runtime_dir.join("enrol.sock"),
            exempt_namespaces: self.cni_exempt.iter().filter(|name| !name.is_empty()).cloned().collect(),
            wait_seconds: self.cni_wait.as_secs(),
            log: runtime_dir.join("cni.log"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cni: CniArguments,
    }

    fn settings(words: &[&str], host: Option<&str>) -> Result<Option<Settings>, String> {
        let line = Line::try_parse_from(["x"].iter().chain(words)).map_err(|error| error.to_string())?;
        let variable = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => host.map(str::to_owned),
            "KUBERNETES_SERVICE_PORT" => host.map(|_| "443".to_owned()),
            other => panic!("{other}"),
        };
        line.cni.settings("Kubernetes", "/run/k".as_ref(), variable)
    }

    #[test]
    fn it_is_off_unless_both_folders_are_named() {
        assert!(settings(&[], Some("10.96.0.1")).expect("valid").is_none());
        assert!(settings(&["--cni-bin-dir", "/b"], None).is_err());
        assert!(settings(&["--cni-conf-dir", "/c"], None).is_err());
    }

    #[test]
    fn the_api_server_is_that_of_the_pod_or_the_one_named() {
        let both = ["--cni-bin-dir", "/b", "--cni-conf-dir", "/c"];
        let server = |words: &[&str], host| settings(words, host).map(|found| found.expect("on").api_server);
        assert_eq!(server(&both, Some("10.96.0.1")), Ok("https://10.96.0.1:443".to_owned()));
        assert_eq!(server(&both, Some("fd96::1")), Ok("https://[fd96::1]:443".to_owned()));
        let named = ["--cni-bin-dir", "/b", "--cni-conf-dir", "/c", "--cni-api-server", "https://api:1"];
        assert_eq!(server(&named, Some("10.96.0.1")), Ok("https://api:1".to_owned()));
        assert!(server(&both, None).is_err());
        let exempt = settings(&both, Some("10.96.0.1")).expect("valid").expect("on").exempt_namespaces;
        assert_eq!(Vec::from_iter(exempt), ["keelson-system", "kube-system"]);
    }
}
