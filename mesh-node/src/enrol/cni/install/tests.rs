//! On folders like those of a host.

use super::*;

const LIST: &str = "{\n \"cniVersion\":\"1.0.0\",\"name\":\"net\",\n \"plugins\":[{\"type\":\"bridge\"}]}\n\n";
const SINGLE: &str = "{ \"cniVersion\":\"0.4.0\", \"name\":\"old\", \"type\":\"ptp\" }";

struct Host {
    folder: tempfile::TempDir,
    installer: Installer,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["bin", "net.d", "account"] {
            fs::create_dir(path(name)).expect("folder");
        }
        fs::write(path("image-plugin"), "program 1").expect("file");
        fs::write(path("account/token"), "token 1").expect("file");
        fs::write(path("account/ca.crt"), "roots").expect("file");
        let settings = Settings {
            plugin: path("image-plugin"),
            bin_dir: path("bin"),
            conf_dir: path("net.d"),
            service_account: path("account"),
            api_server: "https://10.96.0.1:443".into(),
            cluster: "Kubernetes".into(),
            socket: "/run/keelson/node/enrol.sock".into(),
            exempt_namespaces: ["kube-system".to_owned()].into(),
            wait_seconds: 30,
            log: "/run/keelson/node/cni.log".into(),
        };
        Self { folder, installer: Installer::new(settings) }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("file");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_else(|error| format!("{name}: {error}"))
    }

    fn exists(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }

    fn mode(&self, name: &str) -> u32 {
        files::mode(&self.folder.path().join(name)).expect("mode")
    }

    fn ensure(&mut self) -> Vec<Change> {
        self.installer.ensure().expect("installed")
    }

    fn is_chained(&self, name: &str) -> bool {
        let entry = chain::entry(&self.installer.plugin_config());
        chain::is_chained(self.read(name).as_bytes(), Form::List, &entry)
    }

    /// The names in a folder.
    fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join(name)).expect("folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

#[test]
fn it_is_installed_kept_and_taken_away_without_a_trace() {
    let mut host = Host::new();
    host.write("net.d/10-net.conflist", LIST);
    host.write("net.d/90-later.conflist", LIST);
    assert_eq!(host.ensure().len(), 3);
    assert_eq!(host.ensure(), [], "nothing is written twice");
    assert!(host.is_chained("net.d/10-net.conflist") && !host.is_chained("net.d/90-later.conflist"));
    assert_eq!((host.read("bin/keelson-cni"), host.mode("bin/keelson-cni")), ("program 1".into(), 0o755));
    assert_eq!(host.mode("net.d/keelson-cni/token"), 0o600);
    let config: PluginConfig = serde_json::from_str(&host.read("net.d/keelson-cni/plugin.json")).expect("JSON");
    assert!(config.ambient && config.api.token.ends_with("net.d/keelson-cni/token"), "{config:?}");

    // The token is renewed, the program damaged.
    host.write("account/token", "token 2");
    host.write("bin/keelson-cni", "damaged");
    assert_eq!(host.ensure(), [Change::Program(host.folder.path().join("bin/keelson-cni"))]);
    assert_eq!((host.read("net.d/keelson-cni/token"), host.read("bin/keelson-cni")), ("token 2".into(), "program 1".into()));

    assert_eq!(host.installer.uninstall().expect("uninstalled").len(), 1);
    assert_eq!(host.read("net.d/10-net.conflist"), LIST);
    assert_eq!(host.names("net.d"), ["10-net.conflist", "90-later.conflist"]);
    assert!(host.names("bin").is_empty());
    assert_eq!(host.installer.uninstall().expect("again"), []);
}

#[test]
fn a_new_process_takes_up_what_stands() {
    let mut host = Host::new();
    host.write("net.d/10-net.conflist", LIST);
    host.ensure();
    host.write("image-plugin", "program 2");
    host.installer = Installer::new(host.installer.settings.clone());
    assert_eq!(host.ensure(), [Change::Program(host.folder.path().join("bin/keelson-cni"))]);
    host.installer = Installer::new(host.installer.settings.clone());
    host.installer.uninstall().expect("uninstalled");
    assert_eq!(host.read("net.d/10-net.conflist"), LIST);
}

#[test]
fn what_somebody_else_writes_is_kept() {
    let mut host = Host::new();
    host.write("net.d/10-net.conflist", LIST);
    host.ensure();
    // The pod network's agent writes its configuration again, another one this time.
    let newer = LIST.replace("bridge", "calico");
    host.write("net.d/10-net.conflist", &newer);
    assert_eq!(host.ensure().len(), 1);
    assert!(host.is_chained("net.d/10-net.conflist"));
    // Somebody edits what we wrote: that is kept too.
    let edited = host.read("net.d/10-net.conflist").replace("calico", "edited");
    host.write("net.d/10-net.conflist", &edited);
    assert_eq!(host.ensure(), []);
    host.installer.uninstall().expect("uninstalled");
    let left = host.read("net.d/10-net.conflist");
    assert!(left.contains("edited") && !left.contains("keelson"), "{left}");
}

#[test]
fn a_single_plugin_becomes_a_list_and_one_again() {
    let mut host = Host::new();
    host.write("net.d/10-old.conf", SINGLE);
    host.ensure();
    assert_eq!(host.names("net.d"), ["10-old.conflist", "keelson-cni"]);
    assert!(host.is_chained("net.d/10-old.conflist"));
    assert_eq!(host.ensure(), []);
    host.installer.uninstall().expect("uninstalled");
    assert_eq!((host.names("net.d"), host.read("net.d/10-old.conf")), (vec!["10-old.conf".to_owned()], SINGLE.to_owned()));
}

#[test]
fn the_first_network_is_the_one_that_counts() {
    let mut host = Host::new();
    let nothing = host.installer.ensure().expect_err("no network");
    assert!(matches!(nothing, CniError::NoNetwork { .. }), "{nothing}");
    host.write("net.d/50-b.conflist", LIST);
    host.ensure();
    // Another pod network is installed.
    host.write("net.d/10-a.conflist", &LIST.replace("bridge", "other"));
    assert_eq!(host.ensure().len(), 2);
    assert!(host.is_chained("net.d/10-a.conflist"));
    assert_eq!(host.read("net.d/50-b.conflist"), LIST);
    // And removed again, our entry with it.
    fs::remove_file(host.folder.path().join("net.d/10-a.conflist")).expect("removed");
    host.ensure();
    assert!(host.is_chained("net.d/50-b.conflist") && !host.exists("net.d/10-a.conflist"));
}

#[test]
fn a_configuration_that_can_not_be_used_is_left_as_it_is() {
    let mut host = Host::new();
    host.write("net.d/10-net.conflist", "{ half");
    let unfit = host.installer.ensure().expect_err("half a file");
    assert!(matches!(unfit, CniError::Unfit { .. }), "{unfit}");
    assert_eq!(host.read("net.d/10-net.conflist"), "{ half");
    host.write("net.d/10-net.conflist", LIST);
    host.ensure();
    assert!(host.is_chained("net.d/10-net.conflist"));
}

#[test]
fn beside_istio_ambient_is_not_ours() {
    let mut host = Host::new();
    host.write("net.d/10-net.conflist", &LIST.replace("bridge", "istio-cni"));
    host.ensure();
    let config: PluginConfig = serde_json::from_str(&host.read("net.d/keelson-cni/plugin.json")).expect("JSON");
    assert!(!config.ambient);
}
