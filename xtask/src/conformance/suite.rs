//! A run of the tests, and what it said.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{cluster::interrupt, report};

/// How many tests have the feature Mesh.
pub(super) const MESH_TESTS: usize = 22;

/// The nine features of meshes, and those of HTTPRoute that tests of meshes ask for too.
const FEATURES: &[&str] = &[
    "Mesh",
    "HTTPRoute",
    "GRPCRoute",
    "ReferenceGrant",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteSchemeRedirect",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteParentRefPort",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
];

pub(super) struct Suite<'a> {
    pub(super) program: PathBuf,
    pub(super) kubeconfig: &'a Path,
    /// One test only.
    pub(super) only: Option<&'a str>,
    pub(super) report: PathBuf,
    pub(super) log: PathBuf,
}

/// Tests by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tests {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Suite<'_> {
    /// Runs the tests to their end; that some fail is no error.
    pub(super) fn run(&self) -> Result<Tests> {
        for file in [&self.report, &self.log] {
            fs::create_dir_all(file.parent().context("a file lies in a folder")?)?;
        }
        let log = fs::File::create(&self.log).with_context(|| format!("write {}", self.log.display()))?;
        let mut command = Command::new("sh");
        // One stream, in its order; the exit status is told by the tests themselves.
        command.args(["-c", "exec \"$0\" \"$@\" 2>&1 || true"]).arg(&self.program);
        command.args(["-test.v", "-test.timeout=40m", "-conformance-profiles=MESH-HTTP,MESH-GRPC", "-mesh-name=keelson"]);
        command.arg(format!("-supported-features={}", FEATURES.join(",")));
        command.args(["-namespace-labels=istio.io/dataplane-mode=ambient", "-organization=keelson", "-project=keelson"]);
        command.args(["-url=none", "-contact=none"]).arg(format!("-version={}", env!("CARGO_PKG_VERSION")));
        match self.only {
            Some(only) => drop(command.arg(format!("-run-test={only}"))),
            None => drop(command.arg(format!("-report-output={}", self.report.display()))),
        }
        command.env("KUBECONFIG", self.kubeconfig);
        let text = report::waiting("the Gateway API's tests", || interrupt::output(&mut command))?;
        std::io::Write::write_all(&mut &log, text.as_bytes())?;
        Ok(Tests::read(&text))
    }
}

impl Tests {
    /// Of the output of `-test.v`: the tests right below the one that runs them all.
    fn read(text: &str) -> Self {
        let mut tests = Self::default();
        for line in text.lines() {
            let Some((verdict, rest)) = line.strip_prefix("    --- ").and_then(|rest| rest.split_once(": TestConformance/"))
            else {
                continue;
            };
            let name = rest.split_whitespace().next().unwrap_or_default().to_owned();
            if name.contains('/') {
                continue;
            }
            match verdict {
                "PASS" => tests.passed.push(name),
                "SKIP" => tests.skipped.push(name),
                _ => tests.failed.push(name),
            }
        }
        // Tests of gateways, of which none is claimed, are passed over by the profiles.
        tests.skipped.retain(|name| name.starts_with("Mesh"));
        tests
    }

    pub(super) fn all_passed(&self) -> bool {
        self.failed.is_empty() && self.skipped.is_empty() && !self.passed.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.passed.len()
    }
}

impl fmt::Display for Tests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed", self.passed.len())?;
        for (what, names) in [("failed", &self.failed), ("skipped", &self.skipped)] {
            if !names.is_empty() {
                write!(f, ", {} {what}: {}", names.len(), names.join(", "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_of_a_run_are_read_from_its_output() {
        let text = "=== RUN   TestConformance\n--- FAIL: TestConformance (1.0s)\n    --- PASS: TestConformance/MeshBasic (1.0s)\n        --- PASS: TestConformance/MeshBasic/x (1.0s)\n    --- FAIL: TestConformance/MeshPorts (2.0s)\n    --- SKIP: TestConformance/GatewayX (0.0s)\n    --- SKIP: TestConformance/MeshFrontend (0.0s)\n";
        let tests = Tests::read(text);
        assert_eq!(tests.to_string(), "1 passed, 1 failed: MeshPorts, 1 skipped: MeshFrontend");
        assert!(!tests.all_passed());
        assert!(Tests::read("    --- PASS: TestConformance/MeshBasic (1.0s)\n").all_passed());
        assert!(!Tests::read("").all_passed());
    }
}
