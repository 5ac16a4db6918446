//! Tasks: a folder of manifests with a check that fails before they are applied and passes after.
//!
//! A task is `samples/tasks/<name>/` with a `README.md` for people, `manifests/` with what is applied, optionally `setup/`
//! with what has to be there before (pods, services), and `check.yaml` ([`Check`]): requests made from pods of the lab, and what
//! must come of them. Everything a check asks goes the way that any traffic goes; nothing is looked up in the mesh.

mod ask;
mod check;
mod run;
mod verdict;

pub use self::{
    check::Check,
    run::{Applied, Task, Told, tasks},
};
