//! Configuration as users write it, and what it means.
//!
//! Text becomes documents ([`document`]), a document becomes a typed object or a refusal that names the field at fault
//! ([`validate`]), and all objects together become the model and a status for each object ([`translate`]). Everything
//! here is pure: the same objects give the same bytes.

pub mod document;
pub mod enrolment;
pub mod kinds;
pub mod status;
pub mod translate;
pub mod validate;
