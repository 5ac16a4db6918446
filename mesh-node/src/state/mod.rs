//! What the node knows of the mesh: received by delta ADS, kept on disk, read as one immutable snapshot.
//!
//! [`client`] receives, [`resources`] judges and keeps what was received, [`store`] publishes snapshots, [`disk`] lets a
//! node restart and serve with the controller away: what is on disk is replayed through the same judgement.

pub mod client;
pub mod disk;
pub mod report;
pub mod resources;
pub mod store;

pub use client::Client;
pub use report::Reporter;
pub use resources::Resources;
pub use store::Store;
