//! What may become a node's log filter.

use std::str::FromStr;

const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// A change of the log, in the characters that the admin endpoint takes as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogChange {
    /// `LEVEL` replaces what is set, `MODULE=LEVEL` and lists of both are added to it.
    Level(String),
    Reset,
}

impl LogChange {
    pub(crate) fn query(&self) -> String {
        match self {
            Self::Level(level) => format!("level={level}"),
            Self::Reset => "reset".to_owned(),
        }
    }
}

/// Judged here because a node takes a mistyped level for the name of a module, and then logs nothing else.
impl FromStr for LogChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "reset" {
            return Ok(Self::Reset);
        }
        text.split(',').try_for_each(directive)?;
        Ok(Self::Level(text.to_owned()))
    }
}

fn directive(text: &str) -> Result<(), String> {
    let (module, level) = match text.split_once('=') {
        Some((module, level)) => (Some(module), level),
        None => (None, text),
    };
    if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
        return Err(format!("{level:?} is no level: {}", LEVELS.join(", ")));
    }
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte);
    match module {
        Some(module) if module.is_empty() || !module.bytes().all(named) => {
            Err(format!("{module:?} is no module, such as mesh_node::outbound or access"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_modules() {
        for good in ["info", "DEBUG", "mesh_node::hbone=debug", "warn,access=off", "access=off,h2=info"] {
            assert_eq!(good.parse(), Ok(LogChange::Level(good.into())));
        }
        assert_eq!("reset".parse(), Ok(LogChange::Reset));
        for bad in ["", "dbug", "access", "access=", "=info", "a b=info", "info,", "access=info&reset", "[x]=info"] {
            assert!(bad.parse::<LogChange>().is_err(), "{bad}");
        }
    }
}
