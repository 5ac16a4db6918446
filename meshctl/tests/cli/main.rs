//! `meshctl` as its users have it: the program, nodes that answer from files, standard output and exit codes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod discovery;
mod enrolment;
mod lists;
mod live;
mod machine;
mod nodes;
mod routes;
