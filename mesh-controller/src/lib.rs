//! The controller: watches objects, validates and translates them, tells the nodes, and signs certificates.
//!
//! ```text
//! source (folder, API server) → admission (last good objects) → translate → distribute (delta xDS) → nodes
//!                                                             ↘ status (files beside the objects, or the objects' own)
//! nodes → capture reports → which workloads speak HBONE;  nodes → ca → certificates for pods on that node
//! ```
//!
//! [`reconcile`] owns everything that changes; the rest reads what it publishes.

pub mod admin;
pub mod app;
pub mod auth;
pub mod ca;
pub mod capture;
pub mod config;
pub mod disk;
pub mod distribute;
pub mod leader;
pub mod node_service;
mod pause;
pub mod placement;
pub mod reconcile;
pub mod server;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod webhook;
