//! The control plane: etcd, API server, controller manager, scheduler and name server, processes in one network namespace;
//! and the door through which clients of the machine's own namespace reach the API.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{http, in_netns, netns};

use super::{
    address::{self, API_PORT, Families},
    certificates, interrupt,
    kubectl::Kubectl,
    layout::Layout,
    process,
    programs::Programs,
    state::{Cluster, Started},
    template::{Templates, list},
};

/// etcd for its clients in the namespace.
pub(super) const ETCD: &str = "http://127.0.0.1:2379";

/// The name of the port's owner among the processes.
const DOOR: &str = "api-door";

/// Generous: a busy machine takes ten times what an idle one does.
const PATIENCE: Duration = Duration::from_mins(3);

/// Starts everything, one after the other as they need each other, and records it in the cluster.
pub(super) struct ControlPlane<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) layout: &'a Layout,
    pub(super) programs: &'a Programs,
    pub(super) templates: &'a Templates,
}

impl ControlPlane<'_> {
    pub(super) fn start(&mut self) -> Result<()> {
        fs::create_dir_all(self.layout.control())?;
        self.run("etcd", self.etcd())?;
        self.run("kube-apiserver", self.api_server())?;
        self.await_api()?;
        let user = |name: &str| format!("--kubeconfig={}", self.pki(&format!("{name}.kubeconfig")).display());
        self.run("kube-controller-manager", self.controller_manager(user("kube-controller-manager")))?;
        let user = format!("--kubeconfig={}", self.pki("kube-scheduler.kubeconfig").display());
        self.run("kube-scheduler", vec![user, "--leader-elect=false".to_owned()])?;
        self.names()?;
        self.door()
    }

    /// Waits until names are answered.
    pub(super) fn await_names(&self) -> Result<()> {
        let address: SocketAddr = format!("{}:8181", address::control().v4).parse()?;
        let namespace = netns::path(&self.layout.control_netns());
        interrupt::wait_until(
            "the name server",
            PATIENCE,
            || self.alive("coredns"),
            || Ok(in_netns(&namespace, || http::get(address, "/ready", Duration::from_secs(1)))??.status == 200),
        )
    }

    fn etcd(&self) -> Vec<String> {
        let peer = "http://127.0.0.1:2380";
        vec![
            format!("--data-dir={}", self.layout.control().join("etcd").display()),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // The data is gone with the cluster anyway.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ]
    }

    fn api_server(&self) -> Vec<String> {
        let families = self.cluster.families;
        let pki = |flag: &str, file: &str| format!("--{flag}={}", self.pki(file).display());
        vec![
            format!("--etcd-servers={ETCD}"),
            format!("--advertise-address={}", address::control().v4),
            format!("--secure-port={API_PORT}"),
            format!("--service-cluster-ip-range={}", families.list(&address::services())),
            pki("tls-cert-file", "kube-apiserver.crt"),
            pki("tls-private-key-file", "kube-apiserver.key"),
            pki("client-ca-file", "ca.crt"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            // Tokens of service accounts, for any audience that a pod asks for.
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            pki("service-account-signing-key-file", "sa.key"),
            pki("service-account-key-file", "sa.pub"),
            // exec, logs and port-forward.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            pki("kubelet-certificate-authority", "ca.crt"),
            pki("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            pki("kubelet-client-key", "apiserver-kubelet-client.key"),
            // There is no kube-proxy beside the control plane: webhooks are called at their pods' addresses.
            "--enable-aggregator-routing=true".to_owned(),
            pki("proxy-client-cert-file", "front-proxy.crt"),
            pki("proxy-client-key-file", "front-proxy.key"),
            pki("requestheader-client-ca-file", "ca.crt"),
            "--requestheader-allowed-names=front-proxy".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        ]
    }

    fn controller_manager(&self, kubeconfig: String) -> Vec<String> {
        let pki = |flag: &str, file: &str| format!("--{flag}={}", self.pki(file).display());
        vec![
            kubeconfig,
            pki("service-account-private-key-file", "sa.key"),
            pki("root-ca-file", "ca.crt"),
            pki("cluster-signing-cert-file", "ca.crt"),
            pki("cluster-signing-key-file", "ca.key"),
            "--use-service-account-credentials=true".to_owned(),
            // Nodes are made with the addresses of their pods.
            "--allocate-node-cidrs=false".to_owned(),
            format!("--cluster-cidr={}", self.cluster.families.list(&address::pods())),
            "--leader-elect=false".to_owned(),
        ]
    }

    /// The name server and the service that it is known by.
    fn names(&mut self) -> Result<()> {
        let hosts = self.layout.control().join("hosts");
        fs::write(&hosts, "").with_context(|| format!("write {}", hosts.display()))?;
        let text = |path: &Path| path.to_str().map(str::to_owned).context("the cluster's folder has a plain name");
        let kubeconfig = text(&self.cluster.control.kubeconfig)?;
        let values = [("address", &address::control().v4), ("hosts", &text(&hosts)?), ("kubeconfig", &kubeconfig)];
        let corefile = self.layout.control().join("Corefile");
        fs::write(&corefile, self.templates.fill("Corefile", &values.map(|(name, value)| (name, value.as_str())))?)?;
        self.run("coredns", vec![format!("-conf={}", corefile.display())])?;

        let families = self.cluster.families;
        let (kinds, policy) = match families {
            Families::V4AndV6 => (vec!["IPv4", "IPv6"], "RequireDualStack"),
            Families::V4 => (vec!["IPv4"], "SingleStack"),
        };
        let own = address::control();
        let service = self.templates.fill(
            "dns.yaml",
            &[
                ("address", &address::dns_service().v4),
                ("addresses", &list(&families.each(&address::dns_service()))),
                ("families", &list(&kinds)),
                ("policy", policy),
                ("v4", &own.v4),
                ("v6", &own.v6),
            ],
        )?;
        self.kubectl()?.apply(&service)
    }

    /// Clients on this machine reach the API at a port of the loopback device.
    fn door(&mut self) -> Result<()> {
        let port_file = self.layout.control().join("port");
        let target = format!("127.0.0.1:{API_PORT}");
        let namespace = netns::path(&self.layout.control_netns());
        let mut arguments = vec!["cluster".to_owned(), "door".to_owned(), namespace.display().to_string(), target];
        arguments.push(port_file.display().to_string());
        let program = env::current_exe().context("this program has a file")?;
        // In the machine's own namespace: the program enters the other one by itself.
        self.run_in(DOOR, &program, arguments, Path::new("/proc/self/ns/net"))?;
        interrupt::wait_until("a port for the API", PATIENCE, || self.alive(DOOR), || Ok(port_file.exists()))?;
        let server = format!("https://127.0.0.1:{}", fs::read_to_string(&port_file)?.trim());
        let (file, folder) = (self.layout.kubeconfig(), self.layout.certificates());
        certificates::write_kubeconfig(self.templates, &file, &server, "admin", &folder)?;
        self.cluster.server = Some(server);
        Ok(())
    }

    fn await_api(&self) -> Result<()> {
        let kubectl = self.kubectl()?;
        interrupt::wait_until(
            "the API server",
            PATIENCE,
            || self.alive("etcd").and(self.alive("kube-apiserver")),
            || Ok(kubectl.output(&["get", "--raw", "/readyz", "--request-timeout=5s"])? == "ok"),
        )
    }

    fn kubectl(&self) -> Result<Kubectl> {
        Kubectl::inside(self.cluster, self.programs)
    }

    fn pki(&self, file: &str) -> PathBuf {
        self.layout.certificates().join(file)
    }

    fn alive(&self, component: &str) -> Result<()> {
        let alive = self.cluster.control.processes.get(component).is_some_and(|started| started.process.alive());
        let log = self.cluster.logs.join(format!("{component}.log"));
        ensure!(alive, "{component} has ended:\n{}", process::tail(&log, 20));
        Ok(())
    }

    fn run(&mut self, component: &str, arguments: Vec<String>) -> Result<()> {
        let program = self.programs.path(component)?;
        let namespace = netns::path(&self.layout.control_netns());
        self.run_in(component, &program, arguments, &namespace)
    }

    fn run_in(&mut self, component: &str, program: &Path, arguments: Vec<String>, namespace: &Path) -> Result<()> {
        interrupt::check()?;
        let mut command = vec![program.display().to_string()];
        command.extend(arguments);
        let process = start(self.layout, component, &command, namespace)?;
        self.cluster.control.processes.insert(component.to_owned(), Started { process, command });
        self.cluster.save()
    }
}

/// Starts a component with this command line.
fn start(layout: &Layout, component: &str, command: &[String], namespace: &Path) -> Result<process::Process> {
    let (program, arguments) = command.split_first().context("a command line names a program")?;
    let mut program = Command::new(program);
    program.args(arguments);
    let log = layout.logs().join(format!("{component}.log"));
    process::start(&mut program, namespace, &format!("{}/control", layout.prefix()), &log)
}

/// Ends a component of the control plane and starts it again as it was.
pub(super) fn restart(cluster: &mut Cluster, component: &str) -> Result<()> {
    let layout = cluster.layout();
    let processes: &mut BTreeMap<String, Started> = &mut cluster.control.processes;
    let names = processes.keys().cloned().collect::<Vec<_>>().join(", ");
    let started = processes.get_mut(component).with_context(|| format!("no component {component}; there are {names}"))?;
    started.process.kill()?;
    let namespace = if component == DOOR { "/proc/self/ns/net".into() } else { netns::path(&layout.control_netns()) };
    started.process = start(&layout, component, &started.command, &namespace)?;
    cluster.save()
}
