//! Leases: the right to drive runs.

pub(crate) mod claim;
pub(crate) mod deadline;
pub(crate) mod leader;
