//! The node proxy's process: settings, log, allocator, limits; then [`mesh_node::app`].

use anyhow::{Context, Result};
use clap::Parser;
use mesh_node::{
    admin::SetLog,
    app,
    config::{Config, LogFormat},
    log,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// Memory returns to the system after a burst: measured, 4,000 closed connections leave 7 MB resident instead of 40 (jemalloc's
/// defaults) or 59 (glibc).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[allow(unsafe_code, reason = "jemalloc reads its settings from this symbol")]
mod malloc_conf {
    /// `mallctl`-style options (jemalloc's TUNING.md).
    // SAFETY: jemalloc declares `const char *malloc_conf` for programs to define; this is a NUL-terminated string that lives
    // for ever, behind a thin pointer of the same layout.
    #[unsafe(export_name = "_rjem_malloc_conf")]
    static MALLOC_CONF: Option<&'static u8> = Some(&CONF[0]);
    static CONF: &[u8; 63] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0\0\0\0";
}

fn main() -> Result<()> {
    let config = Config::parse();
    let (set_log, _log) = start_log(&config)?;
    raise_descriptor_limit();
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().context("control runtime")?;
    control.block_on(app::run(config, set_log))
}

fn start_log(config: &Config) -> Result<(SetLog, log::Guard)> {
    let filter: EnvFilter = config.log.parse().with_context(|| format!("--log {:?}", config.log))?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = Registry::default().with(filter);
    let (out, guard) = log::start().context("the log's thread")?;
    let layer = tracing_subscriber::fmt::layer().with_writer(out);
    match config.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    let set_log = move |wanted: &str| {
        let filter: EnvFilter = wanted.parse().map_err(|error| format!("{error}"))?;
        handle.reload(filter).map_err(|error| format!("{error}"))
    };
    Ok((Box::new(set_log), guard))
}

/// Two descriptors a connection: the soft limit of 1024 is soon used up.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.max(soft).max(1 << 20);
        // Root may raise the hard limit too; where it may not, up to the hard limit.
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
    });
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}
