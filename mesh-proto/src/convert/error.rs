//! Why a resource from the wire was refused.

/// A resource that cannot be taken, by name, with the field at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {cause}")]
pub struct ConvertError {
    /// Such as `Workload Kubernetes//Pod/shop/page`.
    pub resource: String,
    /// Such as `addresses[1]`.
    pub field: String,
    #[source]
    pub cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("must not be empty")]
    Empty,
    #[error("an address has 4 or 16 bytes, not {length}")]
    AddressLength { length: usize },
    #[error("a prefix of {length} bits does not fit this address")]
    PrefixLength { length: u32 },
    #[error("{value} is not a value that this version knows")]
    EnumValue { value: i32 },
    #[error("{value} is not a port")]
    Port { value: u32 },
    #[error("{value} is out of range")]
    Range { value: u64 },
    #[error("{found:?} is not of the form {form}")]
    Form { found: String, form: &'static str },
    #[error("not a trust domain: {found:?}")]
    TrustDomain { found: String },
    #[error("cannot be decoded: {message}")]
    Encoding { message: String },
    #[error("not supported by this version")]
    Unsupported,
}

/// Where in a resource the conversion stands: builds the error without building any text on the good path.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) kind: &'static str,
    pub(super) name: &'a str,
}

impl At<'_> {
    pub(super) fn refuse(self, field: impl Into<String>, cause: Cause) -> ConvertError {
        ConvertError { resource: format!("{} {}", self.kind, self.name), field: field.into(), cause }
    }
}
