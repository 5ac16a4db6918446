//! One thing that is wrong with an object.

use std::fmt;

use crate::kinds::ObjectKey;

/// A field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Such as `spec.rules[0].from[1].source.ipBlocks[0]`.
    pub field: String,
    pub cause: Cause,
}

impl Problem {
    pub fn new(field: impl Into<String>, cause: Cause) -> Self {
        Self { field: field.into(), cause }
    }

    /// The same problem, told with the object, where the object itself cannot carry it.
    pub(super) fn of(self, key: &ObjectKey) -> Self {
        Self { field: format!("{key}: {}", self.field), cause: self.cause }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.cause)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("is required")]
    Missing,
    #[error("must not be empty")]
    Empty,
    #[error("is a field that this version does not know")]
    UnknownField,
    #[error("{message}")]
    Type { message: String },
    #[error("{found:?} is not {wanted}")]
    Form { found: String, wanted: &'static str },
    #[error("must not be set together with {other}")]
    Exclusive { other: &'static str },
    #[error("{found:?} is there twice")]
    Duplicate { found: String },
    #[error("has {found} values, more than {limit}")]
    TooMany { found: usize, limit: usize },
    #[error("would never have an effect: {reason}")]
    Ineffective { reason: &'static str },
}

impl Cause {
    pub(super) fn form(found: impl Into<String>, wanted: &'static str) -> Self {
        Self::Form { found: found.into(), wanted }
    }
}

/// Parses an address; IPv4 written as IPv6 is refused, because nothing would ever match it.
pub(super) fn is_address(text: &str) -> bool {
    crate::translate::network::address(text).is_some()
}

/// An address or a range in CIDR form.
pub(super) fn is_block(text: &str) -> bool {
    crate::translate::network::block(text).is_some()
}

/// 1 to 65535 in text.
pub(super) fn is_port(text: &str) -> bool {
    crate::translate::network::port(text).is_some()
}
