//! Putting the mesh into a cluster and taking it out: what there is to apply ([`bundle`]), settings of it ([`settings`]),
//! definitions of kinds ([`definitions`]), waiting ([`wait`]), and removal ([`remove`]).

mod bundle;
mod definitions;
mod remove;
mod settings;
mod wait;

pub(crate) use bundle::Bundle;
pub(crate) use definitions::{gateway_api, install_definitions, ours};
pub(crate) use remove::{Removal, is_ours, remove};
pub(crate) use settings::{MeshConfigValue, Setting};
pub(crate) use wait::{await_ready, of_daemon_set, of_deployment};
