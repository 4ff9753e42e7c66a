//! Who calls, and what they may do.

mod authenticate;
mod identity;
pub(crate) mod permissions;
mod provenance;
mod standing;
pub(crate) mod token;
mod workload;

pub(crate) use authenticate::{AuthLayer, Authenticator, Caller};
pub(crate) use identity::Identity;
pub(crate) use provenance::Provenance;
pub(crate) use standing::{Standing, Standings};
pub(crate) use workload::WorkloadTokens;
