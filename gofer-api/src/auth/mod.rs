//! Who calls, and what they may do.
//!
//! ```text
//! a request ─▶ authenticate ─▶ provenance    the page, host and proxy that it came through
//!                  │       ├──▶ token         the header's form
//!                  │       ├──▶ workload ───▶ the scheduler, for a token that it signed
//!                  │       └──▶ Db            for every other token
//!                  ▼
//!               Caller (identity, rule) ─▶ intake, rpc ─▶ permissions::check, of the target
//!                  └─ a stream is open ──▶ standing: is the token still good?
//! ```

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
