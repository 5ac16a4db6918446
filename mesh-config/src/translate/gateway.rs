//! The Gateway API's routes to routes of the model.

pub(crate) mod values;
