//! One call, from the moment a service gets it.

pub(crate) mod call;
pub(crate) mod context;
pub(crate) mod page;
mod status;
pub(crate) mod streams;
