//! What the job of an execution looks like.

pub(crate) mod container;
pub(crate) mod guard;
pub(crate) mod names;
pub(crate) mod secrets;
pub(crate) mod spec;
pub(crate) mod template;
