//! The configuration of the cluster's programs: files of `tests/cluster/config` with `{{places}}` to be filled.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The templates' folder.
#[derive(Clone, Debug)]
pub(super) struct Templates(PathBuf);

impl Templates {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(workspace::root()?.join("tests/cluster/config")))
    }

    /// The text of a template; every place must be filled and every value must have a place.
    pub(super) fn fill(&self, name: &str, values: &[(&str, &str)]) -> Result<String> {
        let file = self.0.join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("no template {}", file.display()))?;
        fill(&text, values).with_context(|| format!("template {name}"))
    }
}

fn fill(text: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut filled = text.to_owned();
    for (name, value) in values {
        let place = format!("{{{{{name}}}}}");
        if !text.contains(&place) {
            bail!("it has no place {place}");
        }
        filled = filled.replace(&place, value);
    }
    // Values have no such places: they are addresses, names and lists of them.
    if let Some((_, rest)) = filled.split_once("{{") {
        bail!("nothing fills its place {{{{{}", rest.lines().next().unwrap_or_default());
    }
    Ok(filled)
}

/// A list as JSON, which is YAML too.
pub(super) fn list<T: AsRef<str>>(items: &[T]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("{:?}", item.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_values_match() {
        assert_eq!(fill("a: {{x}}, b: {{ys}}", &[("x", "1"), ("ys", &list(&["2", "3"]))]).unwrap(), "a: 1, b: [\"2\", \"3\"]");
        assert!(fill("a: {{x}}", &[]).unwrap_err().to_string().contains("{{x}}"));
        assert!(fill("a: 1", &[("x", "1")]).is_err());
    }
}
