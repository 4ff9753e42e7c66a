//! Decisions become true.

pub(crate) mod split;
pub(crate) mod writer;
