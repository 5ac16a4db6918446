//! A cluster: its API server ([`api`]), its nodes' proxies ([`nodes`]), objects of any kind ([`object`]), and why a pod does not run
//! ([`trouble`]).

mod api;
mod nodes;
mod object;
mod trouble;

pub(crate) use api::{Cluster, ClusterArgs};
pub(crate) use nodes::{PodPort, nodes};
pub(crate) use object::{MANAGER, Object, delete_and_wait, exists};
pub(crate) use trouble::{containers, of_pods};
