//! What takes several steps in several stores, apart from the calls that ask for it: domain in,
//! domain out. Each says what is left when it ends between two of its steps.
//!
//! ```text
//!  services (decode -> call -> encode)
//!     │ objects()      │ secrets::…     │ pipelines()                    │ tokens()
//!     ▼                ▼                ▼                                ▼
//!  objects/         secrets/         pipelines ──▶ secrets (one value)  tokens ──▶ boundary
//!     │ disk, in_flight  │                │                               │
//!     ▼                  ▼                ▼                               ▼
//!  Db + ObjectStore   Db + SecretStore  Db + all three stores            Db + the operator's file
//! ```
//!
//! Nothing here knows the wire: a test in `testbed/invariants` refuses `gofer_proto` and `tonic`.
//! `health` asks every backend how it is.

pub(crate) mod boundary;
pub(crate) mod disk;
pub(crate) mod health;
pub(crate) mod in_flight;
pub(crate) mod objects;
pub(crate) mod pipelines;
pub(crate) mod secrets;
pub(crate) mod tokens;

#[cfg(test)]
pub(crate) mod testing;
