//! Standard output in the form that was asked for, and remarks on standard error.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
};

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use serde_json::Value;

use crate::table::Table;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// With all fields, as the nodes gave them
    Json,
    /// The same in YAML
    Yaml,
}

/// Nobody reads standard output any more (`| head`): there is nothing left to do, and nothing went wrong.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output")
    }
}

impl std::error::Error for ReaderGone {}

#[derive(Debug)]
pub(crate) struct Printer {
    pub(crate) format: Format,
    color_out: bool,
    color_err: bool,
}

impl Printer {
    pub(crate) fn new(format: Format, no_color: bool) -> Self {
        let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let wanted = !no_color && named("NO_COLOR").is_none() && named("TERM").is_none_or(|term| term != "dumb");
        Self { format, color_out: wanted && io::stdout().is_terminal(), color_err: wanted && io::stderr().is_terminal() }
    }

    /// The table, or the values that it was made from.
    pub(crate) fn list(&self, table: &Table, values: Vec<Value>) -> Result<()> {
        match self.format {
            Format::Table => write(&table.render(self.color_out)),
            Format::Json | Format::Yaml => self.value(&Value::Array(values)),
        }
    }

    /// The sentence, or the value that it tells of.
    pub(crate) fn done(&self, sentence: &str, value: &Value) -> Result<()> {
        match self.format {
            Format::Table => write(&format!("{sentence}\n")),
            Format::Json | Format::Yaml => self.value(value),
        }
    }

    /// JSON, unless YAML is wanted.
    pub(crate) fn value(&self, value: &Value) -> Result<()> {
        let text = match self.format {
            Format::Table | Format::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
            Format::Yaml => yaml(value)?,
        };
        write(&text)
    }

    /// Values one after another: JSON as `jq` reads it, YAML with `---` between them.
    pub(crate) fn documents(&self, values: &[Value]) -> Result<()> {
        for (position, value) in values.iter().enumerate() {
            if self.format == Format::Yaml && position > 0 {
                write("---\n")?;
            }
            self.value(value)?;
        }
        Ok(())
    }

    pub(crate) fn note(&self, text: &str) {
        self.remark("note", "36", text);
    }

    pub(crate) fn warn(&self, text: &str) {
        self.remark("warning", "33", text);
    }

    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.remark("error", "31", &format!("{error:#}"));
    }

    /// Standard error may be closed; then nobody wants to know. What a node says can not steer the terminal.
    fn remark(&self, kind: &str, color: &str, text: &str) {
        let mut out = io::stderr().lock();
        let (start, end) = if self.color_err { (format!("\x1b[1;{color}m"), "\x1b[0m") } else { (String::new(), "") };
        let text = text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
        let _ = writeln!(out, "{start}{kind}:{end} {text}");
    }
}

/// Writes to standard output.
///
/// # Errors
///
/// [`ReaderGone`] when nobody reads it any more.
pub(crate) fn write(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        other => Ok(other?),
    }
}

fn yaml(value: &Value) -> Result<String> {
    let mut text = serde_saphyr::to_string(value).map_err(|error| anyhow!("cannot be written as YAML: {error}"))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_reads_back_as_it_was() {
        let value =
            json!({ "a": ["yes", "1", "1.0", "null", "- x", "a: b", "*", "", "10.0.0.1"], "b": { "c": 1, "d": null, "e": [] } });
        let back: Value = serde_saphyr::from_str(&yaml(&value).unwrap()).unwrap();
        assert_eq!(back, value);
    }
}
