//! What must hold for any bytes at all: one check for each parser of bytes that somebody else wrote.
//!
//! A check panics when its property is broken. `cargo xtask fuzz` lets libFuzzer look for inputs that do; the ordinary tests
//! try the seeds (`seeds/<target>/`), among them every input that once broke a property.

mod certificate;
mod convert;
mod documents;
mod headers;
mod identity;
mod policies;
mod requests;
mod resources;
mod signing_request;
mod wire;

/// A parser and its property.
pub struct Target {
    /// Also the folder of its seeds.
    pub name: &'static str,
    /// Panics when the property is broken.
    pub check: fn(&[u8]),
}

/// In the order of their files in `src/`.
pub const TARGETS: &[Target] = &[
    Target { name: "certificate", check: certificate::check },
    Target { name: "convert", check: convert::check },
    Target { name: "documents", check: documents::check },
    Target { name: "headers", check: headers::check },
    Target { name: "identity", check: identity::check },
    Target { name: "policies", check: policies::check },
    Target { name: "requests", check: requests::check },
    Target { name: "resources", check: resources::check },
    Target { name: "signing_request", check: signing_request::check },
];
