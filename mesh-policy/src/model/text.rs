//! Matching of texts that users write: exact, prefix, suffix, regular expression, presence.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The most that a compiled expression may take, in bytes: configuration is no place for bombs.
const PATTERN_LIMIT: usize = 1 << 18;

/// How a text is matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum TextMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// The whole text matches.
    Regex(Pattern),
    /// Any text that is there at all.
    Present,
}

impl TextMatch {
    pub fn is(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Prefix(prefix) => value.starts_with(&**prefix),
            Self::Suffix(suffix) => value.ends_with(&**suffix),
            Self::Regex(pattern) => pattern.is(value),
            Self::Present => true,
        }
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "= {exact}"),
            Self::Prefix(prefix) => write!(f, "= {prefix}*"),
            Self::Suffix(suffix) => write!(f, "= *{suffix}"),
            Self::Regex(pattern) => write!(f, "~ {pattern}"),
            Self::Present => f.write_str("is present"),
        }
    }
}

/// A regular expression in RE2's syntax, matched against whole texts in linear time.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    whole: regex::Regex,
    /// Unanchored, for substitutions.
    part: regex::Regex,
}

impl Pattern {
    pub fn new(source: &str) -> Result<Self, PatternError> {
        let compile = |text: &str| {
            let built = regex::RegexBuilder::new(text).size_limit(PATTERN_LIMIT).dfa_size_limit(PATTERN_LIMIT).build();
            built.map_err(|error| PatternError { found: source.chars().take(256).collect(), cause: error.to_string() })
        };
        // Alone first: a text with a stray parenthesis must not become right by being wrapped.
        let part = compile(source)?;
        Ok(Self { source: source.into(), whole: compile(&format!("^(?:{source})$"))?, part })
    }

    /// Whether the whole text matches.
    pub fn is(&self, value: &str) -> bool {
        self.whole.is_match(value)
    }

    /// Whether any part of the text matches.
    pub fn is_within(&self, value: &str) -> bool {
        self.part.is_match(value)
    }

    /// Replaces every match within `value`; `with` names groups as RE2 does, `\1`.
    pub fn replace_all(&self, value: &str, with: &str) -> String {
        self.part.replace_all(value, Groups(with)).into_owned()
    }

    pub fn as_str(&self) -> &str {
        &self.source
    }
}

/// RE2's `\0` to `\9` and `\\`.
struct Groups<'a>(&'a str);

impl regex::Replacer for Groups<'_> {
    fn replace_append(&mut self, captures: &regex::Captures<'_>, out: &mut String) {
        let mut rest = self.0.chars();
        while let Some(next) = rest.next() {
            match (next, (next == '\\').then(|| rest.next()).flatten()) {
                ('\\', Some(digit @ '0'..='9')) => {
                    out.push_str(captures.get(digit as usize - '0' as usize).map_or("", |group| group.as_str()));
                }
                ('\\', Some(other)) => out.push(other),
                (plain, _) => out.push(plain),
            }
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.source).finish()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a regular expression (RE2 syntax, at most {PATTERN_LIMIT} bytes compiled): {found:?}: {cause}")]
pub struct PatternError {
    pub found: String,
    pub cause: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        let pattern = Pattern::new("a|bc").expect("a pattern");
        assert!(pattern.is("a") && pattern.is("bc"));
        assert!(!pattern.is("ac") && !pattern.is("abc") && !pattern.is("a\n"));
        assert!(Pattern::new("a)(b").is_err(), "balanced only by its wrapping");
        assert!(Pattern::new("(?:a{1000}){1000}").is_err(), "a bomb");
    }

    #[test]
    fn groups_are_written_as_in_re2() {
        let pattern = Pattern::new("/v(\\d+)/(.*)").expect("a pattern");
        assert_eq!(pattern.replace_all("/v2/items", "/\\2/$1\\\\\\1"), "/items/$1\\2");
    }
}
