//! Who this node's workloads are: their certificates, and the TLS built on them.
//!
//! [`Certificates`] keeps one certificate per service account that runs on this node and renews it away from the data
//! path; [`TlsIdentity`] is one such certificate made ready for rustls. Every peer is checked by [`verify`]: a chain to the
//! mesh's roots and exactly one SPIFFE name. There is no fallback to the common name, to a DNS name or to an address.

pub mod authority;
pub mod certificate;
pub mod channel;
pub mod disk;
pub mod schedule;
pub mod store;
pub mod tls;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;

pub use authority::{GrpcAuthority, GrpcAuthoritySettings};
pub use certificate::{CertificateError, LeafFacts};
pub use channel::{ChannelError, ChannelRoots, channel};
pub use disk::{Disk, Persist, Stored};
pub use store::{CertificateAuthority, CertificateSnapshot, Certificates, Guard, IdentityError, SignError};
pub use tls::TlsIdentity;
pub use verify::{Aliases, Trust, VerifyError, peer_facts, peer_identity};
