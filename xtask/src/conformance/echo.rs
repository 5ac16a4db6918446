//! The image of the tests' pods: Istio's echo server and client, under the name that the tests' manifests give it.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    cluster::{self, Cluster},
    go::{Go, Module, no_stamps, program},
    image::{File, Image},
    report, workspace,
};

const ECHO: Module = Module {
    folder: "tests/cluster/tools/echo",
    project: Some("istio.io/istio"),
    programs: &[
        program("client", "istio.io/istio/pkg/test/echo/cmd/client"),
        program("server", "istio.io/istio/pkg/test/echo/cmd/server"),
    ],
    stamps: no_stamps,
};

/// Builds the image and gives it to every node.
pub(super) fn load(root: &Path, cluster: &Cluster, tests: &Path) -> Result<()> {
    let programs = ECHO.built(root, &Go::find()?)?;
    for name in names(tests)? {
        let image = image(&name, &programs)?;
        let file = workspace::target(root).join("image/tar/echo.tar");
        image.write(&file)?;
        for node in &cluster.nodes {
            cluster::import(node, &file)?;
        }
        report::note(&name);
    }
    Ok(())
}

/// The images that the manifests of the mesh tests name.
pub(super) fn names(tests: &Path) -> Result<Vec<String>> {
    let file = tests.join("mesh/manifests.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("no manifests {}", file.display()))?;
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.trim().strip_prefix("image:")).map(|name| name.trim().to_owned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn image(name: &str, programs: &Path) -> Result<Image> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["echo.test".to_owned()]).context("make the echo server's certificate")?;
    Ok(Image {
        name: name.to_owned(),
        entrypoint: vec!["/usr/local/bin/server".to_owned()],
        // It serves port 80.
        user: "0:0".to_owned(),
        environment: vec!["PATH=/usr/local/bin".to_owned()],
        files: vec![
            File::program("usr/local/bin/server", &programs.join("server"))?,
            File::program("usr/local/bin/client", &programs.join("client"))?,
            File::text("cert.crt", &cert.pem()),
            File::text("cert.key", &signing_key.serialize_pem()),
            File::text("etc/passwd", "root:x:0:0::/:/none\n"),
            File::text("etc/nsswitch.conf", "hosts: files dns\n"),
        ],
    })
}
