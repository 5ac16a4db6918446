//! The command line and the steps.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

use super::{
    counters::{self, Counters},
    echo, placement,
    suite::{self, Suite},
};
use crate::{
    cluster::{Cluster, ClusterName, Kubectl, interrupt},
    go::{Go, Module, no_stamps, test_program},
    report, workspace,
};

const CONFORMANCE: Module = Module {
    folder: "tests/cluster/tools/conformance",
    project: Some("sigs.k8s.io/gateway-api/conformance"),
    programs: &[test_program("conformance", ".")],
    stamps: no_stamps,
};

/// For the mesh to be there.
const PATIENCE: Duration = Duration::from_mins(2);

/// Run the Gateway API's conformance tests for meshes on a test cluster that has the mesh
///
/// `cargo xtask cluster up`, `cargo xtask image --load` and `meshctl install --wait` come before. The tests are built at the first time,
/// which takes some minutes. Reports are kept in docs/conformance.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the pods of the tests are; both if absent, one after the other
    #[arg(long, value_enum)]
    placement: Option<Placement>,
    /// Which cluster; the only one if absent
    #[arg(long)]
    name: Option<ClusterName>,
    /// Only this test; no report is kept then
    #[arg(long, value_name = "TEST")]
    run_test: Option<String>,
    /// Where reports go
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Placement {
    /// All on one node
    One,
    /// Client and servers on both nodes
    Two,
}

impl Placement {
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::One => "one-node",
            Self::Two => "two-nodes",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root()?;
    let cluster = Cluster::find(arguments.name.as_ref())?;
    let kubectl = Kubectl::of(&cluster)?;
    let (folder, gateway_api) = report::step("programs", || {
        let go = Go::find()?;
        Ok((CONFORMANCE.built(&root, &go)?, CONFORMANCE.source_of(&root, &go, "sigs.k8s.io/gateway-api")?))
    })?;
    report::step("image", || echo::load(&root, &cluster, &folder_of_tests(&root)?))?;
    report::step("definitions", || apply_definitions(&kubectl, &gateway_api))?;
    report::step("mesh", || await_mesh(&kubectl))?;
    let reports = arguments.out.clone().unwrap_or_else(|| root.join("docs/conformance"));
    let placements = arguments.placement.map_or_else(|| vec![Placement::Two, Placement::One], |one| vec![one]);
    for placement in placements {
        let suite = Suite {
            program: folder.join("conformance"),
            kubeconfig: &cluster.kubeconfig,
            only: arguments.run_test.as_deref(),
            report: reports.join(format!("mesh-{}.yaml", placement.told())),
            log: workspace::target(&root).join(format!("conformance/{}.log", placement.told())),
        };
        try_one(&root, &cluster, &kubectl, placement, &suite)?;
    }
    Ok(())
}

fn folder_of_tests(root: &Path) -> Result<PathBuf> {
    CONFORMANCE.source_of(root, &Go::find()?, "sigs.k8s.io/gateway-api/conformance")
}

fn apply_definitions(kubectl: &Kubectl, gateway_api: &Path) -> Result<()> {
    let folder = gateway_api.join("config/crd/experimental");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("no definitions in {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
        .filter(|file| file.file_name().is_some_and(|name| name != "kustomization.yaml"))
        .collect();
    files.sort();
    for file in &files {
        kubectl.apply(&fs::read_to_string(file)?).with_context(|| file.display().to_string())?;
    }
    let definitions = "crd/httproutes.gateway.networking.k8s.io";
    kubectl.output(&["wait", "--for=condition=Established", definitions, "--timeout=60s"])?;
    report::note(format_args!("{} files of the Gateway API's definitions", files.len()));
    Ok(())
}

fn await_mesh(kubectl: &Kubectl) -> Result<()> {
    let ready = || {
        let set: Value = kubectl.json(&["get", "daemonset", "keelson-node", "--namespace=keelson-system"])?;
        let count = |field: &str| set["status"][field].as_u64();
        Ok(count("desiredNumberScheduled").is_some_and(|wanted| wanted > 0)
            && count("numberReady") == count("desiredNumberScheduled"))
    };
    interrupt::wait_until("the mesh's nodes (meshctl install --wait)", PATIENCE, || Ok(()), ready)
}

fn try_one(root: &Path, cluster: &Cluster, kubectl: &Kubectl, placement: Placement, suite: &Suite<'_>) -> Result<()> {
    report::step(&format!("pods, {}", placement.told()), || {
        placement::place(cluster, kubectl, &folder_of_tests(root)?, placement)
    })?;
    let before = Counters::of(cluster)?;
    let outcome = report::step(&format!("tests, {}", placement.told()), || suite.run());
    let after = Counters::of(cluster)?;
    // Whatever came of it, the cluster is as it was.
    report::step("clean up", || placement::clean_up(cluster, kubectl))?;
    let outcome = outcome?;
    report::note(format_args!("{outcome}"));
    report::step("proof by the nodes' counters", || counters::prove(placement, &before, &after))?;
    ensure!(outcome.all_passed(), "not every test passed: see {}", suite.log.display());
    if suite.only.is_none() {
        ensure!(outcome.count() >= suite::MESH_TESTS, "{} tests ran, {} are there", outcome.count(), suite::MESH_TESTS);
    }
    Ok(())
}
