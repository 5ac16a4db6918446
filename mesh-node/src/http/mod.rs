//! HTTP at the node, request by request: what is done to a request and its answer.

pub mod body;
pub mod cors;
pub mod fault;
pub mod header_ops;
pub mod headers;
pub mod mirror;
pub mod replay;
pub mod reply;
pub mod request_id;
pub mod trace;
