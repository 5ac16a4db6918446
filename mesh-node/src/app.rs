//! The composition root: every part is made here, given what it needs, and started.

mod kernel;
mod uninstall;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use mesh_policy::model::Percent;
use mesh_proto::enrol::enrolment_service_server::EnrolmentServiceServer;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::AbortHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tracing::{error, info, warn};

use crate::{
    admin::{self, Admin, Endpoint, Readiness, SetLog},
    authz, balance,
    config::{Config, LogFormat},
    ebpf,
    enrol::{
        Agent, LocalPods,
        agent::PodLimits,
        cni::{Installer, Standing, keep},
        handover::{self, Giver, Taker},
        record::Records,
        running::{Failures, Follower, Processes},
        service::Service,
    },
    hbone, http,
    identity::{Aliases, Certificates, ChannelRoots, Disk, GrpcAuthority, GrpcAuthoritySettings, channel},
    inbound::{Deliverer, Inbound},
    outbound::{
        Dialer, Limits, Outbound,
        names::{self, Names, SystemResolver},
    },
    state::{Client, Reporter, Store, client::chain, disk::StateFile},
    telemetry::{AccessForm, OtlpExporter, Telemetry},
    worker::Workers,
};

use kernel::{Probing, open_kernel};

/// What a certificate is asked for; the authority may give less.
const CERTIFICATE_VALIDITY: Duration = Duration::from_hours(24);
/// How often the order of programs at `connect()` is looked at.
const ORDER_PATROL: Duration = Duration::from_secs(5);
/// How long a new process waits for the disk, and for the addresses of the one before it.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a drain goes on without any connection when tunnels are still open.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a drain looks for the last connection.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// Runs the node until it has drained. Must be called inside the control runtime.
pub async fn run(config: Config, set_log: SetLog) -> Result<()> {
    config.validate().map_err(anyhow::Error::msg)?;
    let (runtime_dir, state_dir) = (config.runtime_dir.clone(), config.state_dir());
    for dir in [&runtime_dir, &state_dir] {
        private_dir(dir).with_context(|| format!("directory {}", dir.display()))?;
    }
    let plugin =
        config.cni.settings(&config.cluster, &runtime_dir, |name| std::env::var(name).ok()).map_err(anyhow::Error::msg)?;
    let plugin = plugin.map(Installer::new);
    if config.uninstall {
        return uninstall::run(&config, plugin).await;
    }
    // It stands still before the pins are touched.
    let taker = taker(&config).await;
    let kernel = open_kernel(&config)?;
    let probes = Probing::new(&config)?;

    let workers = Arc::new(Workers::start(worker_count(&config)).context("worker threads")?);
    let (store, telemetry, pods) = (Store::new(), Telemetry::new(), Arc::new(LocalPods::default()));
    observe(&config, &telemetry)?;
    telemetry.follow(store.clone());
    let mirrors = http::mirror::Mirrors::new();
    mirrors.show(&telemetry.metrics);
    balance::show(pods.clone(), &telemetry.metrics);
    let controller = channel(&config.controller, ChannelRoots::File(config.ca_root.clone())).context("--controller")?;
    let certificates_dir = state_dir.join("certificates");
    let disk = Disk::open(&certificates_dir).with_context(|| format!("directory {}", certificates_dir.display()))?;
    let aliases = Aliases::default();
    let certificates = Certificates::new(aliases.clone(), Some(Arc::new(disk)));
    let (connected, is_connected) = watch::channel(false);
    let reporter = Reporter::new(config.name.clone(), controller.clone(), token(&config.token_file), is_connected);
    let draining = watch::Sender::new(false);
    let names = Names::new(SystemResolver::new(&config.resolv_conf), names::PATIENCE);
    names.show(&telemetry.metrics);
    let standing = Arc::new(if plugin.is_some() { Standing::default() } else { Standing::good() });
    let readiness = Arc::new(Readiness { behind_foreign: AtomicBool::new(false), cni: standing.clone(), draining });
    let settings = hbone::Settings { drain_timeout: config.drain, ..hbone::Settings::default() };

    let requests = http::Limits { head: config.http_head_timeout, body: config.http_body_timeout, ..http::Limits::default() };

    let marks = kernel.marks();
    let outbound = Arc::new(Outbound {
        workers: workers.clone(),
        marks: marks.clone(),
        dialer: Dialer { marks: marks.clone(), timeout: config.connect_timeout },
        store: store.clone(),
        pods: pods.clone(),
        certificates: certificates.clone(),
        telemetry: telemetry.clone(),
        limits: Limits { configuration: config.configuration_wait, certificate: config.certificate_wait },
        http: requests.clone(),
        mirrors,
        names,
        draining: readiness.draining.subscribe(),
    });
    let inbound = Arc::new(Inbound {
        workers: workers.clone(),
        deliverer: Deliverer { marks, timeout: config.connect_timeout },
        store: store.clone(),
        certificates: certificates.clone(),
        telemetry: telemetry.clone(),
        hbone: settings.clone(),
        http: requests,
        patience: config.configuration_wait,
        draining: readiness.draining.subscribe(),
    });
    let agent = Arc::new(Agent {
        kernel,
        records: Records::open(&runtime_dir).context("records of captured pods")?,
        pods,
        workers: workers.clone(),
        store: store.clone(),
        certificates: certificates.clone(),
        aliases,
        reporter: reporter.clone(),
        telemetry: telemetry.clone(),
        outbound,
        inbound,
        hbone: settings,
        limits: PodLimits { connections: config.pod_connections, tunnel_bytes: config.pod_tunnel_mib << 20 },
        routings: Arc::default(),
        changes: tokio::sync::Mutex::default(),
        retired: AtomicBool::new(false),
        entries: Mutex::default(),
    });

    let client = Client {
        node_id: format!("keelson~{}", config.name),
        channel: controller.clone(),
        token: token(&config.token_file),
        store: store.clone(),
        telemetry: telemetry.clone(),
        file: StateFile::new(&state_dir),
        connected,
    };
    tokio::spawn(client.run());
    let authority = GrpcAuthoritySettings {
        token: config.token_file.clone(),
        cluster: config.cluster.clone(),
        validity: CERTIFICATE_VALIDITY,
    };
    tokio::spawn(certificates.clone().run(Arc::new(GrpcAuthority::new(controller.clone(), authority))));
    tokio::spawn(authz::watch(store.clone(), telemetry.clone()));
    tokio::spawn(balance::forget(store.clone(), agent.pods.clone()));

    // Before anybody may enrol: what was captured is served again first.
    if let Some(taker) = taker {
        take_over(taker, &agent).await;
    }
    agent.adopt().await;
    tokio::spawn(agent.clone().patrol());
    // A report replaces those before it: one without the pods that are still to be taken up would withdraw their HBONE.
    let mut services = vec![tokio::spawn(reporter.run()).abort_handle()];
    services.push(tokio::spawn(watch_order(agent.clone(), readiness.clone())).abort_handle());
    services.extend(probes.start(&agent)?);
    let failures = Arc::new(Failures::default());
    let follower = Follower {
        node: config.name.clone(),
        channel: controller,
        token: token(&config.token_file),
        agent: agent.clone(),
        processes: Processes::new("/proc", "/run/netns"),
        failures: failures.clone(),
    };
    services.push(tokio::spawn(follower.run()).abort_handle());

    let admin = Arc::new(Admin {
        node: config.name.clone(),
        instance: config.instance.clone(),
        started: SystemTime::now(),
        store,
        agent: agent.clone(),
        certificates,
        telemetry: telemetry.clone(),
        workers,
        readiness: readiness.clone(),
        set_log,
        log: Mutex::new(config.log.clone()),
    });
    services.extend(serve_admin(&config, &admin).await?);
    let enrol = admin::bind_unix(&runtime_dir.join("enrol.sock")).context("enrolment socket")?;
    let server =
        tonic::transport::Server::builder().add_service(EnrolmentServiceServer::new(Service { agent: agent.clone(), failures }));
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(UnixListenerStream::new(enrol)).await {
            error!(error = %chain(&error), "pods can no longer be enrolled");
        }
    });
    // Whoever it makes ask is answered from here on.
    if let Some(plugin) = plugin {
        services.push(tokio::spawn(keep(plugin, standing)).abort_handle());
    }
    let (local, retired) = (agent.pods.clone(), watch::Sender::new(false));
    let giver = Giver { node: config.name.clone(), instance: config.instance.clone(), agent, services, retired: retired.clone() };
    let next = admin::bind_unix(&runtime_dir.join(handover::SOCKET)).and_then(admin::blocking).context("handover socket")?;
    handover::serve(next, giver).context("handover socket")?;
    info!(node = config.name, instance = config.instance, "the node proxy runs");
    finish(&config, &readiness, retired.subscribe(), &telemetry, &local).await
}

/// Has the process that runs stand still. One that can not be spoken to is left alone: its listeners are then replaced.
async fn taker(config: &Config) -> Option<Taker> {
    let (socket, node, instance) = (config.runtime_dir.join(handover::SOCKET), config.name.clone(), config.instance.clone());
    let connected = tokio::task::spawn_blocking(move || Taker::connect(&socket, &node, &instance)).await;
    match connected {
        Ok(Ok(taker)) => taker,
        Ok(Err(error)) => {
            warn!(error = %chain(&error), "the process that runs does not hand over: its pods are taken up as after a crash");
            None
        }
        Err(_) => None,
    }
}

/// Serves what the process that runs served, before it stops.
async fn take_over(mut taker: Taker, agent: &Arc<Agent>) {
    // What is on disk is read in a moment; a connection that comes before it would wait.
    let mut snapshots = agent.store.subscribe();
    let _ = tokio::time::timeout(HANDOVER_PATIENCE, async {
        while agent.store.generation() == 0 && snapshots.changed().await.is_ok() {}
    })
    .await;
    let taken = tokio::task::spawn_blocking(move || taker.take().map(|taken| (taker, taken))).await;
    let (taker, taken) = match taken {
        Ok(Ok(taken)) => taken,
        Ok(Err(error)) => return warn!(error = %chain(&error), "the process that runs broke off its handover"),
        Err(_) => return,
    };
    agent.take_over(taken).await;
    match tokio::task::spawn_blocking(move || taker.done()).await {
        Ok(Ok(())) => info!("the process that ran no longer accepts connections"),
        Ok(Err(error)) => warn!(error = %chain(&error), "the process that ran may still accept connections"),
        Err(_) => {}
    }
}

/// Waits for a signal or a request to drain, and then for open connections.
async fn finish(
    config: &Config,
    readiness: &Readiness,
    mut retired: watch::Receiver<bool>,
    telemetry: &Telemetry,
    pods: &LocalPods,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut draining = readiness.draining.subscribe();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = draining.wait_for(|draining| *draining) => {}
        // Everything goes on but for new connections. Ending by itself, it would be started again and take everything back.
        Ok(_) = retired.wait_for(|retired| *retired) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    }
    readiness.draining.send_replace(true);
    info!(connections = telemetry.count(), within = ?config.drain, "draining");
    // Streams come through a tunnel until its peer knows of the end. One whose peer has died says nothing any more.
    let tunnels = || pods.all().values().map(|pod| pod.connections.open()).sum::<usize>();
    let drained = async {
        let mut last_seen = tokio::time::Instant::now();
        loop {
            if telemetry.count() > 0 {
                last_seen = tokio::time::Instant::now();
            } else if tunnels() == 0 || last_seen.elapsed() > FAREWELL {
                return;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    tokio::select! {
        () = drained => info!("drained"),
        () = tokio::time::sleep(config.drain) => warn!(connections = telemetry.count(), "the drain's time is up; what is open is reset"),
        _ = terminate.recv() => warn!(connections = telemetry.count(), "told again to stop; what is open is reset"),
        _ = interrupt.recv() => warn!(connections = telemetry.count(), "told again to stop; what is open is reset"),
    }
    Ok(())
}

async fn serve_admin(config: &Config, admin: &Arc<Admin>) -> Result<Vec<AbortHandle>> {
    let mut serving = Vec::new();
    for (address, endpoint) in
        [(config.admin, Endpoint::Admin), (config.metrics, Endpoint::Metrics), (config.ready, Endpoint::Ready)]
    {
        let listener = bind(address).await.with_context(|| format!("listening on {address}"))?;
        serving.push(tokio::spawn(admin::serve_tcp(listener, endpoint, admin.clone())).abort_handle());
    }
    let socket = admin::bind_unix(&config.runtime_dir.join("admin.sock")).context("admin socket")?;
    tokio::spawn(admin::serve_unix(socket, Endpoint::Admin, admin.clone()));
    Ok(serving)
}

/// The process before this one may be about to give the address up.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let until = tokio::time::Instant::now() + HANDOVER_PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until => {
                tokio::time::sleep(DRAIN_POLL).await;
            }
            other => return other,
        }
    }
}

/// A foreign program that runs before ours at `connect()` may rewrite what the application dialled before we see it.
async fn watch_order(agent: Arc<Agent>, readiness: Arc<Readiness>) {
    loop {
        match agent.kernel.attach_order() {
            Ok(order) => {
                let foreign: Vec<&str> = ebpf::foreign_ahead(&order).iter().map(|program| program.name.as_str()).collect();
                agent.telemetry.metrics.foreign_programs.set(i64::try_from(foreign.len()).unwrap_or(i64::MAX));
                let behind = !foreign.is_empty();
                if readiness.behind_foreign.swap(behind, Relaxed) != behind {
                    warn!(?foreign, "foreign programs run before ours at connect()");
                }
            }
            Err(error) => warn!(error = %chain(&error), "the order of programs can not be read"),
        }
        tokio::time::sleep(ORDER_PATROL).await;
    }
}

/// How requests are logged, and where their spans go.
fn observe(config: &Config, telemetry: &Telemetry) -> Result<()> {
    telemetry.set_access_form(match config.log_format {
        LogFormat::Text => AccessForm::Text,
        LogFormat::Json => AccessForm::Json,
    });
    if let Some(collector) = &config.otlp {
        telemetry.export_spans(OtlpExporter::start(collector, telemetry.span_counts.clone()).context("--otlp")?);
    }
    telemetry.set_trace_share(Percent::of(config.trace_sampling));
    telemetry.span_counts.show(&telemetry.metrics);
    Ok(())
}

fn worker_count(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.workers.map_or_else(cores, usize::from)
}

fn token(file: &Path) -> Box<dyn Fn() -> io::Result<String> + Send + Sync> {
    let file: PathBuf = file.to_owned();
    Box::new(move || Ok(fs::read_to_string(&file)?.trim().to_owned()))
}

fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if !fs::metadata(path)?.is_dir() {
        bail!("is not a directory");
    }
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o700))?)
}
