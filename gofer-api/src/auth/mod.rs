//! Who calls, and what they may do.

mod authenticate;
pub(crate) mod permissions;
pub(crate) mod provenance;
pub(crate) mod standing;
pub(crate) mod workload;

pub(crate) use authenticate::{AuthLayer, Caller, Gate, Identity, TOKEN_PREFIX};
