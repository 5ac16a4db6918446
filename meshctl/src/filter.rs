//! Which rows of a list are wanted.

use anyhow::{Result, anyhow, bail};
use clap::Args;

use crate::{answer::Listed, merge::Row};

#[derive(Debug, Default, Args)]
pub(crate) struct Filter {
    /// Of this namespace only
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,

    /// Of this name only, or of this beginning where no name is equal; NAMESPACE/NAME works too
    pub(crate) name: Option<String>,
}

impl Filter {
    /// # Errors
    ///
    /// When a name was asked for and nothing has it.
    pub(crate) fn apply<T: Listed>(&self, rows: Vec<Row<T>>) -> Result<Vec<Row<T>>> {
        let (namespace, name) = self.parts()?;
        let in_namespace = |own: &str| namespace.is_none_or(|wanted| wanted == own);
        let Some(name) = name else {
            let mut rows = rows;
            rows.retain(|row| namespace.is_none() || row.view.names().iter().any(|(own, _)| in_namespace(own)));
            return Ok(rows);
        };
        let having = |row: &Row<T>, fits: fn(&str, &str) -> bool| {
            row.view.names().iter().any(|(own, other)| in_namespace(own) && fits(other, name))
        };
        let equal = rows.iter().any(|row| having(row, |a, b| a == b));
        let fits = if equal { |a: &str, b: &str| a == b } else { |a: &str, b: &str| a.starts_with(b) };
        let found: Vec<_> = rows.into_iter().filter(|row| having(row, fits)).collect();
        if found.is_empty() {
            return Err(self.nothing::<T>());
        }
        Ok(found)
    }

    /// Namespace and name apart, wherever they were written. Names of identities hold slashes of their own.
    fn parts(&self) -> Result<(Option<&str>, Option<&str>)> {
        let (namespace, name) = (self.namespace.as_deref(), self.name.as_deref());
        match name.and_then(|name| name.split_once('/')).filter(|(before, _)| !before.ends_with(':')) {
            None => Ok((namespace, name)),
            Some((own, _)) if namespace.is_some_and(|wanted| wanted != own) => {
                bail!("--namespace {} and {} contradict each other", namespace.unwrap_or_default(), name.unwrap_or_default())
            }
            Some((own, name)) => Ok((Some(own), Some(name))),
        }
    }

    fn nothing<T: Listed>(&self) -> anyhow::Error {
        let name = self.name.as_deref().unwrap_or_default();
        match &self.namespace {
            Some(namespace) => anyhow!("no {} {name:?} in namespace {namespace}", T::ONE),
            None => anyhow!("no {} {name:?} in any namespace", T::ONE),
        }
    }

    /// For a list that is empty.
    pub(crate) fn emptiness<T: Listed>(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("no {} in namespace {namespace}", T::MANY),
            None => format!("no {}", T::MANY),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::answer::{CertificateEntry, Workload};

    fn row<T: Listed>(raw: serde_json::Value) -> Row<T> {
        Row { view: serde_json::from_value(raw.clone()).unwrap(), raw, nodes: vec!["n".into()] }
    }

    fn workloads() -> Vec<Row<Workload>> {
        let all = [("shop", "page"), ("shop", "page-v2"), ("shop", "reviews-7d"), ("bank", "page")];
        let value = |(namespace, name): &(&str, &str)| {
            json!({ "uid": format!("{namespace}/{name}"), "name": name, "namespace": namespace, "workloadIps": [],
                    "node": "n", "protocol": "TCP", "identity": "" })
        };
        all.iter().map(value).map(row).collect()
    }

    fn check(namespace: Option<&str>, name: Option<&str>, expected: &[&str]) {
        let filter = Filter { namespace: namespace.map(Into::into), name: name.map(Into::into) };
        let found = filter.apply(workloads()).map(|rows| rows.into_iter().map(|row| row.view.uid).collect::<Vec<_>>());
        assert_eq!(found.unwrap_or_default(), expected, "{filter:?}");
    }

    #[test]
    fn names_and_namespaces() {
        check(None, None, &["shop/page", "shop/page-v2", "shop/reviews-7d", "bank/page"]);
        check(Some("bank"), None, &["bank/page"]);
        check(Some("none"), None, &[]);
        check(None, Some("page"), &["shop/page", "bank/page"]);
        check(None, Some("pag"), &["shop/page", "shop/page-v2", "bank/page"]);
        check(None, Some("reviews"), &["shop/reviews-7d"]);
        check(Some("bank"), Some("page"), &["bank/page"]);
        check(None, Some("bank/page"), &["bank/page"]);
        check(Some("bank"), Some("shop/page"), &[]);
        check(Some("bank"), Some("reviews"), &[]);
    }

    #[test]
    fn a_name_that_nothing_has_is_an_error() {
        let filter = Filter { namespace: Some("bank".into()), name: Some("reviews".into()) };
        assert_eq!(filter.apply(workloads()).unwrap_err().to_string(), "no workload \"reviews\" in namespace bank");
    }

    #[test]
    fn identities_are_found_by_account_and_whole() {
        let identity = "spiffe://cluster.local/ns/shop/sa/page";
        for name in ["page", "shop/page", identity] {
            let rows = vec![row::<CertificateEntry>(
                json!({ "identity": identity, "state": "Ready", "lastError": null, "certChain": null }),
            )];
            let filter = Filter { namespace: None, name: Some(name.into()) };
            assert_eq!(filter.apply(rows).unwrap().len(), 1, "{name}");
        }
    }
}
