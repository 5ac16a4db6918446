//! The services behind the page.

pub(crate) mod details;
pub(crate) mod page;
pub(crate) mod ratings;
pub(crate) mod reviews;
