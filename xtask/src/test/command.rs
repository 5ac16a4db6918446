//! The steps of `cargo xtask test`, cheap ones first. The tests come last, so that their summary is what one sees.

use std::{env, ffi::OsString, path::Path, process::Command};

use anyhow::{Result, bail};

use super::{edges, interrupt, kubernetes, lints, privilege};
use crate::{codegen, ebpf, fuzz, kernels, manifests, report, tidy, tools, workspace};

/// Run everything that CI runs: kernel object, lints, generated files, tests
///
/// The tests load eBPF programs and make network namespaces: they need root, and a missing privilege is a failure, never
/// a skipped test. Tools that are missing are fetched into the cache.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Arguments {
    /// Only the kernel object and the tests: no lints, licences, spelling or generated files
    #[arg(long)]
    quick: bool,
    /// Also load and try the kernel object on Debian's kernels 6.1 and 6.12 under emulation, and on this machine's
    #[arg(long)]
    kernels: bool,
    /// Also fuzz every parser of foreign bytes for a minute each; CI always does
    #[arg(long)]
    fuzz: bool,
    /// Also bring up a real Kubernetes and try the mesh on it; its programs take twenty minutes to build at the first time
    #[arg(long)]
    k8s: bool,
    /// For cargo-nextest: filters and options, such as `-p mesh-policy` or `-E 'test(authz)'`
    #[arg(last = true, value_name = "NEXTEST ARGUMENTS")]
    nextest: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root()?;
    report::step("privileges", privilege::check)?;
    report::step("tools", || {
        [&tools::NEXTEST, &tools::DENY, &tools::TYPOS, &tools::ENVOY]
            .into_iter()
            .try_for_each(|tool| tools::find(tool).map(drop))?;
        tools::h2spec(&root).map(drop)
    })?;
    report::step("kernel object", || ebpf::object(&root).map(drop))?;
    if !arguments.quick {
        everything_but_tests(&root)?;
    }
    if arguments.kernels {
        report::step("kernel matrix", || kernels::check(&root))?;
    }
    if arguments.fuzz || (ci() && !arguments.quick) {
        report::step("fuzzing", || fuzz::check(&root))?;
    }
    if arguments.k8s {
        kubernetes::run(&root, &arguments.nextest)?;
    }
    // The tests over namespaces run the real programs, which a build of the tests alone would leave as they were.
    report::step("programs", || programs(&root))?;
    tests(&root, &arguments.nextest)
}

fn everything_but_tests(root: &Path) -> Result<()> {
    report::step("format", || lints::format(root))?;
    report::step("spelling", || lints::spelling(root))?;
    report::step("tidy", || tidy::check(root))?;
    report::step("licences and bans", || lints::licences(root))?;
    report::step("dependency edges", || edges::check(root))?;
    report::step("clippy", || lints::clippy(root))?;
    report::step("clippy of the kernel programs", || ebpf::clippy(root))?;
    report::step("generated files", || codegen::check(root))?;
    // To build Helm for this alone would take minutes; `--k8s` does.
    if let Some(helm) = manifests::helm_if_cached(root)? {
        report::step("manifests", || manifests::check(root, &helm))?;
    }
    report::step("reproducible kernel object", || ebpf::check_reproducible(root))
}

fn programs(root: &Path) -> Result<()> {
    workspace::run(workspace::cargo().current_dir(root).args(["build", "--workspace", "--locked", "--bins"]))
}

/// Ends with the runner's own summary: nothing is printed after it.
fn tests(root: &Path, arguments: &[OsString]) -> Result<()> {
    report::headline("tests");
    let mut nextest = Command::new(tools::find(&tools::NEXTEST)?);
    // For the tests of tests/interop.
    nextest.env("KEELSON_ENVOY", tools::find(&tools::ENVOY)?);
    // For those of tests/netns.
    nextest.env("KEELSON_H2SPEC", tools::h2spec(root)?);
    nextest.current_dir(root).args([
        "nextest",
        "run",
        "--workspace",
        "--locked",
        "--profile",
        if ci() { "ci" } else { "default" },
    ]);
    let status = interrupt::run(nextest.args(arguments))?;
    if !status.success() {
        bail!(report::AlreadySaid);
    }
    Ok(())
}

fn ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
