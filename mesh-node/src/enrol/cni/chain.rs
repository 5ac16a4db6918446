//! The plugin's place in a network configuration: last in the first one of the folder.
//!
//! Container runtimes take the first file by name that ends in `.conflist` (a list of plugins), `.conf` or `.json` (one plugin).

use std::path::Path;

use mesh_proto::cni::{PLUGIN, VERSIONS};
use serde_json::{Value, json};

/// What is wrong with a configuration that can not be chained to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("it is no JSON object")]
    Json,
    #[error("it has no list of plugins")]
    NoPlugins,
    #[error("it is of version {found:?} of CNI, which the plugin does not speak")]
    Version { found: String },
}

/// The form of a configuration, by the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    List,
    Single,
}

impl Form {
    /// `None` for a file that container runtimes pass over.
    pub fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "conflist" => Some(Self::List),
            "conf" | "json" => Some(Self::Single),
            _ => None,
        }
    }
}

/// Our entry of a list.
pub fn entry(configuration: &Path) -> Value {
    json!({ "type": PLUGIN, "configuration": configuration })
}

/// Whether a list ends with that entry and has it nowhere else.
pub fn is_chained(text: &[u8], form: Form, entry: &Value) -> bool {
    let Ok(list) = serde_json::from_slice::<Value>(text) else { return false };
    let Some(plugins) = list["plugins"].as_array() else { return false };
    form == Form::List && plugins.last() == Some(entry) && plugins.iter().filter(|plugin| is_ours(plugin)).count() == 1
}

/// The list that a configuration becomes with our entry at its end.
pub fn chained(text: &[u8], form: Form, entry: &Value) -> Result<String, Unfit> {
    let mut list = parse(text)?;
    if form == Form::Single {
        // As the reference library makes a list of a single plugin.
        list = json!({ "cniVersion": list["cniVersion"], "name": list["name"], "plugins": [list] });
    }
    let found = list["cniVersion"].as_str().unwrap_or_default();
    if !VERSIONS.contains(&found) {
        return Err(Unfit::Version { found: found.to_owned() });
    }
    let plugins = list["plugins"].as_array_mut().filter(|plugins| !plugins.is_empty()).ok_or(Unfit::NoPlugins)?;
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.push(entry.clone());
    Ok(pretty(&list))
}

/// The list without our entry; `None` when it has none.
pub fn unchained(text: &[u8]) -> Option<String> {
    let mut list = parse(text).ok()?;
    let plugins = list["plugins"].as_array_mut()?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    (plugins.len() < before).then(|| pretty(&list))
}

/// Whether a configuration has a plugin of that type.
pub fn has_plugin(text: &[u8], kind: &str) -> bool {
    let Ok(found) = parse(text) else { return false };
    let plugins = found["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
    found["type"] == kind || plugins.iter().any(|plugin| plugin["type"] == kind)
}

fn parse(text: &[u8]) -> Result<Value, Unfit> {
    let value: Value = serde_json::from_slice(text).map_err(|_| Unfit::Json)?;
    if value.is_object() { Ok(value) } else { Err(Unfit::Json) }
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

fn pretty(list: &Value) -> String {
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "bridge" }, { "type": "portmap" }] }"#;

    fn ours() -> Value {
        entry(Path::new("/etc/cni/net.d/keelson-cni/plugin.json"))
    }

    fn types(text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).expect("JSON");
        let plugins = list["plugins"].as_array().expect("a list");
        plugins.iter().map(|plugin| plugin["type"].as_str().expect("a type").to_owned()).collect()
    }

    #[test]
    fn it_comes_last_and_once() {
        assert!(!is_chained(LIST.as_bytes(), Form::List, &ours()));
        let once = chained(LIST.as_bytes(), Form::List, &ours()).expect("fit");
        assert_eq!(types(&once), ["bridge", "portmap", PLUGIN]);
        assert!(is_chained(once.as_bytes(), Form::List, &ours()));
        assert_eq!(chained(once.as_bytes(), Form::List, &ours()).as_ref(), Ok(&once));
        // Somebody appended another, or an older release had another configuration.
        let misplaced = once.replace("bridge", PLUGIN).replace("portmap", "bridge");
        assert!(!is_chained(misplaced.as_bytes(), Form::List, &ours()));
        assert_eq!(types(&chained(misplaced.as_bytes(), Form::List, &ours()).expect("fit")), ["bridge", PLUGIN]);
        assert!(!is_chained(once.as_bytes(), Form::List, &entry(Path::new("/elsewhere"))));

        let plain: Value = serde_json::from_str(LIST).expect("JSON");
        let back: Value = serde_json::from_str(&unchained(once.as_bytes()).expect("there was one")).expect("JSON");
        assert_eq!(back, plain);
        assert_eq!(unchained(LIST.as_bytes()), None);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let single = r#"{ "cniVersion": "0.4.0", "name": "net", "type": "bridge", "mtu": 1400 }"#;
        let list = chained(single.as_bytes(), Form::Single, &ours()).expect("fit");
        assert_eq!(types(&list), ["bridge", PLUGIN]);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        assert_eq!(
            (&list["name"], &list["cniVersion"], &list["plugins"][0]["mtu"]),
            (&json!("net"), &json!("0.4.0"), &json!(1400))
        );
    }

    #[test]
    fn what_can_not_be_chained_to_is_left_alone() {
        let check = |text: &str, form, expected| assert_eq!(chained(text.as_bytes(), form, &ours()), Err(expected), "{text}");
        check("", Form::List, Unfit::Json);
        check("[]", Form::List, Unfit::Json);
        check(r#"{ "cniVersion": "1.0.0" }"#, Form::List, Unfit::NoPlugins);
        check(r#"{ "cniVersion": "1.0.0", "plugins": [] }"#, Form::List, Unfit::NoPlugins);
        check(r#"{ "cniVersion": "0.2.0", "plugins": [{}] }"#, Form::List, Unfit::Version { found: "0.2.0".into() });
        check(r#"{ "name": "net", "type": "bridge" }"#, Form::Single, Unfit::Version { found: String::new() });
    }

    #[test]
    fn files_are_told_by_their_names() {
        let of = |name: &str| Form::of(Path::new(name));
        assert_eq!(of("/x/10-a.conflist"), Some(Form::List));
        assert_eq!((of("10-a.conf"), of("10-a.json")), (Some(Form::Single), Some(Form::Single)));
        assert_eq!((of("10-a.conflist.keelson"), of("README"), of(".conflist")), (None, None, None));
    }

    #[test]
    fn other_meshes_are_seen() {
        assert!(has_plugin(br#"{ "plugins": [{ "type": "x" }, { "type": "istio-cni" }] }"#, "istio-cni"));
        assert!(has_plugin(br#"{ "type": "istio-cni" }"#, "istio-cni"));
        assert!(!has_plugin(LIST.as_bytes(), "istio-cni") && !has_plugin(b"nothing", "istio-cni"));
    }
}
