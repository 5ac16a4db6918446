//! What nodes are told: resources in versions, and one delta stream to each node.
//!
//! Order on a stream: mesh settings, then new and changed policies, then workloads and services, then removed policies. A
//! workload never arrives before the policies that it names, and never outlives them.

mod nodes;
mod published;
mod service;
mod stream;
#[cfg(test)]
mod tests;

pub use nodes::{Connection, Nodes, Progress};
pub use published::{Entry, Published, ResourceType};
pub use service::Discovery;
pub use stream::{Answer, Stream};
