//! The pods' `/etc/hosts`: there is no DNS in the laboratory, and a service's name still has to mean its addresses.

use std::{collections::BTreeMap, fmt::Write as _, fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};

use crate::objects::{Objects, PodName};

/// The file for pods of `namespace`: services by all their names; headless ones stand for their pods.
///
/// The short form `name` works in the service's own namespace only, as a pod's DNS search list has it.
pub(crate) fn render(objects: &Objects, addresses: &BTreeMap<PodName, Vec<IpAddr>>, namespace: &str) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for service in &objects.services {
        let (name, home) = (&service.metadata.name, &service.metadata.namespace);
        let short = if home == namespace { format!(" {name}") } else { String::new() };
        let names = format!("{name}.{home}.svc.cluster.local {name}.{home}.svc {name}.{home}{short}");
        let targets: Vec<IpAddr> = if service.headless() {
            let pods = objects.pods.iter().filter(|(_, pod)| service.selects(pod));
            pods.filter_map(|(pod, _)| addresses.get(pod)).flatten().copied().collect()
        } else {
            service.cluster_ips()
        };
        for target in targets {
            let _ = writeln!(text, "{target} {names}");
        }
    }
    text
}

/// Brings the file up to date in place: it is bound over `/etc/hosts`, so it must stay the same inode.
pub(crate) fn update(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    let write = || {
        fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
        fs::write(path, text)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_all_their_names() {
        let objects = Objects::parse(
            "
{apiVersion: v1, kind: Service, metadata: {name: page, namespace: shop}, spec: {clusterIPs: [10.96.0.1, 'fd96::1']}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, selector: {app: db}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db-0, namespace: shop, labels: {app: db}}, spec: {}}
",
        )
        .unwrap();
        let addresses = BTreeMap::from([("shop/db-0".parse().unwrap(), vec!["10.65.0.9".parse().unwrap()])]);
        let text = render(&objects, &addresses, "shop");
        assert!(text.contains("\nfd96::1 page.shop.svc.cluster.local page.shop.svc page.shop page\n"), "{text}");
        assert!(text.ends_with("\n10.65.0.9 db.shop.svc.cluster.local db.shop.svc db.shop db\n"), "{text}");
        assert!(render(&objects, &addresses, "outside").ends_with(" db.shop.svc db.shop\n"));
    }
}
