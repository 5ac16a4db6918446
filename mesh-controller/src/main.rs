//! The controller's process: settings, log, allocator, signals; then [`mesh_controller::app`].

use std::io::Write;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, error::ErrorKind};
use mesh_controller::{
    app,
    auth::Tokens,
    ca::prepare_roots,
    config::{Action, Command, LogFormat, Run},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// As in the node proxy: memory returns to the system after a burst of changes.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[allow(unsafe_code, reason = "jemalloc reads its settings from this symbol")]
mod malloc_conf {
    /// `mallctl`-style options (jemalloc's TUNING.md).
    // SAFETY: jemalloc declares `const char *malloc_conf` for programs to define; this is a NUL-terminated string that lives
    // for ever, behind a thin pointer of the same layout.
    #[unsafe(export_name = "_rjem_malloc_conf")]
    static MALLOC_CONF: Option<&'static u8> = Some(&CONF[0]);
    static CONF: &[u8; 60] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";
}

fn main() -> Result<()> {
    let command = Command::parse();
    match (command.action, command.run) {
        (Some(Action::Token { state, node }), _) => {
            let token = Tokens::new(&state).issue(&node)?;
            writeln!(std::io::stdout(), "{token}").context("print the token")
        }
        (Some(Action::Root { state }), _) => {
            let path = prepare_roots(&state)?;
            writeln!(std::io::stdout(), "{}", path.display()).context("print the path")
        }
        (None, Some(config)) => run(&config),
        (None, None) => Command::command().error(ErrorKind::MissingRequiredArgument, "--source and --state are required").exit(),
    }
}

fn run(config: &Run) -> Result<()> {
    start_log(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        // It may take for ever: the API server may not be there.
        let mut running = tokio::select! {
            running = app::start(config) => running?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            ended = running.ended() => return ended,
        }
        info!("stopping");
        running.stop().await;
        Ok(())
    })
}

fn start_log(config: &Run) -> Result<()> {
    // The Kubernetes client logs every try that fails; what fails is said once, by us.
    let quiet = if config.log.contains("kube") { "" } else { ",kube_client=off,kube_runtime=off" };
    let filter: EnvFilter = format!("{}{quiet}", config.log).parse().with_context(|| format!("--log {:?}", config.log))?;
    let registry = tracing_subscriber::registry().with(filter);
    // The log is for the log's reader; what is printed is for the caller.
    match config.log_format {
        LogFormat::Text => registry.with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr)).init(),
        LogFormat::Json => {
            registry.with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).init();
        }
    }
    Ok(())
}
