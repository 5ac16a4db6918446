//! Which crate may know which: the edges that keep the parts apart (ARCHITECTURE.md), checked on the dependency graph.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::workspace;

/// A crate and what must not be in its normal dependencies, however deep. A name ends in `*` to stand for all that begin so.
struct Edge {
    from: &'static str,
    forbidden: &'static [&'static str],
}

const EDGES: &[Edge] = &[
    Edge { from: "mesh-node", forbidden: &["kube", "kube-*", "k8s-openapi", "mesh-config", "mesh-controller"] },
    Edge { from: "mesh-policy", forbidden: &["tokio", "rustls", "h2", "hyper", "tonic", "kube", "k8s-openapi", "mesh-*"] },
    Edge { from: "mesh-common", forbidden: &["mesh-*", "tokio"] },
    Edge { from: "mesh-config", forbidden: &["tokio", "rustls", "mesh-node", "mesh-controller"] },
    Edge { from: "mesh-proto", forbidden: &["kube", "k8s-openapi", "mesh-config", "mesh-node", "mesh-controller"] },
    Edge { from: "mesh-cni", forbidden: &["kube", "kube-*", "aya", "mesh-node", "mesh-controller"] },
    Edge { from: "meshctl", forbidden: &["aya", "mesh-node", "mesh-controller"] },
];

pub(super) fn check(root: &Path) -> Result<()> {
    let mut broken = Vec::new();
    for Edge { from, forbidden } in EDGES {
        let mut cargo = workspace::cargo();
        cargo.current_dir(root).args([
            "tree",
            "--locked",
            "--package",
            from,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]);
        let tree = workspace::output(&mut cargo)?;
        for dependency in found(&tree, from, forbidden) {
            broken.push(format!("{from} -> {dependency} (cargo tree -p {from} -e normal -i {dependency})"));
        }
    }
    ensure!(broken.is_empty(), "forbidden dependencies:\n{}", broken.join("\n"));
    Ok(())
}

/// The forbidden packages in the output of `cargo tree`, each once.
fn found<'tree>(tree: &'tree str, from: &str, forbidden: &[&str]) -> Vec<&'tree str> {
    let mut found: Vec<_> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != from && forbidden.iter().any(|pattern| matches(pattern, name)))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::found;

    #[test]
    fn finds_what_is_forbidden_and_not_what_looks_like_it() {
        let tree = "mesh-node v0.1.0 (/x)\nkube-client v1.0.0\nkubert v1.0.0\ntokio v1.0.0\ntokio-util v0.7.0 (*)\nkube-client v1.0.0 (*)\n";
        assert_eq!(found(tree, "mesh-node", &["kube", "kube-*", "mesh-*"]), ["kube-client"]);
        assert_eq!(found(tree, "mesh-node", &["tokio"]), ["tokio"]);
        assert!(found(tree, "mesh-node", &["ring"]).is_empty());
    }
}
