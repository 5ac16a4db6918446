//! Text to documents: YAML or JSON, several a file, `List` kinds unfolded, within bounds.
//!
//! Aliases, depth and size are limited before anything is built, so that a small file cannot become a large value.

use serde_json::Value;

/// How much a text may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one file.
    pub file: usize,
    /// Bytes of one document, as compact JSON.
    pub document: usize,
    /// Nesting of one document.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file: 10 << 20, document: 1 << 20, depth: 64 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the file has {bytes} bytes, more than {limit}")]
    FileTooLarge { bytes: u64, limit: usize },
    #[error("document {index} has {bytes} bytes, more than {limit}")]
    DocumentTooLarge { index: usize, bytes: usize, limit: usize },
    #[error("not UTF-8")]
    Encoding,
    #[error("{message}")]
    Syntax { message: String },
    #[error("document {index} is not an object: write `apiVersion`, `kind` and `metadata`")]
    NotAnObject { index: usize },
}

/// What a text is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
}

/// The documents of a file in their order; empty documents are passed over.
pub fn documents(bytes: &[u8], format: Format, limits: Limits) -> Result<Vec<Value>, DocumentError> {
    if bytes.len() > limits.file {
        return Err(DocumentError::FileTooLarge { bytes: bytes.len() as u64, limit: limits.file });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::Encoding)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let values = match format {
        Format::Yaml => yaml(text, limits)?,
        Format::Json => json(text)?,
    };
    let mut documents = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        unfold(index, value, limits, &mut documents)?;
    }
    Ok(documents)
}

fn yaml(text: &str, limits: Limits) -> Result<Vec<Value>, DocumentError> {
    let budget = serde_saphyr::budget! {
        max_depth: limits.depth,
        max_documents: 100_000,
        max_nodes: 5_000_000,
        max_events: 10_000_000,
        max_total_scalar_bytes: limits.file,
        max_aliases: 1_000,
        max_anchors: 1_000,
    };
    let alias_limits = serde_saphyr::alias_limits! { max_total_replayed_events: 100_000, max_replay_stack_depth: 16 };
    let options =
        serde_saphyr::options! { budget: budget, alias_limits: alias_limits, with_snippet: false, strict_booleans: true };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| DocumentError::Syntax { message: error.to_string() })
}

fn json(text: &str) -> Result<Vec<Value>, DocumentError> {
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error: serde_json::Error| DocumentError::Syntax { message: error.to_string() })
}

/// A `List` (or `PodList` …) stands for its items.
fn unfold(index: usize, value: Value, limits: Limits, out: &mut Vec<Value>) -> Result<(), DocumentError> {
    if value.is_null() {
        return Ok(());
    }
    let Value::Object(mut object) = value else {
        return Err(DocumentError::NotAnObject { index });
    };
    let is_list = object.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    if is_list && let Some(Value::Array(items)) = object.remove("items") {
        return items.into_iter().try_for_each(|item| unfold(index, item, limits, out));
    }
    let value = Value::Object(object);
    let bytes = serde_json::to_vec(&value).map_or(usize::MAX, |text| text.len());
    if bytes > limits.document {
        return Err(DocumentError::DocumentTooLarge { index, bytes, limit: limits.document });
    }
    out.push(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Vec<Value>, DocumentError> {
        documents(text.as_bytes(), Format::Yaml, Limits::default())
    }

    #[test]
    fn several_documents_and_lists_come_in_their_order() {
        let text =
            "kind: A\n---\n---\nkind: PodList\nitems:\n- kind: B\n- kind: List\n  items: [{kind: C}]\n---\n# only a comment\n";
        assert_eq!(parse(text).unwrap(), [json!({"kind": "A"}), json!({"kind": "B"}), json!({"kind": "C"})]);
        assert_eq!(parse("").unwrap(), Vec::<Value>::new());
        let json = documents(br#"{"kind":"A"} {"kind":"B"}"#, Format::Json, Limits::default()).unwrap();
        assert_eq!(json, [json!({"kind": "A"}), json!({"kind": "B"})]);
    }

    #[test]
    fn scalars_are_those_of_yaml_1_2_and_keys_are_text() {
        let got = parse("a: yes\nb: true\nc: 8080\nd: '8080'\n8080: {mode: STRICT}\ne: null\nf: 0777\n").unwrap();
        assert_eq!(got[0]["a"], json!("yes"));
        assert_eq!(got[0]["b"], json!(true));
        assert_eq!(got[0]["c"], json!(8080));
        assert_eq!(got[0]["d"], json!("8080"));
        assert_eq!(got[0]["8080"]["mode"], json!("STRICT"));
        assert_eq!(got[0]["e"], Value::Null);
    }

    #[test]
    fn what_is_not_a_document_is_refused() {
        for bad in ["a: [", "a: 1\na: 2\n", "- a\n", "text", "a: *nowhere\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(documents(&[0xff, 0xfe], Format::Yaml, Limits::default()), Err(DocumentError::Encoding));
    }

    #[test]
    fn bombs_are_refused_before_they_are_built() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let before = level - 1;
            let aliases = vec![format!("*a{before}"); 10].join(", ");
            laughs += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        assert!(matches!(parse(&laughs), Err(DocumentError::Syntax { .. })));
        let deep = format!("a: {}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(matches!(parse(&deep), Err(DocumentError::Syntax { .. })));
        let wide = format!("a: {}", "x".repeat(2 << 20));
        assert!(matches!(parse(&wide), Err(DocumentError::DocumentTooLarge { index: 0, .. })));
        let large = " ".repeat(11 << 20);
        assert!(matches!(parse(&large), Err(DocumentError::FileTooLarge { .. })));
        let deep_json = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(documents(deep_json.as_bytes(), Format::Json, Limits::default()).is_err());
    }
}
